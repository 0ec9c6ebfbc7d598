"""The shared clamd of the benches: Debian's settings, and signatures of a realistic kind, all made up and the same."""

import hashlib
import shutil
from pathlib import Path

from tests.fakes.realclamd import EICAR, MARKER, RealClamd, ndb

BODY_SIGNATURES = 4_000
HASH_SIGNATURES = 20_000

DEBIAN = {
    "MaxThreads": "12",
    "MaxConnectionQueueLength": "15",
    "MaxQueue": "100",
    "ReadTimeout": "180",
    "CommandReadTimeout": "30",
    "SendBufTimeout": "200",
    "IdleTimeout": "30",
    "SelfCheck": "3600",
    "MaxScanSize": "100M",
    "MaxFileSize": "25M",
    "StreamMaxLength": "25M",
    "PCREMaxFileSize": "25M",
    "MaxRecursion": "16",
    "MaxFiles": "10000",
    "MaxScanTime": "120000",
    "ExtendedDetectionInfo": "yes",
    "AlertEncrypted": "no",
    "AlertExceedsMax": "no",
    "ScanArchive": "yes",
    "Bytecode": "yes",
    "PhishingSignatures": "yes",
}
"""What Debian 12 writes to /etc/clamav/clamd.conf, where it bears on speed or differs from the tests' clamd."""


def _digest(kind: str, number: int) -> bytes:
    return hashlib.sha256(f"{kind} {number}".encode()).digest()


def signatures() -> dict[str, bytes]:
    """File name -> content: the tests' two, thousands of bodies of 24 bytes, and thousands of hashes of whole files."""
    body = ndb("Eicar-Test", EICAR) + ndb("Test.Marker", MARKER)
    body += b"".join(ndb(f"Test.Body.{n}", _digest("body", n)[:24]) for n in range(BODY_SIGNATURES))
    hashes = (f"{_digest('hash', n)[:16].hex()}:{100 + n}:Test.Hash.{n}\n" for n in range(HASH_SIGNATURES))
    return {"test.ndb": body, "test.hdb": "".join(hashes).encode()}


def debian_clamd(directory: Path) -> RealClamd:
    """Not started. As root: what it may read must not differ from what clamdscan, or a worker, hands it anyway."""
    directory.chmod(0o755)
    return RealClamd(directory / "clamd", signatures=signatures(), options=DEBIAN)


def use_signatures(database: Path) -> None:
    """The same ones for a private engine. Under names of the official database, a change of which VERSION tells: after
    a change of others no verdict is kept over eleven minutes (SelfCheck), as nobody knows which ones clamd has."""
    shutil.rmtree(database, ignore_errors=True)
    database.mkdir(mode=0o755)
    for name, content in signatures().items():
        (database / f"daily{Path(name).suffix}").write_bytes(content)
