"""What an unchanged tree costs the second time, one of which a hundredth changed, and one that was moved by a copy.

Against `clamdscan --multiscan --fdpass` with a clamd that has scanned all of it before, so that it goes by its own
memory of contents. Ours is from start_scan to the logged end, the daemon restarted before each rescan of what did not
change. The worker's own time is the CPU of the scan's process from its exec to its end, against that of a `find` that
prints of each file what a verdict is kept by. The tree ages past the 60 s rule first: younger files are not kept.
"""

import argparse
import resource
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.bench import cold_scan, common, engines, trees
from tests.bench.common import Row, say
from tests.fakes.accounts import Person, have_service_users, throw_away
from tests.fakes.realclamd import RealClamd
from tests.fakes.running import RunningDaemon, wait_for

_MAX_BYTES = 1_000_000_000
_AGED_S = 61.0
_FIND = ["-printf", "%s %T@ %C@ %i\n"]
_CHANGED = 100  # every so many-th file
UNCHANGED_BOUND, CHANGED_BOUND, MOVED_BOUND, WORKER_BOUND = 30, 15, 7, 1.3


class Place:
    """A tree that both sides know already, by the same clamd."""

    def __init__(self, person: Person, clamd: RealClamd, daemon: RunningDaemon, files: int) -> None:
        self.person = person
        self.daemon = daemon
        self.files = files
        self._clamd = clamd
        self._round = 0

    def theirs(self) -> float:
        return cold_scan.clamdscan(self._clamd, self.person.home).wall_s

    def ours(self) -> cold_scan.Run:
        run = cold_scan.scan(self.daemon, self.person, self.files)
        say(
            f"  clamscannerd wall {run.wall_s:6.2f} s  client {run.client_s:5.2f} s (workers {run.worker_s:.2f}),"
            f" {run.status['cached_file_count']} of {run.status['total_file_count']} by what was kept"
        )
        return run

    def restarted(self) -> float:
        self.daemon.stop()
        self.daemon.start()
        return self.ours().wall_s

    def worker(self) -> float:
        """CPU of the scan's worker alone."""
        self._look(self.person)
        return self.ours().worker_s

    def start(self, other: Person) -> float:
        """The same with nothing to scan: the start of a process, its imports, the drop of its rights."""
        self._look(other)
        return cold_scan.scan(self.daemon, other, 0).worker_s

    def _look(self, person: Person) -> None:
        """What is there to scan is asked for by another worker, so before."""
        with self.daemon.client(person.uid) as client:
            client.good("get_scan_paths")
        monitor = common.monitor_of(self.daemon.pid)
        wait_for(lambda: not common.children(monitor), "that worker to end")

    def find(self) -> float:
        before = _children_s()
        with subprocess.Popen(["find", self.person.home, *_FIND], stdout=subprocess.DEVNULL) as find:
            find.wait()
        return _children_s() - before

    def change(self) -> None:
        """New content for the same hundredth of all files."""
        self._round += 1
        for number, path in enumerate(sorted(p for p in Path(self.person.home).rglob("*") if p.is_file())):
            if number % _CHANGED == 0:
                path.write_bytes(b"changed %d %d\n" % (number, self._round))

    def move(self) -> None:
        """By a copy beside it, with all that cp -a keeps."""
        self._round += 1
        for old in [place for place in Path(self.person.home).iterdir() if place.is_dir()]:
            subprocess.run(["cp", "-a", old, Path(self.person.home, f"moved{self._round}")], check=True)
            shutil.rmtree(old)


def _children_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _pairs(
    what: str, number: int, before: Callable[[], None], ours: Callable[[], float], theirs: Callable[[], float]
) -> tuple[list[float], list[float]]:
    """Seconds of each side, in turn; `before` makes the tree what it is to be, for each side anew."""
    got: tuple[list[float], list[float]] = ([], [])
    for pair in range(number):
        say(f"{what}, pair {pair + 1} of {number}")
        for index in (0, 1) if pair % 2 else (1, 0):
            before()
            got[index].append((ours, theirs)[index]())
    return got


def _row(what: str, against: str, bound: float, got: tuple[list[float], list[float]]) -> Row:
    ours, theirs = got
    note = f"medians {statistics.median(theirs):.2f} against {statistics.median(ours):.2f} s"
    return Row(what, against, bound, common.ratios(theirs, ours), "times", note, at_least=True)


def measure(arguments: argparse.Namespace) -> Iterator[Row]:
    common.need("clamdscan")
    have_service_users()
    with (
        tempfile.TemporaryDirectory(prefix="csd-bench-", dir="/var/tmp") as place,
        throw_away("bench_rescan") as person,
        throw_away("bench_empty") as nobody,
        engines.debian_clamd(Path(place)) as clamd,
        cold_scan.shared(clamd, Path(place)) as daemon,
    ):
        files, size = trees.mixed(person, arguments.files, _MAX_BYTES * arguments.files // 50_000)
        say(f"waiting {_AGED_S:.0f} s: what is younger is not kept")
        time.sleep(_AGED_S)
        tree = Place(person, clamd, daemon, files)
        tree.ours()
        tree.theirs()
        against = f"clamdscan --multiscan --fdpass, clamd warm, {files} files, {size / 1e6:.0f} MB"
        got = _pairs("unchanged", arguments.pairs, lambda: None, tree.restarted, tree.theirs)
        yield _row("rescan, nothing changed: faster by", against, UNCHANGED_BOUND, got)
        worker, find = _pairs("worker", arguments.pairs, lambda: None, tree.worker, tree.find)
        start = statistics.median(tree.start(nobody) for _ in worker)
        note = f"medians {statistics.median(worker):.2f} and {statistics.median(find):.2f} s, {start:.2f} s to start it"
        against_find = "find -printf of size, times and inode"
        yield Row("CPU of the worker in it", against_find, WORKER_BOUND, common.ratios(worker, find), note=note)
        got = _pairs("changed", arguments.pairs, tree.change, lambda: tree.ours().wall_s, tree.theirs)
        yield _row("rescan, 1 % changed: faster by", against, CHANGED_BOUND, got)
        got = _pairs("moved", arguments.pairs, tree.move, lambda: tree.ours().wall_s, tree.theirs)
        yield _row("the tree moved by a copy: faster by", against, MOVED_BOUND, got)


if __name__ == "__main__":
    options = common.parser("A rescan: the ratio to clamdscan with a warm clamd.")
    options.add_argument("--pairs", type=int, default=7)
    options.add_argument("--files", type=int, default=55_000)
    common.main(measure, options.parse_args())
