"""A mailbox of more than 4 GiB, nearly all of it a hole: offsets, memory, and what becomes of the hole."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from clamscannerd.model import Outcome
from clamscannerd.worker.mailwire import FoundMessages
from clamscannerd.worker.messages import ActJob, Found
from tests.fakes.mail_peer import MAX_FILE_SIZE, Keeper, scan_replies
from tests.fakes.mailboxes import INFECTION, INFECTION_NDB
from tests.fakes.realclamd import RealClamd
from tests.fakes.worker_peer import WorkerPeer

HEAD = b"From a@example.org Thu Nov 29 22:33:52 2001\nSubject: %s\n\n"
FIRST = HEAD % b"first" + b"line\n" * 200 + INFECTION + b"\n\n"
MIDDLE = HEAD % b"nothing, and much of it"
LAST = b"\n\n" + HEAD % b"last" + b"line\n" * 200 + INFECTION + b"\n"
LAST_AT = (1 << 32) + 12_345
"""Where the last message's `From ` line stands."""


@pytest.fixture(scope="module")
def mail_clamd() -> Iterator[RealClamd]:
    with RealClamd(signatures={"test.ndb": INFECTION_NDB.encode()}) as running:
        yield running


@pytest.fixture
def box(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    path = home / "huge"
    with path.open("wb") as stream:
        stream.write(FIRST + MIDDLE)
        stream.seek(LAST_AT - 2)
        stream.write(LAST)
    return path


def ends(path: Path) -> tuple[bytes, bytes]:
    """The data before and after the hole."""
    with path.open("rb") as stream:
        before = stream.read(len(FIRST + MIDDLE))
        stream.seek(LAST_AT - 2)
        return before, stream.read()


def peak_of(pid: int) -> int:
    """The most resident memory so far, KiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])


def test_what_is_infected_before_and_behind_the_hole_is_found_and_replaced(box: Path, mail_clamd: RealClamd) -> None:
    home, size = box.parent, box.stat().st_size
    replies, end = scan_replies(home, mail_clamd)
    (found,) = [reply for reply in replies if isinstance(reply, Found)]
    (told,) = [reply for reply in replies if isinstance(reply, FoundMessages)]
    assert [file.path for file in found.files] == [b"huge"]
    assert (end.counts.infected_files, told.in_box, told.total) == (1, 3, 2)
    first, last = told.messages
    assert (first.number, first.start, first.end) == (1, 0, len(FIRST))
    assert (last.number, last.start, last.end) == (3, LAST_AT, size)

    with WorkerPeer(home) as worker:
        worker.send(ActJob(max_file_size=MAX_FILE_SIZE, file_deadline_s=30.0))
        keeper = Keeper(worker, mail_clamd)
        done = keeper.cleanse(box, home, told.messages, identity=found.files[0].identity)
        peak_kib = peak_of(worker.process.pid)
    assert done.outcome is Outcome.MAILBOX_CLEANSED, done.message
    assert list(keeper.contents.values()) == [FIRST, LAST[2:]]
    before, after = ends(box)
    assert INFECTION not in before + after
    assert (before[len(FIRST) :], after[:2]) == (MIDDLE, b"\n\n")
    assert box.stat().st_size == size
    assert box.stat().st_blocks * 512 < 1 << 20, "the hole is a hole still"
    assert peak_kib < 32 << 10
