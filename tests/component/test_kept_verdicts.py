"""pipeline/cached.py against scripted workers: what of a scan's word is kept, and what the next one is told."""

import math
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import trio
import trio.testing

from clamscannerd.cache import basis
from clamscannerd.cache.basis import EARLIER, PRESENT
from clamscannerd.cache.files import CacheLimits
from clamscannerd.model import Account, Counts, Depth, EngineInfo, Scan, ScanState
from clamscannerd.pipeline.cached import CacheSettings, VerdictCache
from clamscannerd.pipeline.scan import ScanJobs, ScanLimits
from clamscannerd.state.live import Live
from clamscannerd.state.store import Store, StoreLimits, open_store
from clamscannerd.worker.cachewire import Known, Verified
from clamscannerd.worker.messages import NeedSession, Progress, Recheck, ScanJob, Scanned, Sessions
from tests.fakes.scripted_worker import Engine, EngineNow, Script, Scripts, Worker, engine_view

ANN = Account(uid=1001, gid=1001, name="ann", home=b"/home/ann")
LIMITS = ScanLimits(silence_s=60.0, deadline_s=3_600.0, file_deadline_s=60.0, retries=1, max_skipped=100)
SETTINGS = CacheSettings(
    enabled=True, filesystems=(1, 2), settle_s=60.0, by_content=False, limits=CacheLimits(max_entries=1_000, keep_s=0.0)
)
DONE = Scanned(counts=Counts(), complete=True, reason="")
PATIENCE_S = 20.0


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with open_store(tmp_path / "state", StoreLimits()) as opened:
        yield opened


class Place:
    def __init__(self, store: Store, directory: Path, settings: CacheSettings = SETTINGS) -> None:
        self.store = store
        self.engine = Engine()
        self.view = engine_view(self.engine)
        self.cache = VerdictCache(directory / "cache", settings, self.view)

    async def scan(self, *scripts: Script, stopped: trio.Event | None = None, depth: Depth = Depth.FULL) -> Scan:
        """A whole scan; or until it is stopped as at a daemon's end."""
        asked = await self.store.add_scan(ANN, "home", (b".",), ANN.uid, time.time(), depth=depth)
        async with trio.open_nursery() as nursery:
            jobs = ScanJobs(
                store=self.store,
                live=Live(),
                spawner=Scripts(nursery, *scripts),
                engines=self.view,
                limits=LIMITS,
                cache=self.cache,
            )
            with trio.fail_after(PATIENCE_S), trio.CancelScope() as scope:
                if stopped is not None:
                    nursery.start_soon(cancel_when, stopped, scope)
                await jobs.run(asked, ANN, 0, trio.Event())
            nursery.cancel_scope.cancel()
        ended = await self.store.get_scan(asked.id)
        assert ended is not None
        return ended

    def kept(self) -> int:
        """Files that are known under what the engine is now."""
        opened = self.cache.files.open(ANN)
        if opened.fd >= 0:
            os.close(opened.fd)
        return opened.header.files.count

    async def told(self, depth: Depth = Depth.FULL) -> Known:
        """What the next scan is told."""
        heard: list[Known] = []

        async def listen(worker: Worker) -> None:
            job = await worker.until(ScanJob)
            assert job.known is not None
            heard.append(job.known)
            await worker.say(DONE)

        await self.scan(listen, depth=depth)
        return heard[0]


