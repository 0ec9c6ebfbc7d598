"""Small contents, which are rows of a database of the vault: kept in groups, or not at all. Real SQLite."""

import hashlib
import resource
import secrets
import sqlite3
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from clamscannerd.errors import Refused
from clamscannerd.model import Account, Action, Identity
from clamscannerd.state.store import FileMeta, NewStep, Store, StoreLimits, open_store
from clamscannerd.state.store_values import GroupTurn, SmallContent, SmallItem
from clamscannerd.state.vault import BLOBS_NAME, Vault, VaultLimits, VaultReport

ANN = Account(uid=1001, gid=1001, name="ann", home=b"/home/ann")
BOB = Account(uid=1002, gid=1002, name="bob", home=b"/home/bob")
META = FileMeta(owner=1001, group=100, mode=0o640, mtime_ns=-5)
LIMITS = VaultLimits(
    keep_quarantined_s=900.0, keep_deleted_s=70.0, max_bytes_per_account=1 << 24, max_items_per_account=50, min_free=0.0
)
CONTENTS = [secrets.token_bytes(size) for size in (1, 4_000, 60_000, 65_536)]


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with open_store(tmp_path / "state", StoreLimits()) as opened:
        yield opened


@pytest.fixture
def vault(store: Store, tmp_path: Path) -> Vault:
    return Vault(tmp_path / "vault", store, LIMITS)


async def begun(vault: Vault, store: Store, contents: Sequence[bytes], who: Account = ANN) -> list[SmallItem]:
    """A group with its intent committed."""
    new = [
        NewStep(
            path=b"f%d" % number,
            action=Action.QUARANTINE,
            finding_id=1,
            identity=Identity(dev=1, ino=2, size=len(data), mtime_ns=4, sha256=hashlib.sha256(data).digest()),
            signature="Sig",
        )
        for number, data in enumerate(contents)
    ]
    task = await store.add_task(who, 1, new, who.uid, 1.0)
    await store.begin_task(task.id, 1.0)
    steps = await store.waiting_steps(task.id, 0, len(new))
    turn = GroupTurn(task_id=task.id, begin=steps, captures=[b"capture"] * len(steps))
    return (await vault.turn_groups(who, turn, time.time())).begun


async def keep(vault: Vault, contents: Sequence[SmallContent]) -> None:
    await vault.put_group(contents)
    await vault.turn_groups(ANN, GroupTurn(task_id=contents[0].item.step.task_id, kept=contents), 100.0)


def with_data(items: Sequence[SmallItem], contents: Sequence[bytes]) -> list[SmallContent]:
    return [SmallContent(item=item, content=data, meta=META) for item, data in zip(items, contents, strict=True)]


@contextmanager
def no_file_grows() -> Iterator[None]:
    """Writes beyond what any file of SQLite has begins to fail: a disk that takes no more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def rows(vault: Vault) -> list[bytes]:
    with closing(sqlite3.connect(vault._directory / BLOBS_NAME)) as connection:
        return [bytes(row[0]) for row in connection.execute("SELECT content FROM blob")]


async def test_a_group_comes_back_as_it_went_in_and_lies_neutralised(vault: Vault, store: Store) -> None:
    items = await begun(vault, store, CONTENTS)
    await keep(vault, with_data(items, CONTENTS))
    kept = await store.items(1001, "ann")
    assert [await vault.read(item) for item in kept] == CONTENTS
    assert sorted(rows(vault)) == sorted(bytes(255 - byte for byte in data) for data in CONTENTS)
    assert await vault.check() == VaultReport()


async def test_a_disk_that_takes_no_more_is_named_and_nothing_is_left(vault: Vault, store: Store) -> None:
    items = await begun(vault, store, CONTENTS)
    with no_file_grows(), pytest.raises(Refused, match=f"cannot write to vault .*{BLOBS_NAME}: "):
        await keep(vault, with_data(items, CONTENTS))
    await vault.drop_group(items)
    assert (await store.items(1001, "ann"), await store.items_in_passing()) == ([], [])
    await keep(vault, with_data(await begun(vault, store, CONTENTS, BOB), CONTENTS))
    assert len(rows(vault)) == len(CONTENTS), "there is room again"


async def test_what_a_full_disk_lets_nobody_remove_is_removed_later(
    vault: Vault, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """The items are off the list all the same: who restored or deleted them is told no error."""
    items = await begun(vault, store, CONTENTS)
    await keep(vault, with_data(items, CONTENTS))
    gone = [file for item in items if (file := await store.remove_item(item.item_id))]
    with no_file_grows():
        await vault.discard(gone)
    assert "4 contents are removed at the next start: cannot write to vault" in caplog.text
    assert (await store.items(1001, "ann"), len(rows(vault))) == ([], 4)
    assert await vault.clean() == 4
    assert rows(vault) == []
    assert await vault.check() == VaultReport()
