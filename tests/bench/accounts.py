"""Twenty accounts scanned at once, trees of equal content, on private engines; and 200 who poll the status meanwhile.

Against twenty `clamdscan --multiscan --fdpass` at once on one clamd with Debian's settings. The total is the time from
the first call to the last end; the spread is that of the last to end against the first. All of ours run at once
(scans.max_active): by default four do, which ends the first ones sooner and the last ones as late.
"""

import argparse
import contextlib
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from tests.bench import common, engines, memory, pollers, trees
from tests.bench.common import Row, say
from tests.bench.status_latency import connected, echo
from tests.fakes.accounts import Person, have_service_users, throw_away
from tests.fakes.realclamd import RealClamd
from tests.fakes.running import RunningDaemon

_BYTES_A_FILE = 20_000
_TIMEOUT_S = 3_600.0
_POLL_S = 0.2
_POLLERS, _PERIOD_S = 200, 1.0
_STATUS = b'{"jsonrpc":"2.0","id":1,"method":"ClamScanner.get_scan_status"}\n'
_LIMITS = "[server]\nmax_connections_per_uid = 1000\nmax_calls_per_uid = 1000\n[scans]\nmax_active = {}\n"
TOTAL_BOUND, SPREAD_BOUND, STATUS_BOUND_MS, ECHO_BOUND = 0.85, 1.3, 10, 1.5


class Run(NamedTuple):
    """Seconds from the first start to each end."""

    ends: Sequence[float]

    @property
    def total(self) -> float:
        return max(self.ends)

    @property
    def spread(self) -> float:
        return max(self.ends) / min(self.ends)


def _theirs(directory: Path, people: Sequence[Person]) -> Run:
    with engines.debian_clamd(directory) as clamd:
        start = time.monotonic()
        left = {person.name: _clamdscan(clamd, person) for person in people}
        ends = []
        while left:
            for name, process in list(left.items()):
                if process.poll() is not None:
                    ends.append(time.monotonic() - start)
                    if left.pop(name).returncode not in (0, 1):
                        raise RuntimeError(f"cannot measure clamdscan: it ended with {process.returncode}")
            if time.monotonic() - start > _TIMEOUT_S:
                raise RuntimeError("cannot measure clamdscan: it does not end")
            time.sleep(0.01)
    return Run(ends)


def _clamdscan(clamd: RealClamd, person: Person) -> "subprocess.Popen[bytes]":
    words = ["clamdscan", "--multiscan", "--fdpass", "--quiet", "-c", str(clamd.conf_path), person.home]
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _daemon(directory: Path, people: Sequence[Person]) -> RunningDaemon:
    daemon = memory.daemon_on(directory)
    (daemon.directory / "conf.d" / "test.toml").write_text(_LIMITS.format(len(people)))
    return daemon


def _start(daemon: RunningDaemon, people: Sequence[Person]) -> float:
    """Epoch seconds of the first call. All are made at once: each waits for a look into the home, half a second when
    as many scans run."""
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(daemon.client(person.uid)) for person in people]
        with ThreadPoolExecutor(len(clients)) as callers:
            start = time.time()
            list(callers.map(lambda client: client.good("start_scan", {"scan_type": "home"}), clients))
    return start


def _ends(daemon: RunningDaemon, people: Sequence[Person], start: float, files: int) -> Run:
    """When each ended, as the daemon has noted it."""
    ends: list[float] = []
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(daemon.client(person.uid)) for person in people]
        while clients:
            (scan,) = clients[0].call("Scan.list", {"limit": 1})["scans"]
            if scan["time_ended"] is None:
                if time.time() - start > _TIMEOUT_S:
                    raise RuntimeError("cannot measure the scans: they do not end")
                time.sleep(_POLL_S)
                continue
            if scan["state"] != "done" or scan["scanned_file_count"] < files:
                raise RuntimeError(f"cannot measure the scan: {scan['state']}, {scan['not_scanned']}")
            ends.append(scan["time_ended"] - start)
            clients.pop(0)
    return Run(ends)


