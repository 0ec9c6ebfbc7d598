"""Resident peaks of daemon, monitor and worker during a scan of real content, and of very many small files.

The peak is the kernel's own (VmHWM), which only grows: it is read often enough that the last look before a worker's
end tells all. A private engine, so that nothing but this daemon is at work.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.bench import common, engines, trees
from tests.bench.common import Row, say
from tests.fakes.accounts import Person, have_service_users, throw_away
from tests.fakes.running import PeerClient, RunningDaemon

_MAX_BYTES = 1_000_000_000
_POLL_S = 0.05
_SAY_S = 20.0
_TIMEOUT_S = 3_600.0
DAEMON_BOUND, MONITOR_BOUND, WORKER_BOUND = 45, 15, 24


def scan(daemon: RunningDaemon, client: PeerClient, monitor: int) -> float:
    """Scan all; the largest peak of any worker on the way."""
    engine = set(common.children(monitor))
    peak, start = 0.0, time.monotonic()
    said = start
    client.good("start_scan", {"scan_type": "home"})
    while True:
        status = client.good("get_scan_status")
        for pid in set(common.children(monitor)) - engine:
            peak = max(peak, _peak_or_0(pid))
        if status["scan_complete"]:
            break
        if time.monotonic() - said > _SAY_S:
            said = time.monotonic()
            say(f"  {status['scanned_file_count']} of {status['total_file_count']}")
        if time.monotonic() - start > _TIMEOUT_S:
            raise RuntimeError("cannot measure the scan: it does not end")
        time.sleep(_POLL_S)
    if status["state"] != "done" or status["not_scanned"]:
        raise RuntimeError(f"cannot measure the scan: {status['state']}, not scanned: {status['not_scanned']}")
    say(f"  {status['scanned_file_count']} scanned; daemon {common.peak_mb(daemon.pid):.1f} MiB, worker {peak:.1f} MiB")
    return peak


def _peak_or_0(pid: int) -> float:
    """0 for a worker that has just ended."""
    try:
        return common.peak_mb(pid)
    except (FileNotFoundError, ProcessLookupError):
        return 0.0


def daemon_on(directory: Path) -> RunningDaemon:
    """Not started; with a private engine on the benches' signatures, and whatever state is there."""
    directory.mkdir(exist_ok=True)
    directory.chmod(0o755)
    if not (directory / "db").exists():
        engines.use_signatures(directory / "db")
    return RunningDaemon(directory, signatures=b"", private_engines='"auto"', timed=False)


def _rows(person: Person, what: str) -> Iterator[Row]:
    with tempfile.TemporaryDirectory(prefix="csd-bench-", dir="/var/tmp") as place, daemon_on(Path(place)) as daemon:
        monitor = common.monitor_of(daemon.pid)
        with daemon.client(person.uid) as client:
            worker = scan(daemon, client, monitor)
        yield Row("memory of the daemon", what, DAEMON_BOUND, [common.peak_mb(daemon.pid)], "MiB")
        yield Row("memory of the monitor", what, MONITOR_BOUND, [common.peak_mb(monitor)], "MiB")
        yield Row("memory of the worker", what, WORKER_BOUND, [worker], "MiB")


def measure(arguments: argparse.Namespace) -> Iterator[Row]:
    have_service_users()
    if arguments.mixed:
        with throw_away("bench_memory") as person:
            files, size = trees.mixed(person, arguments.mixed, _MAX_BYTES * arguments.mixed // 50_000)
            yield from _rows(person, f"{files} files, {size / 1e6:.0f} MB")
    if arguments.files:
        with throw_away("bench_memory") as person:
            trees.small(person, arguments.files)
            yield from _rows(person, f"{arguments.files} small files")


if __name__ == "__main__":
    options = common.parser("Resident peaks of our processes.")
    options.add_argument("--mixed", type=int, default=50_000, help="files of real content; 0: leave them out")
    options.add_argument("--files", type=int, default=1_000_000, help="small files; 0: leave them out")
    common.main(measure, options.parse_args())
