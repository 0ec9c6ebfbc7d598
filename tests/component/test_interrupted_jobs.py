"""Scans and tasks that get no worker, lose it, or are stopped: what is left in the database. Real SQLite."""

import logging
import re
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import trio
import trio.testing

from clamscannerd.errors import SpawnRefused, WorkerOutdated
from clamscannerd.model import (
    Account,
    Action,
    Counts,
    EngineInfo,
    Identity,
    Scan,
    ScanState,
    StepState,
    Task,
    TaskKind,
    TaskState,
)
from clamscannerd.pipeline import scan, tasks
from clamscannerd.pipeline.disinfect import DisinfectTurn
from clamscannerd.pipeline.link import Spawner, WorkerProcess, pause_s
from clamscannerd.pipeline.scan import ScanJobs, ScanLimits
from clamscannerd.pipeline.tasks import TaskJobs, TaskLimits
from clamscannerd.state.live import Live
from clamscannerd.state.store import NewStep, Store, StoreLimits, open_store
from clamscannerd.state.vault import Vault, VaultLimits
from clamscannerd.stop import Stop
from clamscannerd.worker.messages import Recheck, Scanned
from tests.fakes.scripted_worker import Engine, Scripts, Worker, confirmed, engine_view

ANN = Account(uid=1001, gid=1001, name="ann", home=b"/home/ann")
WHO = Identity(dev=1, ino=2, size=3, mtime_ns=4, sha256=b"h" * 32)
VAULT = VaultLimits(
    keep_quarantined_s=1e6, keep_deleted_s=0, max_bytes_per_account=1 << 30, max_items_per_account=100, min_free=0.0
)


class Refusing:
    """No worker can be started."""

    async def spawn(self, account: Account, lock_fd: int) -> WorkerProcess:
        raise SpawnRefused("cannot start a worker for ann: Resource temporarily unavailable")


class Place:
    """The jobs of both kinds, with what they work with."""

    def __init__(self, directory: Path, store: Store, spawner: Spawner) -> None:
        self.store = store
        self.engine = Engine()
        self.stop = Stop()
        self.live = Live()
        view = engine_view(self.engine)
        self.scans = ScanJobs(
            store=store,
            live=self.live,
            spawner=spawner,
            engines=view,
            limits=ScanLimits(silence_s=60.0, deadline_s=3_600.0, file_deadline_s=60.0, retries=2, max_skipped=100),
            stop=self.stop,
        )
        self.tasks = TaskJobs(
            turns={TaskKind.DISINFECT: DisinfectTurn},
            confirm=confirmed,
            store=store,
            vault=Vault(directory / "vault", store, VAULT),
            spawner=spawner,
            engines=view,
            limits=TaskLimits(step_timeout_s=60.0, silence_s=60.0, file_deadline_s=60.0, retries=2),
            stop=self.stop,
        )

    async def ask_scan(self) -> Scan:
        return await self.store.add_scan(ANN, "home", (b".",), ANN.uid, time.time())

    async def ask_task(self) -> Task:
        new = NewStep(path=b"x", action=Action.DELETE, finding_id=1, identity=WHO, signature="s")
        return await self.store.add_task(ANN, 1, [new], ANN.uid, time.time())

    async def run_scan(self, scan: Scan) -> None:
        await self.scans.run(scan, ANN, 0, trio.Event())

    async def state_of(self, scan: Scan) -> tuple[ScanState, int]:
        now = await self.store.get_scan(scan.id)
        assert now is not None
        return now.state, now.resumed


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with open_store(tmp_path / "state", StoreLimits()) as opened:
        yield opened


def outdated(nursery: trio.Nursery) -> Scripts:
    spawner = Scripts(nursery, None)
    spawner.version = "0.0.0\n"
    return spawner


async def begun(worker: Worker) -> None:
    while not (await worker.until(Recheck)).last:
        pass


async def dies(worker: Worker) -> None:
    await begun(worker)


# No worker


@pytest.mark.parametrize("cause", [SpawnRefused, WorkerOutdated])
async def test_a_scan_without_a_worker_was_never_begun(
    tmp_path: Path, store: Store, nursery: trio.Nursery, cause: type[SpawnRefused]
) -> None:
    place = Place(tmp_path, store, outdated(nursery) if cause is WorkerOutdated else Refusing())
    asked = await place.ask_scan()
    for _ in range(30):
        with pytest.raises(cause):
            await place.run_scan(asked)
    assert await place.state_of(asked) == (ScanState.QUEUED, 0)
    assert len(place.live) == 0


