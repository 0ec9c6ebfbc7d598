"""Mail delivered while the mailbox is cleansed again and again: nothing lost, nothing doubled, nothing torn."""

import hashlib
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import msgspec
import pytest

from clamscannerd.model import Identity, MailMessage, Outcome
from clamscannerd.worker.mailfile import messages_of
from clamscannerd.worker.messages import ActJob
from tests.component.test_mailboxes_generated import infected_messages
from tests.fakes import deliverers
from tests.fakes.deliverers import KINDS, letter
from tests.fakes.mail_peer import MAX_FILE_SIZE, Keeper, identity
from tests.fakes.mailboxes import INFECTION, INFECTION_NDB
from tests.fakes.realclamd import RealClamd
from tests.fakes.running import wait_for
from tests.fakes.worker_peer import WorkerPeer

CLEANSES = int(os.environ.get("CLAMSCANNERD_CLEANSES", "15"))
BATCH = 8
"""Letters of each of five deliverers to a cleanse: 2,000 in 50 cleanses."""


@pytest.fixture(scope="module")
def mail_clamd() -> Iterator[RealClamd]:
    with RealClamd(signatures={"test.ndb": INFECTION_NDB.encode()}) as running:
        yield running


def start(kind: str, path: Path) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, deliverers.__file__, kind, str(path), kind, str(BATCH)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


def as_scanned(path: Path, copy: Path) -> tuple[Identity, list[MailMessage]] | None:
    """What a scan says of the mailbox as it is this moment; None: mail came meanwhile."""
    before = identity(path)
    copy.write_bytes(path.read_bytes())
    same = identity(path) == before and hashlib.sha256(copy.read_bytes()).digest() == before.sha256
    return (before, infected_messages(copy)) if same else None


def is_due(path: Path, letters: int) -> bool:
    data = path.read_bytes()
    return INFECTION in data or data.count(b"\nMessage-ID: <") == letters


def test_nothing_is_lost_doubled_or_torn(tmp_path: Path, mail_clamd: RealClamd) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    path = home / "mbox"
    path.write_bytes(letter("first-9"))
    # Every other time another file's identity: then the cleanse has to find out afresh what is infected. In between
    # it has what a scan found a moment before, and trusts that as far as no mail came since.
    stale = msgspec.structs.replace(identity(path), ino=0, sha256=bytes(32))
    running = [start(kind, path) for kind in KINDS]
    kept: list[bytes] = []
    outcomes: Counter[Outcome] = Counter()
    with WorkerPeer(home) as worker:
        worker.send(ActJob(max_file_size=MAX_FILE_SIZE, file_deadline_s=30.0))
        for cleanses in range(1, CLEANSES + 1):
            for process in running:
                assert process.stdin is not None
                process.stdin.write(b"\n")
                process.stdin.flush()
            # In the middle of what they deliver, or (a batch may have no infected letter) at its end.
            wait_for(partial(is_due, path, 1 + len(KINDS) * BATCH * cleanses), "mail to come")
            keeper = Keeper(worker, mail_clamd)
            who, messages = stale, list[MailMessage]()
            if cleanses % 2 and (scanned := as_scanned(path, tmp_path / "copy")) and scanned[1]:
                who, messages = scanned
            end = keeper.cleanse(path, home, messages, identity=who)
            outcomes[end.outcome] += 1
            assert end.outcome is not Outcome.ERROR, end.message
            kept += [keeper.contents[one.item] for one in keeper.journal]
        said = [process.communicate()[0].decode().split() for process in running]
        keeper = Keeper(worker, mail_clamd)
        keeper.cleanse(path, home, [], identity=stale)
        kept += [keeper.contents[one.item] for one in keeper.journal]
    assert [process.returncode for process in running] == [0] * len(running)
    assert outcomes[Outcome.MAILBOX_CLEANSED] >= CLEANSES // 2

    delivered = ["first-9", *(name for names in said for name in names)]
    assert len(delivered) == 1 + len(KINDS) * BATCH * CLEANSES
    clean = Counter(letter(name) for name in delivered if INFECTION not in letter(name))
    infected = Counter(letter(name) for name in delivered if INFECTION in letter(name))
    data = path.read_bytes()
    with path.open("rb") as stream:
        standing = [data[one.start : one.end] for one in messages_of(stream.fileno(), len(data)) if one is not None]
    assert sum(map(len, standing)) == len(data)
    notices = [one for one in standing if b"[removed: " in one]
    assert Counter(one for one in standing if b"[removed: " not in one) == clean
    assert Counter(kept) == infected
    assert len(notices) == len(kept)
    assert sorted(os.listdir(home)) == ["mbox"]