def _ours(directory: Path, people: Sequence[Person], files: int) -> Run:
    with _daemon(directory, people) as daemon:
        return _ends(daemon, people, _start(daemon, people), files)


def _polled(directory: Path, people: Sequence[Person], files: int, seconds: float) -> tuple[float, float]:
    """p99 in ms of the daemon and of the echo, asked while all are being scanned. Who asks has connected before."""
    with contextlib.ExitStack() as stack:
        daemon = stack.enter_context(_daemon(directory, people))
        path = stack.enter_context(echo(directory))
        ours = [stack.enter_context(daemon.client(people[n % len(people)].uid)).sock for n in range(_POLLERS)]
        theirs = [stack.enter_context(connected(path)) for _ in range(_POLLERS)]
        start = _start(daemon, people)
        sides = pollers.Side(ours, _STATUS, lambda _: None), pollers.Side(theirs, _STATUS, lambda _: None)
        status, echoed = pollers.poll(sides, _PERIOD_S, seconds)
        last = _ends(daemon, people, start, files).total
        if last < seconds:
            say(f"  the scans ended after {last:.0f} s, and were polled for {seconds:.0f} s")
    return common.percentile(status, 0.99), common.percentile(echoed, 0.99)


def measure(arguments: argparse.Namespace) -> Iterator[Row]:
    common.need("clamdscan")
    have_service_users()
    number, files = arguments.accounts, arguments.files
    with contextlib.ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="csd-bench-", dir="/var/tmp")))
        place.chmod(0o755)
        people = [stack.enter_context(throw_away(f"bench_many{n}")) for n in range(number)]
        for person in people:
            trees.mixed(person, files, _BYTES_A_FILE * files)
        ours: list[Run] = []
        theirs: list[Run] = []
        for pair in range(arguments.pairs):
            say(f"pair {pair + 1} of {arguments.pairs}")
            for side in ("ours", "theirs") if pair % 2 else ("theirs", "ours"):
                for person in people:
                    trees.warm(person.home)
                if side == "ours":
                    ours.append(_ours(place / f"daemon{pair}", people, files))
                else:
                    theirs.append(_theirs(place, people))
                run = (ours if side == "ours" else theirs)[-1]
                say(f"  {side}: total {run.total:.1f} s, spread {run.spread:.2f}")
        what = f"{number} accounts at once, {files} files each"
        against = f"{number} clamdscan at once on one clamd"
        ratios = common.ratios([run.total for run in ours], [run.total for run in theirs])
        yield Row(f"{what}: total", against, TOTAL_BOUND, ratios)
        note = "theirs " + ", ".join(f"{run.spread:.2f}" for run in theirs)
        yield Row(f"{what}: last end to first", "itself", SPREAD_BOUND, [run.spread for run in ours], note=note)
        polled = [_polled(place / f"polled{n}", people, files, arguments.seconds) for n in range(arguments.rounds)]
        what = f"status, {_POLLERS} clients, meanwhile: p99"
        yield Row(what, "the clock", STATUS_BOUND_MS, [status for status, _ in polled], "ms")
        ratios = common.ratios([status for status, _ in polled], [echoed for _, echoed in polled])
        yield Row(what, "a bare trio echo in the same run", ECHO_BOUND, ratios, note="either bound is enough")


if __name__ == "__main__":
    options = common.parser("Twenty accounts scanned at once, and polled.")
    options.add_argument("--pairs", type=int, default=5)
    options.add_argument("--accounts", type=int, default=20)
    options.add_argument("--files", type=int, default=2_000, help="of each account")
    options.add_argument("--rounds", type=int, default=3, help="of polling")
    options.add_argument("--seconds", type=float, default=15.0, help="of each round")
    common.main(measure, options.parse_args())
