"""One item at a time put back by a real worker process; this side plays the daemon, and the account's user."""

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from clamscannerd.model import RestoreOutcome
from clamscannerd.worker import xattrs
from clamscannerd.worker.messages import MAX_MESSAGE_BYTES, NeedSession, NoSession, Sessions, decode_reply
from clamscannerd.worker.restorewire import Restored, RestoreJob, Standing
from tests.fakes.mail_peer import identity
from tests.fakes.realclamd import EICAR, EICAR_NAME, RealClamd
from tests.fakes.restore_peer import CAPTURE, CONTENT, done, is_restored, restore, send
from tests.fakes.worker_peer import WorkerPeer, clamd_session

NO_TMPFILE = """
import os, sys
from clamscannerd.worker import beneath, main
probe = beneath.Kernel.probe
def without(self, home_fd):
    probe(self, home_fd)
    self.tmpfile = False
    self.renameat2 = {renameat2}
beneath.Kernel.probe = without
sys.exit(main.serve(int(sys.argv[1]), os.fsencode(sys.argv[2]), os.getuid(), {{}}))
"""


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


def test_content_mode_and_time_are_back(home: Path, worker: WorkerPeer, clamd: RealClamd) -> None:
    (home / "d").mkdir()
    end = done(worker, clamd, restore(b"d/letter"))
    assert (end.outcome, end.message, end.signature, end.standing) == (RestoreOutcome.RESTORED, "", "", None)
    assert is_restored(home / "d" / "letter")
    assert os.listdir(home / "d") == ["letter"]


@pytest.mark.parametrize("renameat2", [True, False], ids=["rename", "link"])
def test_without_unnamed_files_it_is_the_same(home: Path, clamd: RealClamd, *, renameat2: bool) -> None:
    with WorkerPeer(home, code=NO_TMPFILE.format(renameat2=renameat2)) as worker:
        worker.send(RestoreJob(max_file_size=1 << 30, file_deadline_s=30.0))
        assert done(worker, clamd, restore(b"letter")).outcome is RestoreOutcome.RESTORED
        assert is_restored(home / "letter")
        send(worker, restore(b"letter"))
        assert worker.expect(Restored).outcome is RestoreOutcome.ERROR
    assert os.listdir(home) == ["letter"]


def test_setuid_setgid_and_sticky_stay_away(home: Path, worker: WorkerPeer, clamd: RealClamd) -> None:
    done(worker, clamd, restore(b"program", mode=0o107755))
    assert stat.S_IMODE((home / "program").stat().st_mode) == 0o755


def test_extended_attributes_are_back(home: Path, worker: WorkerPeer, clamd: RealClamd, tmp_path: Path) -> None:
    original = tmp_path / "original"
    original.write_bytes(CONTENT)
    os.setxattr(original, "user.origin", b"\0\xff")
    with original.open("rb") as stream:
        packed, left_out = xattrs.collect(stream.fileno())
    assert left_out == 0
    end = done(worker, clamd, restore(b"letter", xattrs=packed))
    assert end.message == ""
    assert os.getxattr(home / "letter", "user.origin") == b"\0\xff"
    assert is_restored(home / "letter")


def test_attributes_beyond_the_limit_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"")
    os.setxattr(path, "user.small", b"s")
    os.setxattr(path, "user.zlarge", b"l" * 500)
    with path.open("rb") as stream:
        packed, left_out = xattrs.collect(stream.fileno(), 200)
        assert len(packed) <= 200
    assert left_out == 1


def test_what_is_still_detected_stays_in_the_vault(home: Path, worker: WorkerPeer, clamd: RealClamd) -> None:
    end = done(worker, clamd, restore(b"bad", EICAR), EICAR)
    assert (end.outcome, end.signature) == (RestoreOutcome.NO_ACTION, EICAR_NAME)
    assert EICAR_NAME in end.message
    assert os.listdir(home) == []


def test_by_force_it_is_restored_and_said(home: Path, worker: WorkerPeer, clamd: RealClamd) -> None:
    end = done(worker, clamd, restore(b"bad", EICAR, force=True), EICAR)
    assert (end.outcome, end.signature) == (RestoreOutcome.RESTORED, EICAR_NAME)
    assert "by force" in end.message
    assert is_restored(home / "bad", EICAR)
    assert end.standing == Standing(identity=identity(home / "bad"), mailbox=False, in_place=False)


