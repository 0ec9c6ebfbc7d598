"""One disinfection, step by step: intent, worker, content to the vault, proof, record, log line. [daemon]

Each step is committed as `doing`, with the random name for the capture of its file, before the worker is told; as
ended after the worker's proof. So a crash at any point leaves a step that can be done again: the worker finds the
captured file, and the vault knows whether its content is safe. Records are committed first and written to the log in
the home after; a task that goes on writes the log afresh from them.
"""

import logging
import time
from collections.abc import Sequence
from typing import Literal

from clamscannerd import events
from clamscannerd.errors import Refused, RemoteProtocolError, WorkerFailed
from clamscannerd.model import (
    Account,
    Action,
    FindingState,
    Item,
    Outcome,
    Step,
    StepState,
    Task,
)
from clamscannerd.pipeline.cleanse import Cleansing, drop_unjournaled
from clamscannerd.pipeline.group import GroupRun, Waiting, is_plain
from clamscannerd.pipeline.link import WorkerLink, open_worker
from clamscannerd.pipeline.tasks import TaskJobs, bring_session, capture_name, in_time
from clamscannerd.rpc.names import to_wire
from clamscannerd.state.store import FileMeta
from clamscannerd.state.store_values import GroupTurn, StepEnd
from clamscannerd.worker.messages import (
    BATCH_BYTES,
    MAX_TEXT,
    Act,
    Acted,
    ActJob,
    Chunk,
    Content,
    ContentEnd,
    Log,
    LogFailed,
    NeedSession,
    Reply,
    Stored,
    Sync,
    Synced,
)

log = logging.getLogger(__name__)

_LOG_PAGE = 200  # records read at once when a log is written afresh
_FINDING = {
    Outcome.DELETED: FindingState.DELETED,
    Outcome.QUARANTINED: FindingState.QUARANTINED,
    Outcome.MAILBOX_CLEANSED: FindingState.CLEANSED,
}


