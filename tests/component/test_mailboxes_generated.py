"""Generated mailboxes of every variant, cleansed and undone: 200 by default, CLAMSCANNERD_MAILBOXES=2000 for all."""

import hashlib
import mailbox
import os
import random
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clamscannerd.engine.clamproto import Reply, ReplyKind, Session
from clamscannerd.model import MailMessage, Outcome
from clamscannerd.worker.beneath import Kernel, open_home
from clamscannerd.worker.mailbox import Kept, Mailbox
from clamscannerd.worker.mailfile import messages_of
from clamscannerd.worker.mailrestore import put_back
from clamscannerd.worker.mbox import looks_like_mbox
from clamscannerd.worker.messages import ActJob
from tests.fakes import mailboxes
from tests.fakes.clamdclient import open_session, receive, send_fd
from tests.fakes.mail_peer import MAX_FILE_SIZE, TOKEN, Keeper
from tests.fakes.mailboxes import INFECTION, INFECTION_NDB
from tests.fakes.realclamd import RealClamd
from tests.fakes.worker_peer import WorkerPeer

KEPT = frozenset(
    [
        "date",
        "from",
        "to",
        "message-id",
        "content-length",
        "status",
        "x-status",
        "x-keywords",
        "x-uid",
        "x-imap",
        "x-imapbase",
    ]
)
NUMBER = int(os.environ.get("CLAMSCANNERD_MAILBOXES", "200"))


@pytest.fixture(scope="module")
def mail_clamd() -> Iterator[RealClamd]:
    with RealClamd(signatures={"test.ndb": INFECTION_NDB.encode()}) as running:
        yield running


def infected_messages(path: Path) -> list[MailMessage]:
    """What a scan finds, without its process: the messages that hold the infection."""
    data = path.read_bytes()
    with path.open("rb") as stream:
        found = [one for one in messages_of(stream.fileno(), len(data)) if one is not None]
    return [
        MailMessage(
            number=one.number,
            start=one.start,
            end=one.end,
            message_id=one.message_id,
            subject=one.subject,
            sender=one.sender,
            date=one.date,
            signature="Test.Mailbox",
            sha256=hashlib.sha256(data[one.start : one.end]).digest(),
        )
        for one in found
        if INFECTION in data[one.start : one.end]
    ]


@dataclass(frozen=True)
class Seen:
    """A message as Python's own mailbox module sees it."""

    text: bytes
    sender: str
    books: list[tuple[str, str]]
    """What a notice has to keep."""


def seen(path: Path) -> dict[int, Seen]:
    """Every message by where it begins: at each `From ` line, by that module's rule."""
    starts = [found.start() for found in re.finditer(rb"^From ", path.read_bytes(), re.MULTILINE)]
    box = mailbox.mbox(path, create=False)
    try:
        found = {}
        for start, key in zip(starts, box.keys(), strict=True):
            message = box[key]
            books = [(name, str(value)) for name, value in message.items() if name.lower() in KEPT]
            found[start] = Seen(text=box.get_bytes(key), sender=message.get_from(), books=books)
        return found
    finally:
        box.close()


