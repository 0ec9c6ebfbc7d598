"""pipeline/scan.py against scripted workers, on real SQLite: what a scan records, refuses and survives."""

import logging
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
import trio.testing

from clamscannerd import events
from clamscannerd.model import Account, Counts, EngineInfo, Identity, Reason, Scan, ScanState
from clamscannerd.pipeline.scan import ScanJobs, ScanLimits
from clamscannerd.state.live import Live
from clamscannerd.state.store import Store, StoreLimits, open_store
from clamscannerd.worker.messages import Found, FoundFile, NeedSession, Progress, Recheck, Scanned, Sessions
from tests.fakes.scripted_worker import Engine, Script, Scripts, Worker, engine_view

ANN = Account(uid=1001, gid=1001, name="ann", home=b"/home/ann")
LIMITS = ScanLimits(silence_s=60.0, deadline_s=3_600.0, file_deadline_s=60.0, retries=1, max_skipped=100)
WHO = Identity(dev=1, ino=2, size=3, mtime_ns=4, sha256=b"h" * 32)
PATIENCE_S = 20.0
NOTHING = Scanned(counts=Counts(), complete=True, reason="")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with open_store(tmp_path / "state", StoreLimits()) as opened:
        yield opened


class Place:
    """One scan job and what it works with."""

    def __init__(self, store: Store, nursery: trio.Nursery, *scripts: Script) -> None:
        self.store = store
        self.live = Live()
        self.engine = Engine()
        self.spawner = Scripts(nursery, *scripts)
        self.jobs = ScanJobs(
            store=store, live=self.live, spawner=self.spawner, engines=engine_view(self.engine), limits=LIMITS
        )

    async def scan(self) -> Scan:
        """From asking to the end."""
        asked = await self.store.add_scan(ANN, "home", (b".",), ANN.uid, time.time())
        return await self.run(asked)

    async def run(self, asked: Scan) -> Scan:
        with trio.fail_after(PATIENCE_S):
            await self.jobs.run(asked, ANN, 0, trio.Event())
        ended = await self.store.get_scan(asked.id)
        assert ended is not None
        return ended

    def shown(self) -> Counts:
        live = self.live.scan_of(ANN.uid, ANN.name)
        assert live is not None
        return live.counts


async def begun(worker: Worker) -> None:
    """The job is told, the list of what was found before is over."""
    while not (await worker.until(Recheck)).last:
        pass


def found(*names: str) -> Found:
    return Found(files=tuple(FoundFile(path=name.encode(), identity=WHO, signature="Sig") for name in names))


def counts(total: int, scanned: int, infected: int = 0, **not_scanned: int) -> Counts:
    return Counts(
        total_files=total,
        total_bytes=total * 10,
        scanned_files=scanned,
        infected_files=infected,
        not_scanned={Reason(reason): number for reason, number in not_scanned.items()},
    )


# Sessions