@pytest.mark.parametrize("cause", [SpawnRefused, WorkerOutdated])
async def test_a_task_without_a_worker_waits_as_it_was(
    tmp_path: Path, store: Store, nursery: trio.Nursery, cause: type[SpawnRefused]
) -> None:
    place = Place(tmp_path, store, outdated(nursery) if cause is WorkerOutdated else Refusing())
    task = await place.ask_task()
    for _ in range(10):
        with pytest.raises(cause):
            await place.tasks.run(task, ANN, 0)
    now = await store.get_task(task.id)
    assert now is not None
    assert now.state is TaskState.QUEUED
    assert [step.state for step in await store.steps(task.id)] == [StepState.WAITING]
    assert await store.records(task.id) == []


async def test_another_version_is_said_with_both(tmp_path: Path, store: Store, nursery: trio.Nursery) -> None:
    place = Place(tmp_path, store, outdated(nursery))
    with pytest.raises(WorkerOutdated, match=r"worker is version '0\.0\.0\\n', this daemon .*: restart the daemon"):
        await place.run_scan(await place.ask_scan())


async def test_another_version_is_recognised_whatever_else_it_says(
    tmp_path: Path, store: Store, nursery: trio.Nursery
) -> None:
    """After an upgrade every message may be another, this one too."""
    spawner = Scripts(nursery, None)
    spawner.hello = msgspec.msgpack.encode({"type": "Hello", "version": "9.1", "seals": "many", "new": [1, 2]})
    place = Place(tmp_path, store, spawner)
    with pytest.raises(WorkerOutdated, match=r"worker is version '9\.1', this daemon"):
        await place.run_scan(await place.ask_scan())


@pytest.mark.parametrize("hello", [b"", b"\xff", b"x" * 1000])
async def test_what_is_no_hello_is_no_other_version(
    tmp_path: Path, store: Store, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, hello: bytes
) -> None:
    monkeypatch.setattr(scan, "pause_s", lambda _: 0.0)
    spawner = Scripts(nursery, None)
    spawner.hello = hello
    place = Place(tmp_path, store, spawner)
    asked = await place.ask_scan()
    await place.run_scan(asked)
    assert (await place.state_of(asked))[0] is ScanState.FAILED


@pytest.mark.parametrize("kind", ["scan", "task"])
async def test_a_program_that_cannot_run_is_no_fault_of_the_job(
    tmp_path: Path, store: Store, nursery: trio.Nursery, kind: str
) -> None:
    """Half an upgrade is installed: the job waits, and no try is counted."""
    spawner = Scripts(nursery, None)
    spawner.end = ("exit code 80: the worker's program cannot be run", True)
    place = Place(tmp_path, store, spawner)
    refused = pytest.raises(SpawnRefused, match=r"cannot start a worker: .* ended before it began: exit code 80")
    if kind == "task":
        task = await place.ask_task()
        for _ in range(10):
            with refused:
                await place.tasks.run(task, ANN, 0)
        return
    asked = await place.ask_scan()
    for _ in range(10):
        with refused:
            await place.run_scan(asked)
    assert await place.state_of(asked) == (ScanState.QUEUED, 0)


# Workers that die


async def test_how_a_worker_ended_is_said(
    tmp_path: Path, store: Store, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan, "pause_s", lambda _: 0.0)
    spawner = Scripts(nursery, dies)
    spawner.end = ("signal 9", False)
    place = Place(tmp_path, store, spawner)
    asked = await place.ask_scan()
    await place.run_scan(asked)
    ended = await store.get_scan(asked.id)
    assert ended is not None
    assert re.fullmatch(r"cannot finish the scan: worker \d+ ended before its job: signal 9", ended.message)


def test_pauses_between_workers_grow() -> None:
    assert [pause_s(attempt) for attempt in range(1, 6)] == [1.0, 4.0, 16.0, 60.0, 60.0]


