"""Small infected files, all different: quarantined durably, against `clamdscan --move`, which syncs nothing.

What is compared is not alike, and both figures are given, as ratios of rates (more is better):

    as a whole    `clamdscan --move` is one command, which scans and moves. Ours is disinfect_files, from the asking to
                  the end of the task; it finds nothing, since the scan before it did. The bound is on this one.
    moving alone  theirs less a `clamdscan` of the same files without --move, run right before: what their moving costs
                  beyond their scan. Ours is the same as above.

CPU is that of the daemon (the asking and the polls for the end in it) and of the worker. Syncs are counted in a run of
their own, since strace slows it; they are all those of the daemon and the worker from the asking to the end.
"""

import argparse
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.bench import common
from tests.bench.common import Row, say
from tests.fakes.accounts import Person, have_service_users, throw_away
from tests.fakes.realclamd import EICAR, RealClamd
from tests.fakes.running import PeerClient, RunningDaemon, wait_for

RATE_BOUND = 1.5
SYNCS_BOUND = 0.2
_PER_DIRECTORY = 500
_MAX_PADDING_BYTES = 4_000
_TIMEOUT_S = 600.0


def _fill(person: Person, files: int) -> None:
    for number in range(files):
        directory = Path(person.home, f"d{number // _PER_DIRECTORY}")
        path = directory / f"f{number}"
        if not directory.is_dir():
            directory.mkdir()
            os.chown(directory, person.uid, person.gid)
        path.write_bytes(EICAR + b" %d " % number + b"x" * (number % _MAX_PADDING_BYTES))
        os.chown(path, person.uid, person.gid)
    os.sync()


def _clear(person: Person) -> None:
    for directory in Path(person.home).glob("d*"):
        shutil.rmtree(directory)


def _clamdscan_s(clamd: RealClamd, home: str, *options: str) -> float:
    words = ["clamdscan", "-c", str(clamd.conf_path), "--multiscan", "--fdpass", "--quiet", *options, home]
    start = time.monotonic()
    done = subprocess.run(words, capture_output=True, check=False, timeout=_TIMEOUT_S)
    taken_s = time.monotonic() - start
    if done.returncode != 1:
        raise RuntimeError(f"cannot measure clamdscan: it ended with {done.returncode}: {done.stderr!r}")
    return taken_s


class Theirs(NamedTuple):
    """Seconds of the whole command, and of its scan."""

    whole_s: float
    scan_s: float


class Ours(NamedTuple):
    """Seconds from the asking to the end, and CPU seconds of daemon and worker meanwhile."""

    task_s: float
    daemon_s: float
    worker_s: float


def _theirs(clamd: RealClamd, person: Person, away: Path, files: int) -> Theirs:
    scan_s = _clamdscan_s(clamd, person.home)
    away.mkdir()
    whole_s = _clamdscan_s(clamd, person.home, f"--move={away}")
    if (moved := len(list(away.iterdir()))) != files:
        raise RuntimeError(f"cannot measure clamdscan: it moved {moved} of {files} files")
    shutil.rmtree(away)
    return Theirs(whole_s, scan_s)


def _ours(daemon: RunningDaemon, client: PeerClient, files: int) -> Ours:
    """The disinfection after a scan."""
    monitor = common.monitor_of(daemon.pid)
    nothing = {"last_id": files}  # asking for all details each time would cost more than the task
    before = common.cpu_s(daemon.pid), common.cpu_s(monitor, reaped=True)
    start = time.monotonic()
    client.good("disinfect_files", {"actions": {}, "others": "quarantine"})
    wait_for(
        lambda: client.good("check_disinfection_status", nothing)["status"] == "done", "the task to end", _TIMEOUT_S
    )
    task_s = time.monotonic() - start
    wait_for(lambda: not common.children(monitor), "the worker to be gone")
    counts = client.good("check_disinfection_status", nothing)["details"]
    if [one["state"] for one in counts] != ["success"]:
        raise RuntimeError(f"cannot measure the quarantine: it ended with {counts}")
    return Ours(task_s, common.cpu_s(daemon.pid) - before[0], common.cpu_s(monitor, reaped=True) - before[1])


