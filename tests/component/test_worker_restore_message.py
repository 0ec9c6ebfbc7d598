"""A message put back into its mailbox by a real worker process; this side plays the daemon, and the account's user."""

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from clamscannerd.model import RestoreOutcome
from clamscannerd.worker.hashing import NO_SHA256
from clamscannerd.worker.restorewire import Restored, RestoreJob, Standing
from tests.fakes.mail_peer import identity
from tests.fakes.realclamd import RealClamd
from tests.fakes.restore_peer import AFTER, BEFORE, MESSAGE, done, message_step, send
from tests.fakes.worker_peer import WorkerPeer


@pytest.fixture
def home(tmp_path: Path) -> Path:
    path = tmp_path / "home"
    path.mkdir(mode=0o700)
    return path


@pytest.fixture
def worker(home: Path) -> Iterator[WorkerPeer]:
    with WorkerPeer(home) as peer:
        peer.send(RestoreJob(max_file_size=1 << 30, file_deadline_s=30.0))
        yield peer


def test_it_takes_the_place_of_its_notice(home: Path, worker: WorkerPeer, clamd: RealClamd) -> None:
    step, _, _ = message_step(home, force=True)
    end = done(worker, clamd, step, MESSAGE)
    assert end.outcome is RestoreOutcome.RESTORED
    assert (home / "box").read_bytes() == BEFORE + MESSAGE + AFTER
    unhashed = msgspec.structs.replace(identity(home / "box"), sha256=NO_SHA256)
    assert end.standing == Standing(identity=unhashed, mailbox=True, in_place=True)


def test_appended_it_says_that_it_is_not_in_its_place(home: Path, worker: WorkerPeer, clamd: RealClamd) -> None:
    step, _, notice = message_step(home, force=True)
    (home / "box").write_bytes(BEFORE + notice[:-9] + b"rewritten" + AFTER)
    end = done(worker, clamd, step, MESSAGE)
    assert "appended" in end.message
    assert end.standing is not None
    assert (end.standing.mailbox, end.standing.in_place) == (True, False)


def test_still_detected_it_stays_in_the_vault(home: Path, worker: WorkerPeer, clamd: RealClamd) -> None:
    for again in (False, True):
        step, _, notice = message_step(home, again=again)
        assert done(worker, clamd, step, MESSAGE).outcome is RestoreOutcome.NO_ACTION
        assert (home / "box").read_bytes() == BEFORE + notice + AFTER


def test_torn_by_a_crash_it_is_made_whole_whatever_the_engine_says(home: Path, worker: WorkerPeer) -> None:
    """The engine is not even asked: a message that stands there half must not stay so."""
    step, _, notice = message_step(home, again=True)
    (home / "box").write_bytes(BEFORE + MESSAGE[:2048] + notice[2048:] + AFTER)
    send(worker, step, MESSAGE)
    assert worker.expect(Restored).outcome is RestoreOutcome.RESTORED
    assert (home / "box").read_bytes() == BEFORE + MESSAGE + AFTER
    assert os.listdir(home) == ["box"]
