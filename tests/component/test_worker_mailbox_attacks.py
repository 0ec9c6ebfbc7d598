"""Mailboxes whose cleanse somebody gets in the way of, who takes no lock; and mailboxes at the bounds."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from clamscannerd.model import Outcome
from clamscannerd.worker.mailbox import TRIES
from clamscannerd.worker.mailwire import MAX_MESSAGES
from clamscannerd.worker.messages import ActJob
from tests.component.test_mailboxes_generated import infected_messages
from tests.component.test_worker_mailbox import infected_spans, is_cleansed, letter, ordinary, outside, put
from tests.fakes.mail_peer import MAX_FILE_SIZE, TOKEN, Keeper, identity
from tests.fakes.mailboxes import INFECTION, INFECTION_NDB, Letter, render
from tests.fakes.realclamd import RealClamd
from tests.fakes.worker_peer import WorkerPeer

MESSAGES = ("MessageContent", "MessageStored", "Intents", "NeedSession", "Cleansed")


@pytest.fixture(scope="module")
def mail_clamd() -> Iterator[RealClamd]:
    with RealClamd(signatures={"test.ndb": INFECTION_NDB.encode()}) as running:
        yield running


@pytest.fixture
def home(tmp_path: Path) -> Path:
    path = tmp_path / "home"
    path.mkdir(mode=0o700)
    return path


@pytest.fixture
def worker(home: Path) -> Iterator[WorkerPeer]:
    with WorkerPeer(home) as peer:
        peer.send(ActJob(max_file_size=MAX_FILE_SIZE, file_deadline_s=30.0))
        yield peer


@pytest.fixture
def keeper(worker: WorkerPeer, mail_clamd: RealClamd) -> Keeper:
    return Keeper(worker, mail_clamd)


def once_before(keeper: Keeper, name: str, act: Callable[[], object]) -> None:
    """`act` before the answer to the first such message of the worker."""
    left = [act]

    def look(this: str) -> None:
        if this == name and left:
            left.pop()()

    keeper.before = look


class TestWithoutLocks:
    @pytest.mark.parametrize("name", ["MessageContent", "Intents"])
    def test_a_mailbox_whose_name_another_file_takes_is_not_called_cleansed(
        self, home: Path, keeper: Keeper, name: str
    ) -> None:
        """Its new file holds what was infected: somebody rewrote the mailbox from what they had read before."""
        box = ordinary()
        path = put(home, box.data)
        once_before(keeper, name, lambda: put(home, b"\n" + box.data, "new").rename(path))
        end = keeper.cleanse(path, home, infected_messages(path))
        assert (end.outcome, end.gone) == (Outcome.ERROR, False)
        assert "another file took its name" in end.message
        assert path.read_bytes() == b"\n" + box.data
        assert ("in the vault" in end.message) == bool(keeper.journal) == (name == "Intents")

    def test_a_letter_written_to_since_it_was_kept_is_not_overwritten(self, home: Path, keeper: Keeper) -> None:
        box = ordinary()
        path = put(home, box.data)
        start, end_ = infected_spans(box)[1]
        at = box.data.index(b"line 3", start, end_)

        def write() -> None:
            with path.open("r+b") as stream:
                stream.seek(at)
                stream.write(b"LINE")

        once_before(keeper, "Intents", write)
        end = keeper.cleanse(path, home, infected_messages(path))
        assert end.outcome is Outcome.ERROR
        assert "takes no lock" in end.message
        now = path.read_bytes()
        assert now[start:end_] == box.data[start:at] + b"LINE" + box.data[at + 4 : end_]
        assert outside(now, infected_spans(box)) == outside(box.data, infected_spans(box))

    def test_what_is_written_to_while_it_is_copied_is_untouched(self, home: Path, keeper: Keeper) -> None:
        """Kept and not yet journaled: nothing has happened, and the daemon drops what it has."""
        box = ordinary()
        path = put(home, box.data)
        changed = bytearray(box.data)
        changed[infected_spans(box)[0][0] + 200] ^= 1
        messages, who = infected_messages(path), identity(path)

        def write() -> None:
            with path.open("r+b") as stream:
                stream.write(changed)

        seen: list[str] = []

        def look(name: str) -> None:
            seen.append(name)
            if seen.count("MessageStored") == 2 and name == "MessageStored":
                write()

        keeper.before = look
        end = keeper.cleanse(path, home, messages, identity=who)
        assert (end.outcome, keeper.journal) == (Outcome.ERROR, [])
        assert "vault" not in end.message
        assert path.read_bytes() == changed

    @pytest.mark.parametrize("size", [0, 1000])
    def test_a_mailbox_that_became_shorter_does_not_grow_again(self, home: Path, keeper: Keeper, size: int) -> None:
        box = render([letter(1, infected=True, lines=5), letter(2), letter(3, infected=True, lines=2000)])
        path = put(home, box.data)
        once_before(keeper, "Intents", lambda: os.truncate(path, size))
        end = keeper.cleanse(path, home, infected_messages(path))
        assert end.outcome is Outcome.ERROR
        assert "in the vault: items 1, 2" in end.message
        assert path.stat().st_size == size

    @pytest.mark.parametrize("name", MESSAGES)
    @pytest.mark.parametrize("infected", [False, True])
    def test_mail_that_comes_at_any_moment_stays(self, home: Path, keeper: Keeper, name: str, infected: bool) -> None:
        """From one who had opened the mailbox before. The mailbox is known, so nothing is looked for beforehand."""
        box = ordinary()
        path = put(home, box.data)
        new = render([letter(8, infected=infected)]).data
        with path.open("ab", buffering=0) as stream:
            once_before(keeper, name, lambda: stream.write(new))
            end = keeper.cleanse(path, home, infected_messages(path))
        assert end.outcome is Outcome.MAILBOX_CLEANSED, end.message
        assert is_cleansed(path, box)
        now = path.read_bytes()[len(box.data) :]
        if infected and name != "Cleansed":  # what comes before the last look by the engine goes as well
            assert keeper.contents[3] == new
            assert (len(now), INFECTION in now) == (len(new), False)
        else:
            assert now == new
            assert len(keeper.contents) == 2

    @pytest.mark.parametrize("stale", [False, True])
    def test_a_mailbox_to_which_mail_comes_all_the_time_is_cleansed(
        self, home: Path, mail_clamd: RealClamd, stale: bool
    ) -> None:
        """Faster than the engine can look at it: no scan of the whole ever sees it unchanged."""
        box = ordinary()
        path = put(home, box.data)
        messages, who = infected_messages(path), identity(path)
        new = render([letter(8)]).data
        with WorkerPeer(home, code=RESTLESS % new.hex()) as worker:
            worker.send(ActJob(max_file_size=MAX_FILE_SIZE, file_deadline_s=30.0))
            keeper = Keeper(worker, mail_clamd)
            who = msgspec.structs.replace(who, size=1) if stale else who
            end = keeper.cleanse(path, home, [] if stale else messages, identity=who)
        assert end.outcome is Outcome.MAILBOX_CLEANSED, end.message
        assert end.message.startswith("2 messages replaced by a notice: items 1, 2")
        assert "could not be scanned" not in end.message
        assert is_cleansed(path, box)
        come = path.read_bytes()[len(box.data) :]
        assert come == new * (len(come) // len(new))
        assert len(come) >= len(new) * TRIES

    def test_one_that_is_clean_now_is_left_however_fast_mail_comes(self, home: Path, mail_clamd: RealClamd) -> None:
        scanned = put(home, ordinary().data, "scanned")
        messages, who = infected_messages(scanned), identity(scanned)
        box = render([letter(number) for number in range(1, 6)])
        path = put(home, box.data)
        with WorkerPeer(home, code=RESTLESS % render([letter(8)]).data.hex()) as worker:
            worker.send(ActJob(max_file_size=MAX_FILE_SIZE, file_deadline_s=30.0))
            keeper = Keeper(worker, mail_clamd)
            end = keeper.cleanse(path, home, messages, identity=who)
        assert (end.outcome, end.gone) == (Outcome.NO_ACTION, True)
        assert end.message == "it changed since the scan and is clean now: left as it is"
        assert path.read_bytes().startswith(box.data)
        assert keeper.contents == {}

    def test_a_mailbox_that_goes_away_under_the_engine_s_eyes_is_gone(self, home: Path, keeper: Keeper) -> None:
        path = put(home, ordinary().data)
        stale = msgspec.structs.replace(identity(path), size=1)
        once_before(keeper, "NeedSession", path.unlink)
        end = keeper.cleanse(path, home, [], identity=stale)
        assert (end.outcome, end.gone) == (Outcome.NO_ACTION, True)
        assert end.message == "it is gone: nothing was there to act on"
        assert os.listdir(home) == []


class TestBounds:
    @pytest.mark.parametrize("infected", [(1,), (7,), (1, 7), (3, 4), (1, 2), (6, 7), (1, 2, 3, 4, 5, 6, 7)], ids=str)
    @pytest.mark.parametrize("ending", [b"", b"\n"], ids=["whole", "cut"])
    def test_infected_messages_anywhere_and_side_by_side(
        self, home: Path, worker: WorkerPeer, infected: tuple[int, ...], ending: bytes
    ) -> None:
        """Without an engine, so by what the scan said alone."""
        box = render([letter(number, infected=number in infected) for number in range(1, 8)], final_blank=not ending)
        path = put(home, box.data.removesuffix(ending))
        size = path.stat().st_size
        messages = infected_messages(path)
        assert len(messages) == len(infected)
        keeper = Keeper(worker, None)
        assert keeper.cleanse(path, home, messages).outcome is Outcome.MAILBOX_CLEANSED
        now = bytearray(path.read_bytes())
        assert (len(now), INFECTION in now) == (size, False)
        for one in keeper.journal:
            now[one.start : one.end] = keeper.contents[one.item]
        assert now == box.data.removesuffix(ending)

    def test_one_message_that_is_all_of_the_mailbox(self, home: Path, worker: WorkerPeer) -> None:
        box = render([letter(1, infected=True)])
        path = put(home, box.data)
        keeper = Keeper(worker, None)
        assert keeper.cleanse(path, home, infected_messages(path)).outcome is Outcome.MAILBOX_CLEANSED
        assert keeper.contents == {1: box.data}
        assert b"[removed: " in path.read_bytes()

    def test_as_many_as_one_step_takes_pass_in_bounded_memory(self, home: Path, keeper: Keeper) -> None:
        """10,000 as the scan found them, side by side but for one."""
        letters = [Letter(headers=(b"X-N: %d" % number,), body=(INFECTION,)) for number in range(MAX_MESSAGES)]
        box = render([*letters[:50], letter(0), *letters[50:]])
        path = put(home, box.data)
        end = keeper.cleanse(path, home, infected_messages(path))
        assert end.outcome is Outcome.MAILBOX_CLEANSED
        assert end.message.startswith("10000 messages replaced")
        now = bytearray(path.read_bytes())
        assert INFECTION not in now
        for one in keeper.journal:
            now[one.start : one.end] = keeper.contents[one.item]
        assert now == box.data
        status = Path(f"/proc/{keeper.worker.process.pid}/status").read_text()
        peak_kb = int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])
        assert peak_kb < 32 * 1024

    @pytest.mark.parametrize("torn", [True, False])
    def test_more_torn_messages_than_open_files_are_allowed(
        self, home: Path, mail_clamd: RealClamd, torn: bool
    ) -> None:
        """After a power cut any page may be old or new; or a reader has rewritten the mailbox."""
        box = render([letter(number, infected=True) for number in range(60)])
        path = put(home, box.data)
        messages, who = infected_messages(path), identity(path)
        with WorkerPeer(home) as first:
            first.send(ActJob(max_file_size=MAX_FILE_SIZE, file_deadline_s=30.0))
            keeper = Keeper(first, mail_clamd)
            assert keeper.cleanse(path, home, messages).outcome is Outcome.MAILBOX_CLEANSED
        after = path.read_bytes()
        data = bytearray(after)
        for start, end_ in box.spans:
            middle = (start + end_) // 2
            data[middle:end_] = box.data[middle:end_] if torn else bytes(end_ - middle)
        put(home, bytes(data))
        with WorkerPeer(home, wrapper=["prlimit", "--nofile=40"]) as second:
            second.send(ActJob(max_file_size=MAX_FILE_SIZE, file_deadline_s=30.0))
            again = Keeper(second, mail_clamd)
            again.contents, again.journal = keeper.contents, keeper.journal
            end = again.cleanse(path, home, messages, again=True, identity=who)
        assert end.outcome is (Outcome.MAILBOX_CLEANSED if torn else Outcome.ERROR), end.message
        assert path.read_bytes() == (after if torn else data)
        assert torn or "not where they were: 60;" in end.message


RESTLESS = """
import os, sys
from clamscannerd.worker import feed, main
send = feed.Feed.send
def sending(self, flight):
    with open(sys.argv[2] + "/mbox", "ab") as stream:
        stream.write(bytes.fromhex("%s"))
    return send(self, flight)
