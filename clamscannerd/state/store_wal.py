"""The log beside state.db, looked at before SQLite opens it. [daemon] Runs in a thread, once, at start.

SQLite takes from a log what is whole and drops the rest without a word. After a loss of power that is right: the last
transaction may be there in part, and as each is synced before the next begins nobody was told of it. All else that is
dropped was acknowledged to somebody: two transactions or more, or any that state.db-shm knows of, which learns of one
after it was synced; or the whole log, where it was removed. That is a damaged disk or a person, and nothing is opened.
What is dropped lawfully is kept as a copy, and said. The vault then keeps what it would clean away, unless the index
shows that it was a kill: then nothing that anybody was told of is gone.

The layouts are SQLite's (sqlite.org/fileformat2.html, 4; sqlite.org/walformat.html, 2.1): a header of 32 bytes, then
frames of a header of 24 bytes and a page. A frame belongs to the log if it repeats the header's two salts; it ends a
transaction if it has the size of the database after it; the checksum runs on from frame to frame. After a log was begun
anew, frames with other salts follow.

Rejected: asking SQLite how far it read (wal_checkpoint moves what it read into the file first; and to close
state.db-shm while SQLite has it open takes away its locks).
"""

import logging
import os
import struct
import sys
from array import array
from pathlib import Path
from typing import BinaryIO, NamedTuple

from clamscannerd.errors import StateError

log = logging.getLogger(__name__)

COPIES = 5
"""Kept; older ones go. A machine that loses power more often has them all the same for weeks."""

_HEADER = struct.Struct(">8I")  # magic, format, page size, checkpoints, salts, checksum
_FRAME = struct.Struct(">6I")  # page, size of the database or 0, salts, checksum
_INDEX = struct.Struct("=16xI12x8s")  # of state.db-shm: the last frame, the log's salts as they stand in the log
_MAGIC = 0x377F0682  # with the last bit set: checksums over big-endian words
_PAGE_BYTES = 4096  # our databases have no other
_LAWFUL = 1  # transactions that a loss of power may leave in part


class Log(NamedTuple):
    """What SQLite will read of a log, and what it will drop: transactions of which at least the last frame is there."""

    frames: int
    dropped: int
    salts: bytes


def check_log(path: Path) -> bool:
    """Whether it is in doubt that all is there that the vault was told. Raises StateError. See the module."""
    wal, index = (path.with_name(path.name + end) for end in ("-wal", "-shm"))
    if not wal.exists():
        if index.exists():  # SQLite removes it first
            raise StateError(
                f"cannot open state {path}: {wal.name} is missing, and what was in it (restore it, or remove"
                f" {index.name} to go on without)"
            )
        return False
    read = read_log(wal)
    known = _known_frames(index, read.salts)
    missing = known - read.frames
    if read.dropped > _LAWFUL or missing > 0:
        what = f"{read.dropped} transactions in it cannot be read" if read.dropped else f"{missing} pages are cut off"
        raise StateError(
            f"cannot open state {path}: {wal.name} is damaged: {what} (restore a copy, or move it and {index.name} away"
            " to go on without it)"
        )
    if read.dropped:
        log.error("state: the last transaction in %s is not whole and is left out; kept as %s", wal, _keep(wal).name)
    has_index = index.exists()
    # A kill in mid-commit: the index knows just what was read, and nobody was told of more.
    killed = has_index and known == read.frames
    return (read.dropped > 0 and not killed) or (read.frames > 0 and not has_index)


def read_log(wal: Path) -> Log:
    with wal.open("rb") as file:
        head = file.read(_HEADER.size)
        if len(head) < _HEADER.size:
            return Log(0, 0, b"")
        magic, _, page_bytes, _, *salts, sum_0, sum_1 = _HEADER.unpack(head)
        swapped = (magic & 1 == 0) != (sys.byteorder == "little")
        sums = _checksum(head[:24], (0, 0), swapped=swapped)
        if magic & ~1 != _MAGIC or sums != (sum_0, sum_1):
            return Log(0, _ends(file, _FRAME.size + _PAGE_BYTES, None), b"")
        count = ended = 0
        while len(frame := file.read(_FRAME.size + page_bytes)) == _FRAME.size + page_bytes:
            _, size, *own, sum_0, sum_1 = _FRAME.unpack_from(frame)
            sums = _checksum(frame[:8] + frame[_FRAME.size :], sums, swapped=swapped)
            if own != salts or sums != (sum_0, sum_1):
                break
            count += 1
            ended = count if size else ended
        file.seek(_HEADER.size + count * (_FRAME.size + page_bytes))
        return Log(ended, _ends(file, _FRAME.size + page_bytes, salts), head[16:24])


def _known_frames(index: Path, salts: bytes) -> int:
    """How many of this very log were synced, as far as the index got to know; it may be an older one's, or none."""
    try:
        with index.open("rb") as file:
            head = file.read(_INDEX.size)
    except FileNotFoundError:
        return 0
    if len(head) < _INDEX.size:
        return 0
    frames, own = _INDEX.unpack(head)
    return int(frames) if own == salts else 0


def _ends(file: BinaryIO, frame_bytes: int, salts: list[int] | None) -> int:
    """From here on, transactions of which the last frame is there, if only in part. `salts` None: of any log."""
    count = 0
    while len(frame := file.read(frame_bytes)) >= _FRAME.size:
        _, size, *own, _, _ = _FRAME.unpack_from(frame)
        count += size > 0 and salts in (None, own)
    return count


def _checksum(data: bytes, sums: tuple[int, int], *, swapped: bool) -> tuple[int, int]:
    words = array("I", data)
    if swapped:
        words.byteswap()
    sum_0, sum_1 = sums
    pairs = iter(words)
    for first, second in zip(pairs, pairs, strict=True):
        sum_0 = (sum_0 + first + sum_1) & 0xFFFFFFFF
        sum_1 = (sum_1 + second + sum_0) & 0xFFFFFFFF
    return sum_0, sum_1


def _keep(wal: Path) -> Path:
    """A copy, on disk when this returns."""
    earlier = sorted((int(path.suffix[1:]), path) for path in wal.parent.glob(f"{wal.name}.torn.[0-9]*"))
    copy = wal.with_name(f"{wal.name}.torn.{earlier[-1][0] + 1 if earlier else 1}")
    with wal.open("rb") as source, open(os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as target:
        while data := source.read(1 << 20):
            target.write(data)
        target.flush()
        os.fsync(target.fileno())
    for _, path in earlier[: max(0, len(earlier) + 1 - COPIES)]:
        path.unlink()
    return copy
