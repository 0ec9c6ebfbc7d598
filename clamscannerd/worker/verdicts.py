"""Files that are known to be clean are not sent again. [worker]

A file is known by device, inode, size, mtime_ns and ctime_ns, hashed under the account's key; and the files of a whole
directory by one hash over all of that, so that an unchanged directory costs one look into a table: per file it was
measured to take twice as long as `find`, per directory little longer. A directory of many files is looked up in groups.

When this is sound: nobody but the kernel sets ctime, and each change of the content sets it. With three exceptions:
- The clock is coarse: two changes within one tick, 4 ms, give one ctime. Hence `settled_ns`, 60 s: what changed just
  before the scan is not remembered.
- A page that was written through a mapping stays writable until it goes to the disk, and what is written to it
  meanwhile leaves no trace. The kernel does that within 35 s, but later when the disk is slow, and when is the user's
  to influence. So a file's pages are sent there before the engine sees it; of most files there are none.
- File systems where ctime is not kept so: tmpfs never writes a page, FUSE and NFS leave it to somebody else. Only those
  of `filesystems` are looked up. (Beneath one home there is only one, beneath.py crosses no mount.)
The verdict must be of the very state that is remembered, and so the file is looked at before and after (scan.py).

A file that is not known so may have a content that is: a copy, a restored backup, a tree that was moved by copying. Its
SHA-256, again under the account's key, is looked up before the engine is asked. That a content is clean is learned
under the same conditions, so that what was hashed is what the engine saw.

What is left: hardware and drivers that write into pinned pages of a file's mapping behind the kernel's back, and root.

Rejected: names in the hash (they make no difference to a verdict, and moving would cost the engine's time again);
inotify (a watch a directory, and a daemon that was off sees nothing); extended attributes with a seal (a write to each
file, and each changes ctime).
"""

import ctypes
import mmap
import os
import struct
import time
from collections.abc import Callable, Generator, Iterator
from itertools import islice
from typing import Final, NamedTuple

from clamscannerd.cache.table import FACTS, Hasher, find
from clamscannerd.globs import Globs
from clamscannerd.model import Reason
from clamscannerd.worker.beneath import filesystem_type
from clamscannerd.worker.cachewire import PRINTS_BYTES, Known, Place, Verified
from clamscannerd.worker.channel import Channel
from clamscannerd.worker.feed import Flight
from clamscannerd.worker.hashing import NO_SHA256, sha256_of, stamp
from clamscannerd.worker.tally import Tally
from clamscannerd.worker.walk import PAUSE, Group, Met, Reader, is_unchanged, refused

_GROUP: Final = 1_024  # files of a directory that are looked up together: 0.5 MB of status
_LEAST: Final = 4  # fewer are looked up one by one: a row for a directory is as long as one for a file
_NAME_MAX: Final = 255
_TURN: Final = 2_048  # entries between two turns of others: some 5 ms
_HASHING_CPU_S: Final = 30.0  # of a file that the engine takes: 2 GB at the most
_PRESENT, _EARLIER = 1, 2  # cache/basis.py
_SYNC: Final = 1 | 2  # SYNC_FILE_RANGE_WAIT_BEFORE, SYNC_FILE_RANGE_WRITE

_libc = ctypes.CDLL(None, use_errno=True)
_sync_file_range = _libc.sync_file_range
_sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)


class _Opened(NamedTuple):
    """A file on its way through the engine, of which every later change will be seen. `content` b"": not looked at."""

    print_: bytes
    content: bytes
    group: Group | None


