"""Append a message to an open mailbox as a deliverer would, once however often it is tried. [worker]

For a message that is put back and has no place any more. All in one write if it is not large, with O_APPEND, so that
nobody who appends without a lock is overwritten; then it is read back, since between two writes of a large one somebody
else's mail may have come.

A try that a crash cut short is found by what it wrote: the whole message, or a beginning of it at the very end of the
mailbox, which is then completed. A beginning behind which others have delivered stays, and the message is appended once
more: nothing tells it from a letter that is like it (the same mail, marked by a reader), so it is not written over, and
what is behind it is not moved.
"""

import os
from typing import Final

from clamscannerd.worker.mailbox import PIECE_BYTES, Mailbox, MailboxError
from clamscannerd.worker.mailfile import messages_of, sha256_of_range
from clamscannerd.worker.mbox import FROM_LINE_BYTES

_LEAST_BYTES: Final = len(b"From ") + 1
"""A shorter beginning is left: a letter may end in a line that says `F`."""


def append(box: Mailbox, content_fd: int, length: int, *, again: bool) -> None:
    """After a blank line; once: `again` looks for what an earlier try has written. Under the locks.

    Raises Replaced, MailboxError, OSError; what was written is taken back where nobody has appended after it.
    """
    done = written_before(box, content_fd, length) if again else 0
    if done == length:
        return
    out = box.open_to_append()
    try:
        _append_to(box, out, content_fd, done, length)
        end = os.lseek(out, 0, os.SEEK_CUR)
    finally:
        os.close(out)
    if sha256_of_range(box.fd, end - length, end) != sha256_of_range(content_fd, 0, length):
        raise MailboxError("others who take no lock wrote to it while the message was appended")


def _append_to(box: Mailbox, out: int, content_fd: int, done: int, length: int) -> None:
    size, written = os.fstat(box.fd).st_size, 0
    lead = b"" if done else _separator(box.fd, size)
    try:
        while lead or done < length:
            box.keep_locks()
            data = lead + os.pread(content_fd, min(PIECE_BYTES, length - done), done)
            done += len(data) - len(lead)
            lead = b""
            view = memoryview(data)
            while view:
                count = os.write(out, view)
                written, view = written + count, view[count:]
        os.fsync(out)
    except OSError:
        if os.fstat(box.fd).st_size == size + written:  # nobody appended after us
            os.ftruncate(box.fd, size)
        raise


def _separator(fd: int, size: int) -> bytes:
    """What has to stand between the last byte and a `From ` line."""
    tail = os.pread(fd, 4, max(0, size - 4))
    line_end = b"\r\n" if b"\r\n" in tail else b"\n"
    if not size or tail.endswith((b"\n\n", b"\n\r\n")):
        return b""
    return line_end if tail.endswith(b"\n") else line_end * 2


def written_before(box: Mailbox, content_fd: int, length: int) -> int:
    """Bytes of the content that an earlier try appended: all, a torn beginning at the end of the file, or 0."""
    size = os.fstat(box.fd).st_size
    whole = sha256_of_range(content_fd, 0, length)
    for message in messages_of(box.fd, size, texts=False):
        box.keep_locks()
        if message is None:
            continue
        here = message.end - message.start
        # A line end after it may have been added by whoever delivered next.
        if length <= here <= length + 2 and sha256_of_range(box.fd, message.start, message.start + length) == whole:
            return length
        torn = message.end == size and here < length
        if torn and sha256_of_range(box.fd, message.start, size) == sha256_of_range(content_fd, 0, here):
            return here
    return _torn_from_line(box.fd, size, os.pread(content_fd, min(length, FROM_LINE_BYTES), 0))


def _torn_from_line(fd: int, size: int, beginning: bytes) -> int:
    """Bytes of a `From ` line at the end of the file that is not yet one: it makes no message."""
    at = max(0, size - len(beginning) - 4)
    before, _, last = os.pread(fd, size - at, at).rpartition(b"\n")
    follows = before.endswith((b"\n", b"\n\r")) or (at == 0 and not before.strip(b"\r\n"))
    return len(last) if follows and len(last) >= _LEAST_BYTES and beginning.startswith(last) else 0
