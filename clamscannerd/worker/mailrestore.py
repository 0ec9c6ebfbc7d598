"""Put one message back into the mailbox that it was taken from. [worker] The mailbox's side of restore.py.

In its place while the notice still stands there, so that the mailbox is byte for byte what it was; else appended. The
same locks as for the cleanse, and its rules for a step begun again: what was torn is written once more, what was
appended is found by its content and not appended twice.
"""

import os
from collections.abc import Iterator

from clamscannerd.errors import RemoteProtocolError
from clamscannerd.worker.beneath import Kernel
from clamscannerd.worker.channel import Channel, pause_on
from clamscannerd.worker.mailappend import append, written_before
from clamscannerd.worker.mailbox import PIECE_BYTES, TRIES, Kept, Mailbox, MailboxError, Replaced, is_mixture
from clamscannerd.worker.mailfile import sha256_of_range
from clamscannerd.worker.maillocks import Locked
from clamscannerd.worker.restorewire import Restore


def has_begun(channel: Channel, kernel: Kernel, home_fd: int, step: Restore, fd: int) -> bool:
    """Whether a try before a crash wrote into the mailbox: it must then be brought to its end, whatever the engine says
    by now, or the message stands there half."""
    try:
        with Mailbox(kernel, home_fd, step.path, step.capture, pause_on(channel), known=True) as box:
            return is_begun(box, _kept(step), fd)
    except (OSError, MailboxError, Replaced):
        return False


def restore_message(channel: Channel, kernel: Kernel, home_fd: int, step: Restore, fd: int) -> str:
    """A sentence about how. `fd`: the content. Raises MailboxError with the reason, OSError."""
    kept = _kept(step)
    box = Mailbox(kernel, home_fd, step.path, step.capture, pause_on(channel), known=True)
    try:
        with box:
            return put_back(box, kept, fd, again=step.again)
    except FileNotFoundError:
        raise MailboxError("the mailbox is not there any more") from None
    except Locked as error:
        raise MailboxError(f"others hold {error}, and did so for {box.waited_s:.0f} s") from None


def _kept(step: Restore) -> Kept:
    place = step.message
    if place is None or place.end - place.start != step.size:
        raise RemoteProtocolError("cannot put a message back: its size is not that of its place")
    return Kept(
        start=place.start,
        end=place.end,
        before=step.sha256,
        after=place.notice,
        item=place.item,
        signature=place.signature,
        kept_at=place.kept_at,
    )


def is_begun(box: Mailbox, kept: Kept, content_fd: int) -> bool:
    """Whether an earlier try to put the message back has written anything. `box` is open."""
    length = kept.end - kept.start
    stands = sha256_of_range(box.fd, kept.start, kept.end)
    if stands == kept.after:
        return False
    return stands == kept.before or _is_torn(box, kept, content_fd) or written_before(box, content_fd, length) > 0


def put_back(box: Mailbox, kept: Kept, content_fd: int, *, again: bool) -> str:
    """Give a mailbox its message back, from a file that holds it; a sentence about how. `box` is open, without locks.

    In its place if the notice still stands there; else appended, once however often it is tried (`again`). Raises
    MailboxError, Locked, OSError; then nothing was written, or (a torn write) trying again sets it right.
    """
    length = kept.end - kept.start
    if sha256_of_range(content_fd, 0, length) != kept.before:
        raise MailboxError("its content is not what was kept")
    for _ in range(TRIES):
        try:
            with box.locked():
                how = _put_back(box, kept, content_fd, again=again)
                box.need_name()  # else the message stands in a file that nobody will find
                return how
        except Replaced:
            box.reopen()
            again = True  # what was written may have been taken over into the new file, or not
    raise MailboxError("it is replaced again and again")


def _put_back(box: Mailbox, kept: Kept, content_fd: int, *, again: bool) -> str:
    stands = sha256_of_range(box.fd, kept.start, kept.end)
    if stands == kept.before:
        return "the message stands in its place"
    if stands == kept.after or _is_torn(box, kept, content_fd):
        rest = box.look_at([(kept.start, kept.end)])
        box.overwrite([(kept.start, _pieces(content_fd, kept.end - kept.start))])
        if sha256_of_range(box.fd, kept.start, kept.end) != kept.before:
            raise MailboxError("the message was overwritten by others meanwhile")
        if box.rest_of(rest) != rest.rest:
            return "the message was put back in its place; other bytes of the mailbox changed meanwhile"
        return "the message was put back in its place"
    append(box, content_fd, kept.end - kept.start, again=again)
    return "the message was appended: no notice stands in its place any more"


def _is_torn(box: Mailbox, kept: Kept, content_fd: int) -> bool:
    """Half message, half notice: a crash cut this step short, or trouble with the disk the cleanse."""
    after = box.notice_for(kept.hit, kept.item, kept.kept_at, (content_fd, 0))
    return is_mixture(box.fd, kept.start, content_fd, after)


def _pieces(fd: int, length: int) -> Iterator[bytes]:
    for offset in range(0, length, PIECE_BYTES):
        yield os.pread(fd, min(PIECE_BYTES, length - offset), offset)
