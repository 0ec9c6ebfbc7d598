"""One disinfection, step by step: intent, worker, content to the vault, proof, record, log line. [daemon]

Each step is committed as `doing`, with the random name for the capture of its file, before the worker is told; as
ended after the worker's proof. So a crash at any point leaves a step that can be done again: the worker finds the
captured file, and the vault knows whether its content is safe. Records are committed first and written to the log in
the home after; a task that goes on writes the log afresh from them.
"""

import contextlib
import logging
import secrets
import time
from collections.abc import Iterator
from typing import Literal

import trio

from clamscannerd.errors import EngineLost, Refused, RemoteProtocolError, WorkerFailed
from clamscannerd.model import (
    CAPTURE_PREFIX,
    Account,
    Action,
    FindingState,
    Frozen,
    Item,
    Outcome,
    Step,
    StepState,
    Task,
)
from clamscannerd.pipeline.engineview import EngineView
from clamscannerd.pipeline.link import HomeUnusable, Spawner, WorkerLink, open_worker, pause_s
from clamscannerd.rpc.names import to_wire
from clamscannerd.state.store import FileMeta, Store
from clamscannerd.state.vault import Vault
from clamscannerd.stop import Stop
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
    NoSession,
    Reply,
    Sessions,
    Stored,
    Sync,
    Synced,
)

log = logging.getLogger(__name__)

_FINDING = {
    Outcome.DELETED: FindingState.DELETED,
    Outcome.QUARANTINED: FindingState.QUARANTINED,
    Outcome.MAILBOX_CLEANSED: FindingState.CLEANSED,
}
NO_MAILBOXES = "cannot cleanse it: this version cannot cleanse mailboxes; the file is untouched"


class TaskLimits(Frozen, frozen=True, kw_only=True):
    """Bounds of a task; defaults and reasons stand in config.Tasks, config.Scans and config.Vault."""

    step_timeout_s: float  # of a whole step: a worker that sends a byte now and then does not keep it alive
    silence_s: float
    file_deadline_s: float
    retries: int


class DisinfectJobs:
    """Runs tasks; one `run` is one job."""

    def __init__(
        self,
        *,
        store: Store,
        vault: Vault,
        spawner: Spawner,
        engines: EngineView,
        limits: TaskLimits,
        stop: Stop | None = None,
    ) -> None:
        self.store = store
        self.vault = vault
        self.spawner = spawner
        self.engines = engines
        self.limits = limits  # replaced by a reload
        self.stopping = trio.Event()  # set at SIGTERM: finish the step at hand, begin no other
        self._stop = stop or Stop()

    async def run(self, task: Task, account: Account, lock_fd: int) -> None:
        """From queued to done; parked when the daemon stops. Raises SpawnRefused, parked, when no worker can be had."""
        ended = False
        await self.store.begin_task(task.id, time.time())
        try:
            ended = await self._attempts(task, account, lock_fd)
        finally:
            if not ended:
                with self._stop.shield():
                    await self.store.park_task(task.id)

    async def fail(self, task: Task, message: str) -> None:
        """End a task whose account is gone: every step that is left is an error. Nothing is touched."""
        account = Account(uid=task.uid, gid=0, name=task.name, home=b"")
        await self.store.begin_task(task.id, time.time())
        await _Run(self, task, account).give_up_all(message)

    async def _attempts(self, task: Task, account: Account, lock_fd: int) -> bool:
        """True when the done record is committed. A step over which workers die again and again ends in `error`."""
        failures: dict[int, int] = {}
        while True:
            run = _Run(self, task, account)
            try:
                return await run.go(lock_fd)
            except HomeUnusable as error:
                return await run.give_up_all(f"cannot act on it: {error}")
            except WorkerFailed as error:
                failures[run.seq] = failures.get(run.seq, 0) + 1
                log.warning("task %s, step %d, attempt %d: %s", task.public_id, run.seq, failures[run.seq], error)
                if failures[run.seq] <= self.limits.retries:
                    with trio.move_on_after(pause_s(failures[run.seq])):
                        await self.stopping.wait()
                        return False
                    continue
                if run.seq != 0:
                    await run.give_up(run.seq, f"cannot act on it: {error}")
                elif await run.give_up_rest(f"cannot act on it: {error}"):  # no worker got as far as a step
                    failures.clear()  # what was recorded now wants a log: some more workers, for that alone
                else:
                    log.warning("task %s ends, and its log in the home may not", task.public_id)
                    await self.store.end_task(task.id, time.time())
                    return True


def capture_name() -> bytes:
    """128 random bits: nobody can have put anything there (architecture, rule 5)."""
    return CAPTURE_PREFIX + secrets.token_hex(16).encode()


