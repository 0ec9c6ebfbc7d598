"""The closed set of messages between [daemon] and [worker], sans-IO. Both ends use this file.

One message is one packet of a SOCK_SEQPACKET pair, msgpack with a tag, at most MAX_MESSAGE_BYTES: nothing to frame,
nothing half read. Fds go down beside a message that announces how many; none ever comes up. The daemon
believes no more of a reply than that its form is lawful: everything else is the worker's word about its own account.

Which messages are legal when:
    worker  ->  Hello                                         first of all
    daemon  ->  Probe | Look | SelfTest | ScanJob | ActJob | RestoreJob  once
    Probe:      -> Probed; Look: see lookwire.py
    SelfTest:   see testwire.py
    ScanJob:    daemon Recheck* Window Sessions Withdraw NoSession Cancel; worker Progress Found Skipped Cleared
                Verified NeedSession, in the end Scanned
    ActJob:     daemon Act ActGroup Log Sync Sessions NoSession; worker for Act: (Content Chunk* ContentEnd <- Stored)*
                Acted; for ActGroup: SmallFiles+, then for GroupStored: GroupActed; for the groups in their order;
                for Log: LogFailed at most once; for Sync: Synced
                Cleanse: see mailwire.py
    RestoreJob: see restorewire.py
    any job: worker Fault instead of its end
"""

import math
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta

from clamscannerd.errors import LocalProtocolError, RemoteProtocolError
from clamscannerd.model import Action, Count, Counts, Identity, Int64, Outcome, Reason, RelPath, Sha256, is_beneath
from clamscannerd.worker.cachewire import CacheReply, Known
from clamscannerd.worker.linewire import NeedSession as NeedSession
from clamscannerd.worker.linewire import NoSession as NoSession
from clamscannerd.worker.linewire import Sessions as Sessions
from clamscannerd.worker.linewire import Terms, Withdraw
from clamscannerd.worker.lookwire import LookCommand, LookReply
from clamscannerd.worker.mailwire import MailCommand, MailReply
from clamscannerd.worker.restorewire import RestoreCommand, RestoreReply, Xattrs
from clamscannerd.worker.testwire import SelfTest, SelfTested
from clamscannerd.worker.wire import Message as Message

MAX_MESSAGE_BYTES = 128 * 1024
"""Two chunks: large enough that a 100 MB file is 1,600 packets, small enough for the default socket buffer."""

CHUNK_BYTES = 64 * 1024

SMALL_XATTRS_BYTES = 4 * 1024
"""Of a file in a group: as many as ext4 keeps in all; a file with more goes alone. Fits a message beside a chunk."""

GROUPS_AT_ONCE = 2
"""Groups that a worker has captured and that are not stored: one is on its way to the disk, one comes after it."""

BATCH_BYTES = 48 * 1024
"""A list of paths is sent when it holds so much text: with its last path it still fits into one message."""

MAX_FDS = 16
"""Sessions that go down beside one message, and engines that one scan uses at once: each costs the worker an fd."""

MAX_TEXT = 1_000
"""Characters of a sentence from a worker; it cuts its own, a longer one is refused."""

MAX_QUOTED = 300
"""Characters of what is wrong with a message: enough for the path to the field and what stands there."""


# --- down: commands ---------------------------------------------------------------------------------------------


class Probe(Message, frozen=True, kw_only=True, tag=True, forbid_unknown_fields=True):
    """Which of these directories exist beneath the home."""

    paths: tuple[bytes, ...]


class ScanJob(Message, frozen=True, kw_only=True, tag=True, forbid_unknown_fields=True):
    """Scan everything beneath `roots` (relative to the home; b"." is the home itself) but for what `excludes` say: they
    are patterns (globs.py). `named`: somebody named these, files too; one that is not there is said to have vanished,
    and not passed over. `since_ns`: files whose ctime is before it are left out. `known`: see cachewire.py; `terms`:
    linewire.py."""

    roots: tuple[bytes, ...]
    excludes: tuple[bytes, ...]
    window: int
    max_file_size: int
    clean_allowed: bool
    file_deadline_s: float
    max_skipped: int
    fds: int
    file_cpu_s: float = math.inf
    named: bool = False
    since_ns: Int64 | None = None
    known: Known | None = None
    terms: tuple[Terms, ...] = ()


class Recheck(Message, frozen=True, kw_only=True, tag=True, forbid_unknown_fields=True):
    """Found before: look at these first. The last such message has `last`."""

    paths: tuple[bytes, ...]
    last: bool


class Window(Message, frozen=True, kw_only=True, tag=True, forbid_unknown_fields=True):
    """How many files this worker may have at the engine from now on."""

    window: int


