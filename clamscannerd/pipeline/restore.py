"""One restore or undo, item by item: intent, content lent to the worker, proof, record. [daemon]

Each step is committed as `doing` before the worker is told, and as ended after its proof; in that very transaction a
restored item leaves the vault's list, and only after it the content is removed. So after a crash at any point
there is one step to be done again, whose content is still in the vault; the worker sees whether the file stands already
(worker/restore.py). Records are in Task.get alone: the log in the home is the disinfection's.
"""

import logging
import math
import time

from clamscannerd import events
from clamscannerd.errors import LocalProtocolError, Refused, WorkerFailed
from clamscannerd.model import Account, Item, RestoreOutcome, RestoreStep, StepState, Task
from clamscannerd.pipeline.link import WorkerLink, open_worker
from clamscannerd.pipeline.tasks import TaskJobs, bring_session, capture_name, in_time
from clamscannerd.rpc.names import to_wire
from clamscannerd.state.store import FileMeta
from clamscannerd.state.store_values import Redetected
from clamscannerd.state.vault_out import ItemLost
from clamscannerd.worker.messages import NeedSession, NoSession
from clamscannerd.worker.restorewire import MessagePlace, Restore, Restored, RestoreJob

log = logging.getLogger(__name__)

_FORCED_WAIT_S = 10.0
"""By force, the engine's word is only news: it is not waited for as long as where it decides."""


class RestoreTurn:
    """One worker's turn at a restore or an undo (tasks.Turn)."""

    def __init__(self, jobs: TaskJobs, task: Task, account: Account) -> None:
        self.task = task
        self.seq = 0
        self._jobs = jobs
        self._account = account
        self._store = jobs.store
        self._engine_lost = ""  # waited for once a turn, not once an item

    async def go(self, lock_fd: int) -> bool:
        jobs = self._jobs
        async with open_worker(jobs.spawner, self._account, lock_fd, jobs.limits.silence_s) as link:
            size = jobs.engines.view().max_file_size
            await link.send(RestoreJob(max_file_size=size, file_deadline_s=jobs.limits.file_deadline_s))
            while (step := await self._store.next_restore_step(self.task.id)) is not None:
                if jobs.stopping.is_set():
                    return False
                await jobs.confirm(self._account)
                self.seq = step.seq
                await self._step(link, step)
        await self._store.end_restore_task(self.task.id, time.time())
        return True

    async def give_up(self, seq: int, message: str) -> None:
        step = await self._store.next_restore_step(self.task.id)
        if step is not None and step.seq == seq:
            await self._give_up(step, message)

    async def _give_up(self, step: RestoreStep, message: str) -> None:
        if step.state is StepState.DOING:
            message += "; it may stand at its place all the same, and the vault keeps it too"
        else:
            step = await self._store.begin_restore_step(self.task.id, step.seq, capture_name())
        await self._end(step, RestoreOutcome.ERROR, message)

    async def give_up_all(self, message: str) -> bool:
        await self.give_up_rest(message)
        await self._store.end_restore_task(self.task.id, time.time())
        return True

    async def give_up_rest(self, message: str) -> bool:
        any_left = False
        while (step := await self._store.next_restore_step(self.task.id)) is not None:
            any_left = True
            await self._give_up(step, message)
        return any_left

    async def _step(self, link: WorkerLink, step: RestoreStep) -> None:
        again = step.state is StepState.DOING
        step = await self._store.begin_restore_step(self.task.id, step.seq, capture_name())
        item, meta = await self._item(step)
        try:
            async with self._jobs.vault.lend(item) as fd:
                await link.send(_command(step, item, meta, again=again), [fd])
        except (ItemLost, Refused) as error:
            await self._end(step, RestoreOutcome.ERROR, f"cannot restore it: {error}")
            return
        with in_time(self._jobs.limits.step_timeout_s, f"end step {step.seq}"):
            reply = await self._reply(link, step)
        await self._end(step, reply.outcome, reply.message, reply.signature, _redetected(reply))

    async def _item(self, step: RestoreStep) -> tuple[Item, FileMeta]:
        """An open step's item is kept: nothing else may remove it."""
        item = await self._store.get_item(step.item_id)
        meta = await self._store.item_meta(step.item_id)
        if item is None or meta is None:
            raise LocalProtocolError(f"cannot restore item {step.item_id}: it is not kept, and its step is open")
        return item, meta

    async def _reply(self, link: WorkerLink, step: RestoreStep) -> Restored:
        engine_s = 0.0
        while True:
            reply = await link.receive(engine_s)
            if isinstance(reply, NeedSession):
                await self._bring_session(link, step)
                engine_s = self._jobs.limits.file_deadline_s  # it is silent while the engine looks at the file
            elif isinstance(reply, Restored) and reply.seq == step.seq:
                return reply
            else:
                raise WorkerFailed(f"worker sent {type(reply).__name__} during a restore")

    async def _bring_session(self, link: WorkerLink, step: RestoreStep) -> None:
        if self._engine_lost:
            await link.send(NoSession(reason=self._engine_lost))
        else:
            wait_s = _FORCED_WAIT_S if step.force else math.inf
            self._engine_lost = await bring_session(link, self._jobs.engines, wait_s)

    async def _end(
        self,
        step: RestoreStep,
        outcome: RestoreOutcome,
        message: str,
        signature: str = "",
        found: Redetected | None = None,
    ) -> None:
        text = to_wire(self._account.home.rstrip(b"/") + b"/" + step.target)
        gone = await self._store.end_restore_step(
            self.task.id, step.seq, outcome, message or None, time.time(), text, signature, found
        )
        extra = events.about(self._account.uid, task=self.task.public_id)
        log.info("task %s: item %d to %r: %s", self.task.public_id, step.item_id, text, outcome.value, extra=extra)
        if gone is not None:
            await self._jobs.vault.discard([gone])


def _redetected(reply: Restored) -> Redetected | None:
    """What stands in the home again and is infected."""
    if reply.standing is None or not reply.signature:
        return None
    standing = reply.standing
    return Redetected(
        identity=standing.identity,
        signature=reply.signature,
        mailbox=standing.mailbox,
        in_place=standing.in_place,
    )


def _command(step: RestoreStep, item: Item, meta: FileMeta, *, again: bool) -> Restore:
    return Restore(
        seq=step.seq,
        path=step.target,
        make_dirs=step.make_dirs,
        capture=step.capture,
        again=again,
        force=step.force,
        size=item.size,
        sha256=item.sha256,
        mode=meta.mode,
        gid=meta.group,
        mtime_ns=meta.mtime_ns,
        xattrs=meta.xattrs,
        message=None if step.make_dirs else _place(item),
    )


def _place(item: Item) -> MessagePlace | None:
    """Of a message: where it goes back to. Asked for in another directory (`to`), it becomes a file of its own."""
    if not item.part or not item.notice:  # without a notice nothing was overwritten: only `to` can have it
        return None
    return MessagePlace(
        start=item.start,
        end=item.end,
        notice=item.notice,
        item=item.id,
        signature=item.signature,
        kept_at=item.kept_at,
    )
