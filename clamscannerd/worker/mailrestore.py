"""Put one message back into the mailbox that it was taken from. [worker] The mailbox's side of restore.py.

In its place while the notice still stands there, so that the mailbox is byte for byte what it was; else appended. The
same locks as for the cleanse, and its rules for a step begun again: what was torn is written once more, what was
appended is found by its content and not appended twice.
"""

from clamscannerd.errors import RemoteProtocolError
from clamscannerd.worker.beneath import Kernel
from clamscannerd.worker.channel import Channel
from clamscannerd.worker.cleanse import pause_on
from clamscannerd.worker.mailbox import Kept, Mailbox, MailboxError, Replaced, is_begun, put_back
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
