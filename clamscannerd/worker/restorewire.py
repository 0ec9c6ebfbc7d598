"""The messages between [daemon] and [worker] that are about restoring, sans-IO. Part of the closed set of messages.py.

daemon  RestoreJob, then again and again Restore, with one fd beside it
worker  (NeedSession <- Sessions | NoSession)* Restored
"""

from typing import Annotated

import msgspec
from msgspec import Meta

from clamscannerd.model import Count, Identity, Int64, RelPath, RestoreOutcome, Sha256, is_beneath
from clamscannerd.worker.wire import Message

XATTRS_MAX_BYTES = 64 * 1024
"""Of all extended attributes of one file together: the kernel's bound on a single one; ext4 holds 4 KiB in all."""

Xattrs = Annotated[bytes, Meta(max_length=XATTRS_MAX_BYTES)]
"""As worker/xattrs.py packs them; opaque to the daemon."""


class RestoreJob(Message, frozen=True, kw_only=True, tag=True, forbid_unknown_fields=True):
    """Put items of the vault back, one Restore at a time."""

    max_file_size: int
    file_deadline_s: float


class MessagePlace(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a message stood in its mailbox, the SHA-256 of the notice there, and what the notice is made of."""

    start: Count
    end: Count
    notice: Sha256
    item: int
    signature: str
    kept_at: float


class Restore(Message, frozen=True, kw_only=True, tag=True, forbid_unknown_fields=True):
    """One step; its content is the read-only fd beside this.

    `path`: where it is to stand. `make_dirs`: missing directories on the way are made. `capture`: the random name
    for a file that cannot be written without one. `again`: the step was begun before. `force`: also if it is detected.
    `message`: it is put back into the mailbox at `path`, instead of becoming a file.
    """

    seq: int
    path: RelPath
    make_dirs: bool
    capture: bytes
    again: bool
    force: bool
    size: int
    sha256: Sha256
    mode: int
    gid: int
    mtime_ns: Int64
    xattrs: Xattrs
    message: MessagePlace | None = None

    def __post_init__(self) -> None:
        if not is_beneath(self.path):
            raise ValueError("path is not beneath the home")


RestoreCommand = RestoreJob | Restore


class Standing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The file that stands at the target now. `mailbox`: it is one, by its content. `in_place`: of a message, that it
    stands where it was taken from, and was not appended."""

    identity: Identity
    mailbox: bool
    in_place: bool


class Restored(Message, frozen=True, kw_only=True, tag=True, forbid_unknown_fields=True):
    """How a step ended. Restored: it stands, whole and on disk. `signature`: what the engine detects in it now; then
    `standing` says what a later action will meet, unless it is gone again."""

    seq: Count
    outcome: RestoreOutcome
    message: str
    signature: str
    standing: Standing | None = None


RestoreReply = Restored
