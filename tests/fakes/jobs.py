"""Jobs for a real Runner on real SQLite: what it is given to run waits for the test's word, or raises."""

import fcntl
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
import trio

from clamscannerd.model import Account, Action, Counts, EngineInfo, Identity, Outcome, Scan, ScanState, Task
from clamscannerd.state.runner import Runner
from clamscannerd.state.slots import Slots
from clamscannerd.state.store import NewFinding, NewStep, Store, StoreLimits, open_store

PATIENCE_S = 20.0
WHO = Identity(dev=1, ino=2, size=3, mtime_ns=4, sha256=b"h" * 32)


def person(number: int) -> Account:
    return Account(uid=1000 + number, gid=1000, name=f"p{number}", home=b"/home/p")


@contextmanager
def lock(locks: Path, uid: int) -> Iterator[None]:
    """As an old worker holds it. BlockingIOError when it is held."""
    with (locks / str(uid)).open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


class Jobs:
    """What the runner is given to run: jobs that wait for the test's word."""

    def __init__(self, store: Store, locks: Path, gone_after_s: float) -> None:
        self.store = store
        self.locks = locks
        self.started: list[tuple[str, int]] = []
        self.held: list[int] = []  # uids whose jobs wait for their gates
        self.failed: list[tuple[int, str]] = []
        self.gates: dict[int, trio.Event] = {}  # by uid; without one a job ends at once
        self.resolve: Callable[[int, str], Awaitable[Account]] = self._known
        self.engine_ready = True
        self.faults = 0  # jobs that are to raise `fault`
        self.fault: Exception = KeyError("a fault of ours")
        self.fail_fault: Exception | None = None  # raised when a task is to be ended
        self._changed = trio.Event()
        self.runner = Runner(
            store=store,
            locks=locks,
            slots=Slots(scans=2, tasks=2),
            run_scan=self._scan,
            run_task=self._task,
            fail_task=self._fail_task,
            resolve=lambda uid, name: self.resolve(uid, name),
            engine_ready=lambda: self.engine_ready,
            gone_after_s=gone_after_s,
        )

    async def _known(self, uid: int, _: str) -> Account:
        return person(uid - 1000)

    async def ask(self, *numbers: int, scheduled: bool = False) -> list[Scan]:
        wanted = [(person(n), "home", (b".",), 1000 + n, time.time()) for n in numbers]
        scans = [await self.store.add_scan(*words, scheduled=scheduled) for words in wanted]
        self.runner.wake()
        return scans

    async def ask_task(self, number: int) -> Task:
        """A task of one step; needs a scan that was done, and that the runner does not begin meanwhile."""
        ready, self.engine_ready = self.engine_ready, False
        scan = await self.store.add_scan(person(number), "home", (b".",), 0, time.time())
        await self.store.begin_scan(scan.id, EngineInfo(), time.time())
        (found,) = await self.store.add_findings(
            scan.id, [NewFinding(path=b"x", identity=WHO, signature="s")], time.time()
        )
        await self.store.end_scan(scan.id, ScanState.DONE, Counts(), "", time.time())
        step = NewStep(path=b"x", action=Action.DELETE, finding_id=found.id, identity=WHO, signature="s")
        self.engine_ready = ready
        task = await self.store.add_task(person(number), scan.id, [step], 0, time.time())
        self.runner.wake()
        return task

    def hold(self, *numbers: int) -> None:
        for number in numbers:
            self.gates[1000 + number] = trio.Event()

    def release(self, number: int) -> None:
        self.gates.pop(1000 + number).set()

    async def wait_started(self, count: int) -> None:
        await self.wait(lambda: len(self.started) >= count)

    async def wait_state(self, scan_id: int, state: ScanState) -> Scan:
        while True:
            scan = await self.store.get_scan(scan_id)
            if scan is not None and scan.state is state:
                return scan
            await trio.lowlevel.checkpoint()

    async def wait(self, holds: Callable[[], bool]) -> None:
        while not holds():
            await self._changed.wait()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def _scan(self, scan: Scan, account: Account, lock_fd: int, cancelled: trio.Event) -> None:
        with pytest.raises(BlockingIOError), lock(self.locks, account.uid):
            pass
        os.fstat(lock_fd)
        await self.store.begin_scan(scan.id, EngineInfo(), time.time())
        self.started.append(("scan", account.uid))
        self._tell()
        ended = False
        try:
            await self._wait_for_word(account.uid, cancelled)
            state = ScanState.CANCELLED if cancelled.is_set() else ScanState.DONE
            await self.store.end_scan(scan.id, state, Counts(), "", time.time())
            ended = True
        finally:
            if not ended:
                with trio.CancelScope(shield=True), trio.move_on_after(PATIENCE_S):
                    await self.store.park_scan(scan.id)

    async def _wait_for_word(self, uid: int, cancelled: trio.Event) -> None:
        if self.faults:
            self.faults -= 1
            raise self.fault
        gate = self.gates.get(uid)
        if gate is None:
            return
        self.held.append(uid)
        self._tell()
        async with trio.open_nursery() as nursery:

            async def until(event: trio.Event) -> None:
                await event.wait()
                nursery.cancel_scope.cancel()

            nursery.start_soon(until, gate)
            nursery.start_soon(until, cancelled)

    async def _task(self, task: Task, account: Account, lock_fd: int) -> None:
        self.started.append(("task", account.uid))
        self._tell()
        if self.faults:
            self.faults -= 1
            raise self.fault
        await self._end_task(task, "done")

    async def _fail_task(self, task: Task, message: str) -> None:
        if self.fail_fault is not None:
            raise self.fail_fault
        await self._end_task(task, message)
        self.failed.append((task.uid, message))
        self._tell()

    async def _end_task(self, task: Task, message: str) -> None:
        await self.store.begin_task(task.id, time.time())
        await self.store.begin_step(task.id, 1, b"name")
        await self.store.end_step(task.id, 1, Outcome.NO_ACTION, message, time.time(), "x", None, None)
        await self.store.end_task(task.id, time.time())


@asynccontextmanager
async def running(place: Path, *, serve: bool = True, gone_after_s: float = 0.0) -> AsyncIterator[Jobs]:
    locks = place / "locks"
    locks.mkdir()
    with trio.fail_after(PATIENCE_S):
        async with open_store(place / "state", StoreLimits()) as store, trio.open_nursery() as nursery:
            jobs = Jobs(store, locks, gone_after_s)
            if serve:
                nursery.start_soon(jobs.runner.serve)
            yield jobs
            nursery.cancel_scope.cancel()