@contextmanager
def _scanned(clamd: RealClamd, person: Person) -> Iterator[tuple[RunningDaemon, PeerClient]]:
    """A daemon that has found all files, and a client that is their owner."""
    with RunningDaemon(sockets=f'["{clamd.socket_path}"]', timed=False) as daemon, daemon.client(person.uid) as client:
        client.sock.settimeout(_TIMEOUT_S)
        client.scan(timeout_s=_TIMEOUT_S)
        yield daemon, client


def _syncs(clamd: RealClamd, person: Person, place: Path, files: int) -> float:
    """fsync and fdatasync of daemon and worker, an item."""
    out = place / "strace"
    with _scanned(clamd, person) as (daemon, client):
        words = ["strace", "-f", "-o", str(out), "-e", "trace=fsync,fdatasync", "-p", str(daemon.pid)]
        tracer = subprocess.Popen([*words, "-p", str(common.monitor_of(daemon.pid))], stderr=subprocess.PIPE)
        with tracer:
            assert tracer.stderr is not None
            for _ in range(2):  # it says so of each process
                if b"attached" not in (line := tracer.stderr.readline()):
                    raise RuntimeError(f"cannot count syncs: {line!r}")
            _ours(daemon, client, files)
            tracer.terminate()
    text = out.read_text()
    return (text.count(" fsync(") + text.count(" fdatasync(")) / files


def measure(arguments: argparse.Namespace) -> Iterator[Row]:
    have_service_users()
    files = arguments.files
    theirs: list[Theirs] = []
    ours: list[Ours] = []
    with (
        tempfile.TemporaryDirectory(prefix="csd-bench-", dir="/var/tmp") as place,
        throw_away("bench_vault") as person,
        RealClamd() as clamd,
    ):
        clamd.directory.chmod(0o755)
        for number in range(arguments.pairs):
            say(f"pair {number + 1} of {arguments.pairs}")
            for side in ("ours", "theirs") if number % 2 else ("theirs", "ours"):
                _fill(person, files)
                if side == "ours":
                    with _scanned(clamd, person) as (daemon, client):
                        ours.append(_ours(daemon, client, files))
                else:
                    theirs.append(_theirs(clamd, person, Path(place, "away"), files))
                _clear(person)
            whole, alone, mine = files / theirs[-1].whole_s, theirs[-1].whole_s - theirs[-1].scan_s, ours[-1].task_s
            say(
                f"  clamdscan --move {whole:.0f} files/s, its moving alone {files / alone:.0f}, ours {files / mine:.0f}"
            )
        _fill(person, files)
        syncs = _syncs(clamd, person, Path(place), files)
    against = f"clamdscan --move, {files} files"
    ratios = [their.whole_s / our.task_s for their, our in zip(theirs, ours, strict=True)]
    yield Row("quarantine, rate", f"{against}, the whole command", RATE_BOUND, ratios, unit="times", at_least=True)
    ratios = [(their.whole_s - their.scan_s) / our.task_s for their, our in zip(theirs, ours, strict=True)]
    yield Row("quarantine, rate", f"{against}, its scan taken off", None, ratios, unit="times", at_least=True)
    yield Row("quarantine, syncs", "an item", SYNCS_BOUND, [syncs])
    for process, used in ("daemon", [one.daemon_s for one in ours]), ("worker", [one.worker_s for one in ours]):
        yield Row(f"quarantine, CPU of the {process}", "an item", None, [1000 * one / files for one in used], unit="ms")


if __name__ == "__main__":
    options = common.parser("Quarantine of small files: the rate against clamdscan --move.")
    options.add_argument("--pairs", type=int, default=3)
    options.add_argument("--files", type=int, default=10_000)
    common.main(measure, options.parse_args())
