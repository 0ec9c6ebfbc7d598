"""Open, rename and make files beneath one directory, whatever its owner does meanwhile. [worker]

Every path is (directory fd, relative path). openat2 with BENEATH, NO_SYMLINKS, NO_MAGICLINKS and NO_XDEV resolves it
in the kernel, in one call; where the kernel or a sandbox has no openat2, the same is done component by component with
O_NOFOLLOW and a look at st_dev. Nothing else in the worker opens a user's path. No realpath, no os.walk, no shutil.

Renaming without replacing is renameat2(NOREPLACE). File systems without it (NFS) get: capture by a plain rename
onto a name of 128 random bits, where nothing can stand that matters; putting back by link, which never
replaces, then unlink of our own random name. (Link then unlink for the capture was rejected: the unlink by the
user's name would hit whatever stands there by then.)

Opens never block: O_NONBLOCK does not wait for a FIFO's writer or for a lease; FUSE homes are refused before the
first open, and NO_XDEV keeps out of every other mount.
"""

import ctypes
import errno
import os
import stat
from typing import ClassVar, Final

from clamscannerd.errors import ClamscannerdError

_NR_RENAMEAT2: Final = {"x86_64": 316, "aarch64": 276}
_NR_OPENAT2: Final = 437
_RENAME_NOREPLACE: Final = 1
# RESOLVE_NO_XDEV | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS | RESOLVE_BENEATH
_RESOLVE: Final = 0x01 | 0x02 | 0x04 | 0x08
_FUSE_SUPER_MAGIC: Final = 0x65735546

# What open says where the file system, or the kernel, has no O_TMPFILE; and link, where there is no /proc or no way
# from it. ENOENT is also a directory that is gone: then the second way says so again.
_NO_TMPFILE: Final = frozenset({errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT})
_NO_LINK: Final = frozenset({errno.ENOENT, errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.EINVAL})

_OPEN_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_OPEN_DIR: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_LOOK: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC

_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long


class HomeRefused(ClamscannerdError):
    """The home directory breaks a rule for accounts; the text says which."""


