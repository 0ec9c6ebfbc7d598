"""One open mailbox: its locks, its bytes inside and outside of some ranges, and overwriting in place. [worker]

Nothing here changes a mailbox's size or inode, but for a message that is put back and has no place any more: that one
is appended as a deliverer would. So whatever a deliverer appends meanwhile, even one that opened the file before and
looks at no lock, cannot be hurt. Compacting was rejected: after a crash, appended mail makes the repair ambiguous.

mtime and atime: reading is done with O_NOATIME, and what is overwritten in place is no new mail, so both times stay
as they were (a reader takes a mailbox for one with new mail when atime is older than mtime). When somebody appended
meanwhile the mtime stays what their mail made it.
"""

import contextlib
import hashlib
import os
import stat
import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final, Self

import msgspec

from clamscannerd.model import Frozen, Identity
from clamscannerd.worker.beneath import Kernel, filesystem_type
from clamscannerd.worker.hashing import NO_SHA256, is_same_file, is_same_inode
from clamscannerd.worker.mailfile import (
    begins_with_message,
    blocks_of_range,
    header_of,
    is_mailbox,
    messages_of,
    sha256_of_range,
)
from clamscannerd.worker.maillocks import WAIT_S, Locks
from clamscannerd.worker.mailwire import MAX_MESSAGES
from clamscannerd.worker.notice import notice_pieces

_OPEN: Final = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
PIECE_BYTES: Final = 4 << 20
TRIES: Final = 5  # of a mailbox that gets another inode each time: then somebody is at work in it
_SECTOR_BYTES: Final = 512  # what a disk writes whole: a torn write is told apart piece by piece


class MailboxError(Exception):
    """This mailbox cannot be worked on; a sentence's second half."""


class Replaced(Exception):
    """Another file has the mailbox's name now: open it again."""


class Hit(Frozen, frozen=True, kw_only=True):
    """An infected message where it stands."""

    start: int
    end: int
    before: bytes
    signature: str


class Look(Frozen, frozen=True, kw_only=True):
    """What one pass over the mailbox saw: `bounds` are the ends of pieces that tile it from its first byte, `rest` is
    the hash of all pieces but those that begin at `without`.

    Without a pass (look_where) there is no `rest` but `whole`: the hash of all pieces as the scan saw them.
    """

    bounds: "array[int]"
    hits: tuple[Hit, ...]
    without: frozenset[int]
    rest: bytes = b""
    whole: bytes = b""


