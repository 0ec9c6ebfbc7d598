"""What the calls answer, as types: for the description that rpc.discover gives, and for nothing else. Pure; [daemon].

The answers of the six calls are made in service/ as plain values in UAPI's shape; these types say that shape for a
machine to read. A test compares each with what a real daemon answers, key by key. Answers that are made as types
already (Quarantine.list and others) are described by those types.

Rejected: encoding answers through these types (a key that a newer contract adds would have to be in two places before
it could be answered), and JSON Schema by hand (five times as long, and nobody reads it).
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from clamscannerd.model import Check, Depth, EngineInfo, FindingState, Grade, IgnoreKind, Reason, ScanState, TaskState

Path = Annotated[str, Meta(description="A file name in wire form: see info.description.")]
TaskId = Annotated[str, Meta(pattern="^[0-9a-f]{8}/[0-9a-f]{14}$")]


class ScanPath(msgspec.Struct):
    """A type of scan that this account may start."""

    id: str
    message: str


class ScanStarted(msgspec.Struct):
    """`queue_position` 0: it runs, or is about to."""

    scan_id: int
    queue_position: int


class ScanBegun(ScanStarted):
    """`warnings`: why it may not begin, or not find, what one expects."""

    warnings: list[str]


class CheckedWith(msgspec.Struct):
    """So many files had their verdict of this database; `present`: the scan's own, else an earlier one."""

    database: int
    files: int
    present: bool


class ScanStatus(msgspec.Struct):
    """The latest scan. At its end scanned_file_count and the sum of not_scanned are total_file_count."""

    current_file: Annotated[str, Meta(description="Empty when there is none.")]
    infected_files: Annotated[list[Path], Meta(description="The first 1,000; list_infected_files has them all.")]
    scan_complete: Annotated[Literal[0, 1], Meta(description="1 for done, cancelled and failed.")]
    scanned_file_count: int
    scanned_file_size: int
    time_started: Annotated[str, Meta(description="Epoch seconds; the time of asking until it starts.")]
    total_file_count: int
    total_file_size_MiB: int
    scan_id: int
    scan_type: Annotated[str, Meta(description="Empty where paths were named.")]
    paths: list[Path]
    since: Annotated[float | None, Meta(description="Files that did not change since are left out.")]
    state: ScanState
    queue_position: int
    resumed: int
    infected_file_count: int
    ignored_file_count: Annotated[int | None, Meta(description="Of them; null: it took too long to tell.")]
    total_file_size: int
    not_scanned: Annotated[
        dict[Reason, int], Meta(description="Neither clean nor infected: count by reason; `unchanged` were left out.")
    ]
    excludes: Annotated[list[str], Meta(description="What the configuration leaves out; empty until it begins.")]
    cached_file_count: Annotated[int, Meta(description="Of those scanned, clean before and unchanged since.")]
    depth: Annotated[Depth, Meta(description="What a verdict of before is worth: see Scan.start.")]
    checked_with: Annotated[list[CheckedWith], Meta(description="Whose verdicts they are, the present one first.")]
    files_per_second: float
    eta_seconds: int | None
    engine: EngineInfo


class InfectedMessage(msgspec.Struct):
    """One message of a mailbox: bytes `start` to `end` of the file, `number` counting from 1."""

    number: int
    start: int
    end: int
    message_id: str
    subject: str
    from_: str = msgspec.field(name="from")
    date: str
    virus_type: str


class IgnoredBy(msgspec.Struct):
    """The entry of the account's ignore list that covers a file."""

    id: int
    kind: IgnoreKind
    note: str


class FindingEngine(msgspec.Struct):
    """The engine that found it: a scan may use several."""

    version: str
    database: int


class InfectedFile(msgspec.Struct):
    """The file as it was when it was found; times are epoch seconds, `owner` a uid (null: not known, as for
    `engine`). A mailbox has `messages` and `message_count` (null: not known), a file that is one message `message_id`,
    `subject`, `from` and `date`. `ignored`: it is infected, and none of the others of disinfect_files."""

    file: Path
    virus_type: str
    size: int
    mtime: float
    owner: int | None
    found_at: float
    engine: FindingEngine | None
    ignored: IgnoredBy | msgspec.UnsetType = msgspec.UNSET
    messages: list[InfectedMessage] | msgspec.UnsetType = msgspec.UNSET
    message_count: int | msgspec.UnsetType | None = msgspec.UNSET
    message_id: str | msgspec.UnsetType = msgspec.UNSET
    subject: str | msgspec.UnsetType = msgspec.UNSET
    from_: str | msgspec.UnsetType = msgspec.field(default=msgspec.UNSET, name="from")
    date: str | msgspec.UnsetType = msgspec.UNSET


