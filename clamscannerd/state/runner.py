"""Picks the next job and runs it: fairly per account, again after a crash, never two for one account. [daemon]

An account has at most one job queued or running, so serving in the order asked is serving accounts in turn: nobody
can queue twice. Scans of timers come after those that somebody waits for (slots.py). Scans wait while no engine
answers; tasks need none. What waits is in the database; what runs is known here.

Per job the account's lock (flock on locks/UID) is held, and the same open file goes down to the worker: a worker that
outlives its daemon delays the next job of its own account, and no other's.

A job that cannot be started, as no process can be made or the disk is full, is tried again for ever: what was
acknowledged is not given up for a trouble of the machine's. That there are such is `statistics().stuck`, for STATUS.
So are those of an account whose workers hang in the kernel (spawn.py); they take no place that another could have.
"""

import logging
import math
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from enum import Enum, auto
from pathlib import Path

import trio

from clamscannerd import events
from clamscannerd.errors import MonitorLost, SpawnRefused, StateError, UnknownAccount, WorkerOutdated
from clamscannerd.model import SCAN_ENDED, Account, Frozen, Scan, ScanState, Task, TaskState
from clamscannerd.state.locks import lock_of
from clamscannerd.state.scan_orders import ScanOrders
from clamscannerd.state.slots import Slots
from clamscannerd.state.store import Job, Store

log = logging.getLogger(__name__)

_LOCKED_S = 1.0  # until a busy account is looked at again: its old worker leaves at once when it reads EOF
_TROUBLE_S = 10.0  # after a failed look-up of an account, or a fault in a job; a full disk is soon noticed to be none
_MISSED_S = 60.0  # after a look-up that found no such account
_MAX_FAULTS = 3  # unexpected exceptions of one job before it is ended as failed

RunScan = Callable[[Scan, Account, int, trio.Event], Awaitable[None]]
RunTask = Callable[[Task, Account, int], Awaitable[None]]
FailTask = Callable[[Task, str], Awaitable[None]]
Resolve = Callable[[int, str], Awaitable[Account]]
"""(uid, name) -> the account as passwd has it now. UnknownAccount: it is gone, or another; TimeoutError: later."""


class RunnerStatistics(Frozen, frozen=True, kw_only=True):
    scans: int
    tasks: int
    waiting: int
    """Neither running nor about to."""
    paused: int
    """Scans that wait for somebody's word."""
    stuck: int
    """Of those the ones that were tried and could not be started."""
    stuck_since: float
    """Epoch seconds of the first of them; 0.0 without any."""


class _How(Enum):
    """A try at a job went well (or is over for now), is to be made later, or showed a fault of ours."""

    WELL = auto()
    LATER = auto()
    FAULT = auto()


class _Stuck(Frozen, frozen=True, kw_only=True):
    since: float
    why: str


class _Running:
    def __init__(self, job: Job) -> None:
        self.job = job
        self.cancelled = trio.Event()
        self.ended = trio.Event()
        self.scope = trio.CancelScope()
        self.paused = False  # on somebody's word: see ScanOrders