async def cancel_when(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


async def begun(worker: Worker) -> None:
    while not (await worker.until(Recheck)).last:
        pass


def clean(*numbers: int) -> Verified:
    return Verified(files=b"".join(number.to_bytes(8, "big") for number in numbers))


async def settled() -> None:
    await trio.testing.wait_all_tasks_blocked(0.05)


async def test_what_a_scan_says_is_clean_the_next_is_told(store: Store, tmp_path: Path) -> None:
    async def says(worker: Worker) -> None:
        await begun(worker)
        await worker.say(clean(1, 2), clean(3), DONE)

    place = Place(store, tmp_path)
    assert (await place.scan(says)).state is ScanState.DONE
    known = await place.told()
    assert (known.files.slots > 0, known.standing[1], known.file) == (True, PRESENT, True)
    assert (known.filesystems, known.settled_ns) == ((1, 2), 60 * 10**9)
    assert place.kept() == 3


async def test_the_first_scan_of_an_account_is_told_of_nothing_but_its_key(store: Store, tmp_path: Path) -> None:
    known = await Place(store, tmp_path).told()
    assert (known.files.slots, known.file, len(known.key)) == (0, False, 32)


@pytest.mark.parametrize(
    "now",
    [EngineNow(generation="2/1"), EngineNow(settings="other"), EngineNow(max_file_size=1)],
)
@pytest.mark.fails_with("settings-not-in-the-basis", "database-not-in-the-basis")
async def test_another_engine_database_or_setting_voids_what_is_known(
    store: Store, tmp_path: Path, now: EngineNow
) -> None:
    async def says(worker: Worker) -> None:
        await begun(worker)
        await worker.say(clean(1), DONE)

    place = Place(store, tmp_path)
    await place.scan(says)
    place.engine.now = now
    assert (await place.told()).standing == bytes(256)


async def test_the_same_after_a_new_start_of_the_daemon_is_known_still(store: Store, tmp_path: Path) -> None:
    async def says(worker: Worker) -> None:
        await begun(worker)
        await worker.say(clean(1), DONE)

    await Place(store, tmp_path).scan(says)
    assert (await Place(store, tmp_path).told()).standing[1] == PRESENT


@pytest.mark.fails_with("upgrade-voids-all", "rules-not-in-the-basis")
async def test_an_upgrade_voids_what_was_judged_by_other_rules_and_nothing_else(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def says(worker: Worker) -> None:
        await begun(worker)
        await worker.say(clean(1), DONE)

    await Place(store, tmp_path).scan(says)
    monkeypatch.setattr("clamscannerd.__version__", "99")
    assert (await Place(store, tmp_path).told()).standing[1] == PRESENT
    monkeypatch.setattr(basis, "RULES", basis.RULES + 1)
    assert (await Place(store, tmp_path).told()).standing == bytes(256)


@pytest.mark.fails_with("clock-set-back")
async def test_after_the_clock_was_set_back_nothing_is_known(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever could set it, a ctime of then may be given once more."""

    async def says(worker: Worker) -> None:
        await begun(worker)
        await worker.say(clean(1), DONE)

    place = Place(store, tmp_path)
    await place.scan(says)
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() - 3_600)
    assert (await place.told()).standing == bytes(256)


async def test_what_comes_after_a_change_of_the_database_is_not_kept(store: Store, tmp_path: Path) -> None:
    async def says(worker: Worker) -> None:
        await begun(worker)
        await worker.say(clean(1), Progress(counts=Counts(), current=b""))
        await settled()
        place.engine.now = EngineNow(generation="2/1")
        await worker.say(clean(2))
        await settled()
        place.engine.now = EngineNow()
        await worker.say(clean(3), DONE)

    place = Place(store, tmp_path)
    await place.scan(says)
    assert place.kept() == 1


@pytest.mark.fails_with("engine-taken-at-its-word")
async def test_an_engine_that_is_not_what_it_seemed_leaves_nothing(store: Store, tmp_path: Path) -> None:
    """It was started anew, with other settings, since it was last looked at."""

    async def says(worker: Worker) -> None:
        await begun(worker)
        await worker.say(clean(1), DONE)

    place = Place(store, tmp_path)
    place.engine.seen = EngineNow(settings="other")
    await place.scan(says)
    assert place.kept() == 0


@pytest.mark.parametrize(("now", "kept"), [(EngineNow(), 2), (EngineNow(settings="other"), 1)])
async def test_after_a_new_session_it_counts_what_the_engine_is_then(
    store: Store, tmp_path: Path, now: EngineNow, kept: int
) -> None:
    same: list[bool] = []

    async def says(worker: Worker) -> None:
        await begun(worker)
        await worker.say(clean(1), Progress(counts=Counts(), current=b""))
        await settled()
        place.engine.now = now
        await worker.say(NeedSession(reason="lost"))
        same.append((await worker.until(Sessions)).same)
        await worker.say(clean(2), DONE)

    place = Place(store, tmp_path)
    await place.scan(says)
    assert same == [now == EngineNow()]
    assert place.kept() == kept


async def test_after_a_new_session_nothing_counts_before_the_engine_was_seen(store: Store, tmp_path: Path) -> None:
    async def says(worker: Worker) -> None:
        await begun(worker)
        await worker.say(clean(1), Progress(counts=Counts(), current=b""))
        await settled()
        place.engine.seen = EngineNow(settings="other")
        await worker.say(NeedSession(reason="lost"))
        await worker.until(Sessions)
        await worker.say(clean(2), DONE)

    place = Place(store, tmp_path)
    await place.scan(says)
    assert place.kept() == 1


@pytest.mark.parametrize(
    ("depth", "recheck_after_s", "worth"),
    [
        (Depth.FULL, 1e9, 0),
        (Depth.RAPID, 1e9, EARLIER),
        (Depth.RAPID, -math.inf, 0),
        (Depth.NOCACHE, 1e9, 0),
    ],
)
@pytest.mark.fails_with("rapid-for-all")
async def test_an_earlier_database_counts_in_a_rapid_scan_where_it_is_permitted(
    store: Store, tmp_path: Path, depth: Depth, recheck_after_s: float, worth: int
) -> None:
    limits = CacheLimits(max_entries=1_000, keep_s=1e9)
    settings = msgspec.structs.replace(SETTINGS, recheck_after_s=recheck_after_s, recheck_share=0.25, limits=limits)

    async def says(worker: Worker) -> None:
        await begun(worker)
        await worker.say(clean(1), DONE)

    place = Place(store, tmp_path, settings)
    place.engine.now = EngineNow(generation="1/1", info=EngineInfo(version="1", database=1))
    await place.scan(says)
    place.engine.now = EngineNow(generation="1/2", info=EngineInfo(version="1", database=2))
    known = await place.told(depth)
    assert max(known.standing) == worth
    assert (known.recheck, known.databases) == (1 << 30, (1,))


async def test_a_scan_without_cache_is_told_nothing_and_what_it_says_is_kept(store: Store, tmp_path: Path) -> None:
    async def says(worker: Worker) -> None:
        await begun(worker)
        await worker.say(clean(1), DONE)

    place = Place(store, tmp_path)
    await place.scan(says, depth=Depth.NOCACHE)
    assert (await place.told(Depth.NOCACHE)).standing == bytes(256)
    assert (await place.told()).standing[1] == PRESENT


async def test_a_scan_that_starts_over_is_told_what_it_said_before(store: Store, tmp_path: Path) -> None:
    heard: list[Known] = []

    async def dies(worker: Worker) -> None:
        await begun(worker)
        await worker.say(clean(1, 2), Progress(counts=Counts(), current=b""))
        await settled()

    async def ends(worker: Worker) -> None:
        job = await worker.until(ScanJob)
        assert job.known is not None
        heard.append(job.known)
        await begun(worker)
        await worker.say(DONE)

    place = Place(store, tmp_path)
    ended = await place.scan(dies, ends)
    assert (ended.state, ended.resumed, heard[0].files.slots > 0) == (ScanState.DONE, 1, True)
    assert place.kept() == 2


async def test_what_was_said_before_the_daemon_stopped_is_there_after_its_start(store: Store, tmp_path: Path) -> None:
    said = trio.Event()

    async def says(worker: Worker) -> None:
        await begun(worker)
        await worker.say(clean(1, 2), Progress(counts=Counts(), current=b""))
        await settled()
        said.set()
        await trio.sleep_forever()

    parked = await Place(store, tmp_path).scan(says, stopped=said)
    assert parked.state is ScanState.QUEUED
    files = Place(store, tmp_path).cache.files
    files.merge(ANN, None, time.time())
    assert files.open(ANN).header.files.count == 2


async def test_a_worker_that_says_too_much_is_not_listened_to(store: Store, tmp_path: Path) -> None:
    async def floods(worker: Worker) -> None:
        await begun(worker)
        for start in range(0, 40_000, 4_000):
            await worker.say(clean(*range(start, start + 4_000)))
        await worker.say(DONE)

    place = Place(store, tmp_path)
    assert (await place.scan(floods)).state is ScanState.DONE
    assert place.kept() <= 1_000
    assert sum(path.stat().st_size for path in (tmp_path / "cache").iterdir()) < 100_000


@pytest.mark.parametrize("enabled", [True, False])
async def test_without_a_directory_or_when_it_is_switched_off_scans_go_on(
    store: Store, tmp_path: Path, enabled: bool, caplog: pytest.LogCaptureFixture
) -> None:
    jobs: list[ScanJob] = []

    async def says(worker: Worker) -> None:
        jobs.append(await worker.until(ScanJob))
        await begun(worker)
        await worker.say(clean(1), DONE)

    if enabled:
        (tmp_path / "cache").write_text("not a directory")
    place = Place(store, tmp_path, msgspec.structs.replace(SETTINGS, enabled=enabled))
    assert (await place.scan(says)).state is ScanState.DONE
    assert [job.known for job in jobs] == [None]
    assert ("cannot keep verdicts" in caplog.text) == enabled
