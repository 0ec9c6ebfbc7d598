"""spawn.py when workers that were killed do not end: their account is suspended, no other is, and it goes on."""

import logging

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from clamscannerd import orders, spawn
from clamscannerd.errors import SpawnRefused
from clamscannerd.model import Account
from clamscannerd.spawn import Spawner, WorkerProcess
from tests.component.test_spawn import ALICE, Script, scripted

BOB = Account(uid=1002, gid=1002, name="bob", home=b"/home/bob")
PAST_S = spawn.STUCK_AFTER_S + 1.0


async def started(spawner: Spawner, script: Script, account: Account = ALICE) -> WorkerProcess:
    workers: list[WorkerProcess] = []

    async def ask() -> None:
        with open("/dev/null", "rb") as lock:  # noqa: ASYNC230
            workers.append(await spawner.spawn(account, lock.fileno()))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        job = (await script.take()).job
        await script.say(orders.STARTED, job, 100 + job)
    workers[0].channel.close()
    return workers[0]


async def hang(spawner: Spawner, script: Script, count: int, account: Account = ALICE) -> list[WorkerProcess]:
    """So many that were killed, and of whose end the monitor says nothing."""
    workers = [await started(spawner, script, account) for _ in range(count)]
    for worker in workers:
        worker.kill_nowait()
        worker.kill_nowait()  # whoever cleans up kills again: it counts once
    for _ in range(2 * count):
        assert (await script.take()).verb == orders.KILL
    await trio.sleep(PAST_S)
    return workers


async def test_an_account_is_suspended_with_eight_and_no_other_is(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with scripted() as (spawner, script):
        freed: list[float] = []
        spawner.freed = lambda: freed.append(trio.current_time())
        seven = await hang(spawner, script, 7)
        assert spawner.suspended(ALICE.uid) == ""
        await hang(spawner, script, 1)
        assert spawner.statistics().stuck == 8
        with pytest.raises(SpawnRefused, match="cannot start a worker for alice: 8 of its workers were killed"):
            await spawner.spawn(ALICE, 0)
        other = await started(spawner, script, BOB)
        assert not freed
        await script.say(orders.EXITED, seven[0]._job, 9)
        await wait_all_tasks_blocked()
        assert len(freed) == 1
        assert spawner.suspended(ALICE.uid) == ""
        again = await started(spawner, script)
        for worker in (*seven[1:], other, again):
            await script.say(orders.EXITED, worker._job, 9)
        await wait_all_tasks_blocked()
        assert (spawner.statistics().stuck, len(freed)) == (1, 1)
    assert caplog.text.count("nothing starts for uid 1001 until one ends") == 1
    assert caplog.text.count("work for uid 1001 goes on") == 1
    assert {getattr(record, "CLAMSCANNERD_UID", "") for record in caplog.records} == {"1001"}
    caplog.clear()


async def test_one_that_ends_soon_after_it_was_killed_is_not_stuck(autojump_clock: MockClock) -> None:
    async with scripted() as (spawner, script):
        for _ in range(20):
            worker = await started(spawner, script)
            worker.kill_nowait()
            assert (await script.take()).verb == orders.KILL
            await trio.sleep(spawn.STUCK_AFTER_S - 1.0)
            await script.say(orders.EXITED, worker._job, 9)
            await trio.sleep(PAST_S)
            assert spawner.statistics().stuck == 0


async def test_one_that_was_not_killed_may_take_as_long_as_it_likes(autojump_clock: MockClock) -> None:
    async with scripted() as (spawner, script):
        spawner.max_stuck = 1
        await started(spawner, script)
        await trio.sleep(3_600.0)
        assert spawner.suspended(ALICE.uid) == ""


async def test_a_reload_can_change_how_many(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    async with scripted() as (spawner, script):
        await hang(spawner, script, 2)
        spawner.max_stuck = 2
        assert spawner.suspended(ALICE.uid) != ""
        spawner.max_stuck = 3
        assert spawner.suspended(ALICE.uid) == ""
    caplog.clear()
