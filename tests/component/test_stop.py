"""stop.py: one deadline for all cleaning up, of those who begin it before and after."""

import math

import pytest
import trio
import trio.testing

from clamscannerd.stop import Stop


async def test_without_a_stop_a_shield_lasts_as_long_as_it_takes(autojump_clock: trio.testing.MockClock) -> None:
    stop = Stop()
    with trio.move_on_after(1), stop.shield():
        await trio.sleep(1_000)
    assert autojump_clock.current_time() >= 1_000
    assert stop.left(7) == 7


async def test_a_stop_cuts_shields_that_are_open_and_those_to_come(autojump_clock: trio.testing.MockClock) -> None:
    stop = Stop()
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(_clean_up, stop)
        await trio.testing.wait_all_tasks_blocked()
        await trio.sleep(100)
        stop.begin(10)
        assert stop.left(math.inf) == pytest.approx(10)
        await trio.sleep(4)
        assert stop.left(5) == 5
        nursery.start_soon(_clean_up, stop)
    assert autojump_clock.current_time() == pytest.approx(110)
    await _clean_up(stop)
    assert autojump_clock.current_time() == pytest.approx(110), "nothing is left for who comes later"
    assert stop.left(5) == 0


async def _clean_up(stop: Stop) -> None:
    with stop.shield() as scope:
        await trio.sleep_forever()
    assert scope.cancelled_caught


async def test_a_shields_own_limit_holds_within_the_stops(autojump_clock: trio.testing.MockClock) -> None:
    stop = Stop()
    stop.begin(10)
    with stop.shield(3):
        await trio.sleep_forever()
    assert autojump_clock.current_time() == pytest.approx(3)
