"""pipeline/disinfect.py against scripted workers, on real SQLite and a real vault: whatever they do, a task ends."""

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from clamscannerd.model import (
    Account,
    Action,
    Counts,
    EngineInfo,
    Identity,
    Outcome,
    ScanState,
    Task,
    TaskKind,
    TaskState,
)
from clamscannerd.pipeline.disinfect import DisinfectTurn
from clamscannerd.pipeline.tasks import TaskJobs, TaskLimits
from clamscannerd.state.store import NewFinding, NewStep, Store, StoreLimits, open_store
from clamscannerd.state.vault import Vault, VaultLimits
from clamscannerd.worker.messages import Act, Acted, Chunk, Content, Log, LogFailed, NeedSession, Sessions, Sync, Synced
from tests.fakes.scripted_worker import Engine, Script, Scripts, Worker, confirmed, engine_view

ANN = Account(uid=1001, gid=1001, name="ann", home=b"/home/ann")
WHO = Identity(dev=1, ino=2, size=3, mtime_ns=4, sha256=b"h" * 32)
VAULT = VaultLimits(
    keep_quarantined_s=1e6, keep_deleted_s=0, max_bytes_per_account=1 << 30, max_items_per_account=100, min_free=0.0
)
PATIENCE_S = 20.0
SHORT_S = 0.2
"""For time limits that a test wants to see pass."""


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with open_store(tmp_path / "state", StoreLimits()) as opened:
        yield opened


class Place:
    """One task and what it works with."""

    def __init__(
        self,
        directory: Path,
        store: Store,
        nursery: trio.Nursery,
        *scripts: Script | None,
        step_timeout_s: float = 600.0,
        silence_s: float = 600.0,
        retries: int = 0,
    ) -> None:
        self.store = store
        self.spawner = Scripts(nursery, *scripts)
        self.jobs = TaskJobs(
            turns={TaskKind.DISINFECT: DisinfectTurn},
            confirm=confirmed,
            store=store,
            vault=Vault(directory / "vault", store, VAULT),
            spawner=self.spawner,
            engines=engine_view(Engine()),
            limits=TaskLimits(
                step_timeout_s=step_timeout_s, silence_s=silence_s, file_deadline_s=60.0, retries=retries
            ),
        )

    async def task(self, *paths: bytes, action: Action = Action.DELETE) -> Task:
        scan = await self.store.add_scan(ANN, "home", (b".",), 0, time.time())
        await self.store.begin_scan(scan.id, EngineInfo(), time.time())
        new = [NewFinding(path=path, identity=WHO, signature="s") for path in paths]
        found = await self.store.add_findings(scan.id, new, time.time())
        await self.store.end_scan(scan.id, ScanState.DONE, Counts(infected_files=len(found)), "", time.time())
        steps = [NewStep(path=one.path, action=action, finding_id=one.id, identity=WHO, signature="s") for one in found]
        return await self.store.add_task(ANN, scan.id, steps, 0, time.time())

    async def run(self, task: Task) -> list[dict[str, Any]]:
        """To the end; its records."""
        with trio.fail_after(PATIENCE_S):
            await self.jobs.run(task, ANN, 0)
        ended = await self.store.get_task(task.id)
        assert ended is not None
        assert ended.state is TaskState.DONE
        return [msgspec.json.decode(record) for record in await self.store.records(task.id)]


def deleted(seq: int) -> Acted:
    return Acted(seq=seq, outcome=Outcome.DELETED, message="", gone=True, put_back=False)


async def serve(worker: Worker, home_log: list[bytes] | None = None) -> None:
    """Delete what is asked, write the log, until the end."""
    while True:
        match command := await worker.hear():
            case Act():
                await worker.say(deleted(command.seq))
            case Log() if home_log is not None:
                home_log[:] = [] if command.fresh else home_log
                home_log += command.lines.splitlines()
            case Sync():
                await worker.say(Synced())


async def until_done_line(worker: Worker) -> None:
    while not (isinstance(command := await worker.hear(), Log) and b'"type":"done"' in command.lines):
        if isinstance(command, Sync):
            await worker.say(Synced())


# Time


async def test_a_worker_that_answers_with_other_things_for_ever_is_ended(
    tmp_path: Path, store: Store, nursery: trio.Nursery
) -> None:
    async def evades(worker: Worker) -> None:
        await worker.say(deleted((await worker.until(Act)).seq))
        while True:
            await worker.say(LogFailed(message="no room"))

    place = Place(tmp_path, store, nursery, evades, serve, step_timeout_s=SHORT_S, retries=1)
    records = await place.run(await place.task(b"bad"))
    assert [record["type"] for record in records] == ["step", "issue", "done"]


