"""How large the daemon and the workers of one account get, and how many fds they hold, looked at all the time."""

import os
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from tests.fakes.accounts import Person
from tests.fakes.running import RunningDaemon
from tests.integration.people import started_by_monitor, uid_of

LOOK_S = 0.02
MB = 1_000_000


class Peak(NamedTuple):
    """The most that was seen of one process. `looks`: how often one was there to be looked at."""

    memory_bytes: int = 0
    fds: int = 0
    looks: int = 0

    def grown(self, other: "Peak") -> "Peak":
        most = max(self.memory_bytes, other.memory_bytes), max(self.fds, other.fds)
        return Peak(*most, self.looks + other.looks)

    def __str__(self) -> str:
        return f"{self.memory_bytes / MB:.0f} MB, {self.fds} fds"


class Gauge:
    """`daemon` and `worker` are Peaks; memory is the kernel's own high-water mark (VmHWM), so nothing of it is missed
    but what comes in the last moment of a process."""

    def __init__(self, daemon: RunningDaemon, account: Person) -> None:
        self.daemon = self.worker = Peak()
        self._of, self._uid = daemon, account.uid
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(LOOK_S):
            self.daemon = self.daemon.grown(_peak(self._of.pid))
            for pid in started_by_monitor(self._of, "csd-worker"):
                if uid_of(pid) == self._uid:
                    self.worker = self.worker.grown(_peak(pid))


def _peak(pid: int) -> Peak:
    with suppress(FileNotFoundError, ProcessLookupError, IndexError):
        status = Path(f"/proc/{pid}/status").read_text()
        return Peak(int(status.partition("\nVmHWM:")[2].split()[0]) * 1024, len(os.listdir(f"/proc/{pid}/fd")), 1)
    return Peak()
