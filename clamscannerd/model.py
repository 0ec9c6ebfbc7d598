"""The nouns of this program as frozen values and enums. Pure: no I/O, no clock.

Paths are bytes, relative to the account's home directory, without a leading slash and with no `.` or `..`
component; b"" never occurs for a file. Times are Unix epoch seconds (float), sizes bytes.
"""

from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta

PATH_MAX_BYTES = 4_095
"""Linux's PATH_MAX less the final NUL; a longer path is reported as not scanned."""

LOG_NAME = b".clamavconnector.disinfection.log"
"""The log's name in the home directory, given by cPanel's description."""

CAPTURE_PREFIX = b".clamscannerd-"
"""A captured file is called this and 32 hex digits, in its own directory (architecture, rule 5)."""


Int64 = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
"""What SQLite's INTEGER holds. Device, inode and mtime_ns are wrapped into it by `int64`: a user may set any mtime."""

Count = Annotated[int, Meta(ge=0, le=2**62)]
Sha256 = Annotated[bytes, Meta(min_length=32, max_length=32)]
Database = Annotated[int, Meta(ge=0, le=2**31)]
MailText = Annotated[str, Meta(max_length=200)]
RelPath = Annotated[bytes, Meta(min_length=1, max_length=PATH_MAX_BYTES)]


def int64(value: int) -> int:
    """An unsigned or over-long number as the kernel gives it, wrapped to 64 bits with sign: one to one for 64 bits."""
    return (value + 2**63) % 2**64 - 2**63


def is_beneath(path: bytes) -> bool:
    """Whether `path` is a lawful path beneath a home: relative, no NUL, no empty, `.` or `..` component."""
    return b"\0" not in path and not {b"", b".", b".."} & set(path.split(b"/"))


