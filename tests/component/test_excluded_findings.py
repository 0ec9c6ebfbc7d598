"""A finding that a later scan leaves out still stands: nobody has looked at it."""

import time
from pathlib import Path

import pytest

from clamscannerd.model import Account, Counts, EngineInfo, Identity, Reason, ScanState
from clamscannerd.state.store import NewFinding, Store, StoreLimits, open_store

ANN = Account(uid=1000, gid=1000, name="ann", home=b"/home/ann")
WHO = Identity(dev=1, ino=2, size=3, mtime_ns=4, sha256=b"h" * 32)


async def scanned(store: Store, counts: Counts, *found: bytes, excludes: tuple[bytes, ...] = ()) -> None:
    scan = await store.add_scan(ANN, "home", (b".",), 0, time.time())
    begun = await store.begin_scan(scan.id, EngineInfo(), time.time(), excludes)
    assert begun.excludes == excludes
    new = [NewFinding(path=path, identity=WHO, signature="s") for path in found]
    await store.add_findings(scan.id, new, time.time())
    await store.end_scan(scan.id, ScanState.DONE, counts, "", time.time())


@pytest.mark.parametrize("number", [2, 5_000])
async def test_what_is_left_out_stands_and_the_rest_is_cleared(tmp_path: Path, number: int) -> None:
    """However many were left out: which, the patterns say, not the list of paths, which may have ended before."""
    async with open_store(tmp_path, StoreLimits(max_not_scanned_per_scan=1)) as store:
        await scanned(store, Counts(infected_files=4), b"a.iso", b"cache/x/y", b"b", b"kept.iso")
        left_out = Counts(not_scanned={Reason.EXCLUDED: number})
        await scanned(store, left_out, excludes=(b"*.iso", b"/cache/", b"!kept.iso"))
        assert await store.earlier_standing_count(1000, "ann") == 2
        assert {one.path for one in await store.all_standing(1000, "ann")} == {b"a.iso", b"cache/x/y"}