class Cancel(Message, frozen=True, kw_only=True, tag=True, forbid_unknown_fields=True):
    """End the scan now; Scanned comes with what was counted."""


class ActJob(Message, frozen=True, kw_only=True, tag=True, forbid_unknown_fields=True):
    """Act on files, one Act at a time, and write the log."""

    max_file_size: int
    file_deadline_s: float
    file_cpu_s: float = math.inf


class Act(Message, frozen=True, kw_only=True, tag=True, forbid_unknown_fields=True):
    """One step. `again`: it was begun before, so the captured file may be there. `stored`: its content is in the
    vault already, with this SHA-256. `keep`: send the content (else delete without a copy)."""

    seq: int
    path: bytes
    action: Action
    identity: Identity
    capture: bytes
    again: bool
    stored: bytes
    keep: bool


class ActGroup(Message, frozen=True, kw_only=True, tag=True, forbid_unknown_fields=True):
    """Steps with small contents, none of them begun before: captured and sent together, GroupStored, unlinked together.

    Whatever is not plain about one of them leaves it untouched, for an Act of its own.
    """

    steps: tuple[Act, ...]


class GroupStored(Message, frozen=True, kw_only=True, tag=True, forbid_unknown_fields=True):
    """These contents of the group are on disk and their rows committed. The others get their names back."""

    seqs: tuple[int, ...]


class Stored(Message, frozen=True, kw_only=True, tag=True, forbid_unknown_fields=True):
    """The content of a step is on disk and its row committed, or (`reason` not empty) it is not."""

    seq: int
    reason: str


class Log(Message, frozen=True, kw_only=True, tag=True, forbid_unknown_fields=True):
    """Whole lines for the log in the home. `fresh`: they start a new log."""

    fresh: bool
    lines: bytes


class Sync(Message, frozen=True, kw_only=True, tag=True, forbid_unknown_fields=True):
    """Answer when everything before was done."""


Command = (
    Probe | LookCommand | ScanJob | Recheck | Window | Sessions | Withdraw | NoSession | Cancel
    | ActJob | Act | ActGroup | GroupStored | Stored | Log | Sync
    | MailCommand | RestoreCommand | SelfTest
)  # fmt: skip


# --- up: replies ------------------------------------------------------------------------------------------------


class Hello(Message, frozen=True, kw_only=True, tag=True, forbid_unknown_fields=True):
    """First of all. `home_error` is not empty when the home cannot be worked in: a sentence."""

    version: str
    seals: dict[str, int]
    home_error: str


class _AnyHello(msgspec.Struct, frozen=True, kw_only=True, tag="Hello"):
    """What every version's Hello has, whatever else there is in it."""

    version: str


class Probed(Message, frozen=True, kw_only=True, tag=True, forbid_unknown_fields=True):
    """For each path of Probe: whether a directory stands there."""

    exists: tuple[bool, ...]


class Progress(Message, frozen=True, kw_only=True, tag=True, forbid_unknown_fields=True):
    """At least every second while a scan runs: it is also the sign of life. `wants`: files at the engine at most since
    the last one; wire.HELD_BACK where the window allowed no more."""

    counts: Counts
    current: bytes
    wants: Count = 0


class FoundFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One infected file. `mailbox`: it is an mbox; its messages follow in FoundMessages, if it comes so far.
    `owner`: the uid of the open file. `engine`: the number (Terms) of the one that found it."""

    path: RelPath
    identity: Identity
    signature: str
    mailbox: bool = False
    owner: Count | None = None
    engine: Count | None = None

    def __post_init__(self) -> None:
        if not is_beneath(self.path):
            raise ValueError("path is not beneath the home")


class Found(Message, frozen=True, kw_only=True, tag=True, forbid_unknown_fields=True):
    files: tuple[FoundFile, ...]


class SkippedFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One file that was not scanned."""

    path: RelPath
    reason: Reason

    def __post_init__(self) -> None:
        if not is_beneath(self.path):
            raise ValueError("path is not beneath the home")


class Skipped(Message, frozen=True, kw_only=True, tag=True, forbid_unknown_fields=True):
    files: tuple[SkippedFile, ...]


class Cleared(Message, frozen=True, kw_only=True, tag=True, forbid_unknown_fields=True):
    """Of the paths to look at again: these are clean now, or gone."""

    paths: tuple[RelPath, ...]


class Scanned(Message, frozen=True, kw_only=True, tag=True, forbid_unknown_fields=True):
    """The scan ended. `complete`: the tree was walked to its end."""

    counts: Counts
    complete: bool
    reason: str


