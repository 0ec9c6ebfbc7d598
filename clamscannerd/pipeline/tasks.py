"""Whatever changes a home: one job is one task, in as many turns of workers as it takes. [daemon]

What a task of a kind does is its turn's matter (disinfect.py, restore.py); here is what they share: parked when
the daemon stops, tried again when a worker dies, and ended, step by step, when nothing helps. A task never fails
as a whole: what cannot be done is the outcome of a step.
"""

import contextlib
import logging
import math
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Protocol

import trio

from clamscannerd import events
from clamscannerd.errors import EngineLost, SpawnRefused, UnknownAccount, WorkerFailed
from clamscannerd.model import CAPTURE_PREFIX, Account, Frozen, Task, TaskKind
from clamscannerd.pipeline.engineview import EngineView
from clamscannerd.pipeline.link import HomeUnusable, Spawner, WorkerLink, pause_s
from clamscannerd.state.store import Store
from clamscannerd.state.vault import Vault
from clamscannerd.stop import Stop
from clamscannerd.worker.messages import NoSession, Sessions

log = logging.getLogger(__name__)


class TaskLimits(Frozen, frozen=True, kw_only=True):
    """Bounds of a task; defaults and reasons stand in config.Tasks, config.Scans and config.Vault."""

    step_timeout_s: float  # of a whole step: a worker that sends a byte now and then does not keep it alive
    silence_s: float
    file_deadline_s: float
    retries: int
    file_cpu_s: float = math.inf


class Turn(Protocol):
    """One worker's turn at a task. `seq`: the step at hand, 0 before the first."""

    @property
    def seq(self) -> int: ...

    async def go(self, lock_fd: int) -> bool:
        """All steps that are left, then the end. False: the daemon stops, and the rest waits."""

    async def give_up(self, seq: int, message: str) -> None:
        """End the step over which workers died."""

    async def give_up_rest(self, message: str) -> bool:
        """Every step that is left ends as an error. Whether there was one."""

    async def give_up_all(self, message: str) -> bool:
        """No worker can do anything for this account: every step that is left ends as an error, and the task."""


class TaskJobs:
    """Runs tasks of all kinds; one `run` is one job."""

    def __init__(
        self,
        *,
        store: Store,
        vault: Vault,
        spawner: Spawner,
        engines: EngineView,
        limits: TaskLimits,
        turns: "Mapping[TaskKind, Callable[[TaskJobs, Task, Account], Turn]]",
        confirm: Callable[[Account], Awaitable[None]],
        stop: Stop | None = None,
    ) -> None:
        self.store = store
        self.vault = vault
        self.spawner = spawner
        self.engines = engines
        self.limits = limits  # replaced by a reload
        self.stopping = trio.Event()  # set at SIGTERM: finish the step at hand, begin no other
        self.confirm = confirm
        """Before each step: whose files they are. UnknownAccount when the uid is another's by now: the task is parked,
        and ends when passwd goes on saying so. A step that has begun is ended: half of one would be worse."""
        self._turns = turns
        self._stop = stop or Stop()

    async def run(self, task: Task, account: Account, lock_fd: int) -> None:
        """From queued to done; parked when the daemon stops. Raises, parked, SpawnRefused when no worker can be had,
        and UnknownAccount."""
        ended = False
        await self.store.begin_task(task.id, time.time())
        try:
            ended = await self._attempts(task, account, lock_fd)
        finally:
            if not ended:
                with self._stop.shield():
                    await self.store.park_task(task.id)

    async def is_confirmed(self, account: Account) -> bool:
        try:
            await self.confirm(account)
        except (UnknownAccount, SpawnRefused):
            return False
        return True

    async def fail(self, task: Task, message: str) -> None:
        """End a task whose account is gone: every step that is left is an error. Nothing is touched."""
        account = Account(uid=task.uid, gid=0, name=task.name, home=b"")
        await self.store.begin_task(task.id, time.time())
        await self._turns[task.kind](self, task, account).give_up_all(message)

    async def _attempts(self, task: Task, account: Account, lock_fd: int) -> bool:
        """True when the done record is committed. A step over which workers die again and again ends in `error`."""
        failures: dict[int, int] = {}
        while True:
            turn = self._turns[task.kind](self, task, account)
            try:
                return await turn.go(lock_fd)
            except HomeUnusable as error:
                return await turn.give_up_all(f"cannot act on it: {error}")
            except WorkerFailed as error:
                failures[turn.seq] = failures.get(turn.seq, 0) + 1
                log.warning(
                    "task %s, step %d, attempt %d: %s",
                    *(task.public_id, turn.seq, failures[turn.seq], error),
                    extra=events.about(task.uid, task=task.public_id),
                )
                if failures[turn.seq] <= self.limits.retries:
                    with trio.move_on_after(pause_s(failures[turn.seq])):
                        await self.stopping.wait()
                        return False
                    continue
                if turn.seq != 0:
                    await turn.give_up(turn.seq, f"cannot act on it: {error}")
                elif await turn.give_up_rest(f"cannot act on it: {error}"):  # no worker got as far as a step
                    failures.clear()  # what was recorded now wants a log: some more workers, for that alone
                else:
                    log.warning("task %s ends, and its log in the home may not", task.public_id)
                    return await turn.give_up_all("")


@contextlib.contextmanager
def in_time(limit_s: float, what: str) -> Iterator[None]:
    """WorkerFailed when the worker does not do it within `limit_s`, however often it says something."""
    try:
        with trio.fail_after(limit_s):
            yield
    except trio.TooSlowError:
        raise WorkerFailed(f"worker did not {what} within {limit_s:g} s") from None


def capture_name() -> bytes:
    """128 random bits: nobody can have put anything there (architecture, rule 5)."""
    return CAPTURE_PREFIX + secrets.token_hex(16).encode()


async def bring_session(link: WorkerLink, engines: EngineView, wait_s: float = math.inf) -> str:
    """The answer to NeedSession: waits while the engine is away. Why there is none, or ""."""
    try:
        with trio.fail_after(wait_s):
            session, view = await engines.session()
    except EngineLost as error:
        reason = str(error)
    except trio.TooSlowError:
        reason = f"no engine for {wait_s:g} s"
    else:
        with session:
            answer = Sessions(fds=1, max_file_size=view.max_file_size, clean_allowed=view.signatures)
            await link.send(answer, [session.fileno()])
        return ""
    await link.send(NoSession(reason=reason))
    return reason
