"""What Daemon.health asks the store: last scans added up, the fullest vaults, the newest moment. On real SQLite."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from clamscannerd.model import Account, Counts, EngineInfo, Reason, ScanState
from clamscannerd.state.store import Caps, Store, StoreLimits, open_store
from tests.component.test_vault import META, step

ANNA = Account(uid=1000, gid=1000, name="anna", home=b"/home/anna")
BERT = Account(uid=1001, gid=1001, name="bert", home=b"/home/bert")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with open_store(tmp_path / "state", StoreLimits()) as opened:
        yield opened


async def scanned(store: Store, who: Account, at: float, state: ScanState, files: int, **left: int) -> None:
    scan = await store.add_scan(who, "home", (b".",), who.uid, at)
    await store.begin_scan(scan.id, EngineInfo(max_file_size=25 << 20 if who is ANNA else 0), at)
    counts = Counts(total_files=files, not_scanned={Reason(key): number for key, number in left.items()})
    await store.end_scan(scan.id, state, counts, "", at)


async def test_of_each_account_the_latest_scan_that_was_done_counts(store: Store) -> None:
    await scanned(store, ANNA, 1.0, ScanState.DONE, 10, too_big=9)
    await scanned(store, ANNA, 2.0, ScanState.DONE, 20, too_big=1, encrypted=2)
    await scanned(store, ANNA, 3.0, ScanState.CANCELLED, 5, too_big=5)
    await scanned(store, BERT, 4.0, ScanState.DONE, 100, too_big=4)
    own, every = await store.last_scans(ANNA.uid, ANNA.name), await store.last_scans(None, "")
    assert (own.scans, own.files, own.not_scanned) == (1, 20, {"too_big": 1, "encrypted": 2})
    assert (every.scans, every.files, every.not_scanned) == (2, 120, {"too_big": 5, "encrypted": 2})
    assert own.limits == {25 << 20}
    assert every.limits == {25 << 20, 0}
    assert (await store.last_scans(7, "nobody")).scans == 0


async def test_the_newest_moment_and_its_account_are_those_of_the_latest_job_whatever_the_clock_says(
    store: Store,
) -> None:
    assert await store.newest_moment() == 0.0
    assert await store.last_account() is None
    await scanned(store, ANNA, 9.0, ScanState.DONE, 1)
    await scanned(store, BERT, 5.0, ScanState.DONE, 1)
    assert await store.newest_moment() == 5.0
    assert await store.last_account() == (BERT.uid, BERT.name)


async def test_nobody_is_near_a_cap_in_an_empty_vault(store: Store) -> None:
    await scanned(store, ANNA, 1.0, ScanState.DONE, 1)
    assert await store.usages(1, 1, 5) == (0, [])


async def test_vaults_that_have_so_much_are_counted_and_the_fullest_are_named(store: Store) -> None:
    caps = Caps(max_bytes=1_000, max_items=10)
    for who, size, seq in ((ANNA, 900, 1), (ANNA, 50, 2), (BERT, 100, 1)):
        await store.reserve_item(who, step(seq), size, f"{who.uid}{seq}".rjust(32, "0"), META, caps, 1.0)
    number, (fullest,) = await store.usages(900, 9, 5)
    assert (number, fullest.name, fullest.bytes, fullest.items) == (1, "anna", 950, 2)
    assert (await store.usages(100, 9, 1))[0] == 2
