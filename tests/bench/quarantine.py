"""Small infected files, all different: quarantined durably, against `clamdscan --move`, which syncs nothing.

clamdscan scans while it moves, so its scan alone (without --move) is measured as well and taken off. Ours is from the
asking to the end of the task, the scan before it left out alike. The figure is the ratio of the rates: more is better.
"""

import argparse
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.bench import common
from tests.bench.common import Row, say
from tests.fakes.accounts import Person, have_service_users, throw_away
from tests.fakes.realclamd import EICAR, RealClamd
from tests.fakes.running import RunningDaemon, wait_for

RATE_BOUND = 1.5
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


def _theirs_s(clamd: RealClamd, person: Person, away: Path, files: int) -> float:
    scan_s = _clamdscan_s(clamd, person.home)
    away.mkdir()
    move_s = _clamdscan_s(clamd, person.home, f"--move={away}") - scan_s
    if (moved := len(list(away.iterdir()))) != files:
        raise RuntimeError(f"cannot measure clamdscan: it moved {moved} of {files} files")
    shutil.rmtree(away)
    return move_s


def _ours_s(clamd: RealClamd, person: Person, files: int) -> float:
    with RunningDaemon(sockets=f'["{clamd.socket_path}"]') as daemon, daemon.client(person.uid) as client:
        client.sock.settimeout(_TIMEOUT_S)
        client.scan(timeout_s=_TIMEOUT_S)
        nothing = {"last_id": files}  # asking for all details each time would cost more than the task
        start = time.monotonic()
        client.good("disinfect_files", {"actions": {}, "others": "quarantine"})
        wait_for(
            lambda: client.good("check_disinfection_status", nothing)["status"] == "done", "the task to end", _TIMEOUT_S
        )
        taken_s = time.monotonic() - start
        counts = client.good("check_disinfection_status", nothing)["details"]
        if [one["state"] for one in counts] != ["success"]:
            raise RuntimeError(f"cannot measure the quarantine: it ended with {counts}")
    return taken_s


def measure(arguments: argparse.Namespace) -> Iterator[Row]:
    have_service_users()
    files, ratios = arguments.files, []
    with (
        tempfile.TemporaryDirectory(prefix="csd-bench-", dir="/var/tmp") as place,
        throw_away("bench_vault") as person,
        RealClamd() as clamd,
    ):
        clamd.directory.chmod(0o755)
        for number in range(arguments.pairs):
            say(f"pair {number + 1} of {arguments.pairs}")
            took: dict[str, float] = {}
            for side in ("ours", "theirs") if number % 2 else ("theirs", "ours"):
                _fill(person, files)
                if side == "ours":
                    took[side] = _ours_s(clamd, person, files)
                else:
                    took[side] = _theirs_s(clamd, person, Path(place, "away"), files)
                _clear(person)
            say(f"  clamdscan --move {files / took['theirs']:.0f} files/s, ours {files / took['ours']:.0f} files/s")
            ratios.append(took["theirs"] / took["ours"])
    against = f"clamdscan --move, {files} files"
    yield Row("quarantine, rate", against, RATE_BOUND, ratios, unit="times", at_least=True)


if __name__ == "__main__":
    options = common.parser("Quarantine of small files: the rate against clamdscan --move.")
    options.add_argument("--pairs", type=int, default=3)
    options.add_argument("--files", type=int, default=10_000)
    common.main(measure, options.parse_args())
