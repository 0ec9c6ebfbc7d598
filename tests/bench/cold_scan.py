"""A whole tree of real content on one clamd: this daemon against `clamdscan --multiscan --fdpass`.

clamd is restarted before each run of either side, as it remembers what was clean; runs are interleaved, and which side
goes first alternates. The page cache is warm for both. CPU seconds are those of clamd and of its client together: with
us daemon, monitor and worker (from its start to its end), with the other clamdscan. Most is clamd's own and varies by
some percent from run to run, hence pairs. The figures are the ratios of the pairs; beside them stands that of all CPU
seconds together, which single odd runs move least, and that of the median wall times.
"""

import argparse
import os
import re
import resource
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from clamscannerd.config_engine import Engine
from tests.bench import common, engines, trees
from tests.bench.common import Pair, Row, say
from tests.fakes.accounts import Person, have_service_users, throw_away
from tests.fakes.realclamd import RealClamd
from tests.fakes.running import PeerClient, RunningDaemon, wait_for

_MAX_BYTES = 1_000_000_000
_LOOK_S = 0.01
_POLL_S = 1.0  # of the status, meanwhile: what a panel does belongs to the price
_TIMEOUT_S = 3_600.0
_ENDED = re.compile(r"scan \d+ of uid \d+: (done|failed|cancelled)$")
CPU_BOUND, WALL_BOUND = 1.05, 1.10


def clamdscan(clamd: RealClamd, home: str) -> Pair:
    """One run of the other side."""
    before, client_before, start = common.cpu_s(clamd.pid), _children_s(), time.monotonic()
    done = subprocess.run(
        ["clamdscan", "--multiscan", "--fdpass", "--quiet", "-c", str(clamd.conf_path), home],
        capture_output=True,
        check=False,
        timeout=_TIMEOUT_S,
    )
    wall = time.monotonic() - start
    if done.returncode not in (0, 1):
        raise RuntimeError(f"cannot measure clamdscan: it ended with {done.returncode}: {done.stderr!r}")
    client, engine = _children_s() - client_before, common.cpu_s(clamd.pid) - before
    say(f"  clamdscan    wall {wall:6.2f} s  CPU clamd {engine:6.2f} s  client {client:5.2f} s")
    return Pair(cpu_s=engine + client, wall_s=wall)


def _children_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


class Run(NamedTuple):
    """One scan of ours. `client_s`: CPU of daemon, monitor and workers; `worker_s`: of workers alone."""

    wall_s: float
    client_s: float
    worker_s: float
    status: dict[str, Any]


def shared(clamd: RealClamd, directory: Path, more: str = "") -> RunningDaemon:
    """A daemon, not started, on a clamd that others use. `more`: of its configuration."""
    conf = f'[engine]\nclamd_conf = "{clamd.conf_path}"\ncheck_interval_s = {Engine().check_interval_s}\n{more}'
    return RunningDaemon(directory / "daemon", config=conf, sockets=f'["{clamd.socket_path}"]', timed=False)


def scan(daemon: RunningDaemon, person: Person, files: int) -> Run:
    """From start_scan until its end is logged; RuntimeError where fewer than `files` were scanned."""
    monitor = common.monitor_of(daemon.pid)
    engine = set(common.children(monitor))
    with daemon.client(person.uid) as client:
        ours = (daemon.pid, monitor)
        before, workers_before, start = _all_s(ours), common.cpu_s(monitor, reaped=True), time.monotonic()
        with daemon.log_path.open() as log:
            log.seek(0, os.SEEK_END)
            client.call("ClamScanner.start_scan", {"scan_type": "home"})
            wall = _until_logged(log, client) - start
        status = client.call("ClamScanner.get_scan_status")["result"]["data"]
    wait_for(lambda: set(common.children(monitor)) <= engine, "the worker to end")
    _check(status, files)
    return Run(wall, _all_s(ours) - before, common.cpu_s(monitor, reaped=True) - workers_before, status)


def clamscannerd(clamd: RealClamd, directory: Path, person: Person, files: int, more: str = "") -> Pair:
    """One run of our side on this clamd, by a daemon of its own."""
    with shared(clamd, directory, more) as daemon:
        before = common.cpu_s(clamd.pid)
        run = scan(daemon, person, files)
        engine = common.cpu_s(clamd.pid) - before
    told = f"wall {run.wall_s:6.2f} s  CPU clamd {engine:6.2f} s  client {run.client_s:5.2f} s"
    say(f"  clamscannerd {told} (workers {run.worker_s:.2f})")
    return Pair(cpu_s=engine + run.client_s, wall_s=run.wall_s)


def _until_logged(log: TextIO, client: PeerClient) -> float:
    """When the daemon logged the end of the scan: to 10 ms, without asking it more often than a panel would."""
    asked = start = time.monotonic()
    while not any(_ENDED.search(line) for line in log):
        time.sleep(_LOOK_S)
        if time.monotonic() - start > _TIMEOUT_S:
            raise RuntimeError("cannot measure the scan: it does not end")
        if time.monotonic() - asked > _POLL_S:
            asked = time.monotonic()
            client.call("ClamScanner.get_scan_status")
    return time.monotonic()


def _all_s(pids: tuple[int, int]) -> float:
    """Daemon and monitor, with the workers that ended."""
    daemon, monitor = pids
    return common.cpu_s(daemon) + common.cpu_s(monitor) + common.cpu_s(monitor, reaped=True)


def _check(status: dict[str, object], files: int) -> None:
    """A scan that left things out would be fast for nothing."""
    scanned, missed = status["scanned_file_count"], status["not_scanned"]
    if status["state"] != "done" or not isinstance(scanned, int) or scanned < files:
        raise RuntimeError(f"cannot measure the scan: {status['state']}, {scanned} of {files} scanned, {missed}")


def measure(arguments: argparse.Namespace) -> Iterator[Row]:
    common.need("clamdscan")
    have_service_users()
    with tempfile.TemporaryDirectory(prefix="csd-bench-", dir="/var/tmp") as place, throw_away("bench_cold") as person:
        directory = Path(place)
        files, size = trees.mixed(person, arguments.files, _MAX_BYTES * arguments.files // 50_000)
        ours: list[Pair] = []
        theirs: list[Pair] = []
        for number in range(arguments.pairs):
            say(f"pair {number + 1} of {arguments.pairs}")
            for side in ("ours", "theirs") if number % 2 else ("theirs", "ours"):
                trees.warm(person.home)
                with engines.debian_clamd(directory) as clamd:
                    if side == "ours":
                        ours.append(clamscannerd(clamd, directory, person, files))
                    else:
                        theirs.append(clamdscan(clamd, person.home))
        against = f"clamdscan --multiscan --fdpass, {files} files, {size / 1e6:.0f} MB"
        mine, others = [pair.cpu_s for pair in ours], [pair.cpu_s for pair in theirs]
        note = f"all runs together {sum(mine) / sum(others):.3f}"
        yield Row("cold scan, CPU", against, CPU_BOUND, common.ratios(mine, others), note=note)
        mine, others = [pair.wall_s for pair in ours], [pair.wall_s for pair in theirs]
        note = f"median to median {statistics.median(mine) / statistics.median(others):.3f}"
        yield Row("cold scan, wall", against, WALL_BOUND, common.ratios(mine, others), note=note)


if __name__ == "__main__":
    options = common.parser("A cold scan of real content: the ratio to clamdscan.")
    options.add_argument("--pairs", type=int, default=7)
    options.add_argument("--files", type=int, default=50_000)
    common.main(measure, options.parse_args())