@pytest.mark.parametrize("force", [True, False])
def test_without_an_engine_only_force_restores(home: Path, worker: WorkerPeer, *, force: bool) -> None:
    send(worker, restore(b"letter", force=force))
    worker.expect(NeedSession)
    worker.send(NoSession(reason="no engine answers"))
    end = worker.expect(Restored)
    assert (end.outcome is RestoreOutcome.RESTORED) == force == (home / "letter").exists()
    assert "no engine answers" in end.message


@pytest.mark.parametrize("kind", ["file", "directory", "symlink", "dangling", "same"])
def test_an_occupied_name_is_an_error_and_untouched(home: Path, worker: WorkerPeer, tmp_path: Path, kind: str) -> None:
    target = home / "letter"
    match kind:
        case "file":
            target.write_bytes(b"new")
        case "same":
            target.write_bytes(CONTENT)
        case "directory":
            target.mkdir()
        case "symlink":
            target.symlink_to(tmp_path)
        case _:
            target.symlink_to("nowhere")
    before = target.lstat()
    send(worker, restore(b"letter"))
    end = worker.expect(Restored)
    assert end.outcome is RestoreOutcome.ERROR
    assert "taken" in end.message
    assert target.lstat() == before
    assert os.listdir(home) == ["letter"]


def test_a_name_taken_at_the_last_moment_is_not_replaced(home: Path, worker: WorkerPeer, clamd: RealClamd) -> None:
    send(worker, restore(b"letter"))
    worker.expect(NeedSession)
    (home / "letter").write_bytes(b"new")
    with clamd_session(clamd.socket_path) as session:
        worker.send(Sessions(fds=1, max_file_size=1 << 30, clean_allowed=True), [session.fileno()])
    end = worker.expect(Restored)
    assert (end.outcome, "taken meanwhile" in end.message) == (RestoreOutcome.ERROR, True)
    assert (home / "letter").read_bytes() == b"new"
    assert os.listdir(home) == ["letter"]


@pytest.mark.parametrize("kind", ["missing", "symlink", "file", "open", "foreign"])
def test_a_parent_that_will_not_do_is_refused(home: Path, worker: WorkerPeer, tmp_path: Path, kind: str) -> None:
    parent, victim = home / "d", tmp_path / "victim"
    victim.mkdir()
    match kind:
        case "symlink":
            parent.symlink_to(victim)
        case "file":
            parent.write_bytes(b"")
        case "open":
            parent.mkdir()
            parent.chmod(0o1777)
        case "foreign":
            if os.geteuid() != 0:
                pytest.skip("a foreign directory needs root")
            parent.mkdir()
            os.chown(parent, 12345, 12345)
    send(worker, restore(b"d/letter"))
    end = worker.expect(Restored)
    assert end.outcome is RestoreOutcome.ERROR
    assert "another directory" in end.message
    assert os.listdir(victim) == []
    assert not parent.is_dir() or os.listdir(parent) == []


def test_missing_directories_are_made_for_their_owner_alone(home: Path, worker: WorkerPeer, clamd: RealClamd) -> None:
    (home / "a").mkdir(mode=0o755)
    end = done(worker, clamd, restore(b"a/b/c/letter", make_dirs=True))
    assert end.outcome is RestoreOutcome.RESTORED
    assert is_restored(home / "a" / "b" / "c" / "letter")
    assert [stat.S_IMODE((home / d).stat().st_mode) for d in ("a", "a/b", "a/b/c")] == [0o755, 0o700, 0o700]