class Verdicts:
    """What is known at the start of a scan, and what it learns."""

    def __init__(self, channel: Channel, tally: Tally, known: Known | None, fd: int, home_fd: int) -> None:
        """Owns `fd`; -1: no file."""
        self._channel = channel
        self._tally = tally
        self._known = known or Known(key=bytes(32), settled_ns=0, filesystems=())
        self.active = filesystem_type(home_fd) in self._known.filesystems
        self._file_print = Hasher(self._known.key, b"file")
        self._group_print = Hasher(self._known.key, b"group")
        self._content_print = Hasher(self._known.key, b"content")
        self._map: mmap.mmap | bytes = b""
        if fd >= 0:
            self._map = mmap.mmap(fd, 0, access=mmap.ACCESS_READ)
            os.close(fd)
        self._files = bytearray()
        self._groups = bytearray()
        self._contents = bytearray()
        self._opened: dict[int, _Opened] = {}  # by fd; what is stale goes when that is used again
        self._seen = 0
        self._old_ns = time.time_ns() - self._known.young_ns

    def forget(self) -> None:
        """What holds for the engine may be another from now on: look nothing up, remember nothing."""
        self.flush()
        self.active = False

    def close(self) -> None:
        """Says what was learned until now."""
        self.flush()
        if isinstance(self._map, mmap.mmap):
            self._map.close()

    # --- what is known

    def reader(self, since_ns: int | None) -> Reader:
        """How a directory is read (walk.py): what is known to be clean is counted and not met."""

        def read(
            dir_fd: int, path: bytes, enter: Callable[[bytes], bool], longest: int, excludes: Globs | None
        ) -> Iterator[Met]:
            prefix = path + b"/" if path else b""
            plain = excludes is None and len(prefix) + _NAME_MAX <= longest
            with os.scandir(dir_fd) as entries:
                while group := list(islice(entries, _GROUP)):
                    if not plain:
                        group = yield from _fitting(group, path, longest, excludes)
                    files = [entry for entry in group if entry.is_file(follow_symlinks=False)]
                    if len(files) < len(group):
                        yield from _others(group, prefix, enter)
                    if files:
                        yield from self._unknown(dir_fd, prefix, files, since_ns)
                    self._seen += len(group)
                    if self._seen >= _TURN:
                        self._seen = 0
                        yield PAUSE

        return read

    def _unknown(
        self, dir_fd: int, prefix: bytes, files: "list[os.DirEntry[str]]", since_ns: int | None
    ) -> Iterator[Met]:
        """Those of `files` that the engine must see."""
        if not self.active:
            facts, digest = [b""] * len(files), b""
        else:
            facts, size, newest_ns = _facts(files)
            digest = self._group_print(b"".join(facts)) if len(files) >= _LEAST and since_ns is None else b""
        group, again, any_known = None, False, self._known.files.slots > 0
        if digest:
            era = self._find(self._known.groups, digest)
            again = self._known.standing[era] == _EARLIER and self._is_due(digest)
            if not again and self._counts(era, newest_ns):
                self._tally.known(len(files), size, self._database(era))
                return
            group = Group(digest, len(files))
        for entry, fact in zip(files, facts, strict=True):
            name = os.fsencode(entry.name)
            if since_ns is not None and is_unchanged(entry, since_ns):
                yield Met(dir_fd, name, prefix + name, Reason.UNCHANGED, entry)
            elif not fact or not any_known or not self._is_known(fact, group, again=again):
                met = Met(dir_fd, name, prefix + name, None, entry)
                met.group, met.facts = group, fact
                yield met

    def _is_known(self, fact: bytes, group: Group | None, *, again: bool) -> bool:
        """Count it if it is. `again`: a verdict under an earlier database does not do."""
        print_ = self._file_print(fact)
        era = self._find(self._known.files, print_)
        if self._known.standing[era] == _EARLIER and (again or self._is_due(print_)):
            return False
        _, _, size, _, ctime_ns = FACTS.unpack(fact)
        if not self._counts(era, ctime_ns):
            return False
        database = self._database(era)
        self._tally.known(1, size, database)
        if group is not None:
            if database is None:
                self._one_less(group)
            else:
                group.left = -1  # never all of them under the present one
        return True

    def _find(self, place: Place, digest: bytes) -> int:
        return find(self._map, place.start, place.slots, digest) if place.slots else 0

    def _counts(self, era: int, ctime_ns: int) -> bool:
        worth = self._known.standing[era]
        return worth == _PRESENT or (worth == _EARLIER and ctime_ns < self._old_ns)

    def _is_due(self, digest: bytes) -> bool:
        """Whether it is the turn of what has this fingerprint to be checked again: of all of them an even share."""
        return (int.from_bytes(digest[4:], "big") + self._known.turn) % (1 << 32) < self._known.recheck

    def _database(self, era: int) -> int | None:
        """Which one it was under, if that is an earlier one."""
        return self._known.databases[era - 1] if self._known.standing[era] == _EARLIER else None

    def knows(self, flight: Flight, met: Met, meanwhile: Callable[[], object]) -> bool:
        """Of a file that was opened: whether its content is known to be clean; it is counted then, and else goes to the
        engine. What is in memory of it goes to the disk before: see the module. `meanwhile` is called now and then."""
        self._opened.pop(flight.fd, None)
        if not self.active:
            return False
        facts = self._lasting(flight)
        content = self._content_of(flight, meanwhile)
        if facts:
            group = met.group if met.facts == facts else None
            self._opened[flight.fd] = _Opened(self._file_print(facts), content, group)
        if not content or self._known.standing[self._find(self._known.contents, content)] != _PRESENT:
            return False
        if stamp(os.fstat(flight.fd)) != stamp(flight.status):
            return False  # the engine says what it is now, or that it changes
        self._tally.recognised(flight.status.st_size)
        self.clean(flight)
        return True

    # --- what is learned

    def _lasting(self, flight: Flight) -> bytes:
        """What is hashed of it, where each later change will be seen; else b""."""
        at = flight.status
        if at.st_ctime_ns > time.time_ns() - self._known.settled_ns or _sync_file_range(flight.fd, 0, 0, _SYNC) != 0:
            return b""
        try:
            return FACTS.pack(at.st_dev, at.st_ino, at.st_size, at.st_mtime_ns, at.st_ctime_ns)
        except struct.error:
            return b""

    def _content_of(self, flight: Flight, meanwhile: Callable[[], object]) -> bytes:
        if not self._known.by_content:
            return b""
        try:
            sha256 = sha256_of(flight.fd, _HASHING_CPU_S, meanwhile, flight.status.st_size)
        except OSError:
            return b""  # the engine is to say it
        return b"" if sha256 == NO_SHA256 else self._content_print(sha256)

    def clean(self, flight: Flight) -> None:
        """It was, and it is as it was when it was opened."""
        opened = self._opened.pop(flight.fd, None)
        if opened is None or not self.active:
            return
        self._files += opened.print_
        self._contents += opened.content
        if opened.group is not None:
            self._one_less(opened.group)
        if len(self._files) >= PRINTS_BYTES:
            self.flush()

    def _one_less(self, group: Group) -> None:
        group.left -= 1
        if not group.left:
            self._groups += group.digest
            if len(self._groups) >= PRINTS_BYTES:
                self.flush()

    def flush(self) -> None:
        """Say what was learned."""
        if self._files or self._groups:
            said = Verified(files=bytes(self._files), groups=bytes(self._groups), contents=bytes(self._contents))
            self._channel.send(said)
            self._files, self._groups, self._contents = bytearray(), bytearray(), bytearray()