class Content(Message, frozen=True, kw_only=True, tag=True, forbid_unknown_fields=True):
    """The content of a captured file follows; with what restoring needs."""

    seq: int
    size: Count
    mode: Count
    uid: Count
    gid: Count
    mtime_ns: Int64
    xattrs: Xattrs = b""


class Chunk(Message, frozen=True, kw_only=True, tag=True, forbid_unknown_fields=True):
    seq: int
    data: Annotated[bytes, Meta(max_length=CHUNK_BYTES)]


class ContentEnd(Message, frozen=True, kw_only=True, tag=True, forbid_unknown_fields=True):
    """All of it was sent. `reason` not empty: forget it (it was not the content that was meant)."""

    seq: int
    sha256: Sha256
    signature: str
    reason: str


class Acted(Message, frozen=True, kw_only=True, tag=True, forbid_unknown_fields=True):
    """How a step ended. `gone`: nothing infected stands at the path any more. `put_back`: the file was captured and
    has a name of its own again, so a copy in the vault is not the only one."""

    seq: int
    outcome: Outcome
    message: str
    gone: bool
    put_back: bool


class SmallFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A captured file of a group: its content, whole, and what restoring needs."""

    seq: int
    data: Annotated[bytes, Meta(max_length=CHUNK_BYTES)]
    mode: Count
    uid: Count
    gid: Count
    mtime_ns: Int64
    xattrs: Annotated[bytes, Meta(max_length=SMALL_XATTRS_BYTES)] = b""


class SmallFiles(Message, frozen=True, kw_only=True, tag=True, forbid_unknown_fields=True):
    """Contents of a group, as many as fit into a message; `last`: no more come."""

    files: tuple[SmallFile, ...]
    last: bool


class GroupActed(Message, frozen=True, kw_only=True, tag=True, forbid_unknown_fields=True):
    """How the steps of a group ended. One that is missing was left untouched, or put back, for an Act of its own."""

    ends: tuple[Acted, ...]


class LogFailed(Message, frozen=True, kw_only=True, tag=True, forbid_unknown_fields=True):
    message: str


class Synced(Message, frozen=True, kw_only=True, tag=True, forbid_unknown_fields=True):
    pass


class Fault(Message, frozen=True, kw_only=True, tag=True, forbid_unknown_fields=True):
    """The worker's own failure, with its traceback's last lines: for the daemon's log, never for a user."""

    text: str


Reply = (
    Hello | Probed | LookReply | Progress | Found | Skipped | Cleared | NeedSession | Scanned
    | Content | Chunk | ContentEnd | Acted | SmallFiles | GroupActed | LogFailed | Synced | Fault | MailReply
    | RestoreReply | SelfTested | CacheReply
)  # fmt: skip

T = TypeVar("T")

_ENCODER = msgspec.msgpack.Encoder()
_COMMANDS: msgspec.msgpack.Decoder[Command] = msgspec.msgpack.Decoder(Command)
_REPLIES: msgspec.msgpack.Decoder[Reply] = msgspec.msgpack.Decoder(Reply)
_HELLOS = msgspec.msgpack.Decoder(_AnyHello)


def encode(message: Message) -> bytes:
    """The packet for `message`. Raises LocalProtocolError when it is over the limit."""
    data = _ENCODER.encode(message)
    if len(data) > MAX_MESSAGE_BYTES:
        raise LocalProtocolError(f"cannot send {type(message).__name__}: {len(data)} bytes")
    return data


def decode_command(packet: bytes) -> Command:
    """What the daemon said. Raises RemoteProtocolError on anything that is no lawful message."""
    return _decode(_COMMANDS, packet)


def decode_reply(packet: bytes) -> Reply:
    """What a worker said. Raises RemoteProtocolError on anything that is no lawful message."""
    reply = _decode(_REPLIES, packet)
    for field in ("text", "message", "reason", "home_error", "signature"):
        if len(getattr(reply, field, "")) > MAX_TEXT:
            raise RemoteProtocolError(f"cannot take {type(reply).__name__}: {field} is too long")
    return reply


def hello_version(packet: bytes) -> str:
    """The version in a Hello of any version of this program; "" for what is no Hello.

    An upgrade may have changed every message, Hello too: who cannot read it must still see that it is another's.
    """
    try:
        return _HELLOS.decode(packet).version
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""


def _decode(decoder: "msgspec.msgpack.Decoder[T]", packet: bytes) -> T:
    if len(packet) > MAX_MESSAGE_BYTES:
        raise RemoteProtocolError(f"cannot take a message of {len(packet)} bytes")
    try:
        return decoder.decode(packet)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        # msgspec quotes what it does not know as it came: any characters, as many as fit into a packet.
        raise RemoteProtocolError(f"cannot take a message: {ascii(str(error))[:MAX_QUOTED]}") from None
