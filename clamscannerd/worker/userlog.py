"""The disinfection log in the home. [worker] Output only: the database is the truth, nothing reads this back.

A new log is written beside the old one, in a file made afresh (O_EXCL), and renamed over it: a link, FIFO, hard link
or foreign file in its place is replaced, never opened or followed (CVE-2024-20506 was such an open). Truncating the
old file was rejected for that reason. What cannot be replaced (a directory), or not written (quota), costs one warning.
"""

import contextlib
import os

from clamscannerd.model import LOG_NAME

_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class UserLog:
    """Whole lines into the log; the first failure is kept and ends the writing."""

    def __init__(self, home_fd: int) -> None:
        self._home_fd = home_fd
        self._fd = -1
        self.failure = ""

    def start(self, lines: bytes) -> None:
        """A fresh log that begins with `lines`; takes the place of whatever was there."""
        self.close()
        temporary = LOG_NAME + b".new"
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=self._home_fd)  # what a crash left, or somebody put there
            self._fd = os.open(temporary, _FLAGS, 0o600, dir_fd=self._home_fd)
        except OSError as error:
            self._fail(error)
            return
        try:
            self._write(lines)
            os.rename(temporary, LOG_NAME, src_dir_fd=self._home_fd, dst_dir_fd=self._home_fd)
        except OSError as error:
            with contextlib.suppress(OSError):  # already failing
                os.unlink(temporary, dir_fd=self._home_fd)
            self._fail(error)

    def append(self, lines: bytes) -> None:
        """More whole lines, each in full or not at all as far as the file system allows."""
        if self._fd < 0:
            return
        try:
            self._write(lines)
        except OSError as error:
            self._fail(error)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _write(self, lines: bytes) -> None:
        start = os.fstat(self._fd).st_size
        written = 0
        try:
            while written < len(lines):
                written += os.write(self._fd, lines[written:])
        except OSError:
            # A quota or a full disk in the middle of a line: what was whole before stays whole.
            whole = lines[:written].rfind(b"\n") + 1
            with contextlib.suppress(OSError):  # reported below; nothing else is left to do with the log
                os.ftruncate(self._fd, start + whole)
            raise

    def _fail(self, error: OSError) -> None:
        self.close()
        self.failure = f"cannot write the log {LOG_NAME.decode()}: {error.strerror}"
