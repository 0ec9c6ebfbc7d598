"""state/latest.py by way of the store: a poll after the end reads nothing, and shows no scan that is not the latest."""

from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest
import trio

from clamscannerd.model import Account, Counts, EngineInfo, FindingState, Identity, Scan, ScanState
from clamscannerd.state import latest, store_scans
from clamscannerd.state.store import NewFinding, Store, StoreLimits, open_store
from clamscannerd.state.store_open import Database
from tests.fakes.remembering import Watch

ANN = Account(uid=1001, gid=1001, name="ann", home=b"/home/ann")
IDENTITY = Identity(dev=1, ino=2, size=3, mtime_ns=4, sha256=b"\xff" * 32)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with open_store(tmp_path / "state", StoreLimits()) as opened:
        yield opened


async def scanned(store: Store, *infected: bytes) -> Scan:
    scan = await store.add_scan(ANN, "home", (b".",), ANN.uid, 1.0)
    await store.begin_scan(scan.id, EngineInfo(), 1.0)
    found = [NewFinding(path=path, identity=IDENTITY, signature="X") for path in infected]
    await store.add_findings(scan.id, found, 1.0)
    return await store.end_scan(scan.id, ScanState.DONE, Counts(infected_files=len(infected)), "", 2.0)


async def looked(store: Store) -> tuple[int | None, tuple[bytes, ...], int]:
    """The scan's number, the paths it found, and how many reads that took."""
    before = store.statistics().reads
    found = await store.latest_found(ANN.uid, ANN.name)
    reads = store.statistics().reads - before
    return (None, (), reads) if found is None else (found.scan.id, found.first, reads)


async def test_an_ended_scan_is_read_once(store: Store) -> None:
    scan = await scanned(store, b"a", b"b")
    assert await looked(store) == (scan.id, (b"a", b"b"), 1)
    assert await looked(store) == (scan.id, (b"a", b"b"), 0)
    assert await store.latest_found(ANN.uid, "anna") is None


async def test_that_there_is_none_is_read_once_and_forgotten_with_the_first(store: Store) -> None:
    assert await looked(store) == (None, (), 1)
    assert await looked(store) == (None, (), 0)
    scan = await store.add_scan(ANN, "home", (b".",), ANN.uid, 1.0)
    assert (await looked(store))[0] == scan.id


async def test_one_that_runs_is_read_each_time(store: Store) -> None:
    scan = await store.add_scan(ANN, "home", (b".",), ANN.uid, 1.0)
    await store.begin_scan(scan.id, EngineInfo(), 1.0)
    await store.add_findings(scan.id, [NewFinding(path=b"a", identity=IDENTITY, signature="X")], 1.0)
    for _ in range(2):
        assert await looked(store) == (scan.id, (b"a",), 1)


@pytest.mark.fails_with("waiting-scan-remembered-too-long")
async def test_one_that_waits_is_read_once_until_it_is_moved(store: Store) -> None:
    scan = await store.add_scan(ANN, "home", (b".",), ANN.uid, 1.0)

    async def begin() -> None:
        await store.begin_scan(scan.id, EngineInfo(), 1.0)
        await store.add_findings(scan.id, [NewFinding(path=b"a", identity=IDENTITY, signature="X")], 1.0)

    async def park() -> None:
        await store.park_scan(scan.id, Counts(total_files=5))

    async def pause() -> None:
        await store.pause_scan(scan.id)

    async def resume() -> None:
        await store.resume_scan(scan.id)

    async def end() -> None:
        await store.end_scan(scan.id, ScanState.CANCELLED, Counts(), "", 1.0)

    queued, paused = ScanState.QUEUED, ScanState.PAUSED
    for move, state in ((None, queued), (begin, None), (park, queued), (pause, paused), (resume, queued), (end, None)):
        if move is not None:
            await move()
        fresh = await store.get_scan(scan.id)
        for reads in (1, 0) if state else ():
            before = store.statistics().reads
            found = await store.latest_found(ANN.uid, ANN.name)
            assert found is not None
            assert (found.scan, found.scan.state) == (fresh, state)
            assert store.statistics().reads - before == reads
    found = await store.latest_found(ANN.uid, ANN.name)
    assert found is not None
    assert (found.scan.state, found.first) == (ScanState.CANCELLED, (b"a",))


