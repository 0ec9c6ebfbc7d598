"""engine/fitting.py: as many private engines as there are cores, where memory permits, and why so many."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clamscannerd.engine.fitting import MOST, Fitting, Room, database_bytes, each_bytes, fit
from clamscannerd.orders import MAX_ENGINES

GIB = 1 << 30
OFFICIAL = 225 << 20


def fits(
    wanted: str | int = "auto",
    *,
    cores: int = 2,
    gib: float = 16.0,
    disk: int = OFFICIAL,
    run: int = 0,
    twice: bool = False,
) -> Fitting:
    free = round(gib * GIB)
    room = Room(cores=cores, available_bytes=free, database_bytes=disk, running=run, reload_twice=twice)
    return fit(wanted, room, max_threads=10)


def test_the_estimate_is_near_what_was_measured_and_not_below() -> None:
    assert 1.3e9 <= each_bytes(OFFICIAL) <= 1.2 * 1.3e9
    assert each_bytes(120_000_000) >= 337_000_000
    assert each_bytes(0) <= 64 << 20


def test_there_is_one_for_each_core_with_one_thread_each() -> None:
    found = fits(cores=2)
    assert (found.engines, found.threads, found.concurrent_reload) == (2, 1, True)
    assert found.reason == (
        "2 engines of one thread each: one for each core (16.0 GiB available, the signatures take about 1.4 GiB each)"
    )


def test_there_are_never_more_than_the_monitor_and_the_units_start() -> None:
    assert MOST == MAX_ENGINES
    found = fits(cores=64, gib=500)
    assert found.engines == MOST
    assert "the most that there are, on 64 cores" in found.reason


@pytest.mark.parametrize(("cores", "gib"), [(1, 64.0), (2, 3.0), (8, 0.5), (4, 0.0)])
def test_one_core_or_little_memory_is_one_engine_of_many_threads(cores: int, gib: float) -> None:
    found = fits(cores=cores, gib=gib)
    assert (found.engines, found.threads) == (1, 10)
    assert found.reason.startswith("1 engine of 10 threads: ")
    assert ("there is not the memory" in found.reason) == (cores > 1)


def test_memory_for_some_is_as_many_as_it_holds() -> None:
    assert [fits(cores=8, gib=gib).engines for gib in (4, 6, 8, 12)] == [2, 3, 4, 6]


def test_a_reload_keeps_the_old_signatures_only_where_twice_as_many_fit() -> None:
    assert not fits(gib=5).concurrent_reload
    assert fits(gib=5).engines == 2
    assert fits(gib=8).concurrent_reload
    assert not fits(1, gib=2).concurrent_reload


def test_small_signatures_ask_for_little() -> None:
    found = fits(cores=2, gib=1, disk=1 << 20)
    assert (found.engines, found.concurrent_reload) == (2, True)


def test_without_signatures_the_official_ones_are_reckoned_with() -> None:
    assert database_bytes([90], has_signatures=False) == OFFICIAL
    assert database_bytes([5, 7], has_signatures=True) == 12


@pytest.mark.parametrize("number", range(1, MOST + 1))
def test_what_the_administrator_says_holds(number: int) -> None:
    found = fits(number, cores=1, gib=1)
    assert (found.engines, found.threads) == (number, 1 if number > 1 else 10)
    assert f"engine.private_engines is {number}" in found.reason


@given(st.integers(1, 16), st.floats(0, 64), st.integers(0, 1 << 30))
def test_those_that_run_are_no_reason_for_fewer(cores: int, gib: float, disk: int) -> None:
    """A reload of the daemon finds less memory available, by what its engines take."""
    before = fits(cores=cores, gib=gib, disk=disk)
    left = gib - before.engines * each_bytes(disk) / GIB
    if left >= 0:
        after = fits(cores=cores, gib=left, disk=disk, run=before.engines, twice=before.concurrent_reload)
        assert (after.engines, after.concurrent_reload) == (before.engines, before.concurrent_reload)


@given(st.integers(1, 16), st.floats(0, 64), st.integers(0, 1 << 30), st.integers(0, 8))
def test_several_are_never_more_than_memory_holds(cores: int, gib: float, disk: int, run: int) -> None:
    found = fits(cores=cores, gib=gib, disk=disk, run=run)
    assert 1 <= found.engines <= min(cores, MOST)
    if found.engines > 1:
        assert found.engines * each_bytes(disk) <= gib * GIB + run * each_bytes(disk)
    assert (found.threads == 1) == (found.engines > 1)
