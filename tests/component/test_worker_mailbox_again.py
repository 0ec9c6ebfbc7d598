"""A cleanse cut short at any point and begun again; and messages put back."""

import os
import random
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from clamscannerd.model import Identity, MailMessage, Outcome
from clamscannerd.worker.beneath import Kernel, open_home
from clamscannerd.worker.mailbox import Kept, Mailbox, MailboxError
from clamscannerd.worker.mailrestore import put_back
from clamscannerd.worker.messages import ActJob
from tests.component.test_worker_mailbox import infected_spans, is_cleansed, known, letter, ordinary, put
from tests.fakes.mail_peer import KEPT_AT, MAX_FILE_SIZE, TOKEN, Keeper, identity
from tests.fakes.mailboxes import INFECTION, INFECTION_NDB, render
from tests.fakes.realclamd import RealClamd
from tests.fakes.worker_peer import WorkerPeer


@pytest.fixture(scope="module")
def mail_clamd() -> Iterator[RealClamd]:
    with RealClamd(signatures={"test.ndb": INFECTION_NDB.encode()}) as running:
        yield running


@pytest.fixture
def home(tmp_path: Path) -> Path:
    path = tmp_path / "home"
    path.mkdir(mode=0o700)
    return path


def started(home: Path) -> WorkerPeer:
    worker = WorkerPeer(home).__enter__()
    worker.send(ActJob(max_file_size=MAX_FILE_SIZE, file_deadline_s=30.0))
    return worker


class Cleansed:
    """A mailbox cleansed once, with all that the daemon knows of it."""

    def __init__(self, home: Path, clamd: RealClamd) -> None:
        self.home, self.clamd = home, clamd
        self.box = ordinary()
        self.path = put(home, self.box.data)
        self.messages = known(home, clamd, self.path)
        self.who = identity(self.path)
        with WorkerPeer(home) as worker:
            worker.send(ActJob(max_file_size=MAX_FILE_SIZE, file_deadline_s=30.0))
            keeper = Keeper(worker, clamd)
            assert keeper.cleanse(self.path, home, self.messages).outcome is Outcome.MAILBOX_CLEANSED
        self.after = self.path.read_bytes()
        self.contents, self.journal = keeper.contents, keeper.journal

    def again(self) -> tuple[Outcome, str]:
        with WorkerPeer(self.home) as worker:
            worker.send(ActJob(max_file_size=MAX_FILE_SIZE, file_deadline_s=30.0))
            keeper = Keeper(worker, self.clamd)
            keeper.contents, keeper.journal = dict(self.contents), list(self.journal)
            end = keeper.cleanse(self.path, self.home, self.messages, again=True, identity=self.who)
            assert keeper.contents == self.contents, "a content went to the vault twice"
            return end.outcome, end.message

    def kept(self, number: int) -> Kept:
        one = self.journal[number]
        return Kept(
            start=one.start,
            end=one.end,
            before=one.before,
            after=one.after,
            item=one.item,
            signature=one.signature,
            kept_at=KEPT_AT,
        )

    def put_back(self, number: int, *, again: bool = False) -> str:
        """In this process; the content as an fd."""
        content = os.memfd_create("content")
        home_fd = open_home(os.fsencode(self.home), os.getuid())
        try:
            os.write(content, self.contents[self.journal[number].item])
            with Mailbox(Kernel(), home_fd, b"mbox", TOKEN, lambda _: None, known=True) as box:
                return put_back(box, self.kept(number), content, again=again)
        finally:
            os.close(home_fd)
            os.close(content)


@pytest.fixture
def cleansed(home: Path, mail_clamd: RealClamd) -> Cleansed:
    return Cleansed(home, mail_clamd)