async def test_a_worker_that_sends_a_little_now_and_then_does_not_keep_its_step_alive(
    tmp_path: Path, store: Store, nursery: trio.Nursery
) -> None:
    async def trickles(worker: Worker) -> None:
        step = await worker.until(Act)
        await worker.say(Content(seq=step.seq, size=1 << 29, mode=0, uid=0, gid=0, mtime_ns=0))
        while True:
            await worker.say(Chunk(seq=step.seq, data=b"x"))

    place = Place(tmp_path, store, nursery, trickles, serve, step_timeout_s=SHORT_S)
    step, done = await place.run(await place.task(b"bad", action=Action.QUARANTINE))
    assert step["state"] == "error"
    assert step["message"].startswith("cannot act on it: worker did not end step 1 within 0.2 s; if the file is missi")
    assert done["state"] == "error"
    assert await store.items(ANN.uid, ANN.name) == []


async def test_a_worker_that_falls_silent_in_a_step_is_ended_long_before_the_steps_own_limit(
    tmp_path: Path, store: Store, nursery: trio.Nursery
) -> None:
    async def hangs(worker: Worker) -> None:
        await worker.until(Act)
        await trio.sleep_forever()

    place = Place(tmp_path, store, nursery, hangs, serve, silence_s=SHORT_S)
    step, _ = await place.run(await place.task(b"bad"))
    assert step["message"].startswith("cannot act on it: worker 1 said nothing for 0.2 s")
    assert place.spawner.workers[0].killed


async def test_a_worker_may_be_silent_while_the_engine_looks_at_a_file_again(
    tmp_path: Path, store: Store, nursery: trio.Nursery
) -> None:
    async def asks_again(worker: Worker) -> None:
        step = await worker.until(Act)
        await worker.say(NeedSession(reason="a file changed since the scan"))
        await worker.until(Sessions)
        await trio.sleep(3 * SHORT_S)
        await worker.say(deleted(step.seq))
        await serve(worker)

    place = Place(tmp_path, store, nursery, asks_again, silence_s=SHORT_S)
    step, done = await place.run(await place.task(b"bad"))
    assert (step["state"], done["state"]) == ("deleted", "success")
    assert len(place.spawner.workers) == 1


# The end of the log


async def test_a_worker_that_dies_over_the_done_line_has_its_successor_write_the_log_whole(
    tmp_path: Path, store: Store, nursery: trio.Nursery
) -> None:
    async def dies_at_done(worker: Worker) -> None:
        await worker.say(deleted((await worker.until(Act)).seq))
        await until_done_line(worker)

    home_log: list[bytes] = []
    place = Place(tmp_path, store, nursery, dies_at_done, lambda worker: serve(worker, home_log), retries=1)
    records = await place.run(task := await place.task(b"bad"))
    assert [record["type"] for record in records] == ["step", "done"]
    assert home_log == await store.records(task.id)


async def test_a_log_that_fails_at_the_done_line_fails_nothing_else(
    tmp_path: Path, store: Store, nursery: trio.Nursery
) -> None:
    async def cannot_write(worker: Worker) -> None:
        await worker.say(deleted((await worker.until(Act)).seq))
        await until_done_line(worker)
        await worker.say(LogFailed(message="no room"))
        await serve(worker)

    place = Place(tmp_path, store, nursery, cannot_write)
    records = await place.run(await place.task(b"bad"))
    assert [record["type"] for record in records] == ["step", "done"]
    assert len(place.spawner.workers) == 1


async def test_when_workers_die_before_every_step_the_log_still_gets_its_end(
    tmp_path: Path, store: Store, nursery: trio.Nursery
) -> None:
    home_log: list[bytes] = []
    place = Place(tmp_path, store, nursery, None, None, lambda worker: serve(worker, home_log), retries=1)
    records = await place.run(task := await place.task(b"bad", b"worse"))
    assert [record.get("state") for record in records] == ["error", "error", "error"]
    assert records[-1]["type"] == "done"
    assert home_log == await store.records(task.id)


async def test_a_log_that_no_worker_lives_to_write_does_not_hold_the_task_up(
    tmp_path: Path, store: Store, nursery: trio.Nursery
) -> None:
    place = Place(tmp_path, store, nursery, None, retries=1)
    records = await place.run(await place.task(b"bad"))
    assert [record["type"] for record in records] == ["step", "done"]
    assert len(place.spawner.workers) == 4
