"""From SPAWN to the first file at the engine, and from start_scan to it.

The first is asked of the product's own parts: the real monitor, spawner and worker, with the daemon's side of a scan
done by hand (hello, job, session), so that the clock starts where the SPAWN message leaves. The second is what a user
sees: it contains a second worker, which looks whether the scan type's directories exist, and two commits. The engine
is the tests' fake one, which notes when a file arrives.
"""

import argparse
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import trio

from clamscannerd.launch import WORKER_CODE
from clamscannerd.pipeline.link import open_worker
from clamscannerd.worker.messages import Recheck, ScanJob, Scanned
from tests.bench import common
from tests.bench.common import Row
from tests.fakes.accounts import Person, have_service_users, throw_away
from tests.fakes.clamd import FakeClamd, Fault
from tests.fakes.clamdclient import open_session
from tests.fakes.monitored import known, null, spawning, usual_setup
from tests.fakes.running import RunningDaemon

SPAWN_BOUND_MS = 100
_TIMEOUT_S = 30.0


class _Noting(FakeClamd):
    """`arrived`: when the first file came after `reset`."""

    def __init__(self, socket_path: str) -> None:
        super().__init__(socket_path)
        self.arrived = 0.0
        self._first = threading.Event()

    def reset(self) -> None:
        self._first.clear()

    def plan(self, content: bytes, what: str) -> tuple[Fault | None, str]:
        if what != "stream" and not self._first.is_set():
            self.arrived = time.monotonic()
            self._first.set()
        return super().plan(content, what)

    def wait_first(self) -> float:
        if not self._first.wait(_TIMEOUT_S):
            raise RuntimeError("cannot measure the start of a worker: no file came")
        return self.arrived


async def _spawns(clamd: _Noting, person: Person, runs: int) -> list[float]:
    """Milliseconds from SPAWN to the first file."""
    setup = usual_setup()._replace(worker=tuple(map(os.fsencode, (sys.executable, "-I", "-c", WORKER_CODE))))
    job = ScanJob(
        roots=(b".",),
        excludes=(),
        window=8,
        max_file_size=25 << 20,
        clean_allowed=True,
        file_deadline_s=_TIMEOUT_S,
        max_skipped=10,
        fds=1,
    )
    got = []
    async with spawning(setup) as (spawner, _):
        for _ in range(runs):
            clamd.reset()
            with null() as lock, open_session(clamd.socket_path) as session:
                start = time.monotonic()
                async with open_worker(spawner, known(person), lock, _TIMEOUT_S) as link:
                    await link.send(job, [session.fileno()])
                    await link.send(Recheck(paths=(), last=True))
                    while not isinstance(await link.receive(), Scanned):
                        pass
            got.append((clamd.wait_first() - start) * 1000)
    return got


def _starts(clamd: _Noting, directory: Path, person: Person, runs: int) -> list[float]:
    """Milliseconds from start_scan to the first file."""
    got = []
    with (
        RunningDaemon(directory / "daemon", sockets=f'["{clamd.socket_path}"]', timed=False) as daemon,
        daemon.client(person.uid) as client,
    ):
        for _ in range(runs):
            clamd.reset()
            start = time.monotonic()
            client.good("start_scan", {"scan_type": "home"})
            got.append((clamd.wait_first() - start) * 1000)
            client.wait_scan()
    return got


def measure(arguments: argparse.Namespace) -> Iterator[Row]:
    have_service_users()
    with tempfile.TemporaryDirectory(prefix="csd-bench-", dir="/var/tmp") as place, throw_away("bench_spawn") as person:
        directory = Path(place)
        directory.chmod(0o755)
        with _Noting(str(directory / "s")) as clamd:
            Path(clamd.socket_path).chmod(0o666)
            spawns = trio.run(_spawns, clamd, person, arguments.runs)
            yield Row("SPAWN to the first file", "the clock", SPAWN_BOUND_MS, spawns, "ms")
            starts = _starts(clamd, directory, person, arguments.runs)
            yield Row("start_scan to the first file", "the clock", None, starts, "ms")


if __name__ == "__main__":
    options = common.parser("How soon a worker works.")
    options.add_argument("--runs", type=int, default=20)
    common.main(measure, options.parse_args())