class TestAgain:
    @pytest.mark.parametrize("state", ["before", "after", "one of each"])
    def test_ranges_before_are_written_and_those_after_left(self, cleansed: Cleansed, state: str) -> None:
        data = bytearray(cleansed.after if state == "after" else cleansed.box.data)
        if state == "one of each":
            start, end = infected_spans(cleansed.box)[0]
            data[start:end] = cleansed.after[start:end]
        put(cleansed.home, bytes(data))
        assert cleansed.again() == (Outcome.MAILBOX_CLEANSED, "2 messages replaced by a notice: items 1, 2")
        assert cleansed.path.read_bytes() == cleansed.after

    @pytest.mark.parametrize("seed", range(6))
    def test_a_torn_range_is_written_again(self, cleansed: Cleansed, seed: int) -> None:
        dice = random.Random(seed)
        data = bytearray(cleansed.box.data)
        for start, end in infected_spans(cleansed.box):
            cuts = sorted({start, end, *(dice.randint(start, end) for _ in range(6))})
            for begin, until in pairwise(cuts):
                if dice.random() < 0.5:
                    data[begin:until] = cleansed.after[begin:until]
        put(cleansed.home, bytes(data))
        assert cleansed.again()[0] is Outcome.MAILBOX_CLEANSED
        assert cleansed.path.read_bytes() == cleansed.after

    @pytest.mark.parametrize("new", [b"", render([letter(50)]).data])
    def test_the_times_are_what_they_were_before_the_crash(self, cleansed: Cleansed, new: bytes) -> None:
        """Killed after it wrote and before it set them back: no reader may take that for new mail, nor new mail for
        old."""
        _, end = infected_spans(cleansed.box)[1]
        torn = cleansed.after[: end - 300] + cleansed.box.data[end - 300 : end] + cleansed.after[end:] + new
        assert torn != cleansed.after + new
        with cleansed.path.open("r+b") as stream:
            stream.write(torn)
        crashed = (1_600_000_050 * 10**9, 1_700_000_000 * 10**9)
        os.utime(cleansed.path, ns=crashed)
        assert cleansed.again()[0] is Outcome.MAILBOX_CLEANSED
        after = cleansed.path.stat()
        assert cleansed.path.read_bytes() == cleansed.after + new
        assert after.st_atime_ns == crashed[0]
        assert after.st_mtime_ns == (crashed[1] if new else cleansed.who.mtime_ns)

    def test_a_range_that_is_neither_is_an_error_and_not_written(self, cleansed: Cleansed) -> None:
        data = bytearray(cleansed.box.data)
        start, _ = infected_spans(cleansed.box)[0]
        data[start + 100] ^= 1
        put(cleansed.home, bytes(data))
        outcome, message = cleansed.again()
        assert outcome is Outcome.ERROR
        assert "rewritten by others" in message
        assert "in the vault: items 1, 2" in message
        now = cleansed.path.read_bytes()
        assert now[: infected_spans(cleansed.box)[1][0]] == data[: infected_spans(cleansed.box)[1][0]]
        assert now[infected_spans(cleansed.box)[1][0] :] == cleansed.after[infected_spans(cleansed.box)[1][0] :]

    def test_a_mailbox_that_is_gone_since_is_an_error_that_names_the_items(self, cleansed: Cleansed) -> None:
        cleansed.path.unlink()
        outcome, message = cleansed.again()
        assert outcome is Outcome.ERROR
        assert "in the vault: items 1, 2" in message

    def test_mail_appended_after_a_crash_stays(self, cleansed: Cleansed) -> None:
        new = render([letter(50)]).data
        put(cleansed.home, cleansed.box.data + new)
        assert cleansed.again()[0] is Outcome.MAILBOX_CLEANSED
        assert cleansed.path.read_bytes() == cleansed.after + new

    @pytest.mark.parametrize("point", range(12))
    def test_killed_at_any_message_it_ends_right_when_begun_again(
        self, home: Path, mail_clamd: RealClamd, point: int
    ) -> None:
        box = ordinary()
        path = put(home, box.data)
        messages, who = known(home, mail_clamd, path), identity(path)
        worker = started(home)
        keeper = Keeper(worker, mail_clamd)
        left = point

        def kill(_: str) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise InterruptedError

        keeper.before = kill
        try:
            keeper.cleanse(path, home, messages, identity=who)
        except InterruptedError:
            worker.process.kill()
        finally:
            worker.__exit__()
        with WorkerPeer(home) as second:
            second.send(ActJob(max_file_size=MAX_FILE_SIZE, file_deadline_s=30.0))
            resumed = Keeper(second, mail_clamd)
            resumed.journal = keeper.journal
            journaled = {one.item for one in keeper.journal}
            resumed.contents = {item: data for item, data in keeper.contents.items() if item in journaled}
            end = resumed.cleanse(path, home, messages, again=True, identity=who)
        assert end.outcome is Outcome.MAILBOX_CLEANSED
        assert is_cleansed(path, box)
        assert os.listdir(home) == ["mbox"]
        assert sorted(resumed.contents.values()) == sorted(box.data[start:end] for start, end in infected_spans(box))


CALLS = ("linkat", "unlinkat", "fcntl", "flock", "pwrite64", "fsync", "utimensat", "sendmsg")