class Mailbox:
    """Open from `with` on. `pause(seconds)` waits, and raises when there is no reason to go on.

    `known`: it is known to have been a mailbox, so a `From ` line at its beginning will do.
    """

    def __init__(
        self,
        kernel: Kernel,
        home_fd: int,
        path: bytes,
        token: bytes,
        pause: Callable[[float], None],
        *,
        known: bool,
    ) -> None:
        self._kernel = kernel
        self._home_fd = home_fd
        self._path = path
        self._token = token
        self._pause = pause
        self._looks_right = begins_with_message if known else is_mailbox
        self._wait_left_s = WAIT_S
        self._locks: Locks | None = None
        self._dir_fd = -1
        self._leaf = b""
        self.fd = -1
        self.waited_s = 0.0

    def __enter__(self) -> Self:
        self._dir_fd, self._leaf = self._kernel.open_parent(self._home_fd, self._path)
        try:
            self.reopen()
        except BaseException:
            os.close(self._dir_fd)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self.fd >= 0:  # not after a reopen() that failed
            os.close(self.fd)
        os.close(self._dir_fd)

    def reopen(self) -> None:
        """What has the name now. MailboxError, OSError."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
        try:
            try:
                self.fd = os.open(self._leaf, _OPEN | os.O_NOATIME, dir_fd=self._dir_fd)
            except PermissionError:  # not the owner
                self.fd = os.open(self._leaf, _OPEN, dir_fd=self._dir_fd)
            status = os.fstat(self.fd)
            if not stat.S_ISREG(status.st_mode) or status.st_dev != os.fstat(self._dir_fd).st_dev:
                raise MailboxError("it is no regular file")
            if status.st_nlink != 1:
                raise MailboxError("it has a second name (hard link)")
            if not self._looks_right(self.fd):
                raise MailboxError("it is no mailbox (mbox)")
        except BaseException:
            if self.fd >= 0:
                os.close(self.fd)
                self.fd = -1
            raise

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Under all three locks, and still the file that has the name. Locked, Replaced, MailboxError, OSError."""
        locks = Locks(self._dir_fd, self._leaf, self._token, self._pause, filesystem_type(self.fd))
        began = time.monotonic()
        try:
            locks.acquire(self.fd, self._wait_left_s)
        finally:
            self.waited_s += time.monotonic() - began
            self._wait_left_s = max(0.0, WAIT_S - self.waited_s)
        self._locks = locks
        try:
            self.need_name()
            yield
        finally:
            self._locks = None
            locks.release()

    def keep_locks(self) -> None:
        """Called now and then while they are held."""
        if self._locks is not None:
            self._locks.keep()

    def need_name(self) -> None:
        """Replaced, when another file has the mailbox's name by now; MailboxError, when this one has two."""
        ours = os.fstat(self.fd)
        try:
            name = os.stat(self._leaf, dir_fd=self._dir_fd, follow_symlinks=False)
        except FileNotFoundError:
            raise Replaced from None
        if (name.st_dev, name.st_ino) != (ours.st_dev, ours.st_ino):
            raise Replaced
        if ours.st_nlink != 1:
            raise MailboxError("it has a second name (hard link)")

    def open_to_append(self) -> int:
        """Another fd of the mailbox, on which every write goes to the end. Raises Replaced, OSError."""
        flags = os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        fd = os.open(self._leaf, flags, dir_fd=self._dir_fd)
        if not os.path.sameopenfile(fd, self.fd):
            os.close(fd)
            raise Replaced
        return fd

    def look(self, infected: Mapping[bytes, str]) -> Look:
        """One pass: which messages are infected (SHA-256 -> signature), and the hash of all the rest."""
        size = os.fstat(self.fd).st_size
        bounds, hits, rest = array("Q"), list[Hit](), hashlib.sha256()
        for message in messages_of(self.fd, size, texts=False):
            self.keep_locks()
            if message is None:
                continue
            if not bounds:
                bounds.append(message.start)
                rest.update(sha256_of_range(self.fd, 0, message.start))
            bounds.append(message.end)
            sha256 = sha256_of_range(self.fd, message.start, message.end)
            signature = infected.get(sha256)
            if signature is None or len(hits) == MAX_MESSAGES:
                rest.update(sha256)
            else:
                hits.append(Hit(start=message.start, end=message.end, before=sha256, signature=signature))
        without = frozenset(hit.start for hit in hits)
        return Look(bounds=bounds, hits=tuple(hits), without=without, rest=rest.digest())

    def look_where(self, identity: Identity, hits: Sequence[Hit]) -> Look | None:
        """No pass: the hits, where they stood when the file had this identity. None unless they still do, and the file
        looks as it did then; whether it is what it was shows when the rest is looked at again."""
        if not is_same_file(os.fstat(self.fd), identity) or identity.sha256 == NO_SHA256 or not hits:
            return None
        bounds = array("Q")
        for hit in hits:
            if hit.start < (bounds[-1] if bounds else 0) or sha256_of_range(self.fd, hit.start, hit.end) != hit.before:
                return None
            bounds.extend((hit.start, hit.end))
        bounds.append(identity.size)
        without = frozenset(hit.start for hit in hits)
        return Look(bounds=bounds, hits=tuple(hits), without=without, whole=identity.sha256)

    def look_at(self, ranges: Sequence[tuple[int, int]]) -> Look:
        """The hash of all that is outside of these ranges (in order, without overlap); no hits."""
        bounds = array("Q")
        for start, end in ranges:
            bounds.extend((start, end))
        bounds.append(max(os.fstat(self.fd).st_size, bounds[-1] if bounds else 0))
        look = Look(bounds=bounds, hits=(), without=frozenset(start for start, _ in ranges))
        return msgspec.structs.replace(look, rest=self.rest_of(look))

    def rest_of(self, look: Look) -> bytes:
        """`rest` again, as the bytes are now."""
        rest, start = hashlib.sha256(), 0
        for end in look.bounds:
            self.keep_locks()
            if start not in look.without or start == end:
                rest.update(sha256_of_range(self.fd, start, end))
            start = end
        return rest.digest()

    def is_rest_unchanged(self, look: Look, originals: int = -1) -> bool:
        """Whether all but the ranges is as it was. `originals`: after look_where, a file of what stood in the ranges,
        one after the other."""
        if not look.whole:
            return self.rest_of(look) == look.rest
        digest, start, taken = hashlib.sha256(), 0, 0
        for end in look.bounds:
            fd, at, length = self.fd, start, end - start
            if start in look.without and length:
                fd, at, taken = originals, taken, taken + length
            for block in blocks_of_range(fd, at, at + length):
                self.keep_locks()
                digest.update(block)
            start = end
        return digest.digest() == look.whole

    def notice_for(self, hit: Hit, item: int, kept_at: float, source: tuple[int, int] | None = None) -> Iterator[bytes]:
        """What is to stand in place of the message, in pieces. `source`: a file that holds the message, and where, if
        it is torn here."""
        fd, start = source or (self.fd, hit.start)
        length = hit.end - hit.start
        return notice_pieces(
            header_of(fd, start, start + length),
            length,
            tail=os.pread(fd, min(4, length), start + length - min(4, length)),
            signature=hit.signature,
            item_id=item,
            when=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(kept_at)),
        )

    def overwrite(self, contents: Iterable[tuple[int, Iterable[bytes]]], *, again: Identity | None = None) -> None:
        """In place, on disk when this returns; times as they were. `contents`: (offset, pieces) within the file.

        What was written before an error is on disk too. MailboxError, when the file has become too short.
        `again`: a crash may have kept an earlier try from setting the times back to this identity's.
        """
        before = os.fstat(self.fd)
        mtime_ns = before.st_mtime_ns
        if again and is_same_inode(before, again) and before.st_size == again.size:
            mtime_ns = again.mtime_ns
        try:
            for offset, pieces in contents:
                for piece in pieces:
                    self.keep_locks()
                    if os.fstat(self.fd).st_size < offset + len(piece):  # to write there would make it longer
                        raise MailboxError("others who take no lock made it shorter")
                    write_at(self.fd, piece, offset)
                    offset += len(piece)
        finally:
            os.fsync(self.fd)
            self._keep_times(before, mtime_ns)

    def _keep_times(self, before: os.stat_result, mtime_ns: int) -> None:
        if os.fstat(self.fd).st_size != before.st_size:
            return
        with contextlib.suppress(PermissionError):  # not the owner
            os.utime(self.fd, ns=(before.st_atime_ns, mtime_ns))
            if os.fstat(self.fd).st_size != before.st_size:  # mail came between the two looks
                os.utime(self.fd)