@pytest.mark.fails_with("waiting-jobs-remembered-too-long")
async def test_what_waits_is_read_once_until_it_is_another(store: Store) -> None:
    """Which writes make it another: tests/fakes/remembering.py watches them all."""
    reads = store.statistics().reads
    assert await store.waiting_jobs() is await store.waiting_jobs()
    await store.add_scan(ANN, "home", (b".",), ANN.uid, 1.0)
    waiting = await store.waiting_jobs()
    assert [job.name for job in waiting] == ["ann"]
    assert await store.waiting_jobs() is waiting
    assert store.statistics().reads == reads + 2


async def test_what_was_looked_up_while_another_job_came_is_not_kept() -> None:
    waiting = latest.Waiting()
    changes = waiting.changes
    waiting.changed()
    waiting.put([], changes)
    assert waiting.get() is None
    waiting.put([], waiting.changes)
    assert waiting.get() == []


async def test_whoever_looks_beside_another_counts_once(store: Store) -> None:
    """Of many who poll at once each looks, and puts down the same."""
    kept = latest.Latest()
    await scanned(store, b"123456")
    found = await store.latest_found(ANN.uid, ANN.name)
    for _ in range(3):
        kept.put(ANN.uid, ANN.name, found, kept.changes)
    kept.forget(ANN.uid, ANN.name)
    assert kept._path_bytes == 0


async def test_every_write_is_watched(store: Store, watched_stores: Mapping[Database, Watch]) -> None:
    """The watch is on, and a move that leaves the memory as it was is noticed."""
    scan = await store.add_scan(ANN, "home", (b".",), ANN.uid, 1.0)
    await store.pause_scan(scan.id)
    assert len(watched_stores) == 1
    assert await store.latest_found(ANN.uid, ANN.name)
    await store._db.write(store_scans.resume, scan.id)
    with pytest.raises(AssertionError, match="in memory and in the file"):
        await store.check()
    store.doubt_waiting_jobs()
    store._latest.moved(scan.id)
    await store.check()


async def test_the_next_scan_is_shown_from_when_it_was_asked_for(store: Store) -> None:
    await scanned(store, b"a")
    await looked(store)
    second = await store.add_scan(ANN, "home", (b".",), ANN.uid, 3.0)
    assert (await looked(store))[0] == second.id


async def test_what_was_read_while_a_scan_was_asked_for_is_not_kept(store: Store) -> None:
    """The look may have been at the time before, and end after the scan is there."""
    first = await scanned(store, b"a")
    kept = latest.Latest()
    found = await store.latest_found(ANN.uid, ANN.name)
    changes = kept.changes
    kept.forget(ANN.uid, ANN.name)
    kept.put(ANN.uid, ANN.name, found, changes)
    assert kept.get(ANN.uid, ANN.name) is None
    async with trio.open_nursery() as both:
        for _ in range(20):
            both.start_soon(store.latest_found, ANN.uid, ANN.name)
        both.start_soon(store.add_scan, ANN, "home", (b".",), ANN.uid, 3.0)
        for _ in range(20):
            both.start_soon(store.latest_found, ANN.uid, ANN.name)
    assert (await looked(store))[0] == first.id + 1


async def test_what_becomes_of_findings_changes_nothing(store: Store) -> None:
    scan = await scanned(store, b"a", b"b")
    before = await store.latest_found(ANN.uid, ANN.name)
    assert await store.clear_findings(scan.id, [b"a"]) == 1
    assert [one.state for one in await store.scan_findings(scan.id)] == [FindingState.CLEARED, FindingState.STANDING]
    assert await store.latest_found(ANN.uid, ANN.name) == before
    assert await store.found_paths(scan.id, 10) == (2, [b"a", b"b"])


async def test_it_stays_small(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latest, "KEPT_PATH_BYTES", 10)
    kept = latest.Latest()
    await scanned(store, b"123456")
    found = await store.latest_found(ANN.uid, ANN.name)
    for name in ("one", "two"):
        kept.put(ANN.uid, name, found, kept.changes)
    assert kept.get(ANN.uid, "one") is None
    assert kept.get(ANN.uid, "two") == (found,)
    kept.forget(ANN.uid, "two")
    kept.put(ANN.uid, "three", found, kept.changes)
    assert kept.get(ANN.uid, "three") == (found,)
    monkeypatch.setattr(latest, "KEPT", 2)
    for name in ("four", "five"):
        kept.put(ANN.uid, name, None, kept.changes)
    assert kept.get(ANN.uid, "three") is None
    assert kept.get(ANN.uid, "five") == (None,)
