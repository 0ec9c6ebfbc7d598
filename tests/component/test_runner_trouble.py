"""A runner while its surroundings fail: the database, the name service, the monitor, and the jobs' own ends."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import trio

from clamscannerd.errors import LocalProtocolError, SpawnRefused, StateError, UnknownAccount, WorkerOutdated
from clamscannerd.model import Account, ScanState, TaskState
from clamscannerd.state import runner, store_open
from clamscannerd.state.runner import RunnerStatistics
from tests.fakes.jobs import Jobs, person, running


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Real threads allow no jumping clock: short pauses instead."""
    monkeypatch.setattr(runner, "_LOCKED_S", 0.02)
    monkeypatch.setattr(runner, "_TROUBLE_S", 0.05)
    monkeypatch.setattr(runner, "_MISSED_S", 0.02)
    monkeypatch.setattr(store_open, "BUSY_TIMEOUT_S", 0.05)


@contextmanager
def locked(place: Path) -> Iterator[None]:
    """An administrator's shell in the middle of a transaction."""
    with closing(sqlite3.connect(place / "state" / "state.db", isolation_level=None)) as shell:
        shell.execute("BEGIN IMMEDIATE")
        yield
        shell.execute("ROLLBACK")


async def wait_logged(caplog: pytest.LogCaptureFixture, words: str, times: int = 1) -> None:
    while caplog.text.count(words) < times:
        await trio.lowlevel.checkpoint()


