"""What one file may cost of a worker's own processor time: a mailbox over it is left unread from there on."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from clamscannerd.model import Reason
from clamscannerd.worker.hashing import NO_SHA256
from clamscannerd.worker.mailwire import FoundMessages
from clamscannerd.worker.messages import ActJob, Found, Skipped
from tests.fakes.mail_peer import MAX_FILE_SIZE, Keeper, scan_replies
from tests.fakes.mailboxes import INFECTION, INFECTION_NDB
from tests.fakes.realclamd import RealClamd
from tests.fakes.worker_peer import WorkerPeer

HEAD = b"From a@example.org Thu Nov 29 22:33:52 2001\nSubject: %s\n\n"
CLEAN = HEAD % b"clean" + b"a line of it\n" * 20 + b"\n"
BAD = HEAD % b"bad" + INFECTION + b"\n\n"
BUDGET_S = 0.05


@pytest.fixture(scope="module")
def mail_clamd() -> Iterator[RealClamd]:
    with RealClamd(signatures={"test.ndb": INFECTION_NDB.encode()}) as running:
        yield running


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    return home


def large(path: Path, first: bytes, size: int = 1 << 30) -> None:
    """Over the engine's limit, and work for a multiple of the budget: its second message has blocks on the disk that
    read as zeros. Not a hole: what is nothing but holes is not taken apart at all."""
    with path.open("wb") as stream:
        stream.write(first + CLEAN[:-1])
        os.posix_fallocate(stream.fileno(), 0, size)


def test_a_large_mailbox_over_its_time_is_over_a_limit_and_the_scan_goes_on(home: Path, mail_clamd: RealClamd) -> None:
    large(home / "a", CLEAN)
    (home / "z").write_bytes(CLEAN)
    replies, end = scan_replies(home, mail_clamd, file_cpu_s=BUDGET_S)
    skipped = {file.path: file.reason for reply in replies if isinstance(reply, Skipped) for file in reply.files}
    assert skipped == {b"a": Reason.LIMIT}
    assert (end.complete, end.counts.scanned_files, end.counts.not_scanned) == (True, 1, {"limit": 1})


def test_what_was_found_in_it_before_is_said(home: Path, mail_clamd: RealClamd) -> None:
    large(home / "a", BAD)
    replies, end = scan_replies(home, mail_clamd, file_cpu_s=BUDGET_S)
    (found,) = [reply for reply in replies if isinstance(reply, Found)]
    (told,) = [reply for reply in replies if isinstance(reply, FoundMessages)]
    assert [(file.path, file.identity.sha256) for file in found.files] == [(b"a", NO_SHA256)], "nobody reads all of it"
    assert (told.total, told.in_box) == (1, 0), "how many it has is not known"
    assert end.counts.infected_files == 1


def test_time_is_each_files_own(home: Path, mail_clamd: RealClamd) -> None:
    """Together they take more than one may, and all are read to their ends."""
    for number in range(6):
        large(home / f"m{number}", BAD, 128 << 20)
    replies, end = scan_replies(home, mail_clamd, file_cpu_s=2.0)
    assert end.counts.infected_files == 6
    assert [reply.in_box for reply in replies if isinstance(reply, FoundMessages)] == [2] * 6
    files = [file for reply in replies if isinstance(reply, Found) for file in reply.files]
    assert NO_SHA256 not in {file.identity.sha256 for file in files}


def test_a_cleanse_of_what_changed_says_that_it_looked_at_a_part(home: Path, mail_clamd: RealClamd) -> None:
    """What was found is replaced; of what came since nothing is said to be clean."""
    box = home / "box"
    box.write_bytes(BAD)
    replies, _ = scan_replies(home, mail_clamd)
    (found,) = [reply for reply in replies if isinstance(reply, Found)]
    (told,) = [reply for reply in replies if isinstance(reply, FoundMessages)]
    with box.open("ab") as stream:
        stream.write(CLEAN * 40_000)
    with WorkerPeer(home) as worker:
        worker.send(ActJob(max_file_size=MAX_FILE_SIZE, file_deadline_s=30.0, file_cpu_s=0.01))
        done = Keeper(worker, mail_clamd).cleanse(box, home, told.messages, identity=found.files[0].identity)
    assert "processor time of 0.01 s is used up" in done.message, done