class Runner:
    """One per daemon."""

    def __init__(
        self,
        *,
        store: Store,
        locks: Path,
        slots: Slots,
        run_scan: RunScan,
        run_task: RunTask,
        fail_task: FailTask,
        resolve: Resolve,
        engine_ready: Callable[[], bool],
        gone_after_s: float,
        suspended: Callable[[int], str] = lambda _: "",
    ) -> None:
        self.slots = slots  # replaced by a reload
        self.gone_after_s = gone_after_s  # likewise
        self._store = store
        self._locks = locks
        self._run_scan = run_scan
        self._run_task = run_task
        self._fail_task = fail_task
        self._resolve = resolve
        self._engine_ready = engine_ready
        self._suspended = suspended  # uid -> why nothing starts for it now, or ""
        self._running: dict[tuple[int, str], _Running] = {}
        self._not_before: dict[tuple[str, int], float] = {}
        self._faults: dict[tuple[str, int], int] = {}
        self._locked: dict[tuple[str, int], float] = {}  # since when the account's lock is not to be had
        self._missed: dict[tuple[str, int], float] = {}  # since when passwd does not know the account
        self._orders = ScanOrders(store, self._running_scan, self._ordered)
        self._paused = 0
        self._waiting = 0
        self._placed_jobs: Sequence[Job] = ()
        self._places: dict[tuple[int, str], int] = {}  # of these
        self._stuck: dict[tuple[str, int], _Stuck] = {}
        self._stopping = False
        self.outdated = trio.Event()
        """Another version than this one is installed: no job starts any more, and a new start is what helps."""
        self.changed: Callable[[], None] = lambda: None  # called when statistics() may be others
        self.moved: Callable[[int, str], None] = lambda _uid, _name: None  # called when a job of an account ended
        self._changed = trio.Event()
        self._ended = trio.Event()  # a job ended

    # --- for the service

    def wake(self) -> None:
        """Something was queued, an engine came back, a setting changed."""
        self._changed.set()

    async def position(self, uid: int, name: str) -> int:
        """Of the account's job among those waiting, from 1; 0 when it runs or there is none."""
        jobs = await self._store.waiting_jobs()
        if jobs is not self._placed_jobs:
            self._placed_jobs = jobs
            self._places = {(job.uid, job.name): place for place, job in enumerate(jobs, start=1)}
        place = self._places.get((uid, name), 0)
        if not place or (uid, name) in self._running:
            return 0
        # Those that were picked may not have begun yet in the database.
        return place - sum(self._places.get(picked, place) < place for picked in self._running)

    async def cancel_scan(self, scan: Scan) -> None:
        """Returns when the scan has ended."""
        await self._orders.cancel(scan)

    async def pause_scan(self, scan: Scan) -> None:
        """Returns when the scan is paused, or has ended."""
        await self._orders.pause(scan)

    async def resume_scan(self, scan: Scan) -> None:
        """Returns when a paused scan is queued again."""
        await self._orders.resume(scan)

    def _running_scan(self, scan: Scan) -> _Running | None:
        running = self._running.get((scan.uid, scan.name))
        is_it = running is not None and running.job.kind == "scan" and running.job.id == scan.id
        return running if is_it else None

    def _ordered(self, scan: Scan) -> None:
        self.moved(scan.uid, scan.name)
        self.wake()

    def statistics(self) -> RunnerStatistics:
        kinds = [running.job.kind for running in self._running.values()]
        stuck = [stuck.since for key, stuck in self._stuck.items() if key not in self._keys_running()]
        return RunnerStatistics(
            scans=kinds.count("scan"),
            tasks=kinds.count("task"),
            waiting=self._waiting,
            paused=self._paused,
            stuck=len(stuck),
            stuck_since=min(stuck, default=0.0),
        )

    def _keys_running(self) -> set[tuple[str, int]]:
        return {(running.job.kind, running.job.id) for running in self._running.values()}

    async def wait_idle(self) -> None:
        """Returns when no job runs."""
        while self._running:
            await self._ended.wait()

    # --- the loop

    async def serve(self) -> None:
        """Until cancelled. Jobs run in a nursery of their own; an exception in one ends only that one."""
        async with trio.open_nursery() as nursery:
            while True:
                self._changed = trio.Event()
                try:
                    soonest = await self._start_all(nursery)
                except StateError as error:
                    log.error("no job starts for %g s: %s", _TROUBLE_S, error)
                    soonest = trio.current_time() + _TROUBLE_S
                self.changed()
                with trio.move_on_at(soonest):
                    await self._changed.wait()

    async def _start_all(self, nursery: trio.Nursery) -> float:
        """Start what may start; returns the time at which to look again without being woken."""
        soonest = float("inf")
        self._paused = await self._store.paused_scans()
        waiting = [] if self._stopping else await self._store.waiting_jobs()
        left = {(job.kind, job.id) for job in waiting} | self._keys_running()
        self._stuck = {key: stuck for key, stuck in self._stuck.items() if key in left}
        for job in waiting if not self.outdated.is_set() else ():
            # No await from here to the entry in _running: two rounds never pick the same account.
            if (job.uid, job.name) in self._running or (job.kind == "scan" and job.id in self._orders):
                continue
            not_before = self._not_before.get((job.kind, job.id), 0.0)
            if not_before > trio.current_time():
                soonest = min(soonest, not_before)
                continue
            if self._stopping or not self._has_room(job):
                continue
            if why := self._suspended(job.uid):
                self._note_stuck(job, f"cannot start a worker for {job.name}: {why}")
                continue
            running = _Running(job)
            self._running[job.uid, job.name] = running
            nursery.start_soon(self._contain, running)
        self._waiting = len([job for job in waiting if (job.uid, job.name) not in self._running])
        return soonest

    def _has_room(self, job: Job) -> bool:
        if job.kind == "scan" and not self._engine_ready():
            return False
        return self.slots.free_for(job, (running.job for running in self._running.values()))

    async def _contain(self, running: _Running) -> None:
        """A job and what becomes of it: nothing that goes wrong in it harms another."""
        job = running.job
        try:
            with running.scope:
                how = await self._try(job, lambda: self._run(running))
                if how is not _How.WELL:
                    await self._queue_again(job)
                if how is _How.FAULT:
                    await self._count_fault(job)
                elif how is _How.WELL:
                    self._faults.pop((job.kind, job.id), None)
                    self._stuck.pop((job.kind, job.id), None)
            if running.paused:
                await self._queue_again(job)
                await self._try(job, lambda: self._orders.hold(job.id))
        finally:
            del self._running[job.uid, job.name]
            running.ended.set()
            self._ended.set()
            self._ended = trio.Event()
            self.moved(job.uid, job.name)
            self.wake()

    async def _try(self, job: Job, body: Callable[[], Awaitable[None]]) -> _How:
        """One of the two places that catch Exception: a fault in one job is logged, counted, and harms no other."""
        what = f"{job.kind} {job.id} of uid {job.uid}"
        try:
            await body()
        except MonitorLost:
            raise  # nothing can go on without it
        except WorkerOutdated as error:
            log.warning("%s waits: %s", what, error)
            self.outdated.set()
            return _How.LATER
        except (SpawnRefused, StateError) as error:  # no fork, a full disk, somebody's lock: it may pass
            self._note_stuck(job, str(error))
            if not self._suspended(job.uid):  # else there is a wake-up
                self._put_off(job, _TROUBLE_S)
            return _How.LATER
        except Exception:
            log.exception("%s: unexpected fault", what)
            self._put_off(job, _LOCKED_S)
            return _How.FAULT
        return _How.WELL

    def _note_stuck(self, job: Job, why: str) -> None:
        """Said once, however often it is tried again, until the reason is another."""
        key = (job.kind, job.id)
        before = self._stuck.get(key)
        if before is None or before.why != why:
            extra = events.about(job.uid)
            log.error("%s %d of uid %d waits, and is tried again and again: %s", *key, job.uid, why, extra=extra)
        self._stuck[key] = _Stuck(since=before.since if before else time.time(), why=why)

    async def _queue_again(self, job: Job) -> None:
        """What left its job in trouble may have left it `running`, and nothing that runs: nobody would take it up."""

        async def park() -> None:
            if job.kind == "scan":
                scan = await self._store.get_scan(job.id)
                if scan is not None and scan.state is ScanState.RUNNING:
                    await self._store.park_scan(job.id)
            else:
                task = await self._store.get_task(job.id)
                if task is not None and task.state is TaskState.RUNNING:
                    await self._store.park_task(job.id)

        while True:
            if await self._try(job, park) is not _How.LATER:
                return
            await trio.sleep(_TROUBLE_S)

    async def _count_fault(self, job: Job) -> None:
        """After a few it is ended; where even that fails, it is left alone until the next start."""
        key = (job.kind, job.id)
        self._faults[key] = self._faults.get(key, 0) + 1
        if self._faults[key] < _MAX_FAULTS:
            return
        message = "of an internal fault, which the daemon's log describes"
        how = await self._try(job, lambda: self._fail(job, message))
        if how is _How.WELL:
            del self._faults[key]
        elif how is _How.FAULT:
            log.error("%s %d of uid %d is not run again before the next start", job.kind, job.id, job.uid)
            await self._queue_again(job)
            self._put_off(job, math.inf)

    def _put_off(self, job: Job, pause_s: float) -> None:
        self._not_before[job.kind, job.id] = trio.current_time() + pause_s

    async def _run(self, running: _Running) -> None:
        job = running.job
        key = (job.kind, job.id)
        try:
            account = await self._resolve(job.uid, job.name)
        except UnknownAccount as error:
            await self._miss(job, str(error))
            return
        except TimeoutError:
            log.warning("%s %d: the account of uid %d cannot be looked up now", job.kind, job.id, job.uid)
            self._put_off(job, _TROUBLE_S)
            return
        self._missed.pop(key, None)
        lock_fd = lock_of(self._locks, job.uid)
        if lock_fd is None:
            if trio.current_time() > self._locked.setdefault(key, trio.current_time()) + _TROUBLE_S:
                raise SpawnRefused(f"cannot start a worker for {job.name}: one of an earlier job does not end")
            self._put_off(job, _LOCKED_S)
            return
        self._locked.pop(key, None)
        try:
            self._not_before.pop(key, None)
            if job.kind == "scan":
                scan = await self._store.get_scan(job.id)
                if scan is None or scan.state is not ScanState.QUEUED:
                    self._store.doubt_waiting_jobs()  # or this would be the next job again, for ever
                else:
                    await self._run_scan(scan, account, lock_fd, running.cancelled)
            else:
                task = await self._store.get_task(job.id)
                if task is None or task.state is not TaskState.QUEUED:
                    self._store.doubt_waiting_jobs()
                else:
                    await self._run_task(task, account, lock_fd)
        except UnknownAccount as error:  # removed while its task ran
            await self._miss(job, str(error))
        finally:
            os.close(lock_fd)

    async def _miss(self, job: Job, reason: str) -> None:
        """No such account; but a name service that is not up yet says the same of everybody. Only later is it true."""
        key, now = (job.kind, job.id), trio.current_time()
        since = self._missed.setdefault(key, now)
        if now < since + self.gone_after_s:
            pause_s = min(_MISSED_S, since + self.gone_after_s - now)
            log.warning("%s %d of uid %d: %s; asked again in %g s", job.kind, job.id, job.uid, reason, pause_s)
            self._put_off(job, pause_s)
            return
        await self._fail(job, reason)
        del self._missed[key]

    async def _fail(self, job: Job, message: str) -> None:
        """End a job that cannot run."""
        if job.kind == "scan":
            scan = await self._store.get_scan(job.id)
            if scan is not None and scan.state not in SCAN_ENDED:
                failure = f"cannot scan: {message}"
                await self._store.end_scan(job.id, ScanState.FAILED, scan.counts, failure, time.time())
        else:
            task = await self._store.get_task(job.id)
            if task is not None and task.state is TaskState.QUEUED:
                await self._fail_task(task, f"cannot act on it: {message}")

    async def drain(self, patience_s: float) -> None:
        """Stop: scans are parked at once, tasks get `patience_s` to end their step; then those are parked too."""
        self._stopping = True
        for running in self._running.values():
            if running.job.kind == "scan":
                running.scope.cancel()
        with trio.move_on_after(patience_s):
            while self._running:
                await self._ended.wait()
        for running in list(self._running.values()):
            running.scope.cancel()
