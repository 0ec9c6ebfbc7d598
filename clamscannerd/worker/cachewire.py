"""What a scan is told of files that are known to be clean, and what it says of others, sans-IO. Part of messages.py.

The key is the account's own, derived from a secret that stays above: with it an account's worker can make up verdicts
of its own account, which it can anyhow, and of no other.
"""

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from clamscannerd.model import Count, Database
from clamscannerd.worker.wire import Message

PRINTS_BYTES: Final = 32 << 10
"""Fingerprints of one kind in one message."""

Prints = Annotated[bytes, Meta(max_length=PRINTS_BYTES)]


class Place(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table in the file (cache/table.py)."""

    start: Count = 0
    slots: Count = 0


class Known(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`filesystems`: statfs magics of those that keep ctime honestly. `settled_ns`: age of a ctime from which on it
    tells of every change. `standing`: for each era what it is worth (cache/basis.py). `file`: the last fd beside the
    message is the account's file, for reading. `by_content`: files are known by their contents as well.

    Of what was clean under an earlier database, so many of 2**32 are checked again, `turn` says which, and all that
    changed within `young_ns`. `databases`: of the eras, from number 1 on.
    """

    key: Annotated[bytes, Meta(min_length=32, max_length=32)]
    settled_ns: Count
    filesystems: tuple[Count, ...]
    standing: Annotated[bytes, Meta(min_length=256, max_length=256)] = bytes(256)
    files: Place = Place()
    groups: Place = Place()
    contents: Place = Place()
    file: bool = False
    by_content: bool = False
    databases: tuple[Database, ...] = ()
    recheck: Annotated[int, Meta(ge=0, le=1 << 32)] = 1 << 32
    turn: Annotated[int, Meta(ge=0, lt=1 << 32)] = 0
    young_ns: Count = 0


class Verified(Message, frozen=True, kw_only=True, tag=True, forbid_unknown_fields=True):
    """Clean now, and fit to be remembered: fingerprints, one after the other, 8 bytes each."""

    files: Prints = b""
    groups: Prints = b""
    contents: Prints = b""


CacheReply = Verified
