"""Mailboxes scanned and cleansed by a real worker and a real clamd; this side plays the daemon and mail software."""

import fcntl
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from clamscannerd.engine.clamproto import FILDES_MESSAGE
from clamscannerd.model import MailMessage, Outcome, int64
from clamscannerd.worker.mailwire import FoundMessages
from clamscannerd.worker.messages import ActJob, Found, NeedSession, NoSession, Progress, Recheck, Scanned
from tests.fakes.mail_peer import MAX_FILE_SIZE, TOKEN, Keeper, identity, scan_home, scan_job, scan_replies
from tests.fakes.mailboxes import INFECTION, INFECTION_NDB, Letter, Mailbox, render
from tests.fakes.realclamd import RealClamd, ndb
from tests.fakes.worker_peer import WorkerPeer

ACROSS = b"the end of one\n\nFrom alice@example.org"
"""A signature that only the mailbox as a whole can match."""
IMPATIENT = """
import os, sys
from clamscannerd.worker import main, mailbox
mailbox.WAIT_S = 0.3
sys.exit(main.serve(int(sys.argv[1]), os.fsencode(sys.argv[2]), os.getuid(), {}))
"""


@pytest.fixture(scope="module")
def mail_clamd() -> Iterator[RealClamd]:
    signatures = INFECTION_NDB.encode() + ndb("Test.Across", ACROSS)
    with RealClamd(signatures={"test.ndb": signatures}) as running:
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


def letter(number: int, *, infected: bool = False, lines: int = 20) -> Letter:
    body = tuple(b"line %d of letter %d" % (line, number) for line in range(lines))
    headers = (
        b"From: a@example.org",
        b"Subject: =?utf-8?B?SGFsbMO2Y2hlbg==?= %d" % number,
        b"Message-ID: <%d@example.org>" % number,
        b"Date: Thu, 29 Nov 2001 22:33:52 +0000",
    )
    return Letter(headers=headers, body=body + ((INFECTION,) if infected else ()), infected=infected)


def ordinary() -> Mailbox:
    """Seven letters, the second and the fifth infected."""
    return render([letter(number, infected=number in (2, 5)) for number in range(1, 8)])


def put(home: Path, data: bytes, name: str = "mbox") -> Path:
    path = home / name
    path.write_bytes(data)
    os.utime(path, ns=(1_600_000_000 * 10**9, 1_600_000_100 * 10**9))
    return path


def known(home: Path, clamd: RealClamd, path: Path) -> list[MailMessage]:
    return scan_home(home, clamd)[1][os.fsencode(path.relative_to(home))]


def outside(data: bytes, spans: Sequence[tuple[int, int]]) -> bytes:
    """All but these ranges, which become zeros."""
    rest = bytearray(data)
    for start, end in spans:
        rest[start:end] = bytes(end - start)
    return bytes(rest)


def infected_spans(box: Mailbox) -> list[tuple[int, int]]:
    return [span for span, infected in zip(box.spans, box.infected, strict=True) if infected]


def is_cleansed(path: Path, box: Mailbox) -> bool:
    """Nothing but the infected messages changed, and they did."""
    data = path.read_bytes()
    spans = infected_spans(box)
    same = len(data) >= len(box.data) and outside(data[: len(box.data)], spans) == outside(box.data, spans)
    return same and INFECTION not in data[: len(box.data)]


def cpu_s(worker: WorkerPeer) -> float:
    words = Path(f"/proc/{worker.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def bytes_read(worker: WorkerPeer) -> int:
    lines = Path(f"/proc/{worker.process.pid}/io").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("rchar:")).split()[1])


