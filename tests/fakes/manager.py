"""What stands for systemd where none is booted: a notify socket that is read, and a listening socket that outlives its
daemons and is handed over as fd 3.

    with Manager(path) as manager:
        daemon.manager = manager
        daemon.start()
        manager.wait_status("idle")
"""

import select
import socket
import time
from pathlib import Path
from types import TracebackType
from typing import Self

PATIENCE_S = 30.0


class Manager:
    """`activated`: it owns the socket at `path`. `said`: every assignment so far, in order."""

    def __init__(self, path: Path | str, *, activated: bool = True, watchdog_s: float = 0.0) -> None:
        self.said: list[tuple[str, str]] = []
        self._path = Path(path)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._told_at = self._path.with_name("notify")
        self._told = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._told.bind(str(self._told_at))
        self._told_at.chmod(0o777)
        self._watchdog_s = watchdog_s
        self._listener: socket.socket | None = None
        if activated:
            self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._listener.bind(str(self._path))
            self._path.chmod(0o666)
            self._listener.listen(128)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._told.close()
        if self._listener is not None:
            self._listener.close()

    @property
    def fds(self) -> tuple[int, ...]:
        return () if self._listener is None else (self._listener.fileno(),)

    @property
    def environment(self) -> dict[str, str]:
        words = {"NOTIFY_SOCKET": str(self._told_at)}
        if self._watchdog_s:
            words["WATCHDOG_USEC"] = str(int(self._watchdog_s * 1e6))
        return words

    def activating(self, words: list[str]) -> list[str]:
        """LISTEN_PID is known only to the process itself."""
        if self._listener is None:
            return words
        ours = "LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=clamscannerd.socket"
        return ["bash", "-c", f'exec 3<&{self._listener.fileno()}; {ours} exec "$@"', "bash", *words]

    def read(self) -> None:
        """What has come since the last time."""
        while select.select([self._told], [], [], 0)[0]:
            text = self._told.recv(65536).decode()
            self.said += [(name, value) for name, _, value in (line.partition("=") for line in text.split("\n"))]

    def status(self) -> str:
        """The last one said."""
        self.read()
        return next((value for name, value in reversed(self.said) if name == "STATUS"), "")

    def values(self, name: str) -> list[str]:
        self.read()
        return [value for said, value in self.said if said == name]

    def wait(self, name: str, *, more_than: int = 0) -> str:
        """The value of `name` as soon as it was said more than `more_than` times."""
        until = time.monotonic() + PATIENCE_S
        while len(self.values(name)) <= more_than:
            assert select.select([self._told], [], [], until - time.monotonic())[0], f"no {name}: {self.said}"
        return self.values(name)[-1]

    def wait_status(self, words: str) -> str:
        """The status as soon as `words` are in it."""
        until = time.monotonic() + PATIENCE_S
        while words not in self.status():
            ready = select.select([self._told], [], [], max(0, until - time.monotonic()))[0]
            assert ready, f"no status with {words!r}: {self.values('STATUS')}"
        return self.status()
