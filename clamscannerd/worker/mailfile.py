"""An open mailbox, message by message, in bounded memory. [worker]

Reads by pread, so that whoever shares the open file is not disturbed, a block at a time: mapping a mailbox of 1.5 GB
took 1.5 GB of resident memory, reading it so 15 MB, at the same speed. What is needed of a message afterwards (its
hash, its content) is read once more, from the page cache.
"""

import fcntl
import hashlib
import os
from collections.abc import Iterable, Iterator
from typing import Final

from clamscannerd.worker.mailheader import Fields, fields
from clamscannerd.worker.mbox import HEADER_BYTES, SNIFF_BYTES, Message, Splitter, looks_like_mbox

_BLOCK_BYTES: Final = 256 * 1024
_MAIL_FIELDS: Final = frozenset(
    b"return-path delivered-to received message-id date from to subject mime-version x-original-to envelope-to".split()
)
_SEALS: Final = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL


def is_mailbox(fd: int) -> bool:
    """By content, whatever its name."""
    return looks_like_mbox(os.pread(fd, SNIFF_BYTES, 0))


def begins_with_message(fd: int) -> bool:
    """Less than is_mailbox asks for: a `From ` line, or nothing at all. For what is known to have been a mailbox: the
    notice that its first message became may have had no room for a header."""
    beginning = os.pread(fd, SNIFF_BYTES, 0).lstrip(b"\r\n")
    return not beginning or beginning.startswith(b"From ")


def messages_of(fd: int, size: int, *, texts: bool = True) -> Iterator[Message | None]:
    """The messages of the first `size` bytes, each when its end is known; None after a block that ended none.

    `texts`: with what their headers say; without, only where they are.
    """
    splitter = Splitter(texts=texts)
    offset = 0
    while offset < size and (block := os.pread(fd, min(_BLOCK_BYTES, size - offset), offset)):
        offset += len(block)
        if found := splitter.receive_data(block):
            yield from found
        else:
            yield None
    yield from splitter.receive_eof()


def lone_message(fd: int) -> Fields | None:
    """What the header of a file that is one message says (Maildir, .eml); None when it is no message."""
    beginning = os.pread(fd, HEADER_BYTES, 0)
    header = beginning[: header_length(beginning)]
    names = {line.partition(b":")[0].strip().lower() for line in header.split(b"\n")}
    return fields(header) if len(names & _MAIL_FIELDS) >= 2 else None


def header_length(beginning: bytes) -> int:
    """Bytes up to and with the first empty line; all of them when there is none."""
    ends = [place + len(mark) for mark in (b"\n\n", b"\n\r\n") if (place := beginning.find(mark)) >= 0]
    return min(ends, default=len(beginning))


def header_of(fd: int, start: int, end: int) -> bytes:
    """The header of the message in this range, its `From ` line included, bounded."""
    beginning = os.pread(fd, min(HEADER_BYTES, end - start), start)
    return beginning[: header_length(beginning)]


def sha256_of_range(fd: int, start: int, end: int) -> bytes:
    """Of what stands there now; a file that ends earlier gives the hash of less."""
    digest = hashlib.sha256()
    for block in blocks_of_range(fd, start, end):
        digest.update(block)
    return digest.digest()


def blocks_of_range(fd: int, start: int, end: int) -> Iterator[bytes]:
    """What stands there now; less where the file ends earlier."""
    while start < end and (block := os.pread(fd, min(_BLOCK_BYTES, end - start), start)):
        yield block
        start += len(block)


def copy_of_ranges(fd: int, ranges: Iterable[tuple[int, int]]) -> int:
    """A sealed file of its own with these bytes, one range after the other, copied by the kernel."""
    copy = os.memfd_create("message", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        for start, end in ranges:
            while start < end and (count := os.sendfile(copy, fd, start, end - start)):
                start += count
        fcntl.fcntl(copy, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(copy)
        raise
    return copy
