"""The three locks that mail software respects, taken all or not at all. [worker]

Deliverers differ in which they take and in which order: procmail and Postfix a dotlock and then fcntl, Dovecot the
other way round if so configured, others one of them only, maildrop flock. Whoever waits for one lock while it holds
another can wait for ever for somebody who does the reverse. So each is tried without waiting; when one is taken
by others, those that were got are given back, and only then comes a pause, of random length.

    dotlock  NAME.lock in the mailbox's directory, made with its content whole, by a link that replaces nothing
    fcntl    as an OFD lock: it excludes POSIX locks, and does not vanish when another fd of the file is closed
    flock    not on NFS, where Linux makes an fcntl lock of it, which our own would exclude

Crash: the kernel's locks go with the process, the dotlock stays. It holds the random name that was committed for
this step, so the step begun again knows it as its own and takes it over. **Others' dotlocks are never removed, however
old**: a wrong guess there costs mail, and waiting costs no more than an `error` that names the lock.
A lock held for long is touched, since mail software takes an old one for left behind (Dovecot after 2 minutes).
A dotlock of another step of this program, which was given up, is removed by the next one on this mailbox when nobody
has touched it for LEFT_BEHIND_S: an account has one job at a time, so on this machine nobody can be holding it, and on
another one that shares the home (NFS) its holder would have touched it. By the file system's clock, not ours.
"""

import contextlib
import errno
import fcntl
import os
import random
import re
import struct
import time
from collections.abc import Callable
from typing import Final

from clamscannerd.model import CAPTURE_PREFIX
from clamscannerd.worker.channel import Clock

WAIT_S: Final = 60.0
"""All pauses together: a delivery takes a second, an expunge of a large mailbox some ten."""

_FIRST_PAUSE_S: Final = 0.02
_LONGEST_PAUSE_S: Final = 0.5
_TOUCH_S: Final = 20.0
LEFT_BEHIND_S: Final = 120
"""Six times _TOUCH_S; what Dovecot waits with others' (mbox_dotlock_change_timeout)."""
_NAME_MAX: Final = 255
_NFS_SUPER_MAGIC: Final = 0x6969
_FLOCK: Final = struct.Struct("hhqqi4x")  # struct flock: type, whence, start, length, pid
_OF_A_STEP: Final = re.compile(re.escape(CAPTURE_PREFIX) + rb"[0-9a-f]{32}")
_READ_BYTES: Final = 100  # more than a step's name has
_LOCK_FLAGS: Final = os.O_WRONLY | os.O_CLOEXEC


class Locked(Exception):
    """Others held a lock the whole time; `str()` names it."""