class Bench:
    """One worker for all examples, one mailbox at a time."""

    def __init__(self, home: Path, worker: WorkerPeer, clamd: RealClamd) -> None:
        self.home, self.worker, self.clamd = home, worker, clamd
        self.path = home / "mbox"
        self.engine, self.session = open_session(clamd.socket_path), Session()

    def verdict(self) -> Reply:
        """What clamd says of the mailbox, asked by this side."""
        with self.path.open("rb") as stream:
            sent = send_fd(self.engine, self.session, stream.fileno())
            (reply,) = receive(self.engine, self.session, 1)
        assert reply.id == sent
        return reply

    def cleanse(self, data: bytes) -> tuple[Outcome, str, Keeper, list[MailMessage]]:
        self.path.write_bytes(data)
        messages = infected_messages(self.path)
        keeper = Keeper(self.worker, self.clamd)
        end = keeper.cleanse(self.path, self.home, messages)
        assert self.path.stat().st_size == len(data)
        assert len({one.start for one in keeper.journal}) == len(keeper.journal), "a notice was replaced"
        now = bytearray(self.path.read_bytes())
        for one in keeper.journal:
            now[one.start : one.end] = keeper.contents[one.item]
        assert bytes(now) == data, "a byte outside of the replaced messages changed"
        return end.outcome, end.message, keeper, messages

    def undo(self, keeper: Keeper, order: random.Random | None = None) -> bytes:
        journal = list(keeper.journal)
        if order:
            order.shuffle(journal)
        for one in journal:
            content = os.memfd_create("content")
            home_fd = open_home(os.fsencode(self.home), os.getuid())
            kept = Kept(
                start=one.start,
                end=one.end,
                before=one.before,
                after=one.after,
                item=one.item,
                signature=one.signature,
                kept_at=one.kept_at,
            )
            try:
                os.write(content, keeper.contents[one.item])
                with Mailbox(Kernel(), home_fd, b"mbox", TOKEN, lambda _: None, known=True) as box:
                    put_back(box, kept, content, again=False)
            finally:
                os.close(home_fd)
                os.close(content)
        return self.path.read_bytes()


@pytest.fixture
def bench(tmp_path: Path, mail_clamd: RealClamd) -> Iterator[Bench]:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    with WorkerPeer(home) as worker:
        worker.send(ActJob(max_file_size=MAX_FILE_SIZE, file_deadline_s=30.0))
        bench = Bench(home, worker, mail_clamd)
        with bench.engine:
            yield bench


def test_every_variant_is_cleansed_and_undone(bench: Bench) -> None:
    @settings(
        max_examples=NUMBER,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(
        mailboxes.mailboxes().filter(lambda box: any(box.infected) and looks_like_mbox(box.data)),
        st.randoms(use_true_random=False),
    )
    def check(box: mailboxes.Mailbox, order: random.Random) -> None:
        outcome, message, keeper, messages = bench.cleanse(box.data)
        assert outcome is Outcome.MAILBOX_CLEANSED, message
        assert "again" not in message, "it was not scanned at the end"
        assert bench.verdict().kind is ReplyKind.OK
        assert [(one.start, one.end) for one in keeper.journal] == [(one.start, one.end) for one in messages]
        assert len(messages) == sum(box.infected)
        assert infected_messages(bench.path) == []
        check_reading(box, seen(write(bench.home / "before", box.data)), seen(bench.path))
        assert bench.undo(keeper, order) == box.data

    check()


def check_reading(box: mailboxes.Mailbox, before: dict[int, Seen], after: dict[int, Seen]) -> None:
    """Every message is still there for Python's mailbox: those that were clean as they were, the others as notices.

    In a body that is gone there may have been `From ` lines, which that module takes for beginnings.
    """
    taken = [span for span, infected in zip(box.spans, box.infected, strict=True) if infected]
    gone = before.keys() - after.keys()
    assert after.keys() <= before.keys()
    assert all(any(start < at < end for start, end in taken) for at in gone)
    notices = {start for start, _ in taken}
    for start, message in after.items():
        old = before[start]
        if start not in notices:
            assert message.text == old.text
            continue
        assert message.sender == old.sender
        assert not Counter(old.books) - Counter(message.books)


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_what_is_almost_a_mailbox_loses_nothing(bench: Bench) -> None:
    @settings(
        max_examples=max(20, NUMBER // 4),
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(st.one_of(mailboxes.wild(), mailboxes.wild().map(lambda data: mailboxes.FROM_LINE + b"\nA: b\n" + data)))
    def check(data: bytes) -> None:
        outcome, _, keeper, _ = bench.cleanse(data)
        assert outcome in (Outcome.MAILBOX_CLEANSED, Outcome.NO_ACTION, Outcome.ERROR)
        assert bench.undo(keeper) == data

    check()