def _facts(files: "list[os.DirEntry[str]]") -> tuple[list[bytes], int, int]:
    """What is hashed of each, b"" where it cannot be said; their bytes, and their latest ctime."""
    pack, facts, size, newest_ns = FACTS.pack, [], 0, 0
    for entry in files:
        try:
            at = entry.stat(follow_symlinks=False)
            ctime_ns = at.st_ctime_ns
            facts.append(pack(at.st_dev, at.st_ino, at.st_size, at.st_mtime_ns, ctime_ns))
            size += at.st_size
            if ctime_ns > newest_ns:
                newest_ns = ctime_ns
        except (OSError, struct.error):  # opening it says what is wrong; or a time beyond all measure
            facts.append(b"")
    return facts, size, newest_ns


def _fitting(
    group: "list[os.DirEntry[str]]", path: bytes, longest: int, excludes: Globs | None
) -> Generator[Met, None, "list[os.DirEntry[str]]"]:
    """Those that are not left out; the others are met, with the reason."""
    prefix, kept = path + b"/" if path else b"", []
    for entry in group:
        name = os.fsencode(entry.name)
        if len(prefix) + len(name) > longest:
            yield refused(name, path, Reason.PATH_TOO_LONG)
        elif excludes and excludes.excludes(prefix + name, directory=entry.is_dir(follow_symlinks=False)):
            yield refused(name, prefix + name, Reason.EXCLUDED)
        else:
            kept.append(entry)
    return kept


def _others(group: "list[os.DirEntry[str]]", prefix: bytes, enter: Callable[[bytes], bool]) -> Iterator[Met]:
    """What is no file."""
    for entry in group:
        if entry.is_file(follow_symlinks=False):
            continue
        name = os.fsencode(entry.name)
        if not entry.is_dir(follow_symlinks=False):
            yield Met(-1, name, prefix + name, Reason.NOT_REGULAR, None)
        elif not enter(name):
            yield refused(name, prefix + name, Reason.LIMIT)
