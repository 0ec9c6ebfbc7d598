"""One cleanse of a mailbox, seen from the daemon: contents to the vault, intents to the journal. [daemon]

The worker does it all (worker/cleanse.py says in which order and why); this side keeps what has to outlive it. The
journal is in the items themselves: which bytes of the mailbox each took, and the hash of the notice that stands there
instead. An item without that hash is of a try that ended before its first write: the mailbox has the message, and
the item goes. An item with it stays, whatever becomes of the step.
"""

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import msgspec

from clamscannerd.errors import Refused, RemoteProtocolError, WorkerFailed
from clamscannerd.model import Account, Frozen, Item, Outcome, Step
from clamscannerd.pipeline.link import WorkerLink
from clamscannerd.state.store import FileMeta, Store
from clamscannerd.state.vault import Vault
from clamscannerd.state.vault_out import ItemLost
from clamscannerd.worker.mailwire import (
    RANGES_IN_BATCH,
    Cleanse,
    Cleansed,
    Intents,
    Journaled,
    JournalRanges,
    KnownMessage,
    KnownMessages,
    MessageContent,
    MessageStored,
    NeedOriginal,
    Original,
    Range,
)
from clamscannerd.worker.messages import MAX_TEXT, Chunk, ContentEnd, Reply

Receive = Callable[[WorkerLink], Awaitable[Reply]]

_OUTCOMES: Final = frozenset({Outcome.MAILBOX_CLEANSED, Outcome.NO_ACTION, Outcome.ERROR})


class CleanseEnd(Frozen, frozen=True, kw_only=True):
    """The worker's word on the step, and what the vault keeps of it."""

    reply: Cleansed
    items: tuple[Item, ...]


async def drop_unjournaled(store: Store, vault: Vault, step: Step) -> None:
    """Contents of a try that overwrote nothing."""
    for item in await store.items_of_step(step.task_id, step.seq):
        if not item.notice:
            await vault.remove(item.id)


