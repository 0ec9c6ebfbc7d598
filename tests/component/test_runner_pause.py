"""Pausing and resuming, on a real Runner and real SQLite: what was ordered is on disk, whatever else happens."""

import time
from pathlib import Path

import pytest
import trio
import trio.testing

from clamscannerd.errors import LocalProtocolError, Refused
from clamscannerd.model import Account, Counts, EngineInfo, Scan, ScanState
from clamscannerd.state.store import Store, StoreLimits, open_store
from tests.fakes.jobs import Jobs, person, running


async def state_of(jobs: Jobs, scan: Scan) -> ScanState:
    now = await jobs.store.get_scan(scan.id)
    assert now is not None
    return now.state


async def test_a_queued_scan_is_paused_without_having_run_and_keeps_its_place(tmp_path: Path) -> None:
    async with running(tmp_path) as jobs:
        jobs.engine_ready = False
        first, second = await jobs.ask(1, 2)
        await jobs.runner.pause_scan(first)
        assert await state_of(jobs, first) is ScanState.PAUSED
        assert await jobs.runner.position(first.uid, first.name) == 0
        assert await jobs.runner.position(second.uid, second.name) == 1
        jobs.hold(1, 2)
        jobs.engine_ready = True
        jobs.runner.wake()
        await jobs.wait_started(1)
        await trio.testing.wait_all_tasks_blocked()
        assert jobs.started == [("scan", second.uid)]
        await jobs.runner.resume_scan(first)
        await jobs.wait_started(2)
        assert jobs.started[1] == ("scan", first.uid)


async def test_a_running_scan_is_paused_when_its_pause_returns_and_goes_on_when_resumed(tmp_path: Path) -> None:
    async with running(tmp_path) as jobs:
        jobs.hold(1)
        (scan,) = await jobs.ask(1)
        await jobs.wait(lambda: bool(jobs.held))
        await jobs.runner.pause_scan(scan)
        paused = await jobs.store.get_scan(scan.id)
        assert paused is not None
        assert (paused.state, paused.resumed, paused.pauses) == (ScanState.PAUSED, 1, 1)
        with pytest.raises(Refused, match="already paused; resume or cancel it"):
            await jobs.ask(1)
        await trio.testing.wait_all_tasks_blocked()
        assert jobs.started == [("scan", scan.uid)], "nothing starts it"
        assert (jobs.runner.statistics().scans, jobs.runner.statistics().paused) == (0, 1)
        jobs.gates.clear()
        await jobs.runner.resume_scan(scan)
        await jobs.wait_state(scan.id, ScanState.DONE)
        assert jobs.runner.statistics().paused == 0


async def test_a_pause_is_carried_out_although_nobody_waits_for_it(tmp_path: Path) -> None:
    async with running(tmp_path) as jobs:
        jobs.hold(1)
        (scan,) = await jobs.ask(1)
        await jobs.wait(lambda: bool(jobs.held))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(jobs.runner.pause_scan, scan)
            while not jobs.runner._running[scan.uid, scan.name].paused:
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        await jobs.wait_state(scan.id, ScanState.PAUSED)


async def test_a_scan_that_is_put_back_before_it_began_is_paused_all_the_same(tmp_path: Path) -> None:
    async with running(tmp_path) as jobs, trio.open_nursery() as nursery:
        looking, found = trio.Event(), trio.Event()

        async def slow(_: int, __: str) -> Account:
            looking.set()
            with trio.CancelScope(shield=True):
                await found.wait()
            raise TimeoutError("LDAP")

        jobs.resolve = slow
        (scan,) = await jobs.ask(1)
        await looking.wait()
        nursery.start_soon(jobs.runner.pause_scan, scan)
        await trio.testing.wait_all_tasks_blocked()
        found.set()
        await jobs.wait_state(scan.id, ScanState.PAUSED)
    assert jobs.started == []


async def test_a_paused_scan_is_cancelled_and_says_when(tmp_path: Path) -> None:
    async with running(tmp_path) as jobs:
        jobs.engine_ready = False
        (scan,) = await jobs.ask(1)
        await jobs.runner.pause_scan(scan)
        await jobs.runner.cancel_scan(scan)
        ended = await jobs.store.get_scan(scan.id)
        assert ended is not None
        assert (ended.state, ended.message) == (ScanState.CANCELLED, "the scan was cancelled while it was paused")
        await jobs.runner.resume_scan(scan)
        await jobs.runner.pause_scan(scan)
        assert await state_of(jobs, scan) is ScanState.CANCELLED, "what has ended stays so"


@pytest.mark.parametrize("hold", [True, False])
async def test_orders_at_once_are_carried_out_one_after_the_other(tmp_path: Path, *, hold: bool) -> None:
    """Whichever comes first: a cancel among them is the end, and no order finds what another has half done."""
    async with running(tmp_path) as jobs:
        if hold:
            jobs.hold(1)
        (scan,) = await jobs.ask(1)
        runner = jobs.runner
        orders = (runner.pause_scan, runner.resume_scan, runner.pause_scan, runner.cancel_scan, runner.resume_scan)
        async with trio.open_nursery() as nursery:
            for order in orders * 3:
                nursery.start_soon(order, scan)
        assert await state_of(jobs, scan) in ({ScanState.CANCELLED} if hold else {ScanState.CANCELLED, ScanState.DONE})
        assert scan.id not in runner._orders


async def test_a_paused_scan_stays_so_when_the_daemon_stops_and_starts(tmp_path: Path) -> None:
    async with open_store(tmp_path, StoreLimits()) as store:
        paused = await asked(store, 1)
        await store.pause_scan(paused.id)
        begun = await asked(store, 2)
        await store.begin_scan(begun.id, EngineInfo(), time.time())
        await store.park_scan(begun.id, Counts(total_files=9, scanned_files=3))
        await store.pause_scan(begun.id)
    async with open_store(tmp_path, StoreLimits()) as store:
        assert (await store.recover()).scans == ()
        assert await store.waiting_jobs() == []
        assert await store.paused_scans() == 2
        again = await store.get_scan(begun.id)
        assert again is not None
        assert (again.state, again.counts.scanned_files, again.resumed) == (ScanState.PAUSED, 3, 1)
        await store.resume_scan(paused.id)
        assert [job.id for job in await store.waiting_jobs()] == [paused.id]


async def test_a_running_scan_is_never_paused_past_its_place_in_the_queue(tmp_path: Path) -> None:
    async with open_store(tmp_path, StoreLimits()) as store:
        scan = await asked(store, 1)
        await store.begin_scan(scan.id, EngineInfo(), time.time())
        with pytest.raises(LocalProtocolError):
            await store.pause_scan(scan.id)
        with pytest.raises(LocalProtocolError):
            await store.resume_scan((await store.end_scan(scan.id, ScanState.DONE, Counts(), "", 1.0)).id)


async def asked(store: Store, number: int) -> Scan:
    return await store.add_scan(person(number), "home", (b".",), 0, time.time())