@pytest.mark.parametrize("call", CALLS)
def test_killed_before_any_call_that_matters_it_ends_right_when_begun_again(
    tmp_path: Path, mail_clamd: RealClamd, call: str
) -> None:
    box = ordinary()
    for number in range(1, 100):
        home = tmp_path / f"home{number}"
        home.mkdir(mode=0o700)
        path = put(home, box.data)
        messages, who = known(home, mail_clamd, path), identity(path)
        inject = f"inject={call}:signal=KILL:when={number}"
        wrapper = ["strace", "-qq", "-o", "/dev/null", "-e", f"trace={call}", "-e", "signal=none", "-e", inject]
        keeper, whole = killed(home, wrapper, mail_clamd, path, messages, who)
        with WorkerPeer(home) as second:
            second.send(ActJob(max_file_size=MAX_FILE_SIZE, file_deadline_s=30.0))
            resumed = Keeper(second, mail_clamd)
            resumed.journal = keeper.journal
            journaled = {one.item for one in keeper.journal}
            resumed.contents = {item: data for item, data in keeper.contents.items() if item in journaled}
            end = resumed.cleanse(path, home, messages, again=True, identity=who)
        assert end.outcome is Outcome.MAILBOX_CLEANSED, (number, end.message)
        assert is_cleansed(path, box)
        assert os.listdir(home) == ["mbox"]
        assert sorted(resumed.contents.values()) == sorted(box.data[start:end] for start, end in infected_spans(box))
        if whole:
            return
    raise AssertionError(f"never got beyond {call}")


def killed(
    home: Path, wrapper: list[str], clamd: RealClamd, path: Path, messages: list[MailMessage], who: Identity
) -> tuple[Keeper, bool]:
    """A worker under strace, and whether it came to the end of the step."""
    peer = WorkerPeer(home, wrapper=wrapper)
    keeper = Keeper(peer, clamd)
    try:
        peer.__enter__()
        peer.send(ActJob(max_file_size=MAX_FILE_SIZE, file_deadline_s=30.0))
        return keeper, keeper.cleanse(path, home, messages, identity=who).outcome is Outcome.MAILBOX_CLEANSED
    except (AssertionError, OSError):  # its end of the channel is closed
        return keeper, False
    finally:
        peer.__exit__()


class TestPutBack:
    def test_in_its_place_while_the_notice_stands_there(self, cleansed: Cleansed) -> None:
        before = cleansed.path.stat()
        assert cleansed.put_back(1) == "the message was put back in its place"
        assert cleansed.put_back(0) == "the message was put back in its place"
        assert cleansed.path.stat().st_mtime_ns == before.st_mtime_ns
        assert cleansed.path.read_bytes() == cleansed.box.data
        assert os.listdir(cleansed.home) == ["mbox"]

    def test_again_it_is_found_in_its_place(self, cleansed: Cleansed) -> None:
        cleansed.put_back(0)
        assert cleansed.put_back(0, again=True) == "the message stands in its place"

    def test_torn_it_is_written_again(self, cleansed: Cleansed) -> None:
        start, _ = infected_spans(cleansed.box)[0]
        data = bytearray(cleansed.after)
        data[start + 60 : start + 200] = cleansed.box.data[start + 60 : start + 200]
        put(cleansed.home, bytes(data))
        cleansed.put_back(0, again=True)
        assert cleansed.path.read_bytes()[: start + 400] == cleansed.box.data[: start + 400]

    @pytest.mark.parametrize("ending", [b"\n\n", b"\n", b"", b"\r\n", b"\r\n\r\n"])
    def test_appended_after_a_blank_line_where_its_place_is_another_s(self, cleansed: Cleansed, ending: bytes) -> None:
        other = render([letter(77)]).data.rstrip(b"\n") + ending
        put(cleansed.home, other)
        assert cleansed.put_back(0).startswith("the message was appended")
        now = cleansed.path.read_bytes()
        content = cleansed.contents[1]
        assert now.startswith(other)
        assert now.endswith(content)
        assert now[len(other) : -len(content)].strip(b"\r\n") == b""
        assert (other + now[len(other) : -len(content)]).endswith((b"\n\n", b"\n\r\n"))

    def test_appended_once_however_often_it_is_tried(self, cleansed: Cleansed) -> None:
        put(cleansed.home, render([letter(77)]).data)
        for _ in range(3):
            cleansed.put_back(0, again=True)
        with cleansed.path.open("ab") as stream:
            stream.write(b"\n" + render([letter(78)]).data)
        cleansed.put_back(0, again=True)
        assert cleansed.path.read_bytes().count(INFECTION) == 1

    @pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
    def test_an_append_that_was_torn_is_completed(self, cleansed: Cleansed, share: float) -> None:
        other, content = render([letter(77)]).data, cleansed.contents[1]
        put(cleansed.home, other + content[: int(len(content) * share)])
        cleansed.put_back(0, again=True)
        assert cleansed.path.read_bytes() == other + content

    def test_into_something_that_is_no_mailbox_nothing_is_written(self, cleansed: Cleansed) -> None:
        put(cleansed.home, b"notes")
        with pytest.raises(MailboxError, match="no mailbox"):
            cleansed.put_back(0)
        assert cleansed.path.read_bytes() == b"notes"