async def test_a_worker_over_its_processor_time_is_not_tried_again(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """Over the same home another would use as much."""

    async def spends(worker: Worker) -> None:
        await begun(worker)
        worker.end = ("signal 24: it used up its processor time", False)

    async with trio.open_nursery() as nursery:
        place = Place(store, nursery, spends)
        ended = await place.scan()
    assert ended.state is ScanState.FAILED
    assert ended.message == "cannot finish the scan: it used up its processor time (scans.job_cpu_s)"
    assert len(place.spawner.workers) == 1
    assert "signal 24" in caplog.text
    caplog.clear()


async def test_a_worker_that_asks_for_sessions_without_waiting_for_them_is_ended(
    store: Store, nursery: trio.Nursery
) -> None:
    async def flood(worker: Worker) -> None:
        await begun(worker)
        place.engine.back = trio.Event()
        try:
            await worker.say(*(NeedSession(reason="again") for _ in range(1_000)))
            await worker.until(Sessions)
        finally:
            place.engine.back.set()

    async def honest(worker: Worker) -> None:
        await begun(worker)
        await worker.say(NOTHING)

    place = Place(store, nursery, flood, honest)
    ended = await place.scan()
    assert (ended.state, ended.resumed) == (ScanState.DONE, 1)
    assert place.engine.sessions == 2  # one for each worker's start


async def test_a_worker_may_lose_one_session_after_the_other(store: Store, nursery: trio.Nursery) -> None:
    async def loser(worker: Worker) -> None:
        await begun(worker)
        for _ in range(40):
            await worker.say(NeedSession(reason="closed by the engine"))
            await worker.until(Sessions)
        await worker.say(NOTHING)

    place = Place(store, nursery, loser)
    ended = await place.scan()
    assert (ended.state, ended.resumed, place.engine.sessions) == (ScanState.DONE, 0, 41)


async def test_a_scan_that_loses_sessions_without_end_fails_and_says_why(store: Store, nursery: trio.Nursery) -> None:
    async def insatiable(worker: Worker) -> None:
        await begun(worker)
        while True:
            await worker.say(Progress(counts=counts(30_000, 0), current=b""), NeedSession(reason="send: Too many"))
            await worker.until(Sessions)

    place = Place(store, nursery, insatiable)
    ended = await place.scan()
    assert (ended.state, ended.resumed) == (ScanState.FAILED, 0)
    assert ended.message == "cannot finish the scan: 81 sessions with the engine broke, the last by 'send: Too many'"
    assert place.engine.sessions == 81


# What it says


async def test_each_infected_file_is_told_once_with_its_fields(
    store: Store, nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    async def finder(worker: Worker) -> None:
        await begun(worker)
        await worker.say(found(*(f"bad{number}" for number in range(100))), found("bad1", "worse"), found("bad1"))
        await worker.say(Scanned(counts=counts(101, 101, 101), complete=True, reason=""))

    await Place(store, nursery, finder).scan()
    told = [record for record in caplog.records if getattr(record, "MESSAGE_ID", "") == events.INFECTION_FOUND]
    paths = [record.__dict__["CLAMSCANNERD_PATH"] for record in told]
    assert paths == [f"/home/ann/bad{number}" for number in range(100)] + ["/home/ann/worse"]
    (last,) = told[100:]
    fields = {key: value for key, value in last.__dict__.items() if key.startswith("CLAMSCANNERD_")}
    assert fields == {
        "CLAMSCANNERD_UID": "1001",
        "CLAMSCANNERD_SCAN_ID": "1",
        "CLAMSCANNERD_PATH": "/home/ann/worse",
        "CLAMSCANNERD_SIGNATURE": "Sig",
    }


# Totals


async def test_totals_never_shrink_when_a_scan_starts_over_and_add_up_at_its_end(
    store: Store, nursery: trio.Nursery
) -> None:
    seen: list[int] = []

    async def look(worker: Worker, *messages: Progress) -> None:
        for message in messages:
            await worker.say(message)
            await trio.testing.wait_all_tasks_blocked()
            seen.append(place.shown().total_files)

    async def dies(worker: Worker) -> None:
        await begun(worker)
        await look(worker, Progress(counts=counts(500, 20), current=b"a"))

    async def ends(worker: Worker) -> None:
        await begun(worker)
        seen.append(place.shown().total_files)
        await look(worker, Progress(counts=counts(3, 0), current=b"a"), Progress(counts=counts(600, 0), current=b"a"))
        # Two hundred were deleted since they were counted first.
        await worker.say(Scanned(counts=counts(400, 390, vanished=10), complete=True, reason=""))

    place = Place(store, nursery, dies, ends)
    ended = await place.scan()
    assert seen == [500, 500, 500, 600]
    assert (ended.counts.total_files, ended.counts.total_bytes) == (400, 4_000)
    assert ended.counts.scanned_files + sum(ended.counts.not_scanned.values()) == ended.counts.total_files


async def test_totals_outlive_a_restart_of_the_daemon(store: Store, nursery: trio.Nursery) -> None:
    async def look(worker: Worker) -> None:
        await begun(worker)
        assert place.shown().total_files == 500
        await worker.say(Scanned(counts=counts(20, 20), complete=True, reason=""))

    scan = await store.add_scan(ANN, "home", (b".",), ANN.uid, time.time())
    begun_scan = await store.begin_scan(scan.id, EngineInfo(), time.time())
    await store.save_progress(scan.id, counts(500, 20), begun_scan.engine)
    await store.recover()
    place = Place(store, nursery, look)
    again = await store.get_scan(scan.id)
    assert again is not None
    ended = await place.run(again)
    assert (ended.state, ended.resumed, ended.counts.total_files) == (ScanState.DONE, 1, 20)
