"""The verdict files in the cache directory. [daemon, in threads: everything here blocks]

    secret      32 random bytes, from which each account's key is derived. It never goes down; a new one voids all files
    UID         an account's tables (table.py), behind a header that says what they are
    UID.spool   what scans said since: appended to while a scan runs, merged into the tables after it, or before the
                next one when it was interrupted. What is in it counts only once the header is there (`confirm`)

A file is made anew and renamed over the old one. Everything may be lost or torn by a power cut: what is not a lawful
header is dropped, and 64 bits under a key do not come about by accident. In the tables what was clean under an era that
cannot count any more is left out, so what has changed or gone takes room until the database's next update, at most
`max_entries` of it.

Sizes, on the disk and mapped, with ten files to a directory: 14.2 bytes a file (12.9 for it, 1.3 for its directory),
and with `cache.by_content` 12.9 more for each content that is another, 27 in all; 64 KiB for the header. A content's
fingerprint has 64 bits too, and is not worth fewer: what it is taken for is not scanned.

A table is filled in segments, so that a million files, their directories and contents take 8 MB to build (100,000 take
3), whatever the memory of the machine; Python's bytecode and no long call in C, so that the daemon's loop gets its turn
every millisecond (daemon_upkeep.py).

Rejected: tables made by the worker and sent up (15 MB more in each); a sort (holds Python's lock for a second).
"""

import contextlib
import hmac
import math
import os
import secrets
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from clamscannerd.cache.basis import Digest16, Era
from clamscannerd.cache.table import (
    KEY_BYTES,
    PRINT_BYTES,
    PROBES,
    SLOT_BYTES,
    insert,
    place_of,
    slots_for,
    table_bytes,
)
from clamscannerd.model import Account, Count, Frozen

KINDS: Final = ("files", "groups", "contents")

_MAGIC: Final = b"CSCDVC1\n"
_START: Final = 64 << 10
"""Of the tables: 255 eras take 30 kB at most."""

_MOST_ERAS: Final = 100
_SEGMENT_SLOTS: Final = 512 << 10
_FRAME: Final = struct.Struct("<BI")
_SPOOL_START: Final = 4 << 10
_BLOCK_SLOTS: Final = 8 << 10
_TABLE_MAX: Final = 1 << 40


class Table(Frozen, frozen=True, kw_only=True):
    """Where a table is in the file."""

    start: Annotated[int, Meta(ge=0, le=_TABLE_MAX)] = 0
    slots: Annotated[int, Meta(ge=0, le=_TABLE_MAX)] = 0
    count: Count = 0


class Header(Frozen, frozen=True, kw_only=True):
    """`account`: a tag of the account under the secret, so that a file under the wrong name is seen for what it is.
    `made_at`: if that is in the future the clock was set back since, and nothing of it counts."""

    account: Digest16
    made_at: float = 0.0
    eras: Annotated[tuple[Era, ...], Meta(max_length=_MOST_ERAS)]
    files: Table = Table()
    groups: Table = Table()
    contents: Table = Table()

    def tables(self) -> tuple[Table, ...]:
        return self.files, self.groups, self.contents


class CacheLimits(Frozen, frozen=True, kw_only=True):
    """`keep_s`: eras other than the present one are kept so long, for rapid scans; 0: not at all."""

    max_entries: int
    keep_s: float = 0.0


class Opened(Frozen, frozen=True, kw_only=True):
    """For one job. `fd`: -1 where nothing is known yet, else the caller's to close, opened for reading."""

    key: bytes
    fd: int
    header: Header