class TestScan:
    def test_the_infected_messages_of_a_mailbox_are_named(self, home: Path, mail_clamd: RealClamd) -> None:
        box = ordinary()
        path = put(home, box.data)
        second, fifth = known(home, mail_clamd, path)
        assert (second.number, second.start, second.end) == (2, *box.spans[1])
        assert (fifth.number, fifth.start, fifth.end) == (5, *box.spans[4])
        assert second.subject == "Hallöchen 2"
        assert second.message_id == "<2@example.org>"
        assert second.sender == "a@example.org"
        assert second.date == "Thu, 29 Nov 2001 22:33:52 +0000"
        assert second.signature == "Test.Mailbox.UNOFFICIAL"

    def test_a_file_that_is_one_message_names_it(self, home: Path, mail_clamd: RealClamd) -> None:
        data = b"From: a@b\nTo: c@d\nMessage-ID: <1@x>\nSubject: one\n\n" + INFECTION
        path = put(home, data, "1700000000.M1P1.host:2,S")
        (message,) = known(home, mail_clamd, path)
        assert (message.number, message.end, message.message_id, message.subject) == (0, len(data), "<1@x>", "one")

    def test_what_is_no_mail_has_no_messages(self, home: Path, mail_clamd: RealClamd) -> None:
        assert known(home, mail_clamd, put(home, b"just " + INFECTION, "a.php")) == []

    def test_a_mailbox_over_the_engine_s_limit_is_scanned_message_by_message(
        self, home: Path, mail_clamd: RealClamd
    ) -> None:
        box = ordinary()
        put(home, box.data)
        put(home, render([letter(1)] * 9).data, "clean")
        end, found = scan_home(home, mail_clamd, max_file_size=len(box.data) // 2)
        assert [message.number for message in found[b"mbox"]] == [2, 5]
        assert set(found) == {b"mbox"}
        assert end.counts.not_scanned == {"too_big": 1}
        assert end.counts.infected_files == end.counts.scanned_files == 1

    def test_a_worker_whose_engine_is_slow_sleeps(self, home: Path) -> None:
        put(home, render([letter(number) for number in range(50)]).data)
        ours, theirs = socket.socketpair()
        with ours, WorkerPeer(home) as worker:
            with theirs:
                worker.send(scan_job(window=2, max_file_size=3_000), [theirs.fileno()])
            worker.send(Recheck(paths=(), last=True))
            for _ in range(2):
                assert ours.recv(len(FILDES_MESSAGE), socket.MSG_WAITALL) == FILDES_MESSAGE
            before_s = cpu_s(worker)
            for _ in range(5):  # a second, by the worker's own clock
                worker.expect(Progress)
            assert cpu_s(worker) - before_s < 0.25
            ours.close()
            worker.expect(NeedSession)
            worker.send(NoSession(reason="enough"))
            assert not worker.until(Scanned)[1].complete

    def test_each_mailbox_says_how_many_messages_it_has_infected_or_not(
        self, home: Path, mail_clamd: RealClamd
    ) -> None:
        """Also one that is detected as a whole only, and one over the engine's limit; not what is one message."""
        put(home, ordinary().data, "seven")
        put(home, render([letter(1, infected=True)]).data, "one")
        put(home, render([Letter(headers=letter(n).headers, body=(b"the end of one",)) for n in (1, 2)]).data, "whole")
        put(home, render([letter(n, infected=n == 3, lines=400) for n in range(1, 10)]).data, "large")
        put(home, b"From: a@b\nTo: c@d\nSubject: one\n\n" + INFECTION, "message")
        put(home, b"just " + INFECTION, "a.php")
        replies, _ = scan_replies(home, mail_clamd, max_file_size=20_000)
        boxes = {file.path: file.mailbox for reply in replies if isinstance(reply, Found) for file in reply.files}
        counts = {one.path: (one.in_box, one.total) for one in replies if isinstance(one, FoundMessages)}
        assert boxes == {
            b"seven": True,
            b"one": True,
            b"whole": True,
            b"large": True,
            b"message": False,
            b"a.php": False,
        }
        assert counts == {b"seven": (7, 2), b"one": (1, 1), b"whole": (2, 0), b"large": (9, 1), b"message": (0, 1)}

    def test_many_mailboxes_at_once_are_told_apart(self, home: Path, mail_clamd: RealClamd) -> None:
        for number in range(30):
            put(home, render([letter(number), letter(number + 100, infected=True)]).data, f"box{number}")
        _, found = scan_home(home, mail_clamd)
        assert {path: [one.message_id for one in messages] for path, messages in found.items()} == {
            b"box%d" % number: [f"<{number + 100}@example.org>"] for number in range(30)
        }

    def test_an_infection_across_messages_has_none_of_its_own(self, home: Path, mail_clamd: RealClamd) -> None:
        path = put(home, render([Letter(body=(b"the end of one",)), Letter()]).data)
        assert known(home, mail_clamd, path) == []


class TestCleanse:
    def test_infected_messages_become_notices_and_all_else_stays(
        self, home: Path, keeper: Keeper, mail_clamd: RealClamd
    ) -> None:
        box = ordinary()
        path = put(home, box.data)
        messages, who = known(home, mail_clamd, path), identity(path)
        os.utime(path, ns=(1_600_000_000 * 10**9, who.mtime_ns))  # new mail: nobody has read it since it came
        before = path.stat()
        end = keeper.cleanse(path, home, messages, identity=who)
        after = path.stat()
        assert end.outcome is Outcome.MAILBOX_CLEANSED
        assert end.message == "2 messages replaced by a notice: items 1, 2"
        assert is_cleansed(path, box)
        assert list(keeper.contents.values()) == [box.data[start:end] for start, end in infected_spans(box)]
        assert (after.st_ino, after.st_size) == (before.st_ino, before.st_size)
        assert (after.st_mtime_ns, after.st_atime_ns) == (before.st_mtime_ns, before.st_atime_ns)
        assert os.listdir(home) == ["mbox"]
        assert scan_home(home, mail_clamd)[1] == {}

    def test_no_engine_is_asked_before_the_end_where_nothing_changed(
        self, home: Path, worker: WorkerPeer, mail_clamd: RealClamd
    ) -> None:
        path = put(home, ordinary().data)
        end = Keeper(worker, None).cleanse(path, home, known(home, mail_clamd, path))
        assert end.outcome is Outcome.MAILBOX_CLEANSED
        assert "could not be scanned again: no engine answers" in end.message

    @pytest.mark.parametrize("data", [b"just " + INFECTION, b"", b"From: a@b\n\n" + INFECTION])
    def test_what_is_no_mailbox_is_untouched(self, home: Path, keeper: Keeper, data: bytes) -> None:
        path = put(home, data)
        end = keeper.cleanse(path, home, [])
        assert (end.outcome, end.message) == (Outcome.ERROR, "cannot cleanse it: it is no mailbox (mbox)")
        assert path.read_bytes() == data

    def test_a_mailbox_that_did_not_change_is_read_once(
        self, home: Path, keeper: Keeper, mail_clamd: RealClamd
    ) -> None:
        box = render([letter(1, lines=200_000), letter(2, infected=True), letter(3, lines=200_000)])
        path = put(home, box.data)
        messages = known(home, mail_clamd, path)
        before = bytes_read(keeper.worker)
        assert keeper.cleanse(path, home, messages).outcome is Outcome.MAILBOX_CLEANSED
        assert is_cleansed(path, box)
        assert len(box.data) <= bytes_read(keeper.worker) - before < 1.2 * len(box.data)

    def test_a_change_that_the_times_do_not_show_is_told(
        self, home: Path, keeper: Keeper, mail_clamd: RealClamd
    ) -> None:
        box = ordinary()
        path = put(home, box.data)
        messages, who = known(home, mail_clamd, path), identity(path)
        at = box.data.index(b"line 3 of letter 4")
        changed = box.data[:at] + b"LINE" + box.data[at + 4 :]
        put(home, changed)
        assert path.stat().st_ino == int64(who.ino)
        end = keeper.cleanse(path, home, messages, identity=who)
        assert end.outcome is Outcome.ERROR
        assert "without a lock or a trace in its times" in end.message
        assert "messages of it are in the vault: items 1, 2" in end.message
        assert outside(path.read_bytes(), infected_spans(box)) == outside(changed, infected_spans(box))

    def test_a_message_that_is_not_where_it_was_is_looked_for(
        self, home: Path, keeper: Keeper, mail_clamd: RealClamd
    ) -> None:
        path = put(home, ordinary().data)
        messages, who = known(home, mail_clamd, path), identity(path)
        letters = ordinary().letters
        box = render([letters[index] for index in (1, 0, 2, 3, 4, 5, 6)])  # of one length: neither size nor time tells
        put(home, box.data)
        end = keeper.cleanse(path, home, messages, identity=who)
        assert end.outcome is Outcome.MAILBOX_CLEANSED
        assert is_cleansed(path, box)

    def test_infected_as_a_whole_and_in_no_message_is_untouched(self, home: Path, keeper: Keeper) -> None:
        data = render([Letter(body=(b"the end of one",)), Letter()]).data
        path = put(home, data)
        end = keeper.cleanse(path, home, [])
        assert end.outcome is Outcome.ERROR
        assert "no single message" in end.message
        assert path.read_bytes() == data

    def test_what_the_vault_refuses_leaves_the_mailbox_untouched(
        self, home: Path, keeper: Keeper, mail_clamd: RealClamd
    ) -> None:
        path = put(home, ordinary().data)
        keeper.refuse = "cannot keep it: the vault is full"
        end = keeper.cleanse(path, home, known(home, mail_clamd, path))
        assert (end.outcome, end.message) == (Outcome.ERROR, "cannot keep it: the vault is full")
        assert path.read_bytes() == ordinary().data
        assert os.listdir(home) == ["mbox"]

    def test_a_file_that_is_gone_is_no_action(self, home: Path, keeper: Keeper) -> None:
        path = put(home, ordinary().data)
        who = identity(path)
        path.unlink()
        end = keeper.cleanse(path, home, [], identity=who)
        assert (end.outcome, end.gone) == (Outcome.NO_ACTION, True)

    @pytest.mark.parametrize("kind", ["symlink", "hardlink", "directory", "fifo"])
    def test_what_is_no_plain_file_of_one_name_is_an_error(
        self, home: Path, keeper: Keeper, tmp_path: Path, kind: str
    ) -> None:
        victim = put(tmp_path, ordinary().data, "victim")
        path = home / "mbox"
        make: dict[str, Callable[[], object]] = {
            "symlink": lambda: path.symlink_to(victim),
            "hardlink": lambda: path.hardlink_to(victim),
            "directory": path.mkdir,
            "fifo": lambda: os.mkfifo(path),
        }
        make[kind]()
        assert keeper.cleanse(path, home, [], identity=identity(victim)).outcome is Outcome.ERROR
        assert victim.read_bytes() == ordinary().data

    def test_mail_that_came_since_the_scan_is_scanned_and_stays_or_goes(
        self, home: Path, keeper: Keeper, mail_clamd: RealClamd
    ) -> None:
        first = ordinary()
        path = put(home, first.data)
        messages, who = known(home, mail_clamd, path), identity(path)
        new = render([letter(8), letter(9, infected=True)])
        with path.open("ab") as stream:
            stream.write(new.data)
        end = keeper.cleanse(path, home, messages, identity=who)
        assert end.message.startswith("3 messages replaced")
        both = render([*first.letters, *new.letters])
        assert is_cleansed(path, both)

    def test_a_mailbox_rewritten_since_the_scan_is_scanned_message_by_message(
        self, home: Path, keeper: Keeper, mail_clamd: RealClamd
    ) -> None:
        path = put(home, ordinary().data)
        messages, who = known(home, mail_clamd, path), identity(path)
        box = render([letter(7), letter(5, infected=True), letter(20, infected=True)])
        path.write_bytes(box.data)
        assert keeper.cleanse(path, home, messages, identity=who).message.startswith("2 messages replaced")
        assert is_cleansed(path, box)

    def test_a_mailbox_that_is_clean_now_is_left(self, home: Path, keeper: Keeper, mail_clamd: RealClamd) -> None:
        path = put(home, ordinary().data)
        messages, who = known(home, mail_clamd, path), identity(path)
        path.write_bytes(render([letter(7)]).data)
        end = keeper.cleanse(path, home, messages, identity=who)
        assert (end.outcome, end.gone) == (Outcome.NO_ACTION, True)

    def test_what_the_scan_did_not_know_is_taken_out_in_a_further_round(
        self, home: Path, keeper: Keeper, mail_clamd: RealClamd
    ) -> None:
        path = put(home, ordinary().data)
        second, _ = known(home, mail_clamd, path)
        end = keeper.cleanse(path, home, [second])
        assert end.message.startswith("2 messages replaced")
        assert is_cleansed(path, ordinary())

    def test_the_same_message_twice_goes_twice(self, home: Path, keeper: Keeper, mail_clamd: RealClamd) -> None:
        box = render([letter(1, infected=True), letter(2), letter(1, infected=True)])
        path = put(home, box.data)
        assert keeper.cleanse(path, home, known(home, mail_clamd, path)).message.startswith("2 messages")
        assert is_cleansed(path, box)

    def test_large_messages_pass_in_bounded_memory(self, home: Path, keeper: Keeper, mail_clamd: RealClamd) -> None:
        box = render([letter(1, lines=400_000), letter(2, infected=True, lines=1_500_000), letter(3, infected=True)])
        path = put(home, box.data)
        messages = known(home, mail_clamd, path)
        assert keeper.cleanse(path, home, messages).outcome is Outcome.MAILBOX_CLEANSED
        assert is_cleansed(path, box)
        status = Path(f"/proc/{keeper.worker.process.pid}/status").read_text()
        peak_kb = int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])
        assert peak_kb < 32 * 1024


