"""One item at a time put back by a real worker process; this side plays the daemon, and the account's user."""

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from clamscannerd.model import RestoreOutcome
from clamscannerd.worker import xattrs
from clamscannerd.worker.beneath import Kernel
from clamscannerd.worker.mailbox import Hit, Mailbox
from clamscannerd.worker.messages import MAX_MESSAGE_BYTES, NeedSession, NoSession, Sessions, decode_reply
from clamscannerd.worker.restorewire import MessagePlace, Restore, Restored, RestoreJob
from tests.fakes.realclamd import EICAR, EICAR_NAME, RealClamd
from tests.fakes.worker_peer import WorkerPeer, clamd_session

CAPTURE = b".clamscannerd-" + b"0123456789abcdef" * 2
CONTENT = b"a letter to keep\n" * 1000
MTIME_NS = 1_000_000_000_123_456_789

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


def restore(path: bytes, content: bytes = CONTENT, **changes: object) -> Restore:
    values: dict[str, object] = {
        "seq": 1,
        "path": path,
        "make_dirs": False,
        "capture": CAPTURE,
        "again": False,
        "force": False,
        "size": len(content),
        "sha256": hashlib.sha256(content).digest(),
        "mode": 0o100640,
        "gid": os.getgid(),
        "mtime_ns": MTIME_NS,
        "xattrs": b"",
    }
    return Restore(**(values | changes))  # type: ignore[arg-type]


def send(worker: WorkerPeer, step: Restore, content: bytes = CONTENT) -> None:
    fd = os.memfd_create("content")
    try:
        os.write(fd, content)
        worker.send(step, [fd])
    finally:
        os.close(fd)


def give_session(worker: WorkerPeer, clamd: RealClamd) -> None:
    worker.expect(NeedSession)
    with clamd_session(clamd.socket_path) as session:
        worker.send(Sessions(fds=1, max_file_size=1 << 30, clean_allowed=True), [session.fileno()])


def done(worker: WorkerPeer, clamd: RealClamd, step: Restore, content: bytes = CONTENT) -> Restored:
    """The whole step, with a session."""
    send(worker, step, content)
    give_session(worker, clamd)
    return worker.expect(Restored)


def is_restored(path: Path, content: bytes = CONTENT, mode: int = 0o640) -> bool:
    status = path.lstat()
    return (path.read_bytes(), stat.S_IMODE(status.st_mode), status.st_mtime_ns) == (content, mode, MTIME_NS)


def test_content_mode_and_time_are_back(home: Path, worker: WorkerPeer, clamd: RealClamd) -> None:
    (home / "d").mkdir()
    end = done(worker, clamd, restore(b"d/letter"))
    assert (end.outcome, end.message, end.signature) == (RestoreOutcome.RESTORED, "", "")
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


BEFORE = b"From a@example.org Mon Jan  1 00:00:00 2024\nSubject: one\n\nhello\n\n"
MESSAGE = b"From c@example.org Mon Jan  1 00:00:00 2024\nSubject: bad\n\n" + (EICAR + b"\n") * 100 + b"\n"
AFTER = b"From e@example.org Mon Jan  1 00:00:00 2024\nSubject: three\n\nbye\n"


class TestMessage:
    """A message of a mailbox goes back into it."""

    def step(self, home: Path, **changes: object) -> tuple[Restore, bytes]:
        """The mailbox as a cleanse left it, and the step; and the notice."""
        path = home / "box"
        path.write_bytes(BEFORE + MESSAGE + AFTER)
        start, end = len(BEFORE), len(BEFORE) + len(MESSAGE)
        hit = Hit(start=start, end=end, before=hashlib.sha256(MESSAGE).digest(), signature="X")
        home_fd = os.open(home, os.O_RDONLY)
        try:
            with Mailbox(Kernel(), home_fd, b"box", CAPTURE, lambda _: None, known=True) as box:
                notice = b"".join(box.notice_for(hit, 7, 1.0))
        finally:
            os.close(home_fd)
        path.write_bytes(BEFORE + notice + AFTER)
        place = MessagePlace(
            start=start, end=end, notice=hashlib.sha256(notice).digest(), item=7, signature="X", kept_at=1.0
        )
        return restore(b"box", MESSAGE, message=place, **changes), notice

    def test_it_takes_the_place_of_its_notice(self, home: Path, worker: WorkerPeer, clamd: RealClamd) -> None:
        step, _ = self.step(home, force=True)
        assert done(worker, clamd, step, MESSAGE).outcome is RestoreOutcome.RESTORED
        assert (home / "box").read_bytes() == BEFORE + MESSAGE + AFTER

    def test_still_detected_it_stays_in_the_vault(self, home: Path, worker: WorkerPeer, clamd: RealClamd) -> None:
        for again in (False, True):
            step, notice = self.step(home, again=again)
            assert done(worker, clamd, step, MESSAGE).outcome is RestoreOutcome.NO_ACTION
            assert (home / "box").read_bytes() == BEFORE + notice + AFTER

    def test_torn_by_a_crash_it_is_made_whole_whatever_the_engine_says(self, home: Path, worker: WorkerPeer) -> None:
        """The engine is not even asked: a message that stands there half must not stay so."""
        step, notice = self.step(home, again=True)
        (home / "box").write_bytes(BEFORE + MESSAGE[:2048] + notice[2048:] + AFTER)
        send(worker, step, MESSAGE)
        assert worker.expect(Restored).outcome is RestoreOutcome.RESTORED
        assert (home / "box").read_bytes() == BEFORE + MESSAGE + AFTER
        assert os.listdir(home) == ["box"]
