"""A look into a home on a machine that is busy, and at one whose user stops the worker. Workers are scripted."""

import pytest
import trio
import trio.testing

from clamscannerd.errors import WorkerFailed
from clamscannerd.model import Account
from clamscannerd.pipeline.probe import Looks
from clamscannerd.worker.messages import Probe, Probed
from tests.fakes.scripted_worker import Scripts, Worker

ANNA = Account(uid=1000, gid=1000, name="anna", home=b"/home/anna")
BERT = Account(uid=1001, gid=1001, name="bert", home=b"/home/bert")


async def there(worker: Worker) -> None:
    await worker.until(Probe)
    await worker.say(Probed(exists=(True,)))


async def silent(worker: Worker) -> None:
    await worker.until(Probe)
    await trio.sleep_forever()


async def took(looks: Looks, account: Account) -> float:
    """Seconds until it is given up."""
    began = trio.current_time()
    with pytest.raises(WorkerFailed, match="said nothing"):
        await looks.exist(account, (b".",))
    return trio.current_time() - began


async def test_a_worker_that_takes_long_to_begin_is_waited_for(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    workers = Scripts(nursery, there)
    workers.late_s = 15.0
    looks = Looks(workers, lambda: None)
    for _ in range(2):
        assert await looks.exist(ANNA, (b".",)) == (True,)


async def test_one_that_began_and_falls_silent_holds_its_place_for_five_seconds(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    looks = Looks(Scripts(nursery, silent), lambda: None)
    assert 5 <= await took(looks, ANNA) < 10


@pytest.mark.fails_with("stopped-worker-endured")
async def test_an_account_whose_workers_do_not_begin_is_waited_for_long_once_a_minute(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    workers = Scripts(nursery, there)
    workers.late_s = 1_000.0
    looks = Looks(workers, lambda: None)
    assert await took(looks, ANNA) >= 20
    for _ in range(3):
        assert await took(looks, ANNA) < 10
    assert await took(looks, BERT) >= 20, "another account is another's"
    await trio.sleep(60)
    assert await took(looks, ANNA) >= 20