class _Run:
    """One worker's turn at a task."""

    def __init__(self, jobs: DisinfectJobs, task: Task, account: Account) -> None:
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
                await link.send(ActJob(max_file_size=size, file_deadline_s=jobs.limits.file_deadline_s))
                await self._write_log_afresh(link)
                while (step := await self._store.next_step(self.task.id)) is not None:
                    if jobs.stopping.is_set():
                        return False
                    self.seq = step.seq
                    await self._step(link, step)
                await self._sync(link)
                # Until the log is whole the task runs: a crash here leaves it to the next start, which ends it right.
                if done := await self._store.conclude_task(self.task.id):
                    await link.send(Log(fresh=False, lines=done + b"\n"))
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
        item = await self._store.item_of_step(self.task.id, step.seq)
        if step.state is StepState.WAITING:
            step = await self._store.begin_step(self.task.id, step.seq, capture_name())
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

    async def _step(self, link: WorkerLink, step: Step) -> None:
        again = step.state is StepState.DOING
        stored = await self._store.item_of_step(self.task.id, step.seq) if again else None
        step = await self._store.begin_step(self.task.id, step.seq, capture_name())
        if step.action is Action.IGNORE:
            await self.record(step, Outcome.NO_ACTION, None, gone=False)
            return
        if step.action is Action.CLEANSE_MAILBOX:
            await self.record(step, Outcome.ERROR, NO_MAILBOXES, gone=False)
            return
        with self._in_time(f"end step {step.seq}"):
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
            reply = await self._reply(link)
            if isinstance(reply, Acted):
                break
            if not isinstance(reply, Content) or reply.seq != step.seq:
                raise WorkerFailed(f"worker sent {type(reply).__name__} during a step")
            item = await self._receive(link, step, reply) or item
        if reply.seq != step.seq or reply.outcome not in _allowed(step.action):
            raise WorkerFailed(f"worker ended step {reply.seq} with {reply.outcome}")
        return reply, item

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
            message = "; ".join(filter(None, (_undo_until(item), message)))
        await self.record(step, reply.outcome, message or None, gone=reply.gone, item=item.id if item else None)

    async def _receive(self, link: WorkerLink, step: Step, announced: Content) -> Item | None:
        """Content into the vault, and the answer to the worker. None: it was not kept, and the worker knows."""
        meta = FileMeta(owner=announced.uid, group=announced.gid, mode=announced.mode, mtime_ns=announced.mtime_ns)
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
        reply = await self._reply(link)
        if not isinstance(reply, Chunk | ContentEnd) or reply.seq != step.seq:
            raise WorkerFailed(f"worker sent {type(reply).__name__} in the middle of a content")
        return reply.data if isinstance(reply, Chunk) else reply

    async def _reply(self, link: WorkerLink) -> Reply:
        """The next message that is about the step: log trouble and wishes for a session are served on the way."""
        engine_s = 0.0
        while True:
            reply = await link.receive(engine_s)
            if isinstance(reply, LogFailed):
                await self._issue("warning", reply.message)
            elif isinstance(reply, NeedSession):
                await self._bring_session(link)
                engine_s = self._jobs.limits.file_deadline_s  # it is silent while the engine looks at the file
            else:
                return reply

    async def _bring_session(self, link: WorkerLink) -> None:
        try:
            session, view = await self._jobs.engines.session()
        except EngineLost as error:
            await link.send(NoSession(reason=str(error)))
            return
        with session:
            answer = Sessions(fds=1, max_file_size=view.max_file_size, clean_allowed=view.signatures)
            await link.send(answer, [session.fileno()])

    async def record(
        self, step: Step, outcome: Outcome, message: str | None, *, gone: bool, item: int | None = None
    ) -> None:
        """Commit the end of a step with its record, then write the log line."""
        finding = _FINDING.get(outcome) or (FindingState.CLEARED if gone else None)
        text = to_wire(self._account.home.rstrip(b"/") + b"/" + step.path)
        record = await self._store.end_step(self.task.id, step.seq, outcome, message, time.time(), text, finding, item)
        log.info("task %s: %r: %s", self.task.public_id, step.path, outcome.value)
        if self._link is not None:
            await self._link.send(Log(fresh=False, lines=record + b"\n"))

    async def _issue(self, state: Literal["error", "warning"], message: str) -> None:
        if not self._log_failed:
            self._log_failed = True
            if not await self._store.add_issue(self.task.id, state, message):
                log.warning("task %s: after its end: %s", self.task.public_id, message)

    async def _write_log_afresh(self, link: WorkerLink) -> None:
        """Everything that was recorded before, in messages of bounded size."""
        fresh, after, lines = True, 0, b""
        while records := await self._store.records(self.task.id, after, 200):
            after += len(records)
            for record in records:
                lines += record + b"\n"
                if len(lines) > BATCH_BYTES:
                    await link.send(Log(fresh=fresh, lines=lines))
                    fresh, lines = False, b""
        if fresh or lines:
            await link.send(Log(fresh=fresh, lines=lines))

    async def _sync(self, link: WorkerLink) -> None:
        with self._in_time("answer Sync"):
            await link.send(Sync())
            if not isinstance(await self._reply(link), Synced):
                raise WorkerFailed("worker did not answer Sync")

    @contextlib.contextmanager
    def _in_time(self, what: str) -> Iterator[None]:
        limit_s = self._jobs.limits.step_timeout_s
        try:
            with trio.fail_after(limit_s):
                yield
        except trio.TooSlowError:
            raise WorkerFailed(f"worker did not {what} within {limit_s:g} s") from None


def _allowed(action: Action) -> frozenset[Outcome]:
    done = Outcome.DELETED if action is Action.DELETE else Outcome.QUARANTINED
    return frozenset({done, Outcome.NO_ACTION, Outcome.ERROR})


def _undo_until(item: Item | None) -> str:
    if item is None:
        return "no copy was kept"
    until = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(item.expires_at))
    return f"a copy is kept until {until}"
