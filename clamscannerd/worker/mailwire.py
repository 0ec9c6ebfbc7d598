"""The messages between [daemon] and [worker] that are about mailboxes, sans-IO. Part of the closed set of messages.py.

Scan, up, after the Found of a path: FoundMessages (several where the list is long, one without any where no single
message of a mailbox is infected).

Cleansing. What is told down stands in the store; `part` counts a step's contents from 1; `again` as in Act:
    daemon  Cleanse KnownMessages+ JournalRanges+
    worker  (MessageContent Chunk* ContentEnd <- MessageStored)*    contents into the vault
            Intents+ <- Journaled                                   what will be overwritten with what; then it is
            NeedOriginal <- Original                                after a crash, of a range that is neither
            Cleansed
Lists are sent in messages of bounded size, the last of which says so.
"""

import msgspec

from clamscannerd.model import Count, Identity, Int64, MailMessage, Outcome, RelPath, Sha256, is_beneath
from clamscannerd.worker.wire import Message

MAX_MESSAGES = 10_000
"""Infected messages of one mailbox that are listed, and that one step replaces: 1 MB of rows. More are counted."""

MESSAGES_IN_BATCH = 50
"""Four texts of 200 characters, each up to 4 bytes, and a signature: 50 stay below MAX_MESSAGE_BYTES."""

RANGES_IN_BATCH = 500
"""A hash or two, numbers and a short signature each."""

MAX_SIGNATURE = 200
"""Characters of one message's signature, as model.MailText: ClamAV's names stay below 100."""


class FoundMessages(Message, frozen=True, kw_only=True, tag=True, forbid_unknown_fields=True):
    """Of a file that was sent as found: its infected messages. `total`: how many of these there are, listed or not.

    `in_box`: messages that the mailbox has, infected or not; 0: it was not read to its end, or the file is no mailbox.
    """

    path: RelPath
    messages: tuple[MailMessage, ...]
    total: Count
    in_box: Count = 0

    def __post_init__(self) -> None:
        if not is_beneath(self.path):
            raise ValueError("path is not beneath the home")


class Cleanse(Message, frozen=True, kw_only=True, tag=True, forbid_unknown_fields=True):
    """One step. `token`: random, committed before; it marks this step's dotlock. `again`: it was begun before."""

    seq: int
    path: bytes
    identity: Identity
    token: bytes
    again: bool


class KnownMessage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A content that the scan found infected, and where it stood then."""

    sha256: Sha256
    signature: str
    start: int
    end: int


class KnownMessages(Message, frozen=True, kw_only=True, tag=True, forbid_unknown_fields=True):
    """What the scan found infected in the mailbox. `complete`: the list holds all of it."""

    seq: int
    messages: tuple[KnownMessage, ...]
    complete: bool
    last: bool


class Range(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The journal's word on one range: what stood there, what is to stand there, and what makes that up."""

    part: int
    start: int
    end: int
    before: bytes
    after: bytes
    item: int
    signature: str
    kept_at: float


class JournalRanges(Message, frozen=True, kw_only=True, tag=True, forbid_unknown_fields=True):
    """What was committed before a crash; empty on the first try."""

    seq: int
    ranges: tuple[Range, ...]
    last: bool


class MessageStored(Message, frozen=True, kw_only=True, tag=True, forbid_unknown_fields=True):
    """The content is on disk as `item`, or (`reason` not empty) it is not."""

    seq: int
    part: int
    item: int
    kept_at: float
    reason: str


class Journaled(Message, frozen=True, kw_only=True, tag=True, forbid_unknown_fields=True):
    """The intents are committed."""

    seq: int


class Original(Message, frozen=True, kw_only=True, tag=True, forbid_unknown_fields=True):
    """The content of a part as it was kept, as a read-only fd beside this; `reason` not empty: it cannot be had."""

    seq: int
    part: int
    reason: str


MailCommand = Cleanse | KnownMessages | JournalRanges | MessageStored | Journaled | Original


class MessageContent(Message, frozen=True, kw_only=True, tag=True, forbid_unknown_fields=True):
    """An infected message's content follows, with where it stood, and the mailbox's own owner, mode and time."""

    seq: int
    part: Count
    start: Count
    end: Count
    signature: str
    mode: Count
    uid: Count
    gid: Count
    mtime_ns: Int64

    def __post_init__(self) -> None:
        if self.end <= self.start or not self.signature or len(self.signature) > MAX_SIGNATURE:
            raise ValueError("no lawful range or signature")


class Intent(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The range of a part that was kept is to have this hash."""

    part: Count
    after: Sha256


class Intents(Message, frozen=True, kw_only=True, tag=True, forbid_unknown_fields=True):
    seq: int
    intents: tuple[Intent, ...]
    last: bool


class NeedOriginal(Message, frozen=True, kw_only=True, tag=True, forbid_unknown_fields=True):
    seq: int
    part: Count


class Cleansed(Message, frozen=True, kw_only=True, tag=True, forbid_unknown_fields=True):
    """How the step ended. `gone`: nothing infected stands there any more."""

    seq: int
    outcome: Outcome
    message: str
    gone: bool


MailReply = FoundMessages | MessageContent | Intents | NeedOriginal | Cleansed
