"""What stands for systemd where none is booted: a notify socket that is read, and a listening socket that outlives its
daemons and is handed over as fd 3.

    with Manager(path) as manager:
        daemon.manager = manager
        daemon.start()
        manager.wait_status("idle")
"""

import socket
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

PATIENCE_S = 30.0


class Manager:
    """`activated`: it owns the socket at `path`. `said`: every assignment so far, in order.

    A thread reads, for who sends waits when ten messages are unread.
    """

    def __init__(self, path: Path | str, *, activated: bool = True, watchdog_s: float = 0.0) -> None:
        self.said: list[tuple[str, str]] = []
        self._path = Path(path)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._told_at = self._path.with_name("notify")
        self._told = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._told.bind(str(self._told_at))
        self._told_at.chmod(0o777)
        self._watchdog_s = watchdog_s
        self._marks = 0
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._listener: socket.socket | None = None
        if activated:
            self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._listener.bind(str(self._path))
            self._path.chmod(0o666)
            self._listener.listen(128)

    def __enter__(self) -> Self:
        self._reader.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._told.shutdown(socket.SHUT_RD)  # its place may be gone already
        self._reader.join()
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

    def status(self) -> str:
        """The last one said."""
        return next(reversed(self.values("STATUS")), "")

    def values(self, name: str) -> list[str]:
        """All that were said before this call."""
        self._marks += 1
        self._tell(f"MARK={self._marks}".encode())
        self._wait(lambda: ("MARK", str(self._marks)) in self.said, "mark")
        return self._values(name)

    def wait(self, name: str, *, more_than: int = 0) -> str:
        """The value of `name` as soon as it was said more than `more_than` times."""
        self._wait(lambda: len(self._values(name)) > more_than, name)
        return self._values(name)[-1]

    def wait_status(self, words: str) -> str:
        """The status as soon as `words` are in it."""
        self._wait(lambda: words in next(reversed(self._values("STATUS")), ""), f"status with {words!r}")
        return next(reversed(self._values("STATUS")))

    def _values(self, name: str) -> list[str]:
        return [value for said, value in self.said if said == name]

    def _wait(self, holds: Callable[[], bool], what: str) -> None:
        with self._news:
            assert self._news.wait_for(holds, PATIENCE_S), f"no {what}: {self.said}"

    def _tell(self, text: bytes) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(text, str(self._told_at))

    def _read(self) -> None:
        while text := self._told.recv(65536).decode():
            with self._news:
                self.said += [(name, value) for name, _, value in (line.partition("=") for line in text.split("\n"))]
                self._news.notify_all()
