"""A runner whose accounts are suspended, or locked for long: their jobs wait, say why, take no place, and go on."""

import time
from pathlib import Path

import pytest
import trio

from clamscannerd.model import ScanState
from clamscannerd.state import runner
from tests.fakes.jobs import lock, running

HANG = "8 of its workers were killed and hang in the kernel"


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "_LOCKED_S", 0.02)
    monkeypatch.setattr(runner, "_TROUBLE_S", 0.05)


async def test_jobs_of_a_suspended_account_wait_and_those_of_others_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """More suspended ones than there are places for scans."""
    async with running(tmp_path) as jobs:
        suspended = {1001, 1002, 1003}
        jobs.runner._suspended = lambda uid: HANG if uid in suspended else ""
        waiting = await jobs.ask(1, 2, 3)
        task = await jobs.ask_task(4)
        (other,) = await jobs.ask(5)
        await jobs.wait_state(other.id, ScanState.DONE)
        while (done := await jobs.store.get_task(task.id)) is None or done.state != "done":
            await trio.lowlevel.checkpoint()
        await jobs.runner.wait_idle()
        while (statistics := jobs.runner.statistics()).stuck != 3:
            await trio.lowlevel.checkpoint()
        assert (statistics.scans, statistics.waiting) == (0, 3)
        assert 0 < statistics.stuck_since <= time.time()
        assert {uid for _, uid in jobs.started} == {1004, 1005}
        for scan in waiting:
            assert (await jobs.wait_state(scan.id, ScanState.QUEUED)).message == ""
        suspended.clear()
        jobs.runner.wake()
        for scan in waiting:
            await jobs.wait_state(scan.id, ScanState.DONE)
        await jobs.runner.wait_idle()
        assert jobs.runner.statistics().stuck == 0
    assert caplog.text.count("cannot start a worker for p1: " + HANG) == 1, "said once"
    caplog.clear()


async def test_a_lock_that_an_old_worker_holds_for_long_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(tmp_path) as jobs:
        with lock(tmp_path / "locks", 1001):
            (scan,) = await jobs.ask(1)
            while not jobs.runner.statistics().stuck:
                await trio.lowlevel.checkpoint()
        await jobs.wait_state(scan.id, ScanState.DONE)
        await jobs.runner.wait_idle()
        assert jobs.runner.statistics().stuck == 0
    assert caplog.text.count("cannot start a worker for p1: one of an earlier job does not end") == 1
    caplog.clear()
