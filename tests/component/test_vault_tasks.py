"""What a task that is not done relies on stays in the vault, whatever clock and caps say. Real SQLite, real files."""

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from clamscannerd.errors import Refused
from clamscannerd.model import Account, Action, Identity, Item, Outcome, Step, Task
from clamscannerd.state.store import FileMeta, NewStep, Store, StoreLimits, open_store
from clamscannerd.state.vault import Vault, VaultLimits

ANN = Account(uid=1001, gid=1001, name="ann", home=b"/home/ann")
META = FileMeta(owner=1001, group=100, mode=0o640, mtime_ns=0)
WHO = Identity(dev=1, ino=2, size=3, mtime_ns=4, sha256=bytes(32))
LIMITS = VaultLimits(
    keep_quarantined_s=900.0, keep_deleted_s=70.0, max_bytes_per_account=100, max_items_per_account=5, min_free=0.0
)
A_CENTURY_ON = 36_500 * 86_400.0


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with open_store(tmp_path / "state", StoreLimits()) as opened:
        yield opened


@pytest.fixture
def vault(store: Store, tmp_path: Path) -> Vault:
    return Vault(tmp_path / "vault", store, LIMITS)


async def begun(store: Store, steps: int, action: Action) -> Task:
    new = NewStep(path=b"x", action=action, finding_id=1, identity=WHO, signature="Sig")
    task = await store.add_task(ANN, 1, [new] * steps, 1001, 1.0)
    return await store.begin_task(task.id, 1.0)


async def keep(vault: Vault, step: Step, size: int = 10) -> Item:
    async with vault.receive(ANN, step, size, time.time(), META) as incoming:
        await incoming.write(b"x" * size)
        return await incoming.commit(time.time())


async def end(store: Store, step: Step, item: Item | None) -> None:
    outcome = Outcome.DELETED if item is not None else Outcome.ERROR
    kept = item.id if item is not None else None
    await store.end_step(step.task_id, step.seq, outcome, None, 2.0, "/home/ann/x", None, kept)


@pytest.mark.parametrize("action", [Action.QUARANTINE, Action.DELETE])
async def test_an_item_does_not_expire_before_its_task_is_done(vault: Vault, store: Store, action: Action) -> None:
    task = await begun(store, 1, action)
    step = await store.begin_step(task.id, 1, b"name")
    item = await keep(vault, step)
    assert await vault.expire(A_CENTURY_ON) == 0
    assert await store.item_of_step(task.id, 1) == item, "recovery finds it"
    await end(store, step, item)
    await store.park_task(task.id)
    assert await vault.expire(A_CENTURY_ON) == 0
    await store.begin_task(task.id, 3.0)
    await store.end_task(task.id, 3.0)
    assert await vault.expire(A_CENTURY_ON) == 1
    assert await store.items(1001, "ann") == []


async def test_a_copy_does_not_give_way_while_its_file_is_about_to_go(vault: Vault, store: Store) -> None:
    """Steps at hand at once: what the first may rely on is not the second's room."""
    task = await begun(store, 3, Action.DELETE)
    first, second, third = [await store.begin_step(task.id, seq, b"name") for seq in (1, 2, 3)]
    item = await keep(vault, first, size=80)
    with pytest.raises(Refused, match="the vault of this account is full"):
        await keep(vault, second, size=80)
    assert await store.item_of_step(task.id, 1) == item
    await end(store, second, None)
    await end(store, first, item)
    assert (await keep(vault, third, size=80)).seq == 3, "now it does: it is a copy like any other"
    assert [kept.seq for kept in await store.items(1001, "ann")] == [3]
