"""A cold scan by private engines against `clamdscan --multiscan --fdpass` on one clamd with Debian's settings.

With few signatures, where a scan is mostly clamd's own work around it, and with as many as a site has: 100,000 bodies
and 2,000,000 hashes of whole files, all made up. Both sides have the same ones. Each run has engines that were just
started: what they take to load the signatures is not in it.
"""

import argparse
import hashlib
import shutil
import statistics
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from tests.bench import cold_scan, common, engines, trees
from tests.bench.common import Row, say
from tests.fakes.accounts import Person, have_service_users, throw_away
from tests.fakes.realclamd import RealClamd, ndb
from tests.fakes.running import RunningDaemon, wait_for

_MAX_BYTES = 1_000_000_000
_START_S = 180.0
FEW_BOUND, MANY_BOUND = 0.70, 0.80


def many(bodies: int, hashes: int) -> dict[str, bytes]:
    """The usual ones of the benches, and so many more."""
    made = {name: [content] for name, content in engines.signatures().items()}
    for number in range(bodies):
        made["test.ndb"].append(ndb(f"Test.More.{number}", hashlib.sha256(b"more %d" % number).digest()[:24]))
    md5 = partial(hashlib.md5, usedforsecurity=False)
    lines = (f"{md5(b'%d' % n).hexdigest()}:{200 + n % 100_000}:Test.Some.{n}\n" for n in range(hashes))
    made["test.hdb"].append("".join(lines).encode())
    return {name: b"".join(parts) for name, parts in made.items()}


def _ours(directory: Path, person: Person, files: int, signatures: dict[str, bytes]) -> float:
    """Seconds of a scan by engines that have seen nothing."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    (directory / "db").mkdir()
    for name, content in signatures.items():
        (directory / "db" / name).write_bytes(content)
    with RunningDaemon(directory, signatures=b"", private_engines='"auto"', timed=False) as daemon:
        number = ready(daemon)
        run = cold_scan.scan(daemon, person, files)
        say(f"  clamscannerd wall {run.wall_s:6.2f} s  client {run.client_s:5.2f} s, private engines: {number}")
    return run.wall_s


def ready(daemon: RunningDaemon) -> int:
    """How many engines there are, as soon as all of them answer and scan."""

    def all_of_them() -> int | None:
        with daemon.client() as client:
            text: str = client.call("Daemon.metrics")["text"]
        known, answer = (
            float(text.partition(f"\nclamscannerd_{name} ")[2].split()[0]) for name in ("engines", "engines_ready")
        )
        return int(known) if known == answer else None

    return wait_for(all_of_them, "the engines", _START_S)


def _theirs(directory: Path, person: Person, signatures: dict[str, bytes]) -> float:
    directory.mkdir(exist_ok=True)
    with RealClamd(directory / "clamd", signatures=signatures, options=engines.DEBIAN) as clamd:
        return cold_scan.clamdscan(clamd, person.home).wall_s


def _row(place: Path, person: Person, files: int, pairs: int, signatures: dict[str, bytes]) -> list[list[float]]:
    ours: list[float] = []
    theirs: list[float] = []
    for number in range(pairs):
        say(f"pair {number + 1} of {pairs}")
        for side in ("ours", "theirs") if number % 2 else ("theirs", "ours"):
            trees.warm(person.home)
            if side == "ours":
                ours.append(_ours(place / "daemon", person, files, signatures))
            else:
                theirs.append(_theirs(place / "other", person, signatures))
    return [ours, theirs]


def measure(arguments: argparse.Namespace) -> Iterator[Row]:
    common.need("clamdscan")
    have_service_users()
    with tempfile.TemporaryDirectory(prefix="csd-bench-", dir="/var/tmp") as name, throw_away("bench_priv") as person:
        place = Path(name)
        place.chmod(0o755)
        files, size = trees.mixed(person, arguments.files, _MAX_BYTES * arguments.files // 50_000)
        told = f"clamdscan --multiscan --fdpass on one clamd, {files} files, {size / 1e6:.0f} MB"
        kinds = [("cold scan, private engines, wall", FEW_BOUND, engines.signatures())]
        if arguments.hashes:
            more = f"the same, {arguments.bodies + arguments.hashes} more signatures"
            kinds.append((more, MANY_BOUND, many(arguments.bodies, arguments.hashes)))
        for what, bound, signatures in kinds:
            ours, theirs = _row(place, person, files, arguments.pairs, signatures)
            note = f"medians {statistics.median(ours):.1f} and {statistics.median(theirs):.1f} s"
            yield Row(what, told, bound, common.ratios(ours, theirs), note=note)


if __name__ == "__main__":
    options = common.parser("A cold scan by private engines: the ratio to clamdscan.")
    options.add_argument("--pairs", type=int, default=7)
    options.add_argument("--files", type=int, default=50_000)
    options.add_argument("--bodies", type=int, default=100_000)
    options.add_argument("--hashes", type=int, default=2_000_000, help="0: leave the second row out")
    common.main(measure, options.parse_args())