class Frozen(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all values: immutable, by keyword, compared by content."""


class Peer(Frozen, frozen=True, kw_only=True):
    """Who is at the other end of a connection: the kernel's word, read once at accept."""

    uid: int
    gid: int


class Account(Frozen, frozen=True, kw_only=True):
    """A passwd entry that passed the rules of service/accounts.py. State belongs to (uid, name)."""

    uid: int
    gid: int
    name: str
    home: bytes


class Verdict(StrEnum):
    """What may be said of one file. Nothing but the engine's own word on the whole file makes the first two."""

    CLEAN = "clean"
    INFECTED = "infected"
    NOT_SCANNED = "not_scanned"


class Reason(StrEnum):
    """Why a file was not scanned. The values are the keys of `not_scanned` on the wire."""

    TOO_BIG = "too_big"
    LIMIT = "limit"
    ENCRYPTED = "encrypted"
    UNREADABLE = "unreadable"
    CHANGED = "changed"
    VANISHED = "vanished"
    NOT_REGULAR = "not_regular"
    OTHER_FILESYSTEM = "other_filesystem"
    PATH_TOO_LONG = "path_too_long"
    EXCLUDED = "excluded"
    NO_SIGNATURES = "no_signatures"
    TIMED_OUT = "timed_out"
    ENGINE_ERROR = "engine_error"
    UNCHANGED = "unchanged"  # left out on purpose: a recent scan; of these no path is kept


class Depth(StrEnum):
    """What an earlier verdict on a file that did not change is worth to a scan."""

    FULL = "full"  # as much as one now, under the same signatures
    RAPID = "rapid"  # under earlier ones as well, for a time
    NOCACHE = "nocache"  # nothing


class Place(StrEnum):
    """What stands at a path beneath a home. Only the first two can be scanned."""

    DIRECTORY = "directory"
    FILE = "file"
    MISSING = "missing"
    LINK = "link"
    BEHIND_LINK = "behind_link"
    OTHER_FILESYSTEM = "other_filesystem"
    TOO_LONG = "too_long"
    SPECIAL = "special"
    UNREADABLE = "unreadable"


class Identity(Frozen, frozen=True, kw_only=True):
    """Which file content was meant: an action hits exactly this or nothing (rule 5)."""

    dev: Int64
    ino: Int64
    size: Count
    mtime_ns: Int64
    sha256: Sha256


class Action(StrEnum):
    IGNORE = "ignore"
    DELETE = "delete"
    QUARANTINE = "quarantine"
    CLEANSE_MAILBOX = "cleanse_mailbox"


class ScanState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    DONE = "done"
    CANCELLED = "cancelled"
    FAILED = "failed"


SCAN_ENDED = frozenset({ScanState.DONE, ScanState.CANCELLED, ScanState.FAILED})


class TaskKind(StrEnum):
    """Whatever changes a home is a task (rule 10). Only a disinfection has the log in the home and call 6."""

    DISINFECT = "disinfect"
    RESTORE = "restore"
    UNDO = "undo"


class TaskState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"


class StepState(StrEnum):
    WAITING = "waiting"
    DOING = "doing"
    ENDED = "ended"


class Outcome(StrEnum):
    """How a step ended; the values are `state` of a step record in the log."""

    DELETED = "deleted"
    QUARANTINED = "quarantined"
    MAILBOX_CLEANSED = "mailbox-cleansed"
    NO_ACTION = "no-action"
    ERROR = "error"


class RestoreOutcome(StrEnum):
    """How a step of a restore or an undo ended. Apart from Outcome, whose values are the contract's for the log."""

    RESTORED = "restored"
    NO_ACTION = "no-action"
    ERROR = "error"


class Grade(StrEnum):
    """Of a check, the worst first."""

    ERROR = "error"
    WARNING = "warning"
    OK = "ok"


class Check(Frozen, frozen=True, kw_only=True):
    """One thing that health looks at: what it is like, in a sentence, and what to do about it."""

    id: str
    grade: Grade
    message: str
    cure: str = ""


class FindingState(StrEnum):
    """`standing`: on the list of infected files. The others left it: acted on, or found gone or clean later."""

    STANDING = "standing"
    DELETED = "deleted"
    QUARANTINED = "quarantined"
    CLEANSED = "cleansed"
    CLEARED = "cleared"


class IgnoreKind(StrEnum):
    """What an entry of an ignore list goes by: a glob over paths, a signature's name, a content."""

    PATH = "path"
    SIGNATURE = "signature"
    SHA256 = "sha256"


class IgnoreEntry(Frozen, frozen=True, kw_only=True):
    """One entry of an account's ignore list. `value`: the glob (globs.py), the name in UTF-8, the 32 bytes."""

    id: int
    kind: IgnoreKind
    value: bytes
    note: str
    added_by: int
    added_at: float
    expires_at: float | None


class Counts(Frozen, frozen=True, kw_only=True):
    """Progress of a scan. At its end scanned_files + sum(not_scanned) == total_files. `earlier`: of cached_files, how
    many were last checked with which earlier database."""

    total_files: Count = 0
    total_bytes: Count = 0
    scanned_files: Count = 0
    scanned_bytes: Count = 0
    infected_files: Count = 0
    cached_files: Count = 0
    not_scanned: dict[Reason, Count] = {}
    earlier: dict[Database, Count] = {}


class EngineInfo(Frozen, frozen=True, kw_only=True):
    """Which engine gave the verdicts, as `engine` in get_scan_status. `blind`: sentences, what it cannot report.
    `max_file_size`: bytes; what is larger was not scanned, as too big. 0: not known."""

    version: str = ""
    database: int = 0
    database_time: float = 0.0
    blind: tuple[str, ...] = ()
    max_file_size: int = 0


class Scan(Frozen, frozen=True, kw_only=True):
    """One scan of one account. Field meanings: state/schema.py."""

    id: int
    uid: int
    name: str
    scan_type: str
    paths: tuple[bytes, ...]
    state: ScanState
    asked_by: int
    asked_at: float
    started_at: float | None
    ended_at: float | None
    resumed: int
    counts: Counts
    engine: EngineInfo
    message: str
    excludes: tuple[bytes, ...] = ()
    since: float | None = None
    pauses: int = 0
    scheduled: bool = False
    depth: Depth = Depth.FULL


class Finding(Frozen, frozen=True, kw_only=True):
    """One infected file that a scan found. `mailbox`: messages in the mailbox that it is, infected or not, 0 when their
    number is unknown; None: it is no mailbox. `owner`: the file's uid, `engine`: the one that found it, without what it
    is blind to; None: not known."""

    id: int
    scan_id: int
    path: bytes
    identity: Identity
    signature: str
    state: FindingState
    found_at: float
    mailbox: int | None = None
    owner: int | None = None
    engine: EngineInfo | None = None


class MailMessage(Frozen, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One infected message of a finding: bytes `start` to `end` of the file, `number` counting from 1 in its mailbox.

    `number` 0: the file itself is the one message (Maildir). The texts are for people: decoded, one line, bounded.
    """

    number: Count
    start: Count
    end: Count
    message_id: MailText
    subject: MailText
    sender: MailText
    date: MailText
    signature: MailText
    sha256: Sha256


class Step(Frozen, frozen=True, kw_only=True):
    """One file of a task. `capture` is the random name committed before the worker is told (rule 5)."""

    task_id: int
    seq: int
    path: bytes
    action: Action
    finding_id: int
    identity: Identity
    signature: str
    state: StepState
    capture: bytes


class RestoreStep(Frozen, frozen=True, kw_only=True):
    """One item of a restore or an undo, taken from `path`, to stand at `target`. `make_dirs`: missing directories of
    the target are made. `force`: also if it is still detected. `capture` is as in Step."""

    task_id: int
    seq: int
    item_id: int
    path: bytes
    target: bytes
    make_dirs: bool
    force: bool
    state: StepState
    capture: bytes


class Task(Frozen, frozen=True, kw_only=True):
    """One disinfection, restore or undo. `public_id` has the form 00000000/5a9ec8dd4c345d; `undoes` is one too."""

    id: int
    public_id: str
    kind: TaskKind
    undoes: str
    uid: int
    name: str
    state: TaskState
    asked_by: int
    asked_at: float
    started_at: float | None
    ended_at: float | None


class Item(Frozen, frozen=True, kw_only=True):
    """One content in the vault."""

    id: int
    uid: int
    name: str
    task_id: int
    seq: int
    path: bytes
    action: Action
    size: int
    sha256: bytes
    signature: str
    kept_at: float
    expires_at: float
    engine: str = ""  # version of the engine whose scan found it, and of its signatures; "" and 0: not known
    database: int = 0
    part: int = 0  # 0: a whole file; else a message of the mailbox at `path`, the step's n-th
    start: int = 0  # of a message: the bytes of the mailbox that it took
    end: int = 0
    notice: bytes = b""  # of a message: SHA-256 of what stands there instead; empty until that was decided