class Cleansing:
    """One step, with one worker."""

    def __init__(
        self, link: WorkerLink, receive: Receive, store: Store, vault: Vault, account: Account, step: Step
    ) -> None:
        self._link = link
        self._receive = receive
        self._store = store
        self._vault = vault
        self._account = account
        self._step = step
        self._items: dict[int, Item] = {}  # by part

    async def run(self, *, again: bool) -> CleanseEnd:
        """Up to the worker's proof, for the caller to commit. Raises WorkerFailed."""
        step = self._step
        await drop_unjournaled(self._store, self._vault, step)
        journaled = await self._store.items_of_step(step.task_id, step.seq)
        self._items = {item.part: item for item in journaled}
        await self._link.send(
            Cleanse(seq=step.seq, path=step.path, identity=step.identity, token=step.capture, again=again)
        )
        await self._tell_known()
        await self._tell_journal(journaled)
        reply = await self._serve()
        await drop_unjournaled(self._store, self._vault, step)
        items = tuple(await self._store.items_of_step(step.task_id, step.seq))
        if reply.outcome is Outcome.MAILBOX_CLEANSED and not items:
            raise WorkerFailed("worker says that it replaced messages, and sent none")
        return CleanseEnd(reply=reply, items=items)

    async def _tell_known(self) -> None:
        """What the scan found. Two infected messages may have one content, and then two signatures at most."""
        found = await self._store.messages_of(self._step.finding_id)
        known = [
            KnownMessage(sha256=one.sha256, signature=one.signature, start=one.start, end=one.end)
            for one in found.messages
            if one.number
        ]
        for start in range(0, max(1, len(known)), RANGES_IN_BATCH):
            await self._link.send(
                KnownMessages(
                    seq=self._step.seq,
                    messages=tuple(known[start : start + RANGES_IN_BATCH]),
                    complete=found.complete,
                    last=start + RANGES_IN_BATCH >= len(known),
                )
            )

    async def _tell_journal(self, items: Sequence[Item]) -> None:
        ranges = [
            Range(
                part=item.part,
                start=item.start,
                end=item.end,
                before=item.sha256,
                after=item.notice,
                item=item.id,
                signature=item.signature,
                kept_at=item.kept_at,
            )
            for item in items
        ]
        for start in range(0, max(1, len(ranges)), RANGES_IN_BATCH):
            batch = tuple(ranges[start : start + RANGES_IN_BATCH])
            last = start + RANGES_IN_BATCH >= len(ranges)
            await self._link.send(JournalRanges(seq=self._step.seq, ranges=batch, last=last))

    async def _serve(self) -> Cleansed:
        """Messages of the worker until it ends the step."""
        seq = self._step.seq
        notices: dict[int, bytes] = {}
        while True:
            reply = await self._receive(self._link)
            if not isinstance(reply, MessageContent | Intents | NeedOriginal | Cleansed) or reply.seq != seq:
                raise WorkerFailed(f"worker sent {type(reply).__name__} during a cleanse")
            match reply:
                case Cleansed():
                    if reply.outcome not in _OUTCOMES:
                        raise WorkerFailed(f"worker ended a cleanse with {reply.outcome}")
                    return reply
                case MessageContent():
                    await self._keep(reply)
                case Intents():
                    notices.update((one.part, one.after) for one in reply.intents)
                    if reply.last:
                        await self._commit_journal(notices)
                        notices = {}
                case NeedOriginal():
                    await self._lend(reply.part)

    async def _commit_journal(self, notices: dict[int, bytes]) -> None:
        if not notices or any(part not in self._items or self._items[part].notice for part in notices):
            raise WorkerFailed("worker intends to overwrite what it has not sent")
        await self._store.journal(self._step.task_id, self._step.seq, notices)
        await self._link.send(Journaled(seq=self._step.seq))

    async def _keep(self, announced: MessageContent) -> None:
        """One message into the vault, and the answer to the worker; none when the worker itself takes it back."""
        part, size = announced.part, announced.end - announced.start
        if part < 1 or part in self._items:
            raise WorkerFailed("worker sent a message twice")
        meta = FileMeta(
            owner=announced.uid,
            group=announced.gid,
            mode=announced.mode,
            mtime_ns=announced.mtime_ns,
            part=part,
            start=announced.start,
            end=announced.end,
        )
        step = msgspec.structs.replace(self._step, signature=announced.signature)
        item: Item | None = None
        end: ContentEnd | None = None
        reason = ""
        try:
            async with self._vault.receive(self._account, step, size, time.time(), meta) as incoming:
                while not isinstance(data := await self._part(), ContentEnd):
                    await incoming.write(data)
                end = data
                if end.reason:
                    return
                item = self._items[part] = await incoming.commit(time.time(), sha256=end.sha256)
        except RemoteProtocolError as error:
            raise WorkerFailed(str(error)) from None
        except Refused as error:  # the vault is full, or its disk: the mailbox stays untouched
            reason = str(error)
        while end is None:  # the worker waits for the answer only after its last part
            data = await self._part()
            end = data if isinstance(data, ContentEnd) else None
        if end.reason:
            return
        await self._link.send(
            MessageStored(
                seq=self._step.seq,
                part=part,
                item=item.id if item else 0,
                kept_at=item.kept_at if item else 0.0,
                reason=reason[:MAX_TEXT],
            )
        )

    async def _part(self) -> bytes | ContentEnd:
        reply = await self._receive(self._link)
        if not isinstance(reply, Chunk | ContentEnd) or reply.seq != self._step.seq:
            raise WorkerFailed(f"worker sent {type(reply).__name__} in the middle of a message")
        return reply.data if isinstance(reply, Chunk) else reply

    async def _lend(self, part: int) -> None:
        """A message as it was kept, down to the worker."""
        item, seq = self._items.get(part), self._step.seq
        if item is None:
            raise WorkerFailed("worker asked for a message that it has not sent")
        try:
            async with self._vault.lend(item) as fd:
                await self._link.send(Original(seq=seq, part=part, reason=""), [fd])
        except (ItemLost, Refused) as error:
            await self._link.send(Original(seq=seq, part=part, reason=str(error)[:MAX_TEXT]))
