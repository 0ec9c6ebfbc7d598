"""A real terminal for the command line: a pty of a size, somebody who reads it, and types when a text is there.

    with Terminal(command) as terminal:
        terminal.until("Do this")
        terminal.type("y")
        assert terminal.end() == 0

`shown` is all that was written to it, escape sequences and all. Nothing is timed: a key is typed when its question is
there, as a person does.
"""

import fcntl
import os
import pty
import pwd
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

END_TIMEOUT_S = 60.0

PROGRAM = "import sys; from clamscannerd.ctl.main import main; sys.exit(main())"


def ctl(socket_path: str, *words: str) -> list[str]:
    """The command line of clamscannerctl, on this daemon."""
    return [sys.executable, "-c", PROGRAM, "--socket", socket_path, *words]


class Terminal:
    """One process on a pty. `user`: started as this account (root needed)."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        columns: int = 80,
        lines: int = 24,
        environment: Mapping[str, str] | None = None,
        user: int | None = None,
    ) -> None:
        self.shown = b""
        self._mark = 0
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS", "LINES")}
        entry = None if user is None else pwd.getpwuid(user)
        try:
            self.process: subprocess.Popen[bytes] = subprocess.Popen(
                command,
                stdin=theirs,
                stdout=theirs,
                stderr=theirs,
                env={**kept, "TERM": "xterm", "LC_ALL": "C.UTF-8", "TZ": "UTC", **(environment or {})},
                start_new_session=True,
                user=None if entry is None else entry.pw_uid,
                group=None if entry is None else entry.pw_gid,
                extra_groups=None if entry is None else [],
                cwd=None if entry is None else "/",
            )
        finally:
            os.close(theirs)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._ours)

    def until(self, text: str) -> str:
        """What was shown up to `text`, since the last time."""
        wanted, until = text.encode(), time.monotonic() + END_TIMEOUT_S
        while (at := self.shown.find(wanted, self._mark)) < 0:
            assert time.monotonic() < until, f"waited for {text!r} in {self.shown[self._mark :]!r}"
            assert self._read(until), f"it ended without {text!r}: {self.shown[self._mark :]!r}"
        start, self._mark = self._mark, at + len(wanted)
        return self.shown[start : self._mark].decode(errors="backslashreplace")

    def type(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def end(self) -> int:
        """Read to its end; the exit code."""
        until = time.monotonic() + END_TIMEOUT_S
        while self._read(until):
            pass
        return self.process.wait(END_TIMEOUT_S)

    def _read(self, until: float) -> bool:
        """False: its end."""
        readable, _, _ = select.select([self._ours], [], [], max(0.0, until - time.monotonic()))
        assert readable, f"nothing more came after {self.shown[self._mark :]!r}"
        try:
            data = os.read(self._ours, 65_536)
        except OSError:  # how a pty says that its other end is closed
            return False
        self.shown += data
        return bool(data)
