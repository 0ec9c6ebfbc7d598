"""Messages put back into their mailbox while others get in the way, and by workers that are killed."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from clamscannerd.model import RestoreOutcome
from clamscannerd.worker.beneath import Kernel, open_home
from clamscannerd.worker.mailbox import PIECE_BYTES, Hit, Kept, Mailbox, MailboxError
from clamscannerd.worker.mailrestore import put_back
from clamscannerd.worker.messages import NeedSession, NoSession
from clamscannerd.worker.restorewire import MessagePlace, Restore, Restored, RestoreJob
from tests.fakes.mail_peer import KEPT_AT, TOKEN
from tests.fakes.worker_peer import WorkerPeer

BEFORE = b"From a@example.org Mon Jan  1 00:00:00 2024\nSubject: one\n\nhello\n\n"
MESSAGE = b"From c@example.org Mon Jan  1 00:00:00 2024\nSubject: bad\n\n" + b"what was taken out\n" * 60 + b"\n"
AFTER = b"From e@example.org Mon Jan  1 00:00:00 2024\nSubject: three\n\nbye\n\n"
OTHERS = b"From d@example.org Mon Jan  1 00:00:00 2024\nSubject: others\n\nnews\n\n"


class Scene:
    """A mailbox as a cleanse left it, with a notice where `message` was."""

    def __init__(self, home: Path, message: bytes = MESSAGE) -> None:
        self.home, self.message, self.path = home, message, home / "mbox"
        home.mkdir(mode=0o700, exist_ok=True)
        self.whole = BEFORE + message + AFTER
        start, end = len(BEFORE), len(BEFORE) + len(message)
        hit = Hit(start=start, end=end, before=hashlib.sha256(message).digest(), signature="X")
        self.path.write_bytes(self.whole)
        home_fd = open_home(os.fsencode(home), os.getuid())
        try:
            with Mailbox(Kernel(), home_fd, b"mbox", TOKEN, lambda _: None, known=True) as box:
                self.notice = b"".join(box.notice_for(hit, 7, KEPT_AT))
        finally:
            os.close(home_fd)
        self.after = hashlib.sha256(self.notice).digest()
        self.kept = Kept(
            start=start, end=end, before=hit.before, after=self.after, item=7, signature="X", kept_at=KEPT_AT
        )
        self.put(BEFORE + self.notice + AFTER)

    def put(self, data: bytes) -> None:
        self.path.write_bytes(data)

    def put_back(self, kind: type[Mailbox] = Mailbox, *, again: bool = False) -> str:
        """In this process."""
        content = os.memfd_create("content")
        home_fd = open_home(os.fsencode(self.home), os.getuid())
        try:
            os.write(content, self.message)
            with kind(Kernel(), home_fd, b"mbox", TOKEN, lambda _: None, known=True) as box:
                return put_back(box, self.kept, content, again=again)
        finally:
            os.close(home_fd)
            os.close(content)

    def step(self, *, again: bool) -> Restore:
        kept = self.kept
        place = MessagePlace(start=kept.start, end=kept.end, notice=kept.after, item=7, signature="X", kept_at=KEPT_AT)
        return Restore(
            seq=1,
            path=b"mbox",
            make_dirs=False,
            capture=TOKEN,
            again=again,
            force=True,
            size=len(self.message),
            sha256=kept.before,
            mode=0o100600,
            gid=os.getgid(),
            mtime_ns=10**18,
            xattrs=b"",
            message=place,
        )

    def by_worker(self, peer: WorkerPeer, *, again: bool) -> RestoreOutcome:
        """By force and without an engine. AssertionError, OSError: the worker died."""
        peer.send(RestoreJob(max_file_size=1 << 30, file_deadline_s=30.0))
        content = os.memfd_create("content")
        try:
            os.write(content, self.message)
            peer.send(self.step(again=again), [content])
        finally:
            os.close(content)
        reply = peer.receive()
        if isinstance(reply, NeedSession):
            peer.send(NoSession(reason="no engine answers"))
            reply = peer.receive()
        assert isinstance(reply, Restored)
        return reply.outcome


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path / "home")


def meddling(act: Callable[[], object], method: str, call: int) -> type[Mailbox]:
    """A mailbox in which `act` happens right before the `call`-th call of `method`, by somebody who takes no lock."""
    calls = 0

    def meddle(self: Mailbox) -> None:
        nonlocal calls
        calls += 1
        if calls == call:
            act()
        getattr(Mailbox, method)(self)

    return type("Meddled", (Mailbox,), {method: meddle})


AT_THE_END = 2
"""need_name is asked when the locks are taken, and when all is done."""


class TestOthers:
    def test_into_a_mailbox_whose_name_another_file_takes_it_is_put_once_more(self, scene: Scene) -> None:
        """From a copy that was made before: what was written went into a file that nobody will find."""
        new = scene.home / "new"
        new.write_bytes(scene.path.read_bytes())
        kind = meddling(lambda: new.rename(scene.path), "need_name", AT_THE_END)
        assert scene.put_back(kind) == "the message was put back in its place"
        assert scene.path.read_bytes() == scene.whole
        assert os.listdir(scene.home) == ["mbox"]

    def test_appended_it_stands_once_in_a_file_that_took_the_name_with_it(self, scene: Scene) -> None:
        scene.put(BEFORE + AFTER)

        def rewrite() -> None:
            new = scene.home / "new"
            new.write_bytes(AFTER + scene.path.read_bytes())
            new.rename(scene.path)

        assert "appended" in scene.put_back(meddling(rewrite, "need_name", AT_THE_END))
        assert scene.path.read_bytes() == AFTER + BEFORE + AFTER + MESSAGE

    def test_of_a_mailbox_that_goes_away_meanwhile_it_is_not_said_to_be_restored(self, scene: Scene) -> None:
        with pytest.raises(FileNotFoundError):
            scene.put_back(meddling(scene.path.unlink, "need_name", AT_THE_END))
        assert os.listdir(scene.home) == []

    @pytest.mark.parametrize("write", [1, 2])
    def test_a_large_one_between_which_others_wrote_is_not_said_to_be_restored(
        self, tmp_path: Path, write: int
    ) -> None:
        """It takes two writes, the locks are kept before each; in front of it somebody else's mail does no harm."""
        scene = Scene(tmp_path / "home", MESSAGE + b"more\n" * (PIECE_BYTES // 5))
        scene.put(BEFORE)

        def deliver() -> None:
            with scene.path.open("ab") as stream:
                stream.write(OTHERS)

        kind = meddling(deliver, "keep_locks", write)
        if write == 1:
            assert "appended" in scene.put_back(kind)
            assert scene.path.read_bytes() == BEFORE + OTHERS + scene.message
        else:
            with pytest.raises(MailboxError, match="take no lock"):
                scene.put_back(kind)
            assert OTHERS in scene.path.read_bytes()

    @pytest.mark.parametrize("again", [False, True])
    def test_half_a_notice_becomes_the_message(self, scene: Scene, again: bool) -> None:
        """A cleanse that met trouble on the disk may have left one: then this step is not begun before."""
        scene.put(BEFORE + scene.notice[:700] + MESSAGE[700:] + AFTER)
        assert scene.put_back(again=again) == "the message was put back in its place"
        assert scene.path.read_bytes() == scene.whole


class TestTornAppend:
    @pytest.mark.parametrize("cut", [*range(6, 60), 500, len(MESSAGE) - 1, len(MESSAGE)])
    @pytest.mark.parametrize("first", [b"", BEFORE], ids=["empty", "others"])
    def test_wherever_it_was_torn_it_is_completed(self, scene: Scene, cut: int, first: bytes) -> None:
        scene.put(first + MESSAGE[:cut])
        scene.put_back(again=True)
        assert scene.path.read_bytes() == first + MESSAGE

    @pytest.mark.parametrize("cut", range(1, 6))
    def test_a_few_bytes_may_be_a_letter_s_own_and_stay(self, scene: Scene, cut: int) -> None:
        scene.put(BEFORE + MESSAGE[:cut])
        scene.put_back(again=True)
        assert scene.path.read_bytes() == BEFORE + MESSAGE[:cut] + b"\n\n" + MESSAGE

    def test_a_line_of_a_letter_that_is_like_its_beginning_is_not_taken_for_it(self, scene: Scene) -> None:
        other = BEFORE + b"quoted:\n" + MESSAGE[:30]
        scene.put(other)
        scene.put_back(again=True)
        assert scene.path.read_bytes() == other + b"\n\n" + MESSAGE

    def test_not_begun_before_nothing_is_completed(self, scene: Scene) -> None:
        scene.put(BEFORE + MESSAGE[:300])
        scene.put_back()
        assert scene.path.read_bytes() == BEFORE + MESSAGE[:300] + b"\n\n" + MESSAGE

    def test_others_mail_behind_it_stays_and_the_message_is_whole(self, scene: Scene) -> None:
        scene.put(BEFORE + MESSAGE[:300] + b"\n\n" + OTHERS)
        scene.put_back(again=True)
        assert scene.path.read_bytes() == BEFORE + MESSAGE[:300] + b"\n\n" + OTHERS + MESSAGE


CALLS = {
    "in its place": ("linkat", "unlinkat", "flock", "fcntl", "pwrite64", "fsync", "utimensat", "sendmsg"),
    "appended": ("linkat", "unlinkat", "flock", "fcntl", "write", "fsync", "sendmsg"),
}


@pytest.mark.parametrize(("how", "call"), [(how, call) for how, calls in CALLS.items() for call in calls])
def test_killed_before_any_call_that_matters_it_stands_there_once(tmp_path: Path, how: str, call: str) -> None:
    for number in range(1, 60):
        scene = Scene(tmp_path / f"home{number}")
        if how == "appended":
            scene.put(BEFORE + AFTER)
        inject = f"inject={call}:signal=KILL:when={number}"
        wrapper = ["strace", "-qq", "-o", "/dev/null", "-e", f"trace={call}", "-e", "signal=none", "-e", inject]
        lived = survived(scene, WorkerPeer(scene.home, wrapper=wrapper))
        if not lived:
            with WorkerPeer(scene.home) as second:
                assert scene.by_worker(second, again=True) is RestoreOutcome.RESTORED
        assert scene.path.read_bytes() == (scene.whole if how == "in its place" else BEFORE + AFTER + MESSAGE)
        assert os.listdir(scene.home) == ["mbox"]
        if lived:
            assert number > 1, f"{call} is never called"
            return
    raise AssertionError(f"never got beyond {call}")


def survived(scene: Scene, peer: WorkerPeer) -> bool:
    """Whether the worker came to the end of the step."""
    try:
        peer.__enter__()
        return scene.by_worker(peer, again=False) is RestoreOutcome.RESTORED
    except (AssertionError, OSError):  # its end of the channel is closed
        return False
    finally:
        peer.__exit__()
