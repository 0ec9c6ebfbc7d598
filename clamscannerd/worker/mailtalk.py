"""What a cleanse says to the daemon and hears from it: contents up, the journal, contents back. [worker]

The messages are mailwire's; in which order they mean what, cleanse.py says. An answer that is not the one expected ends
the worker.
"""

import hashlib
import os
from collections.abc import Sequence
from typing import Final, TypeVar

import msgspec

from clamscannerd.errors import RemoteProtocolError
from clamscannerd.worker.channel import Channel
from clamscannerd.worker.mailbox import Hit, Kept, Mailbox, MailboxError
from clamscannerd.worker.mailwire import (
    RANGES_IN_BATCH,
    Cleanse,
    Intent,
    Intents,
    Journaled,
    JournalRanges,
    KnownMessages,
    MessageContent,
    MessageStored,
    NeedOriginal,
    Original,
)
from clamscannerd.worker.messages import CHUNK_BYTES, Chunk, ContentEnd

C = TypeVar("C", KnownMessages, JournalRanges, MessageStored, Journaled)

LOCKLESS: Final = "it is being written to by somebody who takes no lock"


class NotKept(Exception):
    """The vault refused a message; `str()` is the daemon's whole sentence."""


class Talk:
    """About one step."""

    def __init__(self, channel: Channel, step: Cleanse) -> None:
        self._channel = channel
        self._step = step

    def known(self) -> tuple[list[Hit], bool]:
        """What the scan found infected, where it stood then; and whether that is all."""
        hits: list[Hit] = []
        while True:
            known = self._expect(KnownMessages)
            hits += [
                Hit(start=one.start, end=one.end, before=one.sha256, signature=one.signature) for one in known.messages
            ]
            if known.last:
                return hits, known.complete

    def journaled(self) -> list[Kept]:
        """What was committed before a crash."""
        kept: list[Kept] = []
        while True:
            journal = self._expect(JournalRanges)
            kept += [Kept(**msgspec.structs.asdict(one)) for one in journal.ranges]
            if journal.last:
                return kept

    def _expect(self, kind: type[C]) -> C:
        command, fds = self._channel.receive()
        if not isinstance(command, kind) or command.seq != self._step.seq or fds:
            raise RemoteProtocolError(f"cannot go on: expected {kind.__name__}, not {type(command).__name__}")
        return command

    def keep(self, box: Mailbox, part: int, hit: Hit) -> Kept:
        """The content of one message into the vault. Raises NotKept; MailboxError when it is not what it was."""
        seq, status = self._step.seq, os.fstat(box.fd)
        self._channel.send(
            MessageContent(
                seq=seq,
                part=part,
                start=hit.start,
                end=hit.end,
                signature=hit.signature,
                mode=status.st_mode,
                uid=status.st_uid,
                gid=status.st_gid,
                mtime_ns=max(-(2**63), min(status.st_mtime_ns, 2**63 - 1)),
            )
        )
        digest, offset = hashlib.sha256(), hit.start
        while offset < hit.end and (block := os.pread(box.fd, min(CHUNK_BYTES, hit.end - offset), offset)):
            box.keep_locks()
            digest.update(block)
            offset += len(block)
            self._channel.send(Chunk(seq=seq, data=block))
        reason = "" if digest.digest() == hit.before else "not the expected content"
        self._channel.send(ContentEnd(seq=seq, sha256=digest.digest(), signature="", reason=reason))
        if reason:
            raise MailboxError(LOCKLESS)
        stored = self._expect(MessageStored)
        if stored.reason:
            raise NotKept(stored.reason)
        values = msgspec.structs.asdict(hit)
        return Kept(**values, after=b"", item=stored.item, kept_at=stored.kept_at, part=part)

    def journal(self, kept: Sequence[Kept]) -> None:
        """Committed by the daemon when this returns."""
        for start in range(0, len(kept), RANGES_IN_BATCH):
            batch = tuple(Intent(part=one.part, after=one.after) for one in kept[start : start + RANGES_IN_BATCH])
            last = start + RANGES_IN_BATCH >= len(kept)
            self._channel.send(Intents(seq=self._step.seq, intents=batch, last=last))
        self._expect(Journaled)

    def original(self, part: int) -> int:
        """An fd of the message as the vault keeps it. MailboxError: it cannot be had."""
        self._channel.send(NeedOriginal(seq=self._step.seq, part=part))
        command, fds = self._channel.receive()
        if not isinstance(command, Original) or command.part != part or len(fds) != (not command.reason):
            raise RemoteProtocolError("cannot go on: expected Original")
        if command.reason:
            raise MailboxError(command.reason)
        return fds[0]