class DisinfectionStarted(msgspec.Struct):
    """`log`: the file in the home that the records are written to as well."""

    log: Path
    task_id: TaskId


class StepRecord(msgspec.Struct, tag_field="type", tag="step"):
    id: int
    file: Path
    state: Literal["deleted", "quarantined", "mailbox-cleansed", "restored", "no-action", "error"]
    message: str | msgspec.UnsetType = msgspec.UNSET


class IssueRecord(msgspec.Struct, tag_field="type", tag="issue"):
    id: int
    state: Literal["error", "warning"]
    message: str


class DoneRecord(msgspec.Struct, tag_field="type", tag="done"):
    """The last one."""

    id: int
    status: Literal["done"]
    state: Literal["success", "info", "error"]
    message: str | msgspec.UnsetType = msgspec.UNSET


Record = StepRecord | IssueRecord | DoneRecord


class DisinfectionStatus(msgspec.Struct):
    """The latest disinfection; `details` are its records after `last_id`, at most 10,000 an answer."""

    details: list[Record]
    log: Path
    status: Literal["none", "queued", "running", "done"]


class ScanCancelled(msgspec.Struct):
    scan_id: int
    state: ScanState


class ScanPaused(ScanCancelled):
    """`state` is paused, unless the scan ended first."""


class ScanResumed(ScanCancelled):
    """`queue_position` 0: it runs, or is about to."""

    queue_position: int


class ScanShown(msgspec.Struct):
    """As get_scan_status, without its list of files. `findings`: of what it found, how many are in which state now."""

    current_file: str
    scan_complete: Literal[0, 1]
    scanned_file_count: int
    scanned_file_size: int
    time_started: str
    time_ended: float | None
    total_file_count: int
    total_file_size_MiB: int
    scan_id: int
    scan_type: Annotated[str, Meta(description="Empty where paths were named.")]
    paths: list[Path]
    since: Annotated[float | None, Meta(description="Files that did not change since are left out.")]
    state: ScanState
    queue_position: int
    resumed: int
    infected_file_count: int
    ignored_file_count: Annotated[int | None, Meta(description="Of them; null: not the latest, or too long to tell.")]
    total_file_size: int
    not_scanned: dict[Reason, int]
    excludes: list[str]
    cached_file_count: int
    depth: Depth
    checked_with: list[CheckedWith]
    files_per_second: float
    eta_seconds: int | None
    engine: EngineInfo
    warnings: list[str]
    asked_by: int
    scheduled: Annotated[bool, Meta(description="A timer's: others go first.")]
    findings: dict[FindingState, int]


class Scans(msgspec.Struct):
    scans: list[ScanShown]


class FoundFile(msgspec.Struct):
    """`state`: what became of it; `cleared`: gone or clean since, or it stands in a later scan's list."""

    file: Path
    virus_type: str
    state: FindingState
    ignored: IgnoredBy | msgspec.UnsetType = msgspec.UNSET


class NotScannedFile(msgspec.Struct):
    file: Path
    reason: Reason


class ScanWhole(ScanShown):
    """As in Scan.list, and a page of each list."""

    files: list[FoundFile]
    not_scanned_files: list[NotScannedFile]


class AccountShown(msgspec.Struct):
    """`standing`: infected files that stand, of whichever scan; `ignored`: of them (null: it takes too long to say);
    the rest is of the latest scan, `findings` as in Scan.list."""

    user: str
    uid: int
    standing: int
    ignored: int | None
    scan_id: int
    scan_type: str
    state: ScanState
    time_started: float | None
    time_ended: float | None
    scanned_file_count: int
    infected_file_count: int
    not_scanned: dict[Reason, int]
    findings: dict[FindingState, int]
    engine: EngineInfo


class Accounts(msgspec.Struct):
    accounts: list[AccountShown]


class Subscribed(msgspec.Struct):
    user: str
    kinds: list[str]


class TaskStarted(msgspec.Struct):
    task_id: TaskId


class TaskWhole(msgspec.Struct):
    """`details`: its records; while more of them wait, `state` is not yet done. `undoes`: for an undo, of what."""

    task_id: TaskId
    kind: str
    state: TaskState
    undoes: TaskId | None
    asked_by: int
    asked_at: float
    started_at: float | None
    ended_at: float | None
    steps: int
    steps_ended: int
    details: list[Record]


class Health(msgspec.Struct):
    """`grade`: the worst of all. `checks`: the worst first."""

    grade: Grade
    checks: list[Check]


class Reloaded(msgspec.Struct):
    """`at_next_start`: keys whose change waits for a new start."""

    at_next_start: list[str]


class Version(msgspec.Struct):
    version: str