LOCKS = ["dotlock", "fcntl", "flock"]


class TestLocks:
    def hold(self, path: Path, kind: str) -> Callable[[], None]:
        """Take one lock as mail software does; the way to give it back. POSIX locks belong to a process."""
        if kind == "dotlock":
            lock = path.with_name(path.name + ".lock")
            lock.write_text("1234")
            return lock.unlink
        if kind == "flock":
            stream = path.open("r+b")
            fcntl.flock(stream, fcntl.LOCK_EX)
            return stream.close
        fd = os.open(path, os.O_RDWR)
        fcntl.fcntl(fd, fcntl.F_SETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
        return lambda: os.close(fd)

    @pytest.mark.parametrize("kind", LOCKS)
    def test_a_mailbox_locked_for_ever_is_an_error_after_a_while(
        self, home: Path, mail_clamd: RealClamd, kind: str
    ) -> None:
        path = put(home, ordinary().data)
        messages, who = known(home, mail_clamd, path), identity(path)
        release = self.hold(path, kind)  # a POSIX lock goes with any fd of the file that this process closes
        with WorkerPeer(home, code=IMPATIENT) as worker:
            worker.send(ActJob(max_file_size=MAX_FILE_SIZE, file_deadline_s=30.0))
            end = Keeper(worker, mail_clamd).cleanse(path, home, messages, identity=who)
        assert end.outcome is Outcome.ERROR
        assert "others hold" in end.message
        assert path.read_bytes() == ordinary().data
        if kind == "dotlock":
            assert path.with_name("mbox.lock").read_text() == "1234"
        release()
        assert os.listdir(home) == ["mbox"]

    @pytest.mark.parametrize("kind", LOCKS)
    def test_all_three_are_held_while_contents_go_to_the_vault(
        self, home: Path, keeper: Keeper, mail_clamd: RealClamd, kind: str
    ) -> None:
        path = put(home, ordinary().data)
        taken: list[bool] = []

        def look(name: str) -> None:
            if name == "MessageStored":
                taken.append(self.is_taken(path, kind))

        keeper.before = look
        keeper.cleanse(path, home, known(home, mail_clamd, path))
        assert taken == [True, True]
        assert not self.is_taken(path, kind)

    def is_taken(self, path: Path, kind: str) -> bool:
        if kind == "dotlock":
            return path.with_name(path.name + ".lock").exists()
        call = "flock(f, LOCK_EX | LOCK_NB)" if kind == "flock" else "lockf(f, LOCK_EX | LOCK_NB)"
        code = f"from fcntl import *\nf = open({str(path)!r}, 'r+b')\n{call}"
        return subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode != 0

    def test_its_own_dotlock_from_before_a_crash_is_taken_over(
        self, home: Path, keeper: Keeper, mail_clamd: RealClamd
    ) -> None:
        path = put(home, ordinary().data)
        path.with_name("mbox.lock").write_bytes(TOKEN)
        end = keeper.cleanse(path, home, known(home, mail_clamd, path), again=True)
        assert end.outcome is Outcome.MAILBOX_CLEANSED
        assert os.listdir(home) == ["mbox"]