class _OpenHow(ctypes.Structure):
    _fields_: ClassVar = [("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64)]


_HOW_FILE = _OpenHow(_OPEN_FILE, 0, _RESOLVE)
# Reading must not disturb a mail reader's "new mail" (atime older than mtime); only an owner may ask for it.
_HOW_FILE_NOATIME = _OpenHow(_OPEN_FILE | os.O_NOATIME, 0, _RESOLVE)
_HOW_DIR = _OpenHow(_OPEN_DIR, 0, _RESOLVE)
_HOW_LOOK = _OpenHow(_LOOK, 0, _RESOLVE)
_HOW_SIZE = ctypes.sizeof(_OpenHow)
_REF_FILE, _REF_NOATIME, _REF_DIR, _REF_LOOK = map(ctypes.byref, (_HOW_FILE, _HOW_FILE_NOATIME, _HOW_DIR, _HOW_LOOK))


class Kernel:
    """What this kernel and sandbox can do: probed once a job, on the home itself; tests switch members off."""

    def __init__(self) -> None:
        self.openat2 = True
        self.renameat2 = os.uname().machine in _NR_RENAMEAT2
        self.tmpfile = True
        self._nr_renameat2 = _NR_RENAMEAT2.get(os.uname().machine, 0)

    def probe(self, home_fd: int) -> None:
        """See whether openat2 answers. (renameat2 depends on the file system and shows at its first use.)"""
        fd = _syscall(_NR_OPENAT2, home_fd, b".", _REF_DIR, _HOW_SIZE)
        if fd >= 0:
            os.close(fd)
        elif ctypes.get_errno() in (errno.ENOSYS, errno.EPERM):
            self.openat2 = False

    def open_file(self, dir_fd: int, path: bytes) -> int:
        """A read-only fd of what stands at `path`; OSError (ELOOP: a link, EXDEV: another file system)."""
        if not self.openat2:
            return self._walk(dir_fd, path, _OPEN_FILE)
        fd: int = _syscall(_NR_OPENAT2, dir_fd, path, _REF_NOATIME, _HOW_SIZE)
        if fd < 0 and ctypes.get_errno() == errno.EPERM:
            fd = _syscall(_NR_OPENAT2, dir_fd, path, _REF_FILE, _HOW_SIZE)
        return _checked(fd, path)

    def open_dir(self, dir_fd: int, path: bytes) -> int:
        """A read-only fd of the directory at `path`; b"." is dir_fd itself, afresh."""
        if not self.openat2:
            return self._walk(dir_fd, path, _OPEN_DIR)
        return _checked(_syscall(_NR_OPENAT2, dir_fd, path, _REF_DIR, _HOW_SIZE), path)

    def look(self, dir_fd: int, path: bytes) -> int:
        """An fd to see what stands at `path`, and for nothing else; of a link it is the link itself."""
        if not self.openat2:
            return self._walk(dir_fd, path, _LOOK)
        return _checked(_syscall(_NR_OPENAT2, dir_fd, path, _REF_LOOK, _HOW_SIZE), path)

    def open_parent(self, dir_fd: int, path: bytes) -> tuple[int, bytes]:
        """The fd of the directory that holds `path`, and the last component."""
        parent, _, leaf = path.rpartition(b"/")
        return self.open_dir(dir_fd, parent or b"."), leaf

    def _walk(self, dir_fd: int, path: bytes, last_flags: int) -> int:
        """Component by component, for kernels without openat2."""
        device = os.fstat(dir_fd).st_dev
        names = path.split(b"/")
        here = os.dup(dir_fd)
        try:
            for place, name in enumerate(names):
                if name in (b"", b".."):
                    raise OSError(errno.EXDEV, "not beneath", path)
                flags = last_flags if place == len(names) - 1 else os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW
                below = os.open(name, flags | os.O_CLOEXEC, dir_fd=here)
                os.close(here)
                here = below
                if os.fstat(here).st_dev != device:
                    raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), path)
        except BaseException:
            os.close(here)
            raise
        return here

    def capture(self, dir_fd: int, name: bytes, random_name: bytes) -> None:
        """Rename `name` to `random_name` in the same directory. OSError; EEXIST when the random name is taken."""
        if self.renameat2 and self._rename_noreplace(dir_fd, name, random_name):
            return
        os.rename(name, random_name, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)

    def put_back(self, dir_fd: int, random_name: bytes, name: bytes, *, or_beside: bool = True) -> bytes:
        """Undo `capture`; never replaces. Returns the name it got: `name`, or NAME.restored-HEX when it is taken.

        Without `or_beside` a taken name is FileExistsError, and the file stays under its random name.
        """
        # The kernel allows 255 bytes a name; 9 for ".restored" and 9 for "-" and 8 digits.
        other = name[: 255 - 18] + b".restored-" + os.urandom(4).hex().encode()
        for target in (name, other) if or_beside else (name,):
            try:
                if not (self.renameat2 and self._rename_noreplace(dir_fd, random_name, target)):
                    os.link(random_name, target, src_dir_fd=dir_fd, dst_dir_fd=dir_fd, follow_symlinks=False)
                    os.unlink(random_name, dir_fd=dir_fd)
            except FileExistsError:
                continue
            return target
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), other)

    def create(self, dir_fd: int, random_name: bytes) -> tuple[int, bool]:
        """A new file in the directory, 0600, open for reading and writing; and whether it had to have a name."""
        if self.tmpfile:
            try:
                return os.open(b".", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600, dir_fd=dir_fd), False
            except OSError as error:
                if error.errno not in _NO_TMPFILE:
                    raise
                self.tmpfile = False
        flags = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_RDWR | os.O_CLOEXEC
        return os.open(random_name, flags, 0o600, dir_fd=dir_fd), True

    def give_name(self, dir_fd: int, fd: int, random_name: bytes, name: bytes) -> bool:
        """Name what `create` made; never replaces. False: unnamed files cannot be named here (remembered).

        `random_name` is b"" for a file without one. OSError; FileExistsError when `name` is taken.
        """
        if not random_name:
            try:  # os.link follows /proc's link only with an explicit dst_dir_fd
                os.link(f"/proc/self/fd/{fd}", name, dst_dir_fd=dir_fd, follow_symlinks=True)
            except OSError as error:
                if error.errno not in _NO_LINK:
                    raise
                self.tmpfile = False
                return False
        elif not (self.renameat2 and self._rename_noreplace(dir_fd, random_name, name)):
            os.link(random_name, name, src_dir_fd=dir_fd, dst_dir_fd=dir_fd, follow_symlinks=False)
        return True  # where a rename could not be had, the caller removes the random name

    def _rename_noreplace(self, dir_fd: int, old: bytes, new: bytes) -> bool:
        """True when done; False when this file system has no NOREPLACE (remembered). OSError on all else."""
        if _syscall(self._nr_renameat2, dir_fd, old, dir_fd, new, _RENAME_NOREPLACE) == 0:
            return True
        number = ctypes.get_errno()
        if number in (errno.EINVAL, errno.ENOSYS):
            self.renameat2 = False
            return False
        raise OSError(number, os.strerror(number), old)


def _checked(fd: int, path: bytes) -> int:
    if fd < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return fd


def filesystem_type(fd: int) -> int:
    """f_type of statfs(2)."""
    buffer = ctypes.create_string_buffer(256)
    if _libc.fstatfs(fd, buffer) != 0:
        raise OSError(ctypes.get_errno(), "fstatfs")
    return ctypes.c_long.from_buffer(buffer).value


def open_home(path: bytes, uid: int) -> int:
    """The one fd from which all paths of this job start. Raises HomeRefused with the rule that was broken.

    An account's home is absolute, not `/`, its last component no link, owned by the account or by root, and writable
    by nobody else but its group. Checked here and not in the daemon, which may not even be able to see it.
    """
    if not path.startswith(b"/") or not path.strip(b"/"):
        raise HomeRefused(f"cannot use home {path!r}: not an absolute path below /")
    path = b"/" + path.strip(b"/")
    try:
        look = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise HomeRefused(f"cannot use home {path!r}: {error.strerror}") from None
    try:
        status = os.fstat(look)
        if stat.S_ISLNK(status.st_mode):
            raise HomeRefused(f"cannot use home {path!r}: it is a symbolic link")
        if not stat.S_ISDIR(status.st_mode):
            raise HomeRefused(f"cannot use home {path!r}: not a directory")
        if status.st_uid not in (uid, 0):
            raise HomeRefused(f"cannot use home {path!r}: it belongs to uid {status.st_uid}")
        if status.st_mode & stat.S_IWOTH:
            raise HomeRefused(f"cannot use home {path!r}: everybody may write to it")
        if filesystem_type(look) == _FUSE_SUPER_MAGIC:
            raise HomeRefused(f"cannot use home {path!r}: it is on a FUSE file system, which could stall the engine")
        try:
            return os.open(b".", _OPEN_DIR, dir_fd=look)
        except OSError as error:
            raise HomeRefused(f"cannot open home {path!r}: {error.strerror}") from None
    finally:
        os.close(look)