class Locks:
    """The locks of one mailbox. `pause` waits so many seconds, and raises when there is no reason to go on."""

    def __init__(self, dir_fd: int, leaf: bytes, token: bytes, pause: Callable[[float], None], fs_type: int) -> None:
        self._dir_fd = dir_fd
        self._name = leaf + b".lock"
        self._token = token
        self._pause = pause
        self._flock = fs_type != _NFS_SUPER_MAGIC
        self._fd = -1
        self._dotlock: tuple[int, int] | None = None  # device and inode of ours
        self._temporary = b""  # its first name, while there is a file of that name
        self._touch = Clock(_TOUCH_S)

    def acquire(self, fd: int, wait_s: float) -> None:
        """All three on the mailbox open as `fd` (for reading and writing). Raises Locked, OSError."""
        began = time.monotonic()
        pause_s = _FIRST_PAUSE_S
        while holder := self._try(fd):
            waited_s = time.monotonic() - began
            if waited_s >= wait_s:
                raise Locked(holder)
            # Random, so that two who wait for each other do not meet again and again.
            self._pause(min(random.uniform(0.5, 1.0) * pause_s, wait_s - waited_s))  # noqa: S311 (no secret)
            pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)

    def _try(self, fd: int) -> str:
        """One attempt; "" or what others hold, and then nothing is held here."""
        holder = ""
        try:
            if not self._make_dotlock():
                holder = self._name.decode("utf-8", "backslashreplace")
            elif not _ofd_lock(fd, fcntl.F_WRLCK):
                holder = "an fcntl lock"
            elif self._flock and not _flock(fd):
                holder = "a flock"
            else:
                self._fd = fd
        finally:
            if self._fd < 0:
                _ofd_lock(fd, fcntl.F_UNLCK)
                self._remove_dotlock()
                self._remove_temporary()
        return holder

    def _make_dotlock(self) -> bool:
        if len(self._name) > _NAME_MAX:
            return True  # nobody else can make it either
        temporary = self._token + b".lock"
        try:
            with contextlib.suppress(FileNotFoundError):  # left behind by a crash of this very step
                os.unlink(temporary, dir_fd=self._dir_fd)
            lock = os.open(temporary, _LOCK_FLAGS | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=self._dir_fd)
            self._temporary = temporary
            try:
                os.write(lock, self._token)
                made = os.fstat(lock)
            finally:
                os.close(lock)
            return self._link(temporary, made)
        except FileExistsError:
            return False
        finally:
            self._remove_temporary()

    def _remove_temporary(self) -> None:
        """What fails here is tried again when the locks are given back: the lock itself holds without it."""
        if self._temporary:
            with contextlib.suppress(OSError):
                os.unlink(self._temporary, dir_fd=self._dir_fd)
                self._temporary = b""

    def _link(self, temporary: bytes, made: os.stat_result) -> bool:
        """Give the lock its name, if no other has it that counts."""
        for _ in range(2):
            try:
                os.link(temporary, self._name, src_dir_fd=self._dir_fd, dst_dir_fd=self._dir_fd, follow_symlinks=False)
            except FileExistsError:
                held, status = self._standing()
                if held == self._token:  # this step's own, from before a crash
                    self._dotlock = (status.st_dev, status.st_ino)
                    return True
                idle_ns = made.st_mtime_ns - status.st_mtime_ns
                if not _OF_A_STEP.fullmatch(held) or idle_ns < LEFT_BEHIND_S * 10**9:
                    return False
                self._dotlock = (status.st_dev, status.st_ino)
                self._remove_dotlock()
            else:
                self._dotlock = (made.st_dev, made.st_ino)
                return True
        return False

    def _standing(self) -> tuple[bytes, os.stat_result]:
        """The beginning of what the dotlock holds that stands there. FileExistsError: nothing that we ever made."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            lock = os.open(self._name, flags, dir_fd=self._dir_fd)
            try:
                return os.read(lock, _READ_BYTES), os.fstat(lock)
            finally:
                os.close(lock)
        except OSError as error:  # gone this moment, a directory, not readable
            raise FileExistsError(error.errno, error.strerror) from None

    def keep(self) -> None:
        """Called now and then while the locks are held."""
        if self._dotlock is not None and self._touch.due():
            with contextlib.suppress(OSError):  # somebody took it away: the other two still stand
                os.utime(self._name, dir_fd=self._dir_fd, follow_symlinks=False)

    def release(self) -> None:
        """Give back what is held. The dotlock's end is on disk when this returns: it would outlive a power cut."""
        if self._fd < 0:
            return
        fd, self._fd = self._fd, -1
        if self._flock:
            fcntl.flock(fd, fcntl.LOCK_UN)
        _ofd_lock(fd, fcntl.F_UNLCK)
        self._remove_temporary()
        if self._dotlock is not None:
            self._remove_dotlock()
            os.fsync(self._dir_fd)

    def _remove_dotlock(self) -> None:
        """Only if it is still ours: somebody may have taken it for left behind and made their own."""
        ours, self._dotlock = self._dotlock, None
        if ours is None:
            return
        try:
            self._unlink_if(ours)
        except OSError:  # once more: one that stays keeps mail waiting
            self._unlink_if(ours)

    def _unlink_if(self, ours: tuple[int, int]) -> None:
        with contextlib.suppress(FileNotFoundError):
            status = os.stat(self._name, dir_fd=self._dir_fd, follow_symlinks=False)
            if (status.st_dev, status.st_ino) == ours:
                os.unlink(self._name, dir_fd=self._dir_fd)


def _ofd_lock(fd: int, kind: int) -> bool:
    """An open-file-description lock on the whole file, without waiting; False when others hold one."""
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(kind, os.SEEK_SET, 0, 0, 0))
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise
    return True


def _flock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
