"""One step at a time in a real worker process; this side plays the daemon and, between messages, the account's user."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from clamscannerd.model import LOG_NAME, Action, Identity, Outcome, int64
from clamscannerd.worker.messages import (
    Act,
    Acted,
    ActJob,
    Chunk,
    Content,
    ContentEnd,
    Log,
    LogFailed,
    NeedSession,
    NoSession,
    Sessions,
    Stored,
    Sync,
    Synced,
)
from tests.fakes.realclamd import EICAR, RealClamd
from tests.fakes.worker_peer import WorkerPeer, clamd_session

CAPTURE = b".clamscannerd-" + b"0123456789abcdef" * 2


@pytest.fixture
def home(tmp_path: Path) -> Path:
    path = tmp_path / "home"
    path.mkdir(mode=0o700)
    return path


@pytest.fixture
def worker(home: Path) -> Iterator[WorkerPeer]:
    with WorkerPeer(home) as peer:
        peer.send(ActJob(max_file_size=1 << 30, file_deadline_s=30.0))
        yield peer


def identity(path: Path) -> Identity:
    status = path.stat()
    return Identity(
        dev=int64(status.st_dev),
        ino=status.st_ino,
        size=status.st_size,
        mtime_ns=status.st_mtime_ns,
        sha256=hashlib.sha256(path.read_bytes()).digest(),
    )


def act(home: Path, name: str, **changes: object) -> Act:
    values: dict[str, object] = {
        "seq": 1,
        "path": os.fsencode(name),
        "action": Action.QUARANTINE,
        "capture": CAPTURE,
        "again": False,
        "stored": b"",
        "keep": True,
    }
    if "identity" not in changes:
        values["identity"] = identity(home / name)
    return Act(**(values | changes))  # type: ignore[arg-type]


def content(worker: WorkerPeer) -> tuple[bytes, ContentEnd]:
    announced = worker.expect(Content)
    data = b""
    while True:
        reply = worker.receive()
        if isinstance(reply, ContentEnd):
            assert reply.reason or len(data) == announced.size
            return data, reply
        assert isinstance(reply, Chunk)
        data += reply.data


def give_session(worker: WorkerPeer, clamd: RealClamd) -> None:
    worker.expect(NeedSession)
    with clamd_session(clamd.socket_path) as session:
        worker.send(Sessions(fds=1, max_file_size=1 << 30, clean_allowed=True), [session.fileno()])


def names(home: Path) -> set[str]:
    return set(os.listdir(home))


def test_quarantine_captures_sends_waits_and_only_then_unlinks(home: Path, worker: WorkerPeer) -> None:
    (home / "bad").write_bytes(EICAR * 5000)
    worker.send(act(home, "bad"))
    data, end = content(worker)
    assert data == EICAR * 5000
    assert end.sha256 == hashlib.sha256(data).digest()
    assert names(home) == {os.fsdecode(CAPTURE)}
    worker.send(Stored(seq=1, reason=""))
    assert worker.expect(Acted).outcome is Outcome.QUARANTINED
    assert names(home) == set()


def test_what_the_vault_refuses_gets_its_name_back(home: Path, worker: WorkerPeer) -> None:
    (home / "bad").write_bytes(EICAR)
    worker.send(act(home, "bad"))
    content(worker)
    worker.send(Stored(seq=1, reason="cannot keep it: the vault is full"))
    acted = worker.expect(Acted)
    assert (acted.outcome, acted.message) == (Outcome.ERROR, "cannot keep it: the vault is full")
    assert acted.put_back
    assert names(home) == {"bad"}


def test_a_name_taken_meanwhile_is_left_and_the_file_gets_another(home: Path, worker: WorkerPeer) -> None:
    (home / "bad").write_bytes(EICAR)
    worker.send(act(home, "bad"))
    content(worker)
    (home / "bad").write_bytes(b"new work")
    worker.send(Stored(seq=1, reason="no"))
    acted = worker.expect(Acted)
    assert acted.outcome is Outcome.ERROR
    assert (home / "bad").read_bytes() == b"new work"
    (other,) = names(home) - {"bad"}
    assert other.startswith("bad.restored-")
    assert other in acted.message
    assert (home / other).read_bytes() == EICAR


def test_a_file_written_to_after_its_content_was_sent_stays(home: Path, worker: WorkerPeer) -> None:
    (home / "bad").write_bytes(EICAR)
    with (home / "bad").open("ab") as stream:
        worker.send(act(home, "bad"))
        content(worker)
        stream.write(b"more")
        stream.flush()
        worker.send(Stored(seq=1, reason=""))
        assert worker.expect(Acted).outcome is Outcome.ERROR
    assert (home / "bad").read_bytes() == EICAR + b"more"


@pytest.mark.parametrize("action", [Action.QUARANTINE, Action.DELETE])
def test_a_file_that_is_gone_is_no_action(home: Path, worker: WorkerPeer, action: Action) -> None:
    (home / "bad").write_bytes(EICAR)
    step = act(home, "bad", action=action)
    (home / "bad").unlink()
    worker.send(step)
    acted = worker.expect(Acted)
    assert (acted.outcome, acted.gone) == (Outcome.NO_ACTION, True)


def test_delete_without_a_copy_sends_nothing_up(home: Path, worker: WorkerPeer) -> None:
    (home / "bad").write_bytes(EICAR)
    worker.send(act(home, "bad", action=Action.DELETE, keep=False))
    assert worker.expect(Acted).outcome is Outcome.DELETED
    assert names(home) == set()


def test_a_changed_file_that_is_clean_now_is_left(home: Path, worker: WorkerPeer, clamd: RealClamd) -> None:
    (home / "bad").write_bytes(EICAR)
    step = act(home, "bad")
    (home / "bad").write_bytes(b"rewritten by its owner")
    worker.send(step)
    give_session(worker, clamd)
    acted = worker.expect(Acted)
    assert (acted.outcome, acted.gone) == (Outcome.NO_ACTION, True)
    assert (home / "bad").read_bytes() == b"rewritten by its owner"


def test_a_changed_file_that_is_still_infected_is_taken(home: Path, worker: WorkerPeer, clamd: RealClamd) -> None:
    (home / "bad").write_bytes(EICAR)
    step = act(home, "bad")
    (home / "bad").write_bytes(EICAR + b" with more")
    worker.send(step)
    give_session(worker, clamd)
    assert content(worker)[0] == EICAR + b" with more"
    worker.send(Stored(seq=1, reason=""))
    assert worker.expect(Acted).outcome is Outcome.QUARANTINED


def test_a_changed_file_without_an_engine_is_untouched(home: Path, worker: WorkerPeer) -> None:
    (home / "bad").write_bytes(EICAR)
    step = act(home, "bad")
    (home / "bad").write_bytes(EICAR + b"2")
    worker.send(step)
    worker.expect(NeedSession)
    worker.send(NoSession(reason="no engine answers"))
    acted = worker.expect(Acted)
    assert acted.outcome is Outcome.ERROR
    assert "no engine answers" in acted.message
    assert (home / "bad").read_bytes() == EICAR + b"2"


def test_other_content_under_the_same_size_and_time_is_asked_of_the_engine(
    home: Path, worker: WorkerPeer, clamd: RealClamd
) -> None:
    path = home / "bad"
    path.write_bytes(EICAR)
    step = act(home, "bad")
    before = path.stat()
    with path.open("r+b") as stream:
        stream.write(b"innocent")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    worker.send(step)
    _, end = content(worker)
    assert end.reason
    give_session(worker, clamd)
    assert worker.expect(Acted).outcome is Outcome.NO_ACTION
    assert path.read_bytes().startswith(b"innocent")
    assert names(home) == {"bad"}


@pytest.mark.parametrize("swap", ["symlink", "directory", "fifo"])
def test_a_leaf_swapped_for_something_else_is_an_error_and_untouched(
    home: Path, worker: WorkerPeer, tmp_path: Path, swap: str
) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(EICAR)
    (home / "bad").write_bytes(EICAR)
    step = act(home, "bad")
    (home / "bad").unlink()
    if swap == "symlink":
        (home / "bad").symlink_to(victim)
    elif swap == "directory":
        (home / "bad").mkdir()
    else:
        os.mkfifo(home / "bad")
    worker.send(step)
    assert worker.expect(Acted).outcome is Outcome.ERROR
    assert victim.read_bytes() == EICAR
    assert names(home) == {"bad"}


def test_a_parent_swapped_for_a_link_is_an_error(home: Path, worker: WorkerPeer, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "bad").write_bytes(EICAR)
    (home / "d").mkdir()
    (home / "d" / "bad").write_bytes(EICAR)
    step = act(home, "d/bad")
    (home / "d").rename(home / "moved")
    (home / "d").symlink_to(victim)
    worker.send(step)
    assert worker.expect(Acted).outcome is Outcome.ERROR
    assert (victim / "bad").read_bytes() == EICAR


class TestAgain:
    """What a crash left, and the step begun again."""

    def test_captured_and_not_stored_goes_on(self, home: Path, worker: WorkerPeer) -> None:
        (home / "bad").write_bytes(EICAR)
        step = act(home, "bad", again=True)
        (home / "bad").rename(home / os.fsdecode(CAPTURE))
        worker.send(step)
        assert content(worker)[0] == EICAR
        worker.send(Stored(seq=1, reason=""))
        assert worker.expect(Acted).outcome is Outcome.QUARANTINED
        assert names(home) == set()

    def test_captured_and_stored_is_unlinked(self, home: Path, worker: WorkerPeer) -> None:
        (home / "bad").write_bytes(EICAR)
        step = act(home, "bad", again=True, stored=identity(home / "bad").sha256)
        (home / "bad").rename(home / os.fsdecode(CAPTURE))
        worker.send(step)
        assert worker.expect(Acted).outcome is Outcome.QUARANTINED
        assert names(home) == set()

    def test_stored_and_unlinked_only_lacks_the_proof(self, home: Path, worker: WorkerPeer) -> None:
        (home / "bad").write_bytes(EICAR)
        step = act(home, "bad", again=True, stored=identity(home / "bad").sha256)
        (home / "bad").unlink()
        worker.send(step)
        assert worker.expect(Acted).outcome is Outcome.QUARANTINED

    def test_a_new_file_under_the_old_name_is_not_touched(self, home: Path, worker: WorkerPeer) -> None:
        (home / "bad").write_bytes(EICAR)
        step = act(home, "bad", again=True, stored=identity(home / "bad").sha256)
        (home / "new").write_bytes(b"a new letter")
        (home / "new").rename(home / "bad")
        worker.send(step)
        assert worker.expect(Acted).outcome is Outcome.QUARANTINED
        assert (home / "bad").read_bytes() == b"a new letter"

    def test_a_new_file_on_the_old_inode_number_is_asked_of_the_engine(
        self, home: Path, worker: WorkerPeer, clamd: RealClamd
    ) -> None:
        """ext4 reuses inode numbers at once: it may be ours, put back and written to."""
        (home / "bad").write_bytes(EICAR)
        step = act(home, "bad", again=True, stored=identity(home / "bad").sha256)
        (home / "bad").write_bytes(b"a new letter")
        worker.send(step)
        give_session(worker, clamd)
        acted = worker.expect(Acted)
        assert (acted.outcome, acted.put_back) == (Outcome.NO_ACTION, False)
        assert (home / "bad").read_bytes() == b"a new letter"

    def test_stored_with_its_directory_out_of_reach_is_an_error_that_claims_nothing(
        self, home: Path, worker: WorkerPeer, tmp_path: Path
    ) -> None:
        """The file may have been unlinked before the crash: the daemon must not drop the only copy."""
        (home / "d").mkdir()
        (home / "d" / "bad").write_bytes(EICAR)
        step = act(home, "d/bad", again=True, stored=identity(home / "d" / "bad").sha256)
        (home / "d" / "bad").unlink()
        (home / "d").rmdir()
        (home / "d").symlink_to(tmp_path)
        worker.send(step)
        acted = worker.expect(Acted)
        assert (acted.outcome, acted.put_back) == (Outcome.ERROR, False)

    def test_what_was_appended_after_it_was_stored_is_stored_too(
        self, home: Path, worker: WorkerPeer, clamd: RealClamd
    ) -> None:
        (home / "bad").write_bytes(EICAR)
        step = act(home, "bad", again=True, stored=identity(home / "bad").sha256)
        captured = home / os.fsdecode(CAPTURE)
        (home / "bad").rename(captured)
        with captured.open("ab") as stream:
            stream.write(b" and a letter")
        worker.send(step)
        assert content(worker)[1].reason  # not what was found: the engine is asked
        give_session(worker, clamd)
        assert content(worker)[0] == EICAR + b" and a letter"
        worker.send(Stored(seq=1, reason=""))
        assert worker.expect(Acted).outcome is Outcome.QUARANTINED

    def test_stored_put_back_and_written_to_is_not_taken_for_a_new_file(
        self, home: Path, worker: WorkerPeer, clamd: RealClamd
    ) -> None:
        (home / "bad").write_bytes(EICAR)
        step = act(home, "bad", again=True, stored=identity(home / "bad").sha256)
        with (home / "bad").open("ab") as stream:
            stream.write(b"more")
        worker.send(step)
        give_session(worker, clamd)
        assert content(worker)[0] == EICAR + b"more"
        worker.send(Stored(seq=1, reason=""))
        assert worker.expect(Acted).outcome is Outcome.QUARANTINED

    def test_captured_in_a_directory_that_was_moved_is_an_error_that_names_it(
        self, home: Path, worker: WorkerPeer
    ) -> None:
        (home / "d").mkdir()
        (home / "d" / "bad").write_bytes(EICAR)
        step = act(home, "d/bad", again=True)
        (home / "d" / "bad").rename(home / "d" / os.fsdecode(CAPTURE))
        (home / "d").rename(home / "moved")
        worker.send(step)
        acted = worker.expect(Acted)
        assert (acted.outcome, acted.gone) == (Outcome.ERROR, False)
        assert os.fsdecode(CAPTURE) in acted.message

    def test_given_back_by_link_and_not_yet_unlinked_is_one_file_again(self, home: Path, worker: WorkerPeer) -> None:
        (home / "bad").write_bytes(EICAR)
        step = act(home, "bad", again=True)
        (home / os.fsdecode(CAPTURE)).hardlink_to(home / "bad")
        worker.send(step)
        assert content(worker)[0] == EICAR
        assert names(home) == {os.fsdecode(CAPTURE)}
        worker.send(Stored(seq=1, reason=""))
        assert worker.expect(Acted).outcome is Outcome.QUARANTINED
        assert names(home) == set()

    def test_not_captured_yet_starts_over(self, home: Path, worker: WorkerPeer) -> None:
        (home / "bad").write_bytes(EICAR)
        worker.send(act(home, "bad", again=True))
        content(worker)
        worker.send(Stored(seq=1, reason=""))
        assert worker.expect(Acted).outcome is Outcome.QUARANTINED
        assert names(home) == set()


class TestLog:
    def test_lines_arrive_whole_and_private(self, home: Path, worker: WorkerPeer) -> None:
        worker.send(Log(fresh=True, lines=b'{"id":1}\n'))
        worker.send(Log(fresh=False, lines=b'{"id":2}\n'))
        worker.send(Sync())
        worker.expect(Synced)
        log = home / os.fsdecode(LOG_NAME)
        assert log.read_bytes() == b'{"id":1}\n{"id":2}\n'
        assert log.stat().st_mode & 0o7777 == 0o600
        assert names(home) == {log.name}

    @pytest.mark.parametrize("kind", ["symlink", "hardlink", "fifo", "big"])
    def test_what_stands_in_its_place_is_replaced_and_never_written(
        self, home: Path, worker: WorkerPeer, tmp_path: Path, kind: str
    ) -> None:
        victim, log = tmp_path / "victim", home / os.fsdecode(LOG_NAME)
        victim.write_bytes(b"victim")
        if kind == "symlink":
            log.symlink_to(victim)
        elif kind == "hardlink":
            log.hardlink_to(victim)
        elif kind == "fifo":
            os.mkfifo(log)
        else:
            log.write_bytes(b"x" * 9_000_000)
        worker.send(Log(fresh=True, lines=b"line\n"))
        worker.send(Sync())
        worker.expect(Synced)
        assert log.read_bytes() == b"line\n"
        assert not log.is_symlink()
        assert victim.read_bytes() == b"victim"

    def test_a_directory_in_its_place_costs_one_warning(self, home: Path, worker: WorkerPeer) -> None:
        (home / os.fsdecode(LOG_NAME)).mkdir()
        worker.send(Log(fresh=True, lines=b"line\n"))
        worker.send(Log(fresh=False, lines=b"line\n"))
        assert "cannot write the log" in worker.expect(LogFailed).message
        worker.send(Sync())
        worker.expect(Synced)
        assert names(home) == {os.fsdecode(LOG_NAME)}
