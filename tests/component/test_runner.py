"""Which job runs when: in turn, never two of one account, again after trouble, ended when it cannot. Real SQLite."""

import fcntl
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from clamscannerd.errors import StateError, UnknownAccount
from clamscannerd.model import Account, Action, Counts, EngineInfo, Identity, Outcome, Scan, ScanState, Task, TaskState
from clamscannerd.state import runner
from clamscannerd.state.runner import Runner, Slots
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

    def __init__(self, store: Store, locks: Path) -> None:
        self.store = store
        self.locks = locks
        self.started: list[tuple[str, int]] = []
        self.failed: list[tuple[int, str]] = []
        self.gates: dict[int, trio.Event] = {}  # by uid; without one a job ends at once
        self.resolve: Callable[[int, str], Awaitable[Account]] = self._known
        self.engine_ready = True
        self.faults = 0  # jobs that are to raise
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
        )

    async def _known(self, uid: int, _: str) -> Account:
        return person(uid - 1000)

    async def ask(self, *numbers: int) -> list[Scan]:
        scans = [await self.store.add_scan(person(n), "home", (b".",), 1000 + n, time.time()) for n in numbers]
        self.runner.wake()
        return scans

    async def ask_task(self, number: int) -> Task:
        """A task of one step; needs a scan that was done."""
        scan = await self.store.add_scan(person(number), "home", (b".",), 0, time.time())
        await self.store.begin_scan(scan.id, EngineInfo(), time.time())
        (found,) = await self.store.add_findings(
            scan.id, [NewFinding(path=b"x", identity=WHO, signature="s")], time.time()
        )
        await self.store.end_scan(scan.id, ScanState.DONE, Counts(), "", time.time())
        step = NewStep(path=b"x", action=Action.DELETE, finding_id=found.id, identity=WHO, signature="s")
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
        self.started.append(("scan", account.uid))
        self._tell()
        await self.store.begin_scan(scan.id, EngineInfo(), time.time())
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
            raise KeyError("a fault of ours")
        gate = self.gates.get(uid)
        if gate is None:
            return
        async with trio.open_nursery() as nursery:

            async def until(event: trio.Event) -> None:
                await event.wait()
                nursery.cancel_scope.cancel()

            nursery.start_soon(until, gate)
            nursery.start_soon(until, cancelled)

    async def _task(self, task: Task, account: Account, lock_fd: int) -> None:
        self.started.append(("task", account.uid))
        self._tell()
        await self._end_task(task, "done")

    async def _fail_task(self, task: Task, message: str) -> None:
        await self._end_task(task, message)
        self.failed.append((task.uid, message))
        self._tell()

    async def _end_task(self, task: Task, message: str) -> None:
        await self.store.begin_task(task.id, time.time())
        await self.store.begin_step(task.id, 1, b"name")
        await self.store.end_step(task.id, 1, Outcome.NO_ACTION, message, time.time(), "x", None, None)
        await self.store.end_task(task.id, time.time())


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Real threads allow no jumping clock: short pauses instead."""
    monkeypatch.setattr(runner, "_LOCKED_S", 0.05)
    monkeypatch.setattr(runner, "_TROUBLE_S", 0.05)


@asynccontextmanager
async def running(place: Path, *, serve: bool = True) -> AsyncIterator[Jobs]:
    locks = place / "locks"
    locks.mkdir()
    with trio.fail_after(PATIENCE_S):
        async with open_store(place / "state", StoreLimits()) as store, trio.open_nursery() as nursery:
            jobs = Jobs(store, locks)
            if serve:
                nursery.start_soon(jobs.runner.serve)
            yield jobs
            nursery.cancel_scope.cancel()


async def test_jobs_run_in_the_order_asked_as_far_as_there_are_places(tmp_path: Path) -> None:
    async with running(tmp_path) as jobs:
        jobs.hold(*range(1, 7))
        await jobs.ask(*range(1, 7))
        await jobs.wait_started(2)
        assert jobs.runner.statistics().scans == 2
        assert [await jobs.runner.position(1000 + n, f"p{n}") for n in range(1, 7)] == [0, 0, 1, 2, 3, 4]
        for number in range(1, 7):
            await jobs.wait_started(min(number + 1, 6))
            jobs.release(number)
        await jobs.wait_started(6)
        order = [uid for _, uid in jobs.started]
        assert sorted(order[:2]) == [1001, 1002], "two at once: either may be first"
        assert order[2:] == [1003, 1004, 1005, 1006]


async def test_who_asks_again_waits_behind_those_who_asked_before(tmp_path: Path) -> None:
    async with running(tmp_path) as jobs:
        jobs.runner.slots = Slots(scans=1, tasks=1)
        jobs.hold(1, 2, 3)
        first, *_ = await jobs.ask(1, 2, 3)
        await jobs.wait_started(1)
        jobs.release(1)
        await jobs.wait_started(2)
        await jobs.wait_state(first.id, ScanState.DONE)
        await jobs.ask(1)
        for number in (2, 3):
            jobs.release(number)
        await jobs.wait_started(4)
        assert [uid for _, uid in jobs.started] == [1001, 1002, 1003, 1001]


async def test_tasks_need_no_engine_and_scans_wait_for_it(tmp_path: Path) -> None:
    async with running(tmp_path) as jobs:
        jobs.engine_ready = False
        await jobs.ask(1)
        await jobs.ask_task(2)
        await jobs.wait_started(1)
        assert jobs.started == [("task", 1002)]
        jobs.engine_ready = True
        jobs.runner.wake()
        await jobs.wait_started(2)


async def test_more_places_after_a_reload_are_used_at_once(tmp_path: Path) -> None:
    async with running(tmp_path) as jobs:
        jobs.runner.slots = Slots(scans=1, tasks=1)
        jobs.hold(1, 2, 3)
        await jobs.ask(1, 2, 3)
        await jobs.wait_started(1)
        jobs.runner.slots = Slots(scans=3, tasks=1)
        jobs.runner.wake()
        await jobs.wait_started(3)
        assert jobs.runner.statistics().scans == 3


async def test_a_queued_scan_is_cancelled_without_having_run(tmp_path: Path) -> None:
    async with running(tmp_path) as jobs:
        jobs.engine_ready = False
        (scan,) = await jobs.ask(1)
        await jobs.runner.cancel_scan(scan)
        ended = await jobs.store.get_scan(scan.id)
        assert ended is not None
        assert (ended.state, ended.message) == (ScanState.CANCELLED, "the scan was cancelled before it started")
        assert jobs.started == []


async def test_a_running_scan_has_ended_when_its_cancel_returns(tmp_path: Path) -> None:
    async with running(tmp_path) as jobs:
        jobs.hold(1)
        (scan,) = await jobs.ask(1)
        await jobs.wait_started(1)
        await jobs.runner.cancel_scan(scan)
        ended = await jobs.store.get_scan(scan.id)
        assert ended is not None
        assert ended.state is ScanState.CANCELLED


async def test_a_scan_whose_account_is_being_looked_up_has_ended_when_its_cancel_returns(tmp_path: Path) -> None:
    """It runs for the runner, and not yet for anybody else."""
    async with running(tmp_path) as jobs, trio.open_nursery() as nursery:
        looking, found = trio.Event(), trio.Event()

        async def slow(uid: int, _: str) -> Account:
            looking.set()
            await found.wait()
            return person(uid - 1000)

        jobs.resolve = slow
        (scan,) = await jobs.ask(1)
        await looking.wait()

        async def cancel() -> None:
            await jobs.runner.cancel_scan(scan)
            ended = await jobs.store.get_scan(scan.id)
            assert ended is not None
            assert ended.state is ScanState.CANCELLED

        nursery.start_soon(cancel)
        nursery.start_soon(cancel)
        await trio.testing.wait_all_tasks_blocked()
        found.set()


async def test_a_cancel_is_not_forgotten_when_the_scan_is_put_back(tmp_path: Path) -> None:
    """An old worker still holds the lock, or passwd does not answer: the job goes back before it began."""
    async with running(tmp_path) as jobs, trio.open_nursery() as nursery:
        looking, found = trio.Event(), trio.Event()

        async def lost(_: int, __: str) -> Account:
            looking.set()
            await found.wait()
            raise TimeoutError("LDAP")

        jobs.resolve = lost
        (scan,) = await jobs.ask(1)
        await looking.wait()
        nursery.start_soon(jobs.runner.cancel_scan, scan)
        await trio.testing.wait_all_tasks_blocked()
        found.set()
        await jobs.wait_state(scan.id, ScanState.CANCELLED)
    assert jobs.started == []


async def test_cancelling_what_has_ended_meanwhile_is_no_fault(tmp_path: Path) -> None:
    async with running(tmp_path) as jobs:
        (scan,) = await jobs.ask(1)
        await jobs.wait_state(scan.id, ScanState.DONE)
        await jobs.runner.cancel_scan(scan)
        await jobs.wait_state(scan.id, ScanState.DONE)


async def test_two_cancels_at_once_are_one(tmp_path: Path) -> None:
    async with running(tmp_path) as jobs:
        jobs.engine_ready = False
        (scan,) = await jobs.ask(1)
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(jobs.runner.cancel_scan, scan)
        await jobs.wait_state(scan.id, ScanState.CANCELLED)


async def test_jobs_of_an_account_that_is_gone_end_with_the_reason(tmp_path: Path) -> None:
    async with running(tmp_path, serve=False) as jobs, trio.open_nursery() as nursery:

        async def gone(uid: int, _: str) -> Account:
            raise UnknownAccount(f"uid {uid} is no longer the user it was")

        jobs.resolve = gone
        (scan,) = await jobs.ask(1)
        task = await jobs.ask_task(2)
        nursery.start_soon(jobs.runner.serve)
        ended = await jobs.wait_state(scan.id, ScanState.FAILED)
        assert ended.message == "cannot scan: uid 1001 is no longer the user it was"
        await jobs.wait(lambda: bool(jobs.failed))
        assert jobs.failed == [(1002, "cannot act on it: uid 1002 is no longer the user it was")]
        done = await jobs.store.get_task(task.id)
        assert done is not None
        assert done.state is TaskState.DONE
        nursery.cancel_scope.cancel()
    assert jobs.started == []


async def test_a_lock_that_is_held_delays_its_account_alone(tmp_path: Path) -> None:
    async with running(tmp_path, serve=False) as jobs, trio.open_nursery() as nursery:
        with lock(jobs.locks, 1001):
            nursery.start_soon(jobs.runner.serve)
            await jobs.ask(1, 2)
            await jobs.wait_started(1)
            assert jobs.started == [("scan", 1002)]
        await jobs.wait_started(2)
        assert jobs.started[1] == ("scan", 1001)
        nursery.cancel_scope.cancel()


async def test_a_fault_in_one_job_harms_no_other_and_is_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(tmp_path) as jobs:
        jobs.faults = 1
        (scan,) = await jobs.ask(1)
        assert (await jobs.wait_state(scan.id, ScanState.DONE)).resumed == 1
        jobs.faults = 3
        (scan,) = await jobs.ask(1)
        ended = await jobs.wait_state(scan.id, ScanState.FAILED)
        assert "internal fault" in ended.message
        (scan,) = await jobs.ask(2)
        await jobs.wait_state(scan.id, ScanState.DONE)
    assert caplog.text.count("unexpected fault") == 4
    caplog.clear()


async def test_a_broken_store_ends_the_runner(tmp_path: Path) -> None:
    """Nothing can go on without it: house style, rule 17, is about faults of one job."""

    async def broken(_: int, __: str) -> Account:
        raise StateError("cannot write")

    async def go() -> None:
        async with running(tmp_path) as jobs:
            jobs.resolve = broken
            await jobs.ask(1)
            await trio.sleep_forever()

    with pytest.raises(BaseExceptionGroup) as raised:
        await go()
    assert raised.value.split(StateError)[1] is None


async def test_a_stop_parks_scans_at_once_and_starts_nothing_more(tmp_path: Path) -> None:
    async with running(tmp_path) as jobs:
        jobs.runner.slots = Slots(scans=1, tasks=1)
        jobs.hold(1, 2)
        first, _ = await jobs.ask(1, 2)
        await jobs.wait_started(1)
        await jobs.runner.drain(5)
        parked = await jobs.store.get_scan(first.id)
        assert parked is not None
        assert (parked.state, parked.resumed) == (ScanState.QUEUED, 1)
        assert jobs.started == [("scan", 1001)]
