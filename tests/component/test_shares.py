"""How many files each scan may have at the engine."""

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from clamscannerd.pipeline.shares import MOST, Shares, evenly


@pytest.mark.parametrize(
    ("budget", "scans", "parts"),
    [(10, 1, [10]), (10, 3, [3, 3, 4]), (2, 3, [1, 1, 1]), (1_000, 1, [64]), (1_000, 10, [64] * 10), (0, 1, [1])],
)
def test_a_share_is_even_at_least_one_and_within_a_workers_fds(budget: int, scans: int, parts: list[int]) -> None:
    shares = Shares(lambda: budget)
    joined = [shares.join(scheduled=False) for _ in range(scans)]
    assert [share.window for share in joined] == parts


def test_what_a_scan_cannot_use_the_others_have_until_it_can() -> None:
    shares = Shares(lambda: 12)
    one, two, three = (shares.join(scheduled=False) for _ in range(3))
    one.wanted(1)  # a last large file
    assert [share.window for share in (one, two, three)] == [2, 5, 5]
    one.wanted(2)
    two.leave()
    assert [share.window for share in (one, three)] == [3, 9]
    one.wanted(MOST)
    assert [share.window for share in (one, three)] == [6, 6]


def test_a_timers_scan_has_one_beside_those_that_people_wait_for_and_what_they_leave() -> None:
    shares = Shares(lambda: 8)
    timers = [shares.join(scheduled=True) for _ in range(2)]
    assert [share.window for share in timers] == [4, 4]
    asked = shares.join(scheduled=False)
    assert (asked.window, [share.window for share in timers]) == (6, [1, 1])
    asked.wanted(2)
    assert (asked.window, [share.window for share in timers]) == (3, [2, 3])
    asked.leave()
    assert [share.window for share in timers] == [4, 4]


@given(st.lists(st.integers(1, MOST), min_size=1, max_size=20), st.integers(0, 200))
def test_parts_are_max_min_fair(wants: list[int], more: int) -> None:
    total = len(wants) + more
    parts = evenly(total, wants)
    assert sum(parts) == min(total, sum(wants))
    for want, part in zip(wants, parts, strict=True):
        assert 1 <= part <= want
        if part < want:  # who gets less than they want has no less than anybody else, but for what is left over
            assert part >= max(parts) - 1


async def test_a_share_that_changes_wakes_who_waits_for_it() -> None:
    shares = Shares(lambda: 4)
    share = shares.join(scheduled=False)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(share.wait_changed)
        await trio.testing.wait_all_tasks_blocked()
        shares.join(scheduled=False)
    assert share.window == 2
