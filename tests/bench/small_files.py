"""Very many small files: the first scan of them, and a second when nothing changed, on private engines.

The second is against a `find` that prints of each file what a verdict is kept by, both from the call to the end. Peaks
of memory are the kernel's own, of both scans. Growth is the time a file in the first scan of the whole takes, against
that of its half, which is scanned before.
"""

import argparse
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.bench import cold_scan, common, memory, trees
from tests.bench.common import Row, say
from tests.fakes.accounts import Person, have_service_users, throw_away
from tests.fakes.running import RunningDaemon

_AGED_S = 61.0
_FIND = ["-printf", "%s %T@ %C@ %i\n"]
DAEMON_BOUND, WORKER_BOUND, SECOND_BOUND, GROWTH_BOUND = 50, 32, 1.5, 1.15


def _find_s(person: Person) -> float:
    start = time.monotonic()
    subprocess.run(["find", person.home, *_FIND], stdout=subprocess.DEVNULL, check=True)
    return time.monotonic() - start


def _first(directory: Path, person: Person, files: int) -> tuple[float, float, float]:
    """Seconds of the first scan, and the peaks of daemon and worker in MiB."""
    with memory.daemon_on(directory) as daemon, daemon.client(person.uid) as client:
        start = time.monotonic()
        worker = memory.scan(daemon, client, common.monitor_of(daemon.pid))
        wall = time.monotonic() - start
        say(f"  {files} files: {wall:.1f} s")
        return wall, common.peak_mb(daemon.pid), worker


def _second(daemon: RunningDaemon, person: Person, files: int, runs: int) -> Iterator[tuple[float, float]]:
    """Seconds of a rescan, and of find."""
    for _ in range(runs):
        run = cold_scan.scan(daemon, person, files)
        find = _find_s(person)
        say(f"  second scan {run.wall_s:.2f} s, {run.status['cached_file_count']} by what was kept; find {find:.2f} s")
        yield run.wall_s, find


def measure(arguments: argparse.Namespace) -> Iterator[Row]:
    have_service_users()
    what = f"{arguments.files} small files"
    with tempfile.TemporaryDirectory(prefix="csd-bench-", dir="/var/tmp") as place:
        Path(place).chmod(0o755)
        with throw_away("bench_half") as person:
            trees.small(person, arguments.files // 2)
            half, _, _ = _first(Path(place, "half"), person, arguments.files // 2)
        with throw_away("bench_small") as person:
            trees.small(person, arguments.files)
            time.sleep(_AGED_S)
            whole, daemon_mb, worker_mb = _first(Path(place, "whole"), person, arguments.files)
            note = f"{whole:.0f} s, half of them {half:.0f} s"
            yield Row("first scan, time a file", f"half as many of {what}", GROWTH_BOUND, [whole / half / 2], note=note)
            with memory.daemon_on(Path(place, "whole")) as daemon:
                got = list(_second(daemon, person, arguments.files, arguments.runs))
                daemon_mb = max(daemon_mb, common.peak_mb(daemon.pid))
                with daemon.client(person.uid) as client:
                    worker_mb = max(worker_mb, memory.scan(daemon, client, common.monitor_of(daemon.pid)))
            yield Row("memory of the daemon in both scans", what, DAEMON_BOUND, [daemon_mb], "MiB")
            yield Row("memory of the worker in both scans", what, WORKER_BOUND, [worker_mb], "MiB")
            ours, theirs = zip(*got, strict=True)
            note = f"medians {statistics.median(ours):.2f} and {statistics.median(theirs):.2f} s"
            yield Row(f"second scan of {what}", "find", SECOND_BOUND, common.ratios(ours, theirs), note=note)


if __name__ == "__main__":
    options = common.parser("The first and the second scan of very many small files.")
    options.add_argument("--files", type=int, default=1_000_000)
    options.add_argument("--runs", type=int, default=5, help="of the second scan")
    common.main(measure, options.parse_args())
