"""One, two and three single-threaded clamds behind one daemon: how much sooner a cold scan ends.

With as many clamds as cores the work is halved at best; a third one on two cores cannot add to that, and must not take
from it. Each run has engines that were just started.
"""

import argparse
import contextlib
import os
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.bench import cold_scan, common, engines, trees
from tests.bench.common import Row, say
from tests.fakes.accounts import Person, have_service_users, throw_away
from tests.fakes.realclamd import RealClamd
from tests.fakes.running import RunningDaemon

_MAX_BYTES = 1_000_000_000
BOUND = 1.7


def _run(place: Path, person: Person, files: int, number: int) -> float:
    trees.warm(person.home)
    options = engines.DEBIAN | {"MaxThreads": "1"}
    with contextlib.ExitStack() as stack:
        clamds = [
            stack.enter_context(RealClamd(place / f"clamd{n}", signatures=engines.signatures(), options=options))
            for n in range(number)
        ]
        addresses = ", ".join(f'"{clamd.socket_path}"' for clamd in clamds)
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=place)))
        daemon = stack.enter_context(RunningDaemon(directory, sockets=f"[{addresses}]", timed=False))
        run = cold_scan.scan(daemon, person, files)
        shares = ", ".join(f"{common.cpu_s(clamd.pid):.1f}" for clamd in clamds)
        say(f"  {number} engines: wall {run.wall_s:.2f} s, CPU of each {shares} s")
    return run.wall_s


def measure(arguments: argparse.Namespace) -> Iterator[Row]:
    have_service_users()
    with tempfile.TemporaryDirectory(prefix="csd-bench-", dir="/var/tmp") as name, throw_away("bench_eng") as person:
        place = Path(name)
        place.chmod(0o755)
        files, size = trees.mixed(person, arguments.files, _MAX_BYTES * arguments.files // 50_000)
        got: dict[int, list[float]] = {1: [], 2: [], 3: []}
        for number in range(arguments.runs):
            say(f"round {number + 1} of {arguments.runs}")
            for engines_now in list(got)[:: 1 if number % 2 else -1]:
                got[engines_now].append(_run(place, person, files, engines_now))
        for more in (2, 3):
            ratios = common.ratios(got[1], got[more])
            note = f"medians {statistics.median(got[1]):.1f} and {statistics.median(got[more]):.1f} s"
            what = f"{more} single-threaded engines on {os.cpu_count()} cores: faster by"
            against = f"one of them, {files} files, {size / 1e6:.0f} MB"
            yield Row(what, against, BOUND, ratios, "times", note, at_least=True)


if __name__ == "__main__":
    options = common.parser("More engines than one: how much faster a cold scan is.")
    options.add_argument("--runs", type=int, default=5)
    options.add_argument("--files", type=int, default=10_000)
    common.main(measure, options.parse_args())