class DisinfectTurn:
    """One worker's turn at a disinfection."""

    def __init__(self, jobs: TaskJobs, task: Task, account: Account) -> None:
        self.task = task
        self.seq = 0
        self._jobs = jobs
        self._account = account
        self._store = jobs.store
        self._log_failed = False
        self._link: WorkerLink | None = None

    async def go(self, lock_fd: int) -> bool:
        """All steps that are left, then the end. False: the daemon stops, and the rest waits."""
        jobs = self._jobs
        try:
            async with open_worker(jobs.spawner, self._account, lock_fd, jobs.limits.silence_s) as link:
                self._link = link
                size = jobs.engines.view().max_file_size
                deadline_s, cpu_s = jobs.limits.file_deadline_s, jobs.limits.file_cpu_s
                await link.send(ActJob(max_file_size=size, file_deadline_s=deadline_s, file_cpu_s=cpu_s))
                await self._write_log_afresh()
                while not jobs.stopping.is_set():
                    step = await self._store.next_step(self.task.id)
                    if step is None:
                        break
                    await jobs.confirm(self._account)
                    if step.state is StepState.WAITING and await self._groups(link, step):
                        continue
                    self.seq = step.seq
                    await self._step(link, step)
                else:
                    return False
                await self._sync(link)
                # Until the log is whole the task runs: a crash here leaves it to the next start, which ends it right.
                if done := await self._store.conclude_task(self.task.id):
                    await self.write_log([done])
                await self._sync(link)
                await self._store.end_task(self.task.id, time.time())
        finally:
            self._link = None
        return True

    async def give_up(self, seq: int, message: str) -> None:
        """End the step over which workers died."""
        step = await self._store.next_step(self.task.id)
        if step is not None and step.seq == seq:
            await self._give_up(step, message)

    async def _give_up(self, step: Step, message: str) -> None:
        """The file is where the last worker left it: it may have been captured before, or its content stored."""
        cleanse = step.action is Action.CLEANSE_MAILBOX
        if cleanse:
            await drop_unjournaled(self._store, self._jobs.vault, step)
        item = await self._store.item_of_step(self.task.id, step.seq)
        if step.state is StepState.WAITING:
            step = await self._store.begin_step(self.task.id, step.seq, capture_name())
        elif cleanse:
            message += f"; a lock file of it that holds {step.capture.decode('ascii')} is left over and may go"
        else:
            message += f"; if the file is missing, it is called {step.capture.decode('ascii')} in its directory"
        if item is not None:
            message += "; its content is in the vault"
        await self.record(step, Outcome.ERROR, message, gone=False, item=item.id if item else None)

    async def give_up_all(self, message: str) -> bool:
        """No worker can do anything for this account: every step that is left ends as an error, and the task.

        The log in the home, which nobody can reach, stays without its end.
        """
        await self.give_up_rest(message)
        await self._store.end_task(self.task.id, time.time())
        return True

    async def give_up_rest(self, message: str) -> bool:
        """Every step that is left ends as an error. Whether there was one."""
        any_left = False
        while (step := await self._store.next_step(self.task.id)) is not None:
            any_left = True
            await self._give_up(step, message)
        return any_left

    async def _groups(self, link: WorkerLink, step: Step) -> bool:
        """Small files together, from `step` on; what was not plain is done alone. False: none could be begun."""
        jobs = self._jobs
        waiting = Waiting(self._store, jobs.vault, self.task.id)
        if not is_plain(step, jobs.vault) or len(first := await waiting.group()) < 2:
            return False
        run = GroupRun(self, link, jobs.vault, self._account, self.task.id, waiting)
        ended: list[tuple[Step, StepEnd]] = []
        for one in await run.run(first, jobs.limits.step_timeout_s):  # records stand in the order asked
            if one.acted is not None:
                ended.append((one.step, self.end_of(one.step, one.acted, one.item.item_id)))
                continue
            await self._record_group(ended)
            ended = []
            self.seq = one.step.seq
            await self._step(link, one.step)
        await self._record_group(ended)
        return run.any_begun

    async def may_begin(self) -> bool:
        return not self._jobs.stopping.is_set() and await self._jobs.is_confirmed(self._account)

    def at(self, seq: int) -> None:
        self.seq = seq

    def end_of(self, step: Step, acted: Acted, item_id: int) -> StepEnd:
        message = acted.message
        if acted.outcome is Outcome.DELETED:
            until = self._jobs.vault.expires_at(step.action, time.time())
            message = "; ".join(filter(None, (_undo_until(until), message)))
        return StepEnd(
            seq=step.seq,
            outcome=acted.outcome,
            message=message or None,
            file_text=self._shown(step),
            finding_id=step.finding_id,
            finding_state=_FINDING[acted.outcome],
            item=item_id,
        )

    async def _record_group(self, ended: Sequence[tuple[Step, StepEnd]]) -> None:
        if ended:
            groups = GroupTurn(task_id=self.task.id, ends=[end for _, end in ended])
            turned = await self._jobs.vault.turn_groups(self._account, groups, time.time())
            for step, end in ended:
                self.tell(step, end.outcome)
            await self.write_log(turned.records)

    async def _step(self, link: WorkerLink, step: Step) -> None:
        again = step.state is StepState.DOING
        stored = await self._store.item_of_step(self.task.id, step.seq) if again else None
        step = await self._store.begin_step(self.task.id, step.seq, capture_name())
        if step.action is Action.IGNORE:
            await self.record(step, Outcome.NO_ACTION, None, gone=False)
            return
        if step.action is Action.CLEANSE_MAILBOX:
            with in_time(self._jobs.limits.step_timeout_s, f"end step {step.seq}"):
                await self._cleanse(link, step, again=again)
            return
        with in_time(self._jobs.limits.step_timeout_s, f"end step {step.seq}"):
            reply, item = await self._act(link, step, stored, again=again)
        await self._end(step, reply, item)

    async def _act(
        self, link: WorkerLink, step: Step, stored: Item | None, *, again: bool
    ) -> tuple[Acted, Item | None]:
        """Tell the worker; its word on how the step ended, and what the vault has of it."""
        await link.send(
            Act(
                seq=step.seq,
                path=step.path,
                action=step.action,
                identity=step.identity,
                capture=step.capture,
                again=again,
                stored=stored.sha256 if stored else b"",
                keep=self._jobs.vault.keeps(step.action),
            )
        )
        item = stored
        while True:
            reply = await self.reply(link)
            if isinstance(reply, Acted):
                break
            if not isinstance(reply, Content) or reply.seq != step.seq:
                raise WorkerFailed(f"worker sent {type(reply).__name__} during a step")
            item = await self._receive(link, step, reply) or item
        if reply.seq != step.seq or reply.outcome not in _allowed(step.action):
            raise WorkerFailed(f"worker ended step {reply.seq} with {reply.outcome}")
        return reply, item

    async def _cleanse(self, link: WorkerLink, step: Step, *, again: bool) -> None:
        jobs = self._jobs
        work = Cleansing(link, self.reply, self._store, jobs.vault, self._account, step)
        end = await work.run(again=again)
        reply, item = end.reply, end.items[0].id if end.items else None
        await self.record(step, reply.outcome, reply.message or None, gone=reply.gone, item=item)

    async def _end(self, step: Step, reply: Acted, item: Item | None) -> None:
        """Commit the proof. A copy in the vault is dropped only when the worker has put the file back: after a crash
        the file may have been unlinked before, and then an error (its directory is out of reach now, say) must not
        cost the only copy."""
        taken = reply.outcome in _FINDING
        message = reply.message
        if not taken and item is not None:
            if reply.put_back:
                await self._jobs.vault.remove(item.id)
                item = None
            else:
                message = "; ".join(filter(None, (message, "its content is in the vault")))
        if taken and item is None and step.action is Action.QUARANTINE:
            raise WorkerFailed("worker took a file away whose content it had not sent")
        if reply.outcome is Outcome.DELETED:
            message = "; ".join(filter(None, (_undo_until(item.expires_at if item else None), message)))
        await self.record(step, reply.outcome, message or None, gone=reply.gone, item=item.id if item else None)

    async def _receive(self, link: WorkerLink, step: Step, announced: Content) -> Item | None:
        """Content into the vault, and the answer to the worker. None: it was not kept, and the worker knows."""
        meta = FileMeta(
            owner=announced.uid,
            group=announced.gid,
            mode=announced.mode,
            mtime_ns=announced.mtime_ns,
            xattrs=announced.xattrs,
        )
        item: Item | None = None
        end: ContentEnd | None = None
        reason = ""
        try:
            async with self._jobs.vault.receive(self._account, step, announced.size, time.time(), meta) as incoming:
                while not isinstance(part := await self._part(link, step), ContentEnd):
                    await incoming.write(part)
                end = part
                if end.reason:
                    return None
                item = await incoming.commit(time.time(), sha256=end.sha256)
        except RemoteProtocolError as error:
            raise WorkerFailed(str(error)) from None
        except Refused as error:  # the vault is full, or its disk: the file stays untouched
            reason = str(error)
        # The worker waits for the answer only after its last part.
        while end is None:
            part = await self._part(link, step)
            end = part if isinstance(part, ContentEnd) else None
        if not end.reason:
            await link.send(Stored(seq=step.seq, reason=reason[:MAX_TEXT]))
        return item

    async def _part(self, link: WorkerLink, step: Step) -> bytes | ContentEnd:
        reply = await self.reply(link)
        if not isinstance(reply, Chunk | ContentEnd) or reply.seq != step.seq:
            raise WorkerFailed(f"worker sent {type(reply).__name__} in the middle of a content")
        return reply.data if isinstance(reply, Chunk) else reply

    async def reply(self, link: WorkerLink) -> Reply:
        """The next message that is about the step: log trouble and wishes for a session are served on the way."""
        engine_s = 0.0
        while True:
            reply = await link.receive(engine_s)
            if isinstance(reply, LogFailed):
                await self._issue("warning", reply.message)
            elif isinstance(reply, NeedSession):
                await bring_session(link, self._jobs.engines)
                engine_s = self._jobs.limits.file_deadline_s  # it is silent while the engine looks at the file
            else:
                return reply

    async def record(
        self, step: Step, outcome: Outcome, message: str | None, *, gone: bool, item: int | None = None
    ) -> None:
        """Commit the end of a step with its record, then write the log line."""
        finding = _FINDING.get(outcome) or (FindingState.CLEARED if gone else None)
        text = self._shown(step)
        record = await self._store.end_step(self.task.id, step.seq, outcome, message, time.time(), text, finding, item)
        self.tell(step, outcome)
        await self.write_log([record])

    def tell(self, step: Step, outcome: Outcome) -> None:
        """The journal, of an end that is committed."""
        task, uid, path = self.task.public_id, self._account.uid, self._shown(step)
        extra = events.action(uid, task=task, path=path, signature=step.signature, outcome=outcome)
        log.info("task %s of uid %d: %r: %s", task, uid, path, outcome.value, extra=extra)

    def _shown(self, step: Step) -> str:
        return to_wire(self._account.home.rstrip(b"/") + b"/" + step.path)

    async def write_log(self, records: Sequence[bytes], *, fresh: bool = False) -> None:
        """Whole lines, in messages of bounded size."""
        if self._link is None or not (records or fresh):
            return
        lines = b""
        for record in records:
            lines += record + b"\n"
            if len(lines) > BATCH_BYTES:
                await self._link.send(Log(fresh=fresh, lines=lines))
                fresh, lines = False, b""
        if fresh or lines:
            await self._link.send(Log(fresh=fresh, lines=lines))

    async def _issue(self, state: Literal["error", "warning"], message: str) -> None:
        if not self._log_failed:
            self._log_failed = True
            if not await self._store.add_issue(self.task.id, state, message):
                log.warning("task %s: after its end: %s", self.task.public_id, message)

    async def _write_log_afresh(self) -> None:
        """Everything that was recorded before."""
        records = await self._store.records(self.task.id, 0, _LOG_PAGE)
        await self.write_log(records, fresh=True)
        after = len(records)
        while records := await self._store.records(self.task.id, after, _LOG_PAGE):
            await self.write_log(records)
            after += len(records)

    async def _sync(self, link: WorkerLink) -> None:
        with in_time(self._jobs.limits.step_timeout_s, "answer Sync"):
            await link.send(Sync())
            if not isinstance(await self.reply(link), Synced):
                raise WorkerFailed("worker did not answer Sync")


def _allowed(action: Action) -> frozenset[Outcome]:
    done = Outcome.DELETED if action is Action.DELETE else Outcome.QUARANTINED
    return frozenset({done, Outcome.NO_ACTION, Outcome.ERROR})


def _undo_until(expires_at: float | None) -> str:
    if expires_at is None:
        return "no copy was kept"
    return time.strftime("a copy is kept until %Y-%m-%d %H:%M UTC", time.gmtime(expires_at))
