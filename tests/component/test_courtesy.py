"""Scans make room for others at a clamd that others use."""

import pytest
import trio

from clamscannerd.errors import EngineLost
from clamscannerd.pipeline.courtesy import LOOK_S, Courtesy, watch
from clamscannerd.pipeline.shares import Shares

PATIENCE_S = 0.02
BUDGET = 12
A_WHILE_S = 120 * LOOK_S


class Clamd:
    """Answers a small scan at once, and later the more files of ours and of `others` are there."""

    def __init__(self) -> None:
        self.courtesy = Courtesy(PATIENCE_S)
        self.shares = Shares(lambda: self.courtesy.of(BUDGET))
        self.others = 0
        self.is_shared = True
        self.scans = 0
        self.lost = False

    def ours(self) -> int:
        return self.courtesy.of(BUDGET)

    async def scan(self, _: bytes) -> None:
        self.scans += 1
        if self.lost:
            raise EngineLost("gone")
        await trio.sleep(0.001 * (self.ours() + self.others))


@pytest.fixture
def clamd(nursery: trio.Nursery) -> Clamd:
    clamd = Clamd()
    nursery.start_soon(watch, clamd.courtesy, clamd.scan, lambda: clamd.is_shared, clamd.shares)
    return clamd


async def test_a_machine_with_nothing_else_to_do_is_used_whole_and_a_busy_one_shared(
    clamd: Clamd, autojump_clock: trio.abc.Clock
) -> None:
    _ = autojump_clock
    share = clamd.shares.join(scheduled=False)
    await trio.sleep(A_WHILE_S)
    assert share.window == BUDGET
    clamd.others = 60
    await trio.sleep(A_WHILE_S)
    assert share.window == 1
    clamd.others = 0
    await trio.sleep(A_WHILE_S)
    assert share.window == BUDGET
    clamd.others = 15
    await trio.sleep(A_WHILE_S)
    assert 2 <= share.window < 8, "about as many as leave them their patience: five"


async def test_what_lasts_for_ever_leaves_each_scan_one(clamd: Clamd, autojump_clock: trio.abc.Clock) -> None:
    _ = autojump_clock
    shares = [clamd.shares.join(scheduled=False) for _ in range(3)]
    await trio.sleep(A_WHILE_S)
    clamd.others = 1_000
    await trio.sleep(A_WHILE_S)
    assert [share.window for share in shares] == [1, 1, 1]


async def test_without_scans_or_others_nobody_asks(clamd: Clamd, autojump_clock: trio.abc.Clock) -> None:
    _ = autojump_clock
    await trio.sleep(A_WHILE_S)
    assert clamd.scans == 0
    clamd.shares.join(scheduled=False)
    clamd.is_shared = False
    await trio.sleep(A_WHILE_S)
    assert clamd.scans == 0


async def test_an_engine_that_becomes_ours_alone_is_used_whole(clamd: Clamd, autojump_clock: trio.abc.Clock) -> None:
    _ = autojump_clock
    share = clamd.shares.join(scheduled=False)
    await trio.sleep(A_WHILE_S)
    clamd.others = 1_000
    await trio.sleep(A_WHILE_S)
    assert share.window == 1
    clamd.is_shared = False
    await trio.sleep(2 * LOOK_S)
    assert share.window == BUDGET


async def test_an_engine_that_is_gone_says_nothing_of_others(clamd: Clamd, autojump_clock: trio.abc.Clock) -> None:
    _ = autojump_clock
    share = clamd.shares.join(scheduled=False)
    clamd.lost = True
    await trio.sleep(A_WHILE_S)
    assert (share.window, clamd.scans > 1) == (BUDGET, True)


def test_a_slow_machine_is_judged_by_its_own_best() -> None:
    courtesy = Courtesy(PATIENCE_S)
    assert not any(courtesy.seen(10 * PATIENCE_S) for _ in range(100))
    assert courtesy.of(BUDGET) == BUDGET
    assert any(courtesy.seen(31 * PATIENCE_S) for _ in range(3))
    assert courtesy.of(BUDGET) == 8


def test_one_slow_look_of_three_is_no_reason() -> None:
    courtesy = Courtesy(PATIENCE_S)
    assert not any(courtesy.seen(seconds) for seconds in (0.001, 60.0, 0.001) * 10)
