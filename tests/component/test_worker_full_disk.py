"""A home whose disk is full, or fails, under a mailbox: a clear sentence, and no byte of the mailbox has changed.

strace makes the system calls of a real worker fail. A restored file on such a disk: test_worker_restore.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from clamscannerd.model import Outcome, RestoreOutcome
from clamscannerd.worker.messages import ActJob
from clamscannerd.worker.restorewire import RestoreJob
from tests.fakes.mail_peer import MAX_FILE_SIZE, Keeper, identity, scan_home
from tests.fakes.mailboxes import INFECTION, INFECTION_NDB, Letter, render
from tests.fakes.realclamd import EICAR, RealClamd
from tests.fakes.restore_peer import AFTER, BEFORE, done, message_step
from tests.fakes.worker_peer import WorkerPeer

BOX = render([Letter(), Letter(body=(INFECTION,), infected=True), Letter(), Letter(body=(INFECTION,), infected=True)])
ERRORS = ["ENOSPC", "EDQUOT", "EIO"]


@pytest.fixture(scope="module")
def mail_clamd() -> Iterator[RealClamd]:
    with RealClamd(signatures={"test.ndb": INFECTION_NDB.encode()}) as running:
        yield running


@pytest.fixture
def home(tmp_path: Path) -> Path:
    path = tmp_path / "home"
    path.mkdir(mode=0o700)
    return path


@contextmanager
def failing(home: Path, call: str, error: str, when: str) -> Iterator[WorkerPeer]:
    """A worker of which such calls fail: `when` as strace counts them."""
    inject = ["-e", f"trace={call}", "-e", f"inject={call}:error={error}:when={when}"]
    with WorkerPeer(home, wrapper=["strace", "-qq", "-o", "/dev/null", *inject]) as worker:
        yield worker


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("call", ["write", "pwrite64"], ids=["no room for a lock", "no room for a notice"])
def test_a_cleanse_changes_nothing(home: Path, mail_clamd: RealClamd, call: str, error: str) -> None:
    path = home / "mbox"
    path.write_bytes(BOX.data)
    before = path.stat()
    _, found = scan_home(home, mail_clamd)
    with failing(home, call, error, "1+") as worker:
        worker.send(ActJob(max_file_size=MAX_FILE_SIZE, file_deadline_s=30.0))
        keeper = Keeper(worker, mail_clamd)
        end = keeper.cleanse(path, home, found[b"mbox"])
    said = f"cannot cleanse it: {os.strerror(getattr(errno, error))}"
    assert (end.outcome, end.gone) == (Outcome.ERROR, False)
    assert end.message == (said if call == "write" else f"{said}; messages of it are in the vault: items 1, 2")
    assert path.read_bytes() == BOX.data
    after = path.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert os.listdir(home) == ["mbox"]

    with WorkerPeer(home) as worker:  # there is room again: what was begun is ended
        worker.send(ActJob(max_file_size=MAX_FILE_SIZE, file_deadline_s=30.0))
        later = Keeper(worker, mail_clamd)
        later.contents, later.announced, later.journal = keeper.contents, keeper.announced, keeper.journal
        end = later.cleanse(path, home, found[b"mbox"], again=True, identity=identity(path))
    assert end.outcome is Outcome.MAILBOX_CLEANSED
    assert INFECTION not in path.read_bytes()


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize(("call", "when"), [("write", "1+"), ("pwrite64", "1+")], ids=["lock", "message"])
def test_a_message_that_cannot_be_put_back_leaves_its_notice(
    home: Path, clamd: RealClamd, call: str, when: str, error: str
) -> None:
    step, content, notice = message_step(home, force=True)
    with failing(home, call, error, when) as worker:
        worker.send(RestoreJob(max_file_size=1 << 30, file_deadline_s=30.0))
        end = done(worker, clamd, step, content)
    assert (end.outcome, end.standing) == (RestoreOutcome.ERROR, None)
    assert end.message.startswith(f"cannot restore it: {os.strerror(getattr(errno, error))}")
    assert (home / "box").read_bytes() == BEFORE + notice + AFTER
    assert os.listdir(home) == ["box"]


@pytest.mark.parametrize("error", ERRORS)
def test_a_message_that_cannot_be_appended_is_not_there_in_part(home: Path, clamd: RealClamd, error: str) -> None:
    """Its content is of several pieces, and the first is written; the first write of all is the lock's."""
    step, content, notice = message_step(home, content=(EICAR + b"\n") * 80_000, force=True)
    rewritten = BEFORE + notice[:-9] + b"rewritten" + AFTER
    (home / "box").write_bytes(rewritten)
    with failing(home, "write", error, "3+") as worker:
        worker.send(RestoreJob(max_file_size=1 << 30, file_deadline_s=30.0))
        end = done(worker, clamd, step, content)
    assert end.outcome is RestoreOutcome.ERROR
    assert end.message.startswith(f"cannot restore it: {os.strerror(getattr(errno, error))}")
    assert (home / "box").read_bytes() == rewritten
    assert os.listdir(home) == ["box"]