feed.Feed.send = sending
sys.exit(main.serve(int(sys.argv[1]), os.fsencode(sys.argv[2]), os.getuid(), {}))
"""
IMPATIENT = """
import os, sys
from clamscannerd.worker import main, mailbox
mailbox.WAIT_S = 0.3
sys.exit(main.serve(int(sys.argv[1]), os.fsencode(sys.argv[2]), os.getuid(), {}))
"""
TOUCHING = """
import os, sys
from clamscannerd.worker import main, maillocks
maillocks._TOUCH_S = 0.0
sys.exit(main.serve(int(sys.argv[1]), os.fsencode(sys.argv[2]), os.getuid(), {}))
"""


class TestDotlock:
    """What a step that was given up has left behind is in nobody's way for long; others' locks are theirs."""

    @pytest.mark.parametrize(
        ("content", "age_s", "goes"),
        [
            (TOKEN[:-4] + b"9999", 200, True),
            (TOKEN[:-4] + b"9999", 60, False),
            (TOKEN[:-4] + b"9999", -200, False),
            (b"1234", 10**6, False),
            (b"", 10**6, False),
            (TOKEN + b"9", 10**6, False),
            (TOKEN[:-4] + b"9999\n", 10**6, False),
        ],
    )
    def test_only_an_old_one_of_another_step_is_removed(
        self, home: Path, mail_clamd: RealClamd, content: bytes, age_s: int, goes: bool
    ) -> None:
        path = put(home, ordinary().data)
        lock = path.with_name("mbox.lock")
        lock.write_bytes(content)
        now = lock.stat().st_mtime
        os.utime(lock, (now - age_s, now - age_s))
        with WorkerPeer(home, code=IMPATIENT) as worker:
            worker.send(ActJob(max_file_size=MAX_FILE_SIZE, file_deadline_s=30.0))
            end = Keeper(worker, mail_clamd).cleanse(path, home, infected_messages(path))
        assert (end.outcome is Outcome.MAILBOX_CLEANSED) == goes
        assert sorted(os.listdir(home)) == (["mbox"] if goes else ["mbox", "mbox.lock"])
        assert goes or (lock.read_bytes() == content and path.read_bytes() == ordinary().data)
        assert goes or "others hold mbox.lock" in end.message

    @pytest.mark.parametrize("kind", ["directory", "link"])
    def test_what_nobody_can_have_made_stays(self, home: Path, mail_clamd: RealClamd, kind: str) -> None:
        path = put(home, ordinary().data)
        lock = path.with_name("mbox.lock")
        if kind == "directory":
            lock.mkdir()
        else:
            lock.symlink_to(put(home, TOKEN, "victim"))
        with WorkerPeer(home, code=IMPATIENT) as worker:
            worker.send(ActJob(max_file_size=MAX_FILE_SIZE, file_deadline_s=30.0))
            end = Keeper(worker, mail_clamd).cleanse(path, home, infected_messages(path))
        assert "others hold mbox.lock" in end.message
        assert os.path.lexists(lock)
        assert path.read_bytes() == ordinary().data

    def test_it_is_touched_while_contents_go_to_the_vault(self, home: Path, mail_clamd: RealClamd) -> None:
        """A slow vault and many messages: mail software must not take the lock for left behind."""
        path = put(home, ordinary().data)
        lock = path.with_name("mbox.lock")
        stood: list[float] = []
        with WorkerPeer(home, code=TOUCHING) as worker:
            worker.send(ActJob(max_file_size=MAX_FILE_SIZE, file_deadline_s=30.0))
            keeper = Keeper(worker, mail_clamd)

            def look(name: str) -> None:
                if name == "MessageStored":
                    stood.append(lock.stat().st_mtime)
                    os.utime(lock, (1000, 1000))

            keeper.before = look
            assert keeper.cleanse(path, home, infected_messages(path)).outcome is Outcome.MAILBOX_CLEANSED
        assert len(stood) == 2
        assert min(stood) > 1000