async def test_a_scan_whose_end_cannot_be_written_is_queued_again_when_it_can(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither its end nor its parking could be: in the database it runs, and nothing does."""
    async with running(tmp_path) as jobs:
        jobs.hold(1)
        (scan,) = await jobs.ask(1)
        await jobs.wait_state(scan.id, ScanState.RUNNING)
        with locked(tmp_path):
            jobs.release(1)
            await wait_logged(caplog, "database is locked")
            with pytest.raises(StateError, match="database is locked"):
                await jobs.ask(2)
            stuck = await jobs.store.get_scan(scan.id)
            assert stuck is not None
            assert stuck.state is ScanState.RUNNING
        assert (await jobs.wait_state(scan.id, ScanState.DONE)).resumed == 1
        (other,) = await jobs.ask(2)
        await jobs.wait_state(other.id, ScanState.DONE)
    assert "unexpected fault" not in caplog.text
    caplog.clear()


async def test_a_full_disk_delays_jobs_until_there_is_room(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with running(tmp_path) as jobs:
        (scan,) = await jobs.ask(1)
        await jobs.wait_state(scan.id, ScanState.DONE)
        jobs.hold(1)
        (scan,) = await jobs.ask(1)
        await jobs.wait_state(scan.id, ScanState.RUNNING)
        await fill_up(jobs)
        jobs.release(1)
        await wait_logged(caplog, "database or disk is full")
        await jobs.store._db.write(lambda c: c.execute("PRAGMA max_page_count = 1000000").fetchone())
        await jobs.wait_state(scan.id, ScanState.DONE)
    caplog.clear()


async def fill_up(jobs: Jobs) -> None:
    """Not a page more, and every transaction of a job wants some."""

    def fill(c: sqlite3.Connection) -> None:
        c.execute(
            "CREATE TRIGGER grows AFTER UPDATE ON scan BEGIN"
            " INSERT INTO account (uid, name) VALUES (4000000000, hex(randomblob(100000))); END"
        )
        c.execute(f"PRAGMA max_page_count = {c.execute('PRAGMA page_count').fetchone()[0]}").fetchone()

    await jobs.store._db.write(fill)


@pytest.mark.parametrize("kind", ["scan", "task"])
async def test_a_worker_that_cannot_be_started_is_waited_for_and_costs_no_try(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    async with running(tmp_path) as jobs:
        jobs.faults, jobs.fault = 10, SpawnRefused("cannot start a worker: EAGAIN")
        if kind == "scan":
            (scan,) = await jobs.ask(1)
            await jobs.wait_state(scan.id, ScanState.DONE)
        else:
            task = await jobs.ask_task(1)
            await jobs.wait(lambda: len(jobs.started) == 11)
            await wait_task(jobs, task.id)
        assert len(jobs.started) == 11
    assert caplog.text.count("EAGAIN") == 1, "said once, not at every try"
    assert "unexpected fault" not in caplog.text
    caplog.clear()


async def test_jobs_that_cannot_start_are_counted_until_they_do(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "_TROUBLE_S", 0.2)
    async with running(tmp_path) as jobs:
        told: list[int] = []
        jobs.runner.changed = lambda: told.append(jobs.runner.statistics().stuck)
        jobs.faults, jobs.fault = 3, SpawnRefused("cannot start a worker: EAGAIN")
        (one,) = await jobs.ask(1)
        while not told or not told[-1]:
            await trio.lowlevel.checkpoint()
        statistics = jobs.runner.statistics()
        assert (statistics.scans, statistics.waiting, statistics.stuck) == (0, 1, 1)
        assert 0 < statistics.stuck_since <= time.time()
        await jobs.wait_state(one.id, ScanState.DONE)
        await jobs.runner.wait_idle()
        assert jobs.runner.statistics() == RunnerStatistics(
            scans=0, tasks=0, waiting=0, paused=0, stuck=0, stuck_since=0.0
        )
        assert {0, 1} == set(told)
    caplog.clear()


async def test_one_that_is_cancelled_meanwhile_is_not_counted_any_more(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "_TROUBLE_S", 3_600.0)
    async with running(tmp_path) as jobs:
        jobs.faults, jobs.fault = 1, SpawnRefused("cannot start a worker: EAGAIN")
        (scan,) = await jobs.ask(1)
        while not jobs.runner.statistics().stuck:
            await trio.lowlevel.checkpoint()
        await jobs.runner.cancel_scan(scan)
        while jobs.runner.statistics().stuck:
            await trio.lowlevel.checkpoint()
    caplog.clear()


async def test_when_another_version_is_installed_nothing_starts_any_more_and_what_runs_ends(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(tmp_path) as jobs:
        jobs.hold(1)
        (first,) = await jobs.ask(1)
        await jobs.wait(lambda: len(jobs.held) == 1)  # it will not meet the fault any more
        jobs.faults, jobs.fault = 1, WorkerOutdated("worker is version 2")
        (second,) = await jobs.ask(2)
        await jobs.runner.outdated.wait()
        await jobs.ask(3)
        while (statistics := jobs.runner.statistics()).waiting != 2:
            await trio.lowlevel.checkpoint()
        assert (statistics.scans, statistics.stuck) == (1, 0)
        jobs.release(1)
        await jobs.runner.wait_idle()
        await jobs.wait_state(first.id, ScanState.DONE)
        waits = await jobs.wait_state(second.id, ScanState.QUEUED)
        assert len(jobs.started) == 2
        assert waits.message == ""
    caplog.clear()


async def wait_task(jobs: Jobs, task_id: int, state: TaskState = TaskState.DONE) -> None:
    while (task := await jobs.store.get_task(task_id)) is None or task.state is not state:
        await trio.lowlevel.checkpoint()


@pytest.mark.parametrize("end", [LocalProtocolError("cannot move"), sqlite3.IntegrityError("UNIQUE"), KeyError("x")])
async def test_a_job_that_can_neither_run_nor_end_is_left_alone_and_harms_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, end: Exception
) -> None:
    async with running(tmp_path) as jobs:
        jobs.faults, jobs.fail_fault = 3, end
        task = await jobs.ask_task(1)
        await wait_logged(caplog, "is not run again before the next start")
        (scan,) = await jobs.ask(2)
        await jobs.wait_state(scan.id, ScanState.DONE)
        assert jobs.started == [("task", 1001)] * 3 + [("scan", 1002)]
        await wait_task(jobs, task.id, TaskState.QUEUED)
        assert jobs.runner.statistics().tasks == 0
    assert caplog.text.count("unexpected fault") == 4
    caplog.clear()


async def test_an_account_that_is_not_known_yet_is_asked_for_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """At boot the name service may come up after the daemon, and says of everybody that there is no such user."""
    async with running(tmp_path, serve=False, gone_after_s=60.0) as jobs, trio.open_nursery() as nursery:
        up = False

        async def resolve(uid: int, _: str) -> Account:
            if not up:
                raise UnknownAccount("there is no such user")
            return person(uid - 1000)

        jobs.resolve = resolve
        (scan,) = await jobs.ask(1)
        task = await jobs.ask_task(2)
        nursery.start_soon(jobs.runner.serve)
        await wait_logged(caplog, "there is no such user; asked again", 6)
        up = True
        await jobs.wait_state(scan.id, ScanState.DONE)
        await wait_task(jobs, task.id)
        assert jobs.failed == []
        nursery.cancel_scope.cancel()


async def test_one_that_stays_unknown_is_gone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with running(tmp_path, gone_after_s=0.2) as jobs:

        async def gone(_: int, __: str) -> Account:
            raise UnknownAccount("there is no such user")

        jobs.resolve = gone
        (scan,) = await jobs.ask(1)
        await jobs.wait_state(scan.id, ScanState.FAILED)
    assert caplog.text.count("asked again") >= 2


async def test_a_list_of_jobs_that_cannot_be_read_is_read_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as jobs:
        real = jobs.store.waiting_jobs

        async def fails() -> None:
            raise StateError("cannot use state: out of memory")

        monkeypatch.setattr(jobs.store, "waiting_jobs", fails)
        (scan,) = await jobs.ask(1)
        await wait_logged(caplog, "no job starts", 2)
        monkeypatch.setattr(jobs.store, "waiting_jobs", real)
        await jobs.wait_state(scan.id, ScanState.DONE)