class Kept(Frozen, frozen=True, kw_only=True):
    """A message that the vault keeps: where it stood, its hash, the notice's, and what the notice is made of."""

    start: int
    end: int
    before: bytes
    after: bytes
    item: int
    signature: str
    kept_at: float
    part: int = 0

    @property
    def hit(self) -> Hit:
        return Hit(start=self.start, end=self.end, before=self.before, signature=self.signature)


def write_at(fd: int, content: bytes, offset: int) -> None:
    """All of it, in place."""
    view = memoryview(content)
    while view:
        count = os.pwrite(fd, view, offset)
        view, offset = view[count:], offset + count


def is_mixture(fd: int, start: int, original_fd: int, after: Iterable[bytes]) -> bool:
    """Whether each byte from `start` is that of the original or of `after`: a write that a crash tore."""
    offset = 0
    for piece in after:
        for at in range(0, len(piece), _SECTOR_BYTES):
            new = piece[at : at + _SECTOR_BYTES]
            old = os.pread(original_fd, len(new), offset)
            now = os.pread(fd, len(new), start + offset)
            offset += len(new)
            if now in (new, old):
                continue
            if not len(now) == len(new) == len(old):
                return False
            if any(byte not in either for byte, *either in zip(now, new, old, strict=True)):
                return False
    return True
