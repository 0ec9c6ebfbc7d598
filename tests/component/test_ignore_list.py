"""Ignore lists on a real store: bounds, values of any bytes, numbers that tell nothing, and a restart."""

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
import trio.testing

from clamscannerd.errors import InvalidParams, NotFound, Refused
from clamscannerd.model import Counts, EngineInfo, IgnoreEntry, IgnoreKind, ScanState
from clamscannerd.service import clamscanner, ignore
from clamscannerd.state.live import LiveScan
from clamscannerd.state.store import NewFinding, StoreLimits, open_store
from tests.component.test_service import ANN, BOB, WHO, Place, result

PATH = IgnoreKind.PATH
MOST = 100


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    async with open_store(tmp_path / "state", StoreLimits()) as opened:
        yield Place(opened)


async def add(place: Place, kind: IgnoreKind, value: str, expires_at: float | None = None) -> ignore.Entry:
    return await ignore.add(place.context, ANN.account, 7, kind, value, "why", expires_at)


@pytest.mark.parametrize(
    ("kind", "value", "kept"),
    [
        (PATH, "/a/*.com", "/a/*.com"),
        (PATH, "/home/p1/a", "/a"),
        (PATH, "caf\\xe9", "caf\\xe9"),
        (PATH, "a\\\\*\n", "a\\\\*\n"),
        (IgnoreKind.SIGNATURE, "Eicar-Test", "Eicar-Test"),
        (IgnoreKind.SHA256, "AB" * 32, "ab" * 32),
    ],
)
async def test_a_value_is_shown_as_it_is_kept(place: Place, kind: IgnoreKind, value: str, kept: str) -> None:
    made = await add(place, kind, value)
    assert (made.value, made.note, made.added_by, made.state) == (kept, "why", 7, "in_effect")
    listed = await ignore.list_entries(place.context, ANN.account, 10, 0)
    assert (listed.entries, listed.total) == ([made], 1)
    assert (await ignore.list_entries(place.context, BOB.account, 10, 0)).entries == []


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (PATH, "a\0b"),
        (PATH, "*" * 10_000),
        (PATH, "!a"),
        (PATH, ""),
        (PATH, "/home/p1/"),
        (PATH, "\\x41"),
        (PATH, "\\q"),
        (PATH, "../x"),
        (IgnoreKind.SIGNATURE, ""),
        (IgnoreKind.SIGNATURE, "x" * 501),
        (IgnoreKind.SHA256, "ab"),
        (IgnoreKind.SHA256, "zz" * 32),
        (IgnoreKind.SHA256, "\uff41" * 64),
    ],
)
async def test_what_is_no_value_is_refused(place: Place, kind: IgnoreKind, value: str) -> None:
    with pytest.raises(InvalidParams, match="cannot add the entry"):
        await add(place, kind, value)


@pytest.mark.parametrize("when", [0.0, -1.0, 1e300, float("inf")])
async def test_an_entry_expires_in_the_future(place: Place, when: float) -> None:
    with pytest.raises(InvalidParams, match="expires_at"):
        await add(place, PATH, "a", when)


async def test_the_number_of_entries_is_bounded_and_expired_ones_give_way(place: Place) -> None:
    now = time.time()
    for number in range(MOST):
        past = IgnoreEntry(
            id=0, kind=PATH, value=b"/%d" % number, note="", added_by=0, added_at=now - 9, expires_at=now - number
        )
        await place.store.add_ignore(ANN.account, MOST, past)
    assert {one.state for one in (await ignore.list_entries(place.context, ANN.account, 200, 0)).entries} == {"expired"}
    for number in range(MOST):
        await add(place, PATH, f"/new/{number}")
    with pytest.raises(Refused, match="has 100, and no more are kept"):
        await add(place, PATH, "/one/more")
    await ignore.add(place.context, BOB.account, 7, PATH, "/mine", "", None)
    with pytest.raises(Refused, match=r"entry \d+ is the same"):
        await ignore.add(place.context, BOB.account, 7, PATH, "/home/p2/mine", "", None)


async def test_the_number_of_anothers_entry_and_of_none_are_not_told_apart(place: Place) -> None:
    made = await add(place, PATH, "a")
    said = set()
    for number in (made.id, made.id + 1, 2**63 - 1):
        with pytest.raises(NotFound) as error:
            await ignore.remove(place.context, BOB.account, number)
        said.add(str(error.value))
    assert len(said) == 1
    assert (await ignore.remove(place.context, ANN.account, made.id)).removed == made.id
    again = await add(place, PATH, "a")
    assert again.id > made.id, "a number is never used twice"


async def test_a_list_outlives_a_restart(tmp_path: Path) -> None:
    async with open_store(tmp_path / "state", StoreLimits()) as opened:
        made = await add(Place(opened), PATH, "a")
    async with open_store(tmp_path / "state", StoreLimits()) as opened:
        assert (await ignore.list_entries(Place(opened).context, ANN.account, 10, 0)).entries == [made]


@pytest.mark.fails_with("ignored-count-stale")
async def test_what_is_ignored_is_counted_while_the_scan_runs(
    place: Place, autojump_clock: trio.testing.MockClock
) -> None:
    """The number is of some seconds ago; at the end it is exact at once."""
    await add(place, PATH, "f*")
    scan = await place.store.add_scan(ANN.account, "home", (b".",), 0, time.time())
    live = LiveScan(await place.store.begin_scan(scan.id, EngineInfo(), time.time()), trio.Event())
    place.live.add(live)

    async def found(*names: bytes) -> object:
        new = [NewFinding(path=name, identity=WHO, signature="s") for name in names]
        await place.store.add_findings(scan.id, new, time.time())
        live.infected.update(dict.fromkeys(names))
        return await told()

    async def told() -> object:
        answer = result(await clamscanner.get_scan_status(place.context, ANN))["data"]
        return answer["infected_file_count"], answer["ignored_file_count"]

    assert await told() == (0, 0)
    assert await found(b"f1", b"other") == (2, 1)
    assert await found(b"f2") == (3, 1)
    await trio.sleep(30)
    assert await told() == (3, 2)
    await found(b"f3")
    place.live.remove(live)
    await place.store.end_scan(scan.id, ScanState.DONE, Counts(total_files=4, infected_files=4), "", time.time())
    assert await told() == (4, 3)
