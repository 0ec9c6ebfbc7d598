"""What others of a shared clamd notice of a scan: the time of a small scan of theirs, beside one of a whole home.

The bystander is a mail filter: ten times a second it connects, sends 30 kB of text by INSTREAM, and waits for the
verdict. Its times while nothing else runs, beside our scan, and beside `clamdscan --multiscan --fdpass`; clamd is
restarted for each run, as it remembers what was clean. With `--windows` also ours with so many files in flight,
which is how the defaults of the window were found.
"""

import argparse
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.bench import cold_scan, common, engines, trees
from tests.bench.common import Row, say
from tests.fakes.accounts import Person, have_service_users, throw_away
from tests.fakes.realclamd import RealClamd

_PERIOD_S = 0.1
_BYTES = 30_000
_IDLE_SCANS = 30
_MAX_BYTES = 1_000_000_000
_TIMEOUT_S = 60.0


class Figures(NamedTuple):
    """Milliseconds of the bystander's scans, and the seconds of the scan beside it."""

    p50: float
    p95: float
    wall_s: float


class Bystander(threading.Thread):
    """Scans a text, each time another one, every `_PERIOD_S` until stopped."""

    def __init__(self, clamd: RealClamd) -> None:
        super().__init__()
        self._path = str(clamd.socket_path)
        self._stopped = threading.Event()
        self._error: Exception | None = None
        self.samples: list[float] = []

    def run(self) -> None:
        try:
            while not self._stopped.wait(_PERIOD_S):
                self.samples.append(self.once(len(self.samples)))
        except OSError as error:
            self._error = error

    def once(self, number: int) -> float:
        """Milliseconds from the connect to the verdict."""
        body = (b"From: somebody\nSubject: %d\n\n" % number + b"some words of a mail %d\n" % number * 2_000)[:_BYTES]
        start = time.perf_counter()
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(_TIMEOUT_S)
            sock.connect(self._path)
            sock.sendall(b"zINSTREAM\0" + len(body).to_bytes(4, "big") + body + b"\0\0\0\0")
            answer = sock.recv(1000)
        if answer != b"stream: OK\0":
            raise OSError(f"cannot measure: clamd answered {answer!r}")
        return (time.perf_counter() - start) * 1000

    def stop(self) -> list[float]:
        self._stopped.set()
        self.join()
        if self._error is not None:
            raise self._error
        return self.samples


def _beside(directory: Path, person: Person, files: int, side: str) -> Figures:
    """`side`: clamdscan, or our configuration's further lines in [scans]."""
    trees.warm(person.home)
    with engines.debian_clamd(directory) as clamd:
        bystander = Bystander(clamd)
        bystander.start()
        try:
            if side == "clamdscan":
                run = cold_scan.clamdscan(clamd, person.home)
            else:
                run = cold_scan.clamscannerd(clamd, directory, person, files, side)
        finally:
            samples = bystander.stop()
    figures = Figures(common.percentile(samples, 0.5), common.percentile(samples, 0.95), run.wall_s)
    name = " ".join(side.split()) or "ours"
    say(f"  bystander beside {name}: p50 {figures.p50:.1f} p95 {figures.p95:.1f} ms, {len(samples)} scans")
    return figures


def _alone(directory: Path) -> Figures:
    with engines.debian_clamd(directory) as clamd:
        bystander = Bystander(clamd)
        samples = [bystander.once(number) for number in range(_IDLE_SCANS)]
    return Figures(common.percentile(samples, 0.5), common.percentile(samples, 0.95), 0.0)


def measure(arguments: argparse.Namespace) -> Iterator[Row]:
    common.need("clamdscan")
    have_service_users()
    with tempfile.TemporaryDirectory(prefix="csd-bench-", dir="/var/tmp") as place, throw_away("bench_by") as person:
        directory = Path(place)
        files, _ = trees.mixed(person, arguments.files, _MAX_BYTES * arguments.files // 50_000)
        windows = [f"[scans]\nin_flight = {window}\n" for window in arguments.windows]
        got: dict[str, list[Figures]] = {side: [] for side in ("", "clamdscan", *windows)}
        alone = []
        for number in range(arguments.pairs):
            say(f"round {number + 1} of {arguments.pairs}")
            alone.append(_alone(directory))
            for side in list(got)[:: 1 if number % 2 else -1]:
                got[side].append(_beside(directory, person, files, side))
        p50 = statistics.median(figures.p50 for figures in alone)
        ours, theirs = got[""], got["clamdscan"]
        say(f"  alone: p50 {p50:.1f} ms")
        for index, what in enumerate(("p50", "p95")):
            ratios = common.ratios([figures[index] for figures in ours], [figures[index] for figures in theirs])
            mine = ", ".join(f"{figures[index]:.1f}" for figures in ours)
            note = f"{mine} ms; alone {p50:.1f} ms"
            yield Row(f"a mail's scan beside a cold one: {what}", "beside clamdscan", 1.0, ratios, note=note)
        for window, side in zip(arguments.windows, windows, strict=True):
            name = f"a mail's scan beside a cold one of {window} in flight: p95"
            wall = statistics.median(figures.wall_s for figures in got[side])
            yield Row(name, "the clock", None, [figures.p95 for figures in got[side]], "ms", f"wall {wall:.1f} s")


if __name__ == "__main__":
    options = common.parser("What a bystander of a shared clamd notices of a scan.")
    options.add_argument("--pairs", type=int, default=3)
    options.add_argument("--files", type=int, default=10_000)
    options.add_argument("--windows", type=int, nargs="*", default=[], help="files in flight to try beside")
    common.main(measure, options.parse_args())
