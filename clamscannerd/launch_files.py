"""[as started] Directories, files and the tmpfs that the launcher makes while it may still be root.

Root makes things in directories that root owns, and gives them away last, by fd: a path is never followed twice.
A directory that already holds something is not taken over, whoever asked: `socket = "/tmp/x.sock"` must not give /tmp
to the service. Started without the rights to make something, we only ask whether it is there.

Rejected: os.makedirs and os.chown by path (follow links); `systemd-tmpfiles` (not everywhere, and no error that says
which key of the configuration was meant).
"""

import contextlib
import ctypes
import os
import stat
import sys
from typing import NamedTuple

from clamscannerd.errors import ClamscannerdError

_MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 2, 4, 8


class Ids(NamedTuple):
    """Whom something belongs to, or who somebody is to become."""

    uid: int
    gid: int


def make_directory(path: str, mode: int, owner: Ids) -> None:
    """Have `path` as a directory of `owner` that nobody else can write to. Raises ClamscannerdError.

    One that we made, or that was empty, gets exactly `owner` and `mode`.
    """
    try:
        with contextlib.suppress(FileExistsError):
            os.makedirs(os.path.dirname(path), 0o755 if os.geteuid() == 0 else 0o700, exist_ok=True)
            os.mkdir(path, 0o700)
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            _own(path, fd, mode, owner)
        finally:
            os.close(fd)
    except OSError as error:
        raise ClamscannerdError(f"cannot make directory {path}: {error.strerror}") from None


def _own(path: str, fd: int, mode: int, owner: Ids) -> None:
    status = os.fstat(fd)
    fits = (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (*owner, mode)
    ours = os.geteuid() in (0, status.st_uid)
    if not fits and ours and status.st_uid in (0, owner.uid) and not os.listdir(fd):
        if os.geteuid() == 0 and (status.st_uid, status.st_gid) != owner:
            os.fchown(fd, *owner)
        os.fchmod(fd, mode)
        status = os.fstat(fd)
    if status.st_uid != owner.uid:
        raise ClamscannerdError(
            f"cannot use directory {path}: it belongs to uid {status.st_uid}, not {owner.uid}, and is not empty:"
            f" name one that does not exist yet, or chown it"
        )
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ClamscannerdError(
            f"cannot use directory {path}: others can write to it (mode {status.st_mode & 0o7777:o})"
        )


def write_file(path: str, content: bytes) -> bool:
    """Have `path` with `content`, readable by all, its directory being ours. True if it was another before.

    Raises ClamscannerdError.
    """
    with contextlib.suppress(OSError), open(path, "rb") as stream:
        if stream.read() == content:
            return False
    new = f"{path}.new"
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(new)
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        with open(fd, "wb") as stream:
            os.fchmod(fd, 0o644)
            stream.write(content)
        os.replace(new, path)
    except OSError as error:
        raise ClamscannerdError(f"cannot write {path}: {error.strerror}") from None
    return True


def available_bytes() -> int:
    """MemAvailable, or 0 where the kernel does not say."""
    try:
        with open("/proc/meminfo", encoding="ascii") as stream:
            return next((int(line.split()[1]) << 10 for line in stream if line.startswith("MemAvailable:")), 0)
    except OSError:
        return 0


def mount_tmpfs(path: str, size_bytes: int, owner: Ids) -> bool:
    """A tmpfs of `owner` on `path`, unless one is there. False where that is not permitted (containers)."""
    if os.path.ismount(path):
        return True
    libc = ctypes.CDLL(None, use_errno=True)
    options = f"size={size_bytes},mode=0700,uid={owner.uid},gid={owner.gid}".encode()
    flags = ctypes.c_ulong(_MS_NOSUID | _MS_NODEV | _MS_NOEXEC)
    return bool(libc.mount(b"clamscannerd", os.fsencode(path), b"tmpfs", flags, options) == 0)


def out_of_reach() -> tuple[str, str] | None:
    """What workers, which are other users, need and cannot reach, and the first directory that is shut; or None."""
    import msgspec

    packages = [os.path.dirname(os.path.dirname(os.path.abspath(file))) for file in (__file__, msgspec.__file__)]
    for path in (sys.executable, *packages):
        if shut := shut_to_others(path):
            return path, shut
    return None


def shut_to_others(path: str) -> str:
    """The first directory on the way to `path`, links followed or not, that other users cannot enter; or ""."""
    for way in (os.path.abspath(path), os.path.realpath(path)):
        parts = way.split("/")
        for end in range(1, len(parts)):
            above = "/".join(parts[:end]) or "/"
            if not os.stat(above).st_mode & stat.S_IXOTH:
                return above
    return "" if os.stat(path).st_mode & stat.S_IXOTH else path
