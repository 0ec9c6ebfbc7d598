"""Which job runs when: in turn, never two of one account, again after trouble, ended when it cannot. Real SQLite."""

from pathlib import Path

import pytest
import trio
import trio.testing

from clamscannerd.errors import UnknownAccount
from clamscannerd.model import Account, ScanState, TaskState
from clamscannerd.state import runner
from clamscannerd.state.slots import Slots
from tests.fakes.jobs import lock, person, running


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Real threads allow no jumping clock: short pauses instead."""
    monkeypatch.setattr(runner, "_LOCKED_S", 0.05)
    monkeypatch.setattr(runner, "_TROUBLE_S", 0.05)


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


async def test_a_timers_scan_waits_for_those_that_people_ask_for_and_keeps_none_of_them_waiting(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as jobs:
        jobs.hold(1, 2, 3, 4, 5, 6)
        timers = await jobs.ask(1, 2, 3, scheduled=True)
        await jobs.wait_started(2)
        _, second, third = await jobs.ask(4, 5, 6)
        await jobs.wait_started(4)
        assert {uid for _, uid in jobs.started} == {1001, 1002, 1004, 1005}, "two places for either"
        assert await jobs.runner.position(third.uid, third.name) == 1
        assert await jobs.runner.position(timers[2].uid, timers[2].name) == 2, "asked for first, and yet"
        jobs.release(1)
        jobs.release(2)
        await jobs.wait_state(timers[1].id, ScanState.DONE)
        await trio.testing.wait_all_tasks_blocked()
        assert len(jobs.started) == 4, "a place of a timer's is none while people's are all taken"
        jobs.release(4)
        await jobs.wait_started(5)
        assert jobs.started[4] == ("scan", third.uid)
        jobs.release(5)
        await jobs.wait_started(6)
        assert jobs.started[5] == ("scan", timers[2].uid)
        assert (await jobs.wait_state(second.id, ScanState.DONE)).scheduled is False
        assert (await jobs.wait_state(timers[2].id, ScanState.RUNNING)).scheduled is True


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
