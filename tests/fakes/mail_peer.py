"""The daemon's side of scans and cleanses of mailboxes, by hand: contents in a dict, the journal in a list."""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from clamscannerd.model import CAPTURE_PREFIX, Identity, MailMessage, int64
from clamscannerd.worker.mailwire import (
    RANGES_IN_BATCH,
    Cleanse,
    Cleansed,
    FoundMessages,
    Intents,
    Journaled,
    JournalRanges,
    KnownMessage,
    KnownMessages,
    MessageContent,
    MessageStored,
    NeedOriginal,
    Original,
    Range,
)
from clamscannerd.worker.messages import (
    Chunk,
    ContentEnd,
    Found,
    NeedSession,
    NoSession,
    Recheck,
    Reply,
    ScanJob,
    Scanned,
    Sessions,
)
from tests.fakes.realclamd import RealClamd
from tests.fakes.worker_peer import WorkerPeer, clamd_session

T = TypeVar("T")
TOKEN = CAPTURE_PREFIX + b"0123456789abcdef" * 2
KEPT_AT = 1_700_000_000.0
MAX_FILE_SIZE = 100 << 20


def _batches(values: tuple[T, ...]) -> Iterator[tuple[tuple[T, ...], bool]]:
    """As the daemon sends them, each with whether it is the last."""
    for start in range(0, max(1, len(values)), RANGES_IN_BATCH):
        yield values[start : start + RANGES_IN_BATCH], start + RANGES_IN_BATCH >= len(values)


def identity(path: Path) -> Identity:
    status = path.stat()
    return Identity(
        dev=int64(status.st_dev),
        ino=status.st_ino,
        size=status.st_size,
        mtime_ns=status.st_mtime_ns,
        sha256=hashlib.sha256(path.read_bytes()).digest(),
    )


def scan_job(**changes: object) -> ScanJob:
    """A scan of all, but for `changes`."""
    values: dict[str, object] = {
        "roots": (b".",),
        "excludes": (),
        "window": 4,
        "max_file_size": MAX_FILE_SIZE,
        "clean_allowed": True,
        "file_deadline_s": 30.0,
        "max_skipped": 100,
        "fds": 1,
    }
    return ScanJob(**(values | changes))  # type: ignore[arg-type]


def scan_replies(home: Path, clamd: RealClamd, **changes: object) -> tuple[list[Reply], Scanned]:
    """A scan of all: what the worker says, and its end."""
    with WorkerPeer(home) as worker, clamd_session(clamd.socket_path) as session:
        worker.send(scan_job(**changes), [session.fileno()])
        worker.send(Recheck(paths=(), last=True))
        return worker.until(Scanned)


def scan_home(home: Path, clamd: RealClamd, **changes: object) -> tuple[Scanned, dict[bytes, list[MailMessage]]]:
    """The same; its end, and for each infected file its infected messages."""
    found: dict[bytes, list[MailMessage]] = {}
    replies, end = scan_replies(home, clamd, **changes)
    for reply in replies:
        if isinstance(reply, Found):
            found |= {file.path: [] for file in reply.files}
        elif isinstance(reply, FoundMessages):
            found[reply.path] += reply.messages
    return end, found


class Keeper:
    """Serves one worker's cleanses. `before(name)` is called before each answer: tests crash or meddle there."""

    def __init__(self, worker: WorkerPeer, clamd: RealClamd | None) -> None:
        self.worker = worker
        self.contents: dict[int, bytes] = {}  # by item
        self.announced: dict[int, MessageContent] = {}  # by item
        self.journal: list[Range] = []
        self.before: Callable[[str], None] = lambda _: None
        self.refuse = ""
        self.sessions = 0
        self._clamd = clamd
        self._next_item = 1

    def cleanse(
        self,
        path: Path,
        home: Path,
        known: Sequence[MailMessage],
        *,
        again: bool = False,
        complete: bool = True,
        **changes: object,
    ) -> Cleansed:
        """One step, from the command to its end."""
        values: dict[str, object] = {
            "seq": 1,
            "path": os.fsencode(path.relative_to(home)),
            "token": TOKEN,
            "again": again,
        }
        if "identity" not in changes:
            changes["identity"] = identity(path)
        self.worker.send(Cleanse(**(values | changes)))  # type: ignore[arg-type]
        messages = tuple(
            KnownMessage(sha256=one.sha256, signature=one.signature, start=one.start, end=one.end) for one in known
        )
        for batch, last in _batches(messages):
            self.worker.send(KnownMessages(seq=1, messages=batch, complete=complete, last=last))
        for ranges, last in _batches(tuple(self.journal)):
            self.worker.send(JournalRanges(seq=1, ranges=ranges, last=last))
        return self.serve()

    def serve(self) -> Cleansed:
        after: dict[int, bytes] = {}
        fresh: dict[int, int] = {}  # part -> item
        while True:
            reply = self.worker.receive()
            self.before(type(reply).__name__)
            match reply:
                case Cleansed():
                    return reply
                case MessageContent():
                    item = self._content(reply)
                    if item:
                        fresh[reply.part] = item
                case Intents():
                    after |= {one.part: one.after for one in reply.intents}
                    if reply.last:
                        self.journal += [self._range(part, fresh[part], after[part]) for part in fresh]
                        after, fresh = {}, {}
                        self.worker.send(Journaled(seq=1))
                case NeedOriginal():
                    self._lend(reply.part)
                case NeedSession():
                    self._session()
                case _:
                    raise AssertionError(reply)

    def _content(self, announced: MessageContent) -> int:
        data = b""
        while isinstance(reply := self.worker.receive(), Chunk):
            data += reply.data
        assert isinstance(reply, ContentEnd)
        if reply.reason:
            return 0
        assert hashlib.sha256(data).digest() == reply.sha256
        assert len(data) == announced.end - announced.start
        self.before("MessageStored")
        item, self._next_item = self._next_item, self._next_item + 1
        self.contents[item], self.announced[item] = data, announced
        self.worker.send(MessageStored(seq=1, part=announced.part, item=item, kept_at=KEPT_AT, reason=self.refuse))
        return item

    def _range(self, part: int, item: int, after: bytes) -> Range:
        said = self.announced[item]
        return Range(
            part=part,
            start=said.start,
            end=said.end,
            before=hashlib.sha256(self.contents[item]).digest(),
            after=after,
            item=item,
            signature=said.signature,
            kept_at=KEPT_AT,
        )

    def _lend(self, part: int) -> None:
        (item,) = (one.item for one in self.journal if one.part == part)
        fd = os.memfd_create("original")
        try:
            os.write(fd, self.contents[item])
            self.worker.send(Original(seq=1, part=part, reason=""), [fd])
        finally:
            os.close(fd)

    def _session(self) -> None:
        self.sessions += 1
        if self._clamd is None:
            self.worker.send(NoSession(reason="no engine answers"))
            return
        with clamd_session(self._clamd.socket_path) as session:
            self.worker.send(Sessions(fds=1, max_file_size=MAX_FILE_SIZE, clean_allowed=True), [session.fileno()])