@pytest.mark.parametrize("kind", ["scan", "task"])
async def test_before_another_worker_is_tried_there_is_a_pause(
    tmp_path: Path, store: Store, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    asked: list[int] = []

    def pause(attempt: int) -> float:
        asked.append(attempt)
        return 0.1

    for module in (scan, tasks):
        monkeypatch.setattr(module, "pause_s", pause)
    place = Place(tmp_path, store, Scripts(nursery, dies if kind == "scan" else None))
    started = trio.current_time()
    if kind == "scan":
        await place.run_scan(await place.ask_scan())
    else:
        await place.tasks.run(await place.ask_task(), ANN, 0)
    assert asked[:2] == [1, 2]
    assert trio.current_time() - started >= 0.2


async def test_a_cancel_or_a_stop_ends_the_pause(tmp_path: Path, store: Store, nursery: trio.Nursery) -> None:
    place = Place(tmp_path, store, Scripts(nursery, dies))
    asked, cancelled = await place.ask_scan(), trio.Event()
    with trio.fail_after(20):
        async with trio.open_nursery() as inner:
            inner.start_soon(place.scans.run, asked, ANN, 0, cancelled)
            while await place.state_of(asked) != (ScanState.QUEUED, 1):
                await trio.lowlevel.checkpoint()
            cancelled.set()
    assert (await place.state_of(asked))[0] is ScanState.CANCELLED
    place = Place(tmp_path, store, Scripts(nursery, None))
    task = await place.ask_task()
    place.tasks.stopping.set()
    await place.tasks.run(task, ANN, 0)
    parked = await store.get_task(task.id)
    assert parked is not None
    assert parked.state is TaskState.QUEUED


async def test_a_scan_that_is_interrupted_again_and_again_fails_and_says_so(
    tmp_path: Path, store: Store, nursery: trio.Nursery
) -> None:
    async def ends(worker: Worker) -> None:
        await begun(worker)
        await worker.say(Scanned(counts=Counts(), complete=True, reason=""))

    place = Place(tmp_path, store, Scripts(nursery, ends))
    for times, state in ((20, ScanState.DONE), (21, ScanState.FAILED)):
        asked = await place.ask_scan()
        for _ in range(times):  # by the daemon's own ends
            await store.begin_scan(asked.id, EngineInfo(), time.time())
            await store.recover()
        again = await store.get_scan(asked.id)
        assert again is not None
        await place.run_scan(again)
        ended = await store.get_scan(asked.id)
        assert ended is not None
        assert ended.state is state
        assert ended.message == ("" if times == 20 else "cannot finish the scan: it was interrupted 21 times")


# Stops


async def test_a_stop_before_a_scan_was_begun_leaves_it_queued(
    tmp_path: Path, store: Store, nursery: trio.Nursery
) -> None:
    place = Place(tmp_path, store, Scripts(nursery, dies))
    place.engine.back = trio.Event()
    asked = await place.ask_scan()
    async with trio.open_nursery() as inner:
        inner.start_soon(place.run_scan, asked)
        await trio.testing.wait_all_tasks_blocked()
        inner.cancel_scope.cancel()
    assert await place.state_of(asked) == (ScanState.QUEUED, 0)


@pytest.mark.parametrize("stopping", [False, True])
async def test_parking_waits_for_a_slow_disk_and_at_a_stop_no_longer_than_that(
    tmp_path: Path, store: Store, nursery: trio.Nursery, *, stopping: bool
) -> None:
    """A row that is left running would keep its account from all further jobs as long as the daemon lives."""
    slow, place = threading.Event(), Place(tmp_path, store, Scripts(nursery, silent))
    asked = await place.ask_scan()
    async with trio.open_nursery() as inner:
        inner.start_soon(place.run_scan, asked)
        while (await place.state_of(asked))[0] is not ScanState.RUNNING:
            await trio.lowlevel.checkpoint()
        nursery.start_soon(store._db.write, lambda _: slow.wait(20))
        await trio.testing.wait_all_tasks_blocked()
        if stopping:
            place.stop.begin(0.3)
        else:
            nursery.start_soon(release_after, slow, 6.0)
        inner.cancel_scope.cancel()
    slow.set()
    assert (await place.state_of(asked))[0] is (ScanState.RUNNING if stopping else ScanState.QUEUED)


async def release_after(slow: threading.Event, seconds: float) -> None:
    """Longer than a limit that parking once had."""
    await trio.sleep(seconds)
    slow.set()


async def silent(worker: Worker) -> None:
    await trio.sleep_forever()


async def test_a_worker_that_is_stopped_by_its_user_holds_up_nobody_who_is_cancelled(
    tmp_path: Path, store: Store, nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    spawner = Scripts(nursery, silent)
    place = Place(tmp_path, store, spawner)
    asked = await place.ask_scan()
    async with trio.open_nursery() as inner:
        inner.start_soon(place.run_scan, asked)
        while (await place.state_of(asked))[0] is not ScanState.RUNNING:
            await trio.lowlevel.checkpoint()
        inner.cancel_scope.cancel()
    assert spawner.workers[0].killed
    assert "did not end by itself" not in caplog.text
