"""What the store takes and gives beyond model's nouns. [daemon] Frozen values; no I/O."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from clamscannerd.errors import RemoteProtocolError
from clamscannerd.model import Action, EngineInfo, FindingState, Frozen, Identity, Item, MailMessage, Outcome, Step

XATTRS_MAX_BYTES = 65_536
"""The kernel's bound on one extended attribute's value; all of a file together may have no more here."""


class StoreLimits(Frozen, frozen=True, kw_only=True):
    """Bounds of what is kept; defaults and reasons stand in config.State."""

    keep_per_account: int = 100
    keep_s: float = 180 * 86_400.0
    max_findings_per_scan: int = 100_000
    max_not_scanned_per_scan: int = 10_000


class NewFinding(Frozen, frozen=True, kw_only=True):
    """A file that the scan at hand found infected. `mailbox`: its messages may follow (add_messages). `owner`: its
    uid, where it is known; `engine`: the one that found it, likewise."""

    path: bytes
    identity: Identity
    signature: str
    mailbox: bool = False
    owner: int | None = None
    engine: EngineInfo | None = None


class FoundFile(NamedTuple):
    """Of a finding what an ignore list goes by; there may be 100,000 at once. `is_box`: it is a mailbox."""

    id: int
    path: bytes
    signature: str
    sha256: bytes
    is_box: bool


class FoundMail(Frozen, frozen=True, kw_only=True):
    """Infected messages of a finding, in the order of the mailbox. `complete`: these are all that it had."""

    messages: tuple[MailMessage, ...]
    complete: bool


class Redetected(Frozen, frozen=True, kw_only=True):
    """What a restore by force brought back although `signature` is detected in it, as it stands there.

    `mailbox`: the file is one. `in_place`: of a message, that it stands where it was taken from.
    """

    identity: Identity
    signature: str
    mailbox: bool
    in_place: bool


class NewStep(Frozen, frozen=True, kw_only=True):
    """One file of a task to be: path to signature are those of the finding it was chosen by."""

    path: bytes
    action: Action
    finding_id: int
    identity: Identity
    signature: str


class Job(Frozen, frozen=True, kw_only=True):
    """A queued scan or task, for the runner."""

    kind: Literal["scan", "task"]
    id: int
    uid: int
    name: str
    scheduled: bool = False


class Recovered(Frozen, frozen=True, kw_only=True):
    """What was under way when the last daemon ended, and is queued again."""

    scans: tuple[Job, ...] = ()
    tasks: tuple[Job, ...] = ()


class FileMeta(Frozen, frozen=True, kw_only=True):
    """What a restore needs beyond the content, as the worker says. `xattrs` is opaque to the daemon."""

    owner: int
    group: int
    mode: int
    mtime_ns: int
    xattrs: bytes = b""
    part: int = 0  # part to end: as in Item
    start: int = 0
    end: int = 0

    def __post_init__(self) -> None:
        if len(self.xattrs) > XATTRS_MAX_BYTES:
            raise RemoteProtocolError(f"cannot take extended attributes: {len(self.xattrs)} bytes are too many")


class Caps(Frozen, frozen=True, kw_only=True):
    """Bounds of one account's part of the vault."""

    max_bytes: int
    max_items: int


class ItemFile(Frozen, frozen=True, kw_only=True):
    """An item, and where in the vault its content is: a file, or a row of the small contents, of this random name."""

    item_id: int
    file: str
    state: Literal["receiving", "kept", "removed"]
    place: Literal["file", "blob"]


class Reservation(Frozen, frozen=True, kw_only=True):
    """Room for one content. `evicted`: copies of deleted files that gave way; their files are to be unlinked."""

    item_id: int
    evicted: tuple[ItemFile, ...] = ()


class Usage(Frozen, frozen=True, kw_only=True):
    """What an account has in the vault, contents being received included."""

    bytes: int
    items: int


class Statistics(Frozen, frozen=True, kw_only=True):
    """Since the store was opened. `waiting`: calls in line for the writer. `broken`: no call works any more."""

    reads: int
    writes: int
    waiting: int
    broken: bool


class SmallItem(Frozen, frozen=True, kw_only=True):
    """Room for one small content, reserved with its step."""

    item_id: int
    file: str
    step: Step


class SmallContent(Frozen, frozen=True, kw_only=True):
    """A small content on its way in, as the worker sent it."""

    item: SmallItem
    content: bytes
    meta: FileMeta


class StepEnd(Frozen, frozen=True, kw_only=True):
    """The end of one step of a group whose content is in the vault; meanings as of Store.end_step's parameters."""

    seq: int
    outcome: Outcome
    message: str | None
    file_text: str
    finding_id: int
    finding_state: FindingState
    item: int


class GroupTurn(Frozen, frozen=True, kw_only=True):
    """What one transaction does for the groups of a task that are under way: `ends` of the first, `kept` of the
    second, whose contents are on disk, and the steps of another to `begin`, with a capture name for each.

    `used`: of the account's part of the vault, as the turn before said; None: to be summed up.
    """

    task_id: int
    ends: Sequence[StepEnd] = ()
    kept: Sequence[SmallContent] = ()
    begin: Sequence[Step] = ()
    captures: Sequence[bytes] = ()
    used: Usage | None = None


class GroupTurned(Frozen, frozen=True, kw_only=True):
    """`records` of the steps that ended, as Store.end_step gives them; the steps that were begun, as far as there was
    room; `evicted` as in Reservation; `used`, no less than what is used now."""

    records: list[bytes]
    begun: list[SmallItem]
    evicted: list[ItemFile]
    used: Usage | None


class ItemEntry(Frozen, frozen=True, kw_only=True):
    """An item as shown to its owner. `task_public_id` is "" and `scan_id` 0 when they were pruned since."""

    item: Item
    meta: FileMeta
    task_public_id: str
    scan_id: int


class TaskProgress(Frozen, frozen=True, kw_only=True):
    """How far a task is."""

    steps: int
    ended: int