class Files:
    """All accounts' files. One job of an account at a time uses its own."""

    def __init__(self, directory: Path, limits: CacheLimits) -> None:
        self._directory = directory
        self.limits = limits  # replaced by a reload
        self._secret = b""

    def open(self, account: Account) -> Opened:
        """What is known of the account's files, and the key to look it up. OSError."""
        tag = self._derive(b"account", account)[:16]
        key = self._derive(b"verdicts", account)
        fd, header = self._read(account, tag)
        return Opened(key=key, fd=fd, header=header)

    def spool(self, account: Account) -> "Spool":
        """A new, empty one. What was in the old one has to be merged before. OSError."""
        path = self._path(account, ".spool")
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        return Spool(path, self._derive(b"account", account)[:16], self.limits.max_entries)

    def merge(self, account: Account, present: Era | None, now: float) -> None:
        """Bring what scans said into the tables. Eras that cannot count beside `present` go. OSError."""
        path = self._path(account, ".spool")
        try:
            spool = path.open("rb")
        except FileNotFoundError:
            return
        with spool:
            tag = self._derive(b"account", account)[:16]
            said = _spool_header(spool.read(_SPOOL_START))
            if said is not None and said.account == tag and os.fstat(spool.fileno()).st_size > _SPOOL_START:
                fd, old = self._read(account, tag)
                try:
                    with _Builder(self._path(account, ".new"), self.limits) as builder:
                        builder.build(spool.fileno(), said, fd, old, present or said.eras[0], now)
                    os.replace(self._path(account, ".new"), self._path(account))
                finally:
                    if fd >= 0:
                        os.close(fd)
        path.unlink()

    def keep(self, account: Account) -> None:
        """It was of use: `prune` leaves it."""
        with contextlib.suppress(FileNotFoundError):
            os.utime(self._path(account))

    def prune(self, before: float) -> None:
        """Files that were of no use since then go. OSError."""
        with contextlib.suppress(FileNotFoundError), os.scandir(self._directory) as entries:
            for entry in entries:
                if entry.name != "secret" and entry.stat(follow_symlinks=False).st_mtime < before:
                    os.unlink(entry.path)

    def _path(self, account: Account, suffix: str = "") -> Path:
        return self._directory / f"{account.uid}{suffix}"

    def _derive(self, purpose: bytes, account: Account) -> bytes:
        who = purpose + b"\0%d\0" % account.uid + account.name.encode(errors="surrogateescape")
        return hmac.digest(self._get_secret(), b"clamscannerd\0" + who, "sha256")

    def _get_secret(self) -> bytes:
        path = self._directory / "secret"
        if self._secret and path.exists():  # not after somebody removed the directory: the key is as good as public
            return self._secret
        self._directory.mkdir(mode=0o700, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            self._secret = path.read_bytes()
        if len(self._secret) != KEY_BYTES:
            self._secret = secrets.token_bytes(KEY_BYTES)
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with open(fd, "wb") as stream:
                stream.write(self._secret)
        return self._secret

    def _read(self, account: Account, tag: bytes) -> tuple[int, Header]:
        nothing = Header(account=tag, eras=())
        try:
            fd = os.open(self._path(account), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return -1, nothing
        header = _header(os.pread(fd, _START, 0))
        size = os.fstat(fd).st_size
        if (
            header is None
            or header.account != tag
            or any(one.start + table_bytes(one.slots) > size for one in header.tables())
        ):
            os.close(fd)
            return -1, nothing
        return fd, header


class Spool:
    """What one scan says, as it says it. `confirm` makes it count: until then the engine may not be what it seemed."""

    def __init__(self, path: Path, tag: bytes, max_entries: int) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._tag = tag
        self._room = max_entries
        self._at = _SPOOL_START
        self.confirmed = False
        self.count = 0

    def add(self, files: bytes, groups: bytes, contents: bytes) -> None:
        """Fingerprints, one after the other; what is over the limit is left out. OSError."""
        for kind, prints in enumerate((files, groups, contents), 1):
            taken = prints[: min(len(prints) // PRINT_BYTES, self._room) * PRINT_BYTES]
            if taken:
                frame = _FRAME.pack(kind, len(taken)) + taken
                if os.pwrite(self._fd, frame, self._at) != len(frame):
                    raise OSError("short write")
                self._at += len(frame)
                self._room -= len(taken) // PRINT_BYTES
                self.count += len(taken) // PRINT_BYTES

    def confirm(self, era: Era) -> None:
        """All of it, also what comes, is of this era. OSError."""
        head = _head(Header(account=self._tag, eras=(era,)), _SPOOL_START)
        os.pwrite(self._fd, head, 0)
        self.confirmed = True

    def close(self) -> None:
        os.close(self._fd)


class _Builder:
    """One new file of an account."""

    def __init__(self, path: Path, limits: CacheLimits) -> None:
        self._path = path
        self._limits = limits
        self._fd = -1

    def __enter__(self) -> "_Builder":
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        os.close(self._fd)
        if kind is not None:
            with contextlib.suppress(FileNotFoundError):
                self._path.unlink()

    def build(self, spool: int, said: Header, old_fd: int, old: Header, present: Era, now: float) -> None:
        """Everything of `spool`, and of the old file what still counts beside `present` and has room."""
        eras = [said.eras[0]]
        number = {}  # of an old era here
        for place, era in enumerate(old.eras if old.made_at <= now else (), 1):
            if era.basis == said.eras[0].basis:
                number[place] = 1
            elif len(eras) < _MOST_ERAS and self._counts(era, present, now):
                eras.append(era)
                number[place] = len(eras)
        new = [sum(len(prints) for at, prints in _frames(spool) if at == kind) // PRINT_BYTES for kind in (1, 2, 3)]
        kept = [one.count if number else 0 for one in old.tables()]
        if sum(new) + sum(kept) > self._limits.max_entries:
            kept, number, eras = [0, 0, 0], {}, eras[:1]
        tables: list[Table] = []
        at = _START
        for kind in range(3):
            slots = slots_for(new[kind] + kept[kind])
            was = _Old(old_fd, old.tables()[kind] if kept[kind] else Table(), number)
            count = self._fill(at, slots, spool, kind + 1, was)
            tables.append(Table(start=at, slots=slots, count=count))
            at += table_bytes(slots)
        os.ftruncate(self._fd, at)
        whole = Header(
            account=said.account,
            made_at=now,
            eras=tuple(eras),
            files=tables[0],
            groups=tables[1],
            contents=tables[2],
        )
        os.pwrite(self._fd, _head(whole, _START), 0)
        os.fdatasync(self._fd)

    def _counts(self, era: Era, present: Era, now: float) -> bool:
        if era.basis == present.basis:
            return True
        return era.settings == present.settings and now - era.at < self._limits.keep_s

    def _fill(self, at: int, slots: int, spool: int, kind: int, old: "_Old") -> int:
        """One table, segment after segment. How many there are in it."""
        count, carried = 0, b""
        for base in range(0, slots, _SEGMENT_SLOTS):
            end = min(base + _SEGMENT_SLOTS, slots)
            segment = bytearray((end - base + PROBES) * SLOT_BYTES)
            segment[: len(carried)] = carried
            for print_ in _between(_spooled(spool, kind), base, end, slots):
                count += insert(segment, slots, base, print_, 1)
            for print_, era in old.between(base / slots, end / slots):
                if base <= place_of(print_, slots) < end:
                    count += insert(segment, slots, base, print_, era)
            body = (end - base) * SLOT_BYTES
            os.pwrite(self._fd, segment[:body], at + base * SLOT_BYTES)
            carried = bytes(segment[body:])
        if slots:
            os.pwrite(self._fd, carried, at + slots * SLOT_BYTES)
        return count


def _between(prints: Iterable[bytes], base: int, end: int, slots: int) -> Iterator[bytes]:
    """Those whose place is among these slots."""
    if base == 0 and end == slots:
        yield from prints
        return
    for print_ in prints:
        if base <= place_of(print_, slots) < end:
            yield print_


class _Old:
    """What is taken over of a table. `number`: of its eras in the new file."""

    def __init__(self, fd: int, table: Table, number: dict[int, int]) -> None:
        self._fd = fd
        self._table = table
        self._number = number

    def between(self, first: float, last: float) -> Iterator[tuple[bytes, int]]:
        """What it has in a share of its places, somewhat widely, with the new number of its era."""
        slots = self._table.slots
        if not slots:
            return
        begin = max(0, math.floor(slots * first) - 1)
        end = min(slots, math.ceil(slots * last) + 1) + PROBES
        for block in range(begin, end, _BLOCK_SLOTS):
            size = (min(block + _BLOCK_SLOTS, end) - block) * SLOT_BYTES
            data = os.pread(self._fd, size, self._table.start + block * SLOT_BYTES)
            for place in range(0, len(data) - PRINT_BYTES, SLOT_BYTES):
                if era := self._number.get(data[place + PRINT_BYTES]):
                    yield data[place : place + PRINT_BYTES], era


def _spooled(spool: int, kind: int) -> Iterator[bytes]:
    for one, prints in _frames(spool):
        if one == kind:
            for place in range(0, len(prints), PRINT_BYTES):
                yield prints[place : place + PRINT_BYTES]


def _frames(spool: int) -> Iterator[tuple[int, bytes]]:
    """Up to the end, or to what a power cut left."""
    at = _SPOOL_START
    while len(head := os.pread(spool, _FRAME.size, at)) == _FRAME.size:
        kind, size = _FRAME.unpack(head)
        if not 1 <= kind <= len(KINDS) or size % PRINT_BYTES or size > 1 << 20:
            return
        prints = os.pread(spool, size, at + _FRAME.size)
        if len(prints) != size:
            return
        yield kind, prints
        at += _FRAME.size + size


_LENGTH: Final = struct.Struct("<I")
_DECODER: Final = msgspec.msgpack.Decoder(Header)


def _head(header: Header, room: int) -> bytes:
    body = msgspec.msgpack.encode(header)
    head = _MAGIC + _LENGTH.pack(len(body)) + body
    if len(head) > room:
        raise OSError("the header is too long")
    return head


def _header(data: bytes) -> Header | None:
    begin = len(_MAGIC) + _LENGTH.size
    if not data.startswith(_MAGIC) or len(data) < begin:
        return None
    (size,) = _LENGTH.unpack_from(data, len(_MAGIC))
    try:
        return _DECODER.decode(data[begin : begin + size])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _spool_header(data: bytes) -> Header | None:
    header = _header(data)
    return header if header is not None and len(header.eras) == 1 else None
