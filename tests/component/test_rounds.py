"""rpc/rounds.py: of one uid, somebody goes on each time that the loop goes round, and nobody who is alone waits."""

from collections.abc import AsyncIterator

import pytest
import trio

from clamscannerd.rpc import rounds
from clamscannerd.rpc.rounds import Rounds, Turns

LONG_S = 1000.0


@pytest.fixture
async def counted() -> AsyncIterator[Rounds]:
    counter = Rounds()
    trio.lowlevel.add_instrument(counter)
    yield counter
    trio.lowlevel.remove_instrument(counter)


async def test_whoever_is_alone_has_a_turn_each_round_without_waiting(counted: Rounds) -> None:
    turns = Turns(counted)
    for _ in range(5):
        assert turns.take_nowait()
        await trio.lowlevel.checkpoint()


async def test_a_turn_lasts_for_more_than_one_line_while_its_time_does(
    counted: Rounds, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "TURN_S", LONG_S)
    turns = Turns(counted)
    assert [turns.take_nowait() for _ in range(5)] == [True] * 5
    monkeypatch.setattr(rounds, "TURN_S", 0.0)
    turns = Turns(counted)
    assert [turns.take_nowait() for _ in range(5)] == [True, False, False, False, False]


async def test_of_many_one_goes_on_each_round_in_the_order_they_came(
    counted: Rounds, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "TURN_S", 0.0)
    turns, others = Turns(counted), Turns(counted)
    came: list[int] = []
    went: list[tuple[int, int]] = []

    async def one(number: int) -> None:
        for _ in range(3):
            came.append(number)
            await turns.take()
            went.append((counted.number, number))

    async with trio.open_nursery() as nursery:
        for number in range(10):
            nursery.start_soon(one, number)
        await trio.testing.wait_all_tasks_blocked()
        assert others.take_nowait(), "another uid waits for none of them"
    assert len({round_ for round_, _ in went}) == len(went) == 30
    assert [number for _, number in went] == came


async def test_who_gives_up_leaves_the_line(counted: Rounds, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "TURN_S", 0.0)
    turns = Turns(counted)
    assert turns.take_nowait()
    with trio.CancelScope() as scope:
        scope.cancel()
        await turns.take()
    await trio.lowlevel.checkpoint()
    assert turns.take_nowait()