def test_no_directory_is_made_through_a_link(home: Path, worker: WorkerPeer, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (home / "a").symlink_to(victim)
    send(worker, restore(b"a/b/letter", make_dirs=True))
    assert worker.expect(Restored).outcome is RestoreOutcome.ERROR
    assert os.listdir(victim) == []


def test_content_that_is_not_what_was_kept_is_refused(home: Path, worker: WorkerPeer) -> None:
    send(worker, restore(b"letter"), CONTENT[:-1] + b"?")
    assert worker.expect(Restored).outcome is RestoreOutcome.ERROR
    assert os.listdir(home) == []


def test_a_file_in_the_place_of_a_directory_is_an_error_and_untouched(home: Path, worker: WorkerPeer) -> None:
    (home / "file").write_bytes(b"work")
    for path in (b"file/letter", b"file/deeper/letter"):
        send(worker, restore(path, make_dirs=True))
        end = worker.expect(Restored)
        assert (end.outcome, "a link or a file is in the way" in end.message) == (RestoreOutcome.ERROR, True)
    assert (home / "file").read_bytes() == b"work"
    assert os.listdir(home) == ["file"]


@pytest.mark.parametrize("error", ["ENOSPC", "EDQUOT", "EIO"])
@pytest.mark.parametrize("code", [None, NO_TMPFILE.format(renameat2=True)], ids=["unnamed", "named"])
def test_a_disk_that_takes_no_more_is_named_and_nothing_is_left(
    home: Path, clamd: RealClamd, error: str, code: str | None
) -> None:
    inject = ["strace", "-qq", "-o", "/dev/null", "-e", "trace=write", "-e", f"inject=write:error={error}"]
    with WorkerPeer(home, wrapper=inject, **({} if code is None else {"code": code})) as worker:
        worker.send(RestoreJob(max_file_size=1 << 30, file_deadline_s=30.0))
        end = done(worker, clamd, restore(b"letter"))
    assert (end.outcome, end.signature) == (RestoreOutcome.ERROR, "")
    assert end.message == f"cannot restore it: {os.strerror(getattr(errno, error))}"
    assert os.listdir(home) == []


class TestAgain:
    """What a crash left, and the step begun again."""

    def test_named_before_the_crash_only_lacks_the_proof(self, home: Path, worker: WorkerPeer) -> None:
        (home / "letter").write_bytes(CONTENT)
        (home / os.fsdecode(CAPTURE)).hardlink_to(home / "letter")
        send(worker, restore(b"letter", again=True))
        assert worker.expect(Restored).outcome is RestoreOutcome.RESTORED
        assert os.listdir(home) == ["letter"]

    def test_half_written_starts_over(self, home: Path, worker: WorkerPeer, clamd: RealClamd) -> None:
        (home / os.fsdecode(CAPTURE)).write_bytes(CONTENT[:100])
        assert done(worker, clamd, restore(b"letter", again=True)).outcome is RestoreOutcome.RESTORED
        assert is_restored(home / "letter")
        assert os.listdir(home) == ["letter"]

    def test_other_content_under_the_name_is_somebody_elses(self, home: Path, worker: WorkerPeer) -> None:
        (home / "letter").write_bytes(b"new")
        send(worker, restore(b"letter", again=True))
        assert worker.expect(Restored).outcome is RestoreOutcome.ERROR
        assert (home / "letter").read_bytes() == b"new"

    def test_forced_and_named_before_the_crash_still_says_what_is_detected(
        self, home: Path, worker: WorkerPeer, clamd: RealClamd
    ) -> None:
        (home / "bad").write_bytes(EICAR)
        end = done(worker, clamd, restore(b"bad", EICAR, again=True, force=True), EICAR)
        assert (end.outcome, end.signature) == (RestoreOutcome.RESTORED, EICAR_NAME)


CALLS = ("write", "fchmod", "utimensat", "fsync", "linkat", "renameat2", "unlinkat", "setxattr")


@pytest.mark.parametrize("code", [None, NO_TMPFILE.format(renameat2=True)], ids=["unnamed", "named"])
@pytest.mark.parametrize("call", CALLS)
def test_killed_before_any_call_and_begun_again_it_stands_once(
    home: Path, clamd: RealClamd, call: str, code: str | None
) -> None:
    """strace kills before the N-th such call, for each N, until the step gets through."""
    for number in range(1, 20):
        inject = ["strace", "-qq", "-o", "/dev/null", "-e", f"trace={call}"]
        inject += ["-e", f"inject={call}:signal=KILL:when={number}"]
        survived = try_once(home, clamd, inject, code, again=False)
        assert survived or try_once(home, clamd, [], code, again=True)
        assert is_restored(home / "letter")
        assert os.listdir(home) == ["letter"]
        (home / "letter").unlink()
        if survived:
            return
    pytest.fail("the step never got through")


def try_once(home: Path, clamd: RealClamd, wrapper: list[str], code: str | None, *, again: bool) -> bool:
    """Whether the worker lived to say that it is restored."""
    with WorkerPeer(home, wrapper=wrapper, **({} if code is None else {"code": code})) as worker:
        worker.send(RestoreJob(max_file_size=1 << 30, file_deadline_s=30.0))
        send(worker, restore(b"letter", again=again))
        while data := worker.sock.recv(MAX_MESSAGE_BYTES):
            reply = decode_reply(data)
            if isinstance(reply, Restored):
                assert reply.outcome is RestoreOutcome.RESTORED
                return True
            assert isinstance(reply, NeedSession)
            with clamd_session(clamd.socket_path) as session:
                worker.send(Sessions(fds=1, max_file_size=1 << 30, clean_allowed=True), [session.fileno()])
    return False
