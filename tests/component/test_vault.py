"""The vault on a real directory and a real index: kept whole or not at all, bounded, accounted for after a crash."""

import errno
import hashlib
import os
import resource
import secrets
import stat
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
import trio

from clamscannerd.errors import LocalProtocolError, Refused, RemoteProtocolError, StateError
from clamscannerd.model import Account, Action, Identity, Item, Outcome, Step, StepState
from clamscannerd.state import vault_files
from clamscannerd.state.store import Caps, FileMeta, NewStep, Store, StoreLimits, Usage, open_store
from clamscannerd.state.vault import Vault, VaultLimits, VaultReport
from clamscannerd.state.vault_in import BUFFER_BYTES

ANN = Account(uid=1001, gid=1001, name="ann", home=b"/home/ann")
BOB = Account(uid=1002, gid=1002, name="bob", home=b"/home/bob")
META = FileMeta(owner=1001, group=100, mode=0o640, mtime_ns=-5, xattrs=b"opaque")
LIMITS = VaultLimits(
    keep_quarantined_s=900.0,
    keep_deleted_s=70.0,
    max_bytes_per_account=1_000_000,
    max_items_per_account=5,
    min_free=0.0,
)
CONTENT = bytes(range(256)) * 40


def step(seq: int = 1, action: Action = Action.QUARANTINE, path: bytes = b"www/bad.php") -> Step:
    return Step(
        task_id=1,
        seq=seq,
        path=path,
        action=action,
        finding_id=1,
        identity=Identity(dev=1, ino=2, size=3, mtime_ns=4, sha256=bytes(32)),
        signature="Eicar-Signature",
        state=StepState.DOING,
        capture=b".clamscannerd-00",
    )


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with open_store(tmp_path / "state", StoreLimits()) as opened:
        yield opened


@pytest.fixture
def vault(store: Store, tmp_path: Path) -> Vault:
    return Vault(tmp_path / "vault", store, LIMITS)


def with_limits(vault: Vault, store: Store, **changes: float) -> Vault:
    return Vault(vault._directory, store, msgspec.structs.replace(LIMITS, **changes))


async def keep(
    vault: Vault, content: bytes = CONTENT, one: Step | None = None, account: Account = ANN, now: float = 100.0
) -> Item:
    async with vault.receive(account, one or step(), len(content), now, META) as incoming:
        for start in range(0, len(content), 4096):
            await incoming.write(content[start : start + 4096])
        return await incoming.commit(now)


def files(vault: Vault) -> list[Path]:
    return sorted(path for path in vault._directory.rglob("*") if path.is_file())


async def nothing_is_left(vault: Vault, store: Store) -> bool:
    return not files(vault) and not await store.items_in_passing() and await store.items(1001, "ann") == []


@pytest.mark.parametrize("size", [0, 1, BUFFER_BYTES - 1, BUFFER_BYTES, 3 * BUFFER_BYTES + 17])
async def test_a_content_comes_back_as_it_went_in(vault: Vault, store: Store, size: int) -> None:
    content = secrets.token_bytes(size)
    item = await keep(vault, content)
    assert (item.size, item.sha256) == (size, hashlib.sha256(content).digest())
    assert (item.path, item.action, item.signature) == (b"www/bad.php", Action.QUARANTINE, "Eicar-Signature")
    assert (item.kept_at, item.expires_at) == (100.0, 1_000.0)
    assert await vault.read(item) == content
    assert await store.items(1001, "ann") == [item]
    assert await store.item_of_step(1, 1) == item
    assert await store.item_meta(item.id) == META


async def test_a_kept_file_is_neutralised_and_for_nobody_else(vault: Vault) -> None:
    await keep(vault, CONTENT)
    [path] = files(vault)
    assert path.read_bytes() == bytes(255 - byte for byte in CONTENT)
    assert stat.S_IMODE(path.stat().st_mode) == 0o400
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert path.parent.name == path.name[:2]


async def test_deleted_files_expire_sooner(vault: Vault) -> None:
    assert (await keep(vault, one=step(action=Action.DELETE))).expires_at == 170.0
    assert vault.keeps(Action.DELETE)


async def test_no_copies_of_deleted_files_is_a_setting(vault: Vault, store: Store) -> None:
    none = with_limits(vault, store, keep_deleted_s=0.0)
    assert (none.keeps(Action.DELETE), none.keeps(Action.QUARANTINE)) == (False, True)


async def test_more_than_announced_is_the_workers_lie_and_leaves_nothing(vault: Vault, store: Store) -> None:
    async with vault.receive(ANN, step(), 5, 1.0, META) as incoming:
        await incoming.write(b"12345")
        with pytest.raises(RemoteProtocolError, match=r"cannot keep 'www/bad\.php': more than the announced 5 bytes"):
            await incoming.write(b"6")
    assert await nothing_is_left(vault, store)


async def test_less_than_announced_is_refused_and_leaves_nothing(vault: Vault, store: Store) -> None:
    async with vault.receive(ANN, step(), 5, 1.0, META) as incoming:
        await incoming.write(b"1234")
        with pytest.raises(Refused, match="4 of 5 bytes came"):
            await incoming.commit(1.0)
    assert await nothing_is_left(vault, store)


async def test_another_content_than_was_found_is_refused_and_leaves_nothing(vault: Vault, store: Store) -> None:
    async with vault.receive(ANN, step(), 5, 1.0, META) as incoming:
        await incoming.write(b"12345")
        with pytest.raises(Refused, match="its content is not what was found infected"):
            await incoming.commit(1.0, sha256=bytes(32))
    assert await nothing_is_left(vault, store)


async def test_a_worker_that_dies_in_the_middle_leaves_nothing(vault: Vault, store: Store) -> None:
    async with vault.receive(ANN, step(), 3 * BUFFER_BYTES, 1.0, META) as incoming:
        await incoming.write(b"x" * (2 * BUFFER_BYTES))
    assert await nothing_is_left(vault, store)


async def test_a_cancelled_receive_leaves_nothing(vault: Vault, store: Store) -> None:
    with trio.CancelScope() as scope:
        async with vault.receive(ANN, step(), 5, 1.0, META) as incoming:
            await incoming.write(b"12345")
            scope.cancel()
            await incoming.commit(1.0)
    assert scope.cancelled_caught
    assert await nothing_is_left(vault, store)
    assert vault.statistics().receiving == 0


async def test_a_content_is_committed_once(vault: Vault) -> None:
    async with vault.receive(ANN, step(), 0, 1.0, META) as incoming:
        item = await incoming.commit(1.0)
        with pytest.raises(LocalProtocolError, match="it is over"):
            await incoming.commit(1.0)
    assert await vault.read(item) == b""
    assert len(files(vault)) == 1


async def test_without_o_tmpfile_all_is_the_same(vault: Vault, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    real_open = os.open

    def without(path: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        return real_open(path, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", without)
    item = await keep(vault)
    assert await vault.read(item) == CONTENT
    await vault.remove(item.id)
    async with vault.receive(ANN, step(), 3 * BUFFER_BYTES, 1.0, META) as incoming:
        await incoming.write(b"x" * (2 * BUFFER_BYTES))
        assert len(files(vault)) == 1
    assert await nothing_is_left(vault, store)


@pytest.mark.parametrize("failing", [1, 2])
async def test_a_failed_fsync_is_final(
    vault: Vault, store: Store, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    """First the file's, then its folder's."""
    for number in range(256):
        await trio.to_thread.run_sync(vault_files.make_directory, vault._directory)
        await trio.to_thread.run_sync(vault_files.make_directory, vault._directory / f"{number:02x}")
    real_fsync = os.fsync
    asked = 0

    def fails_once(fd: int) -> None:
        nonlocal asked
        asked += 1
        if asked == failing:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real_fsync(fd)

    monkeypatch.setattr(os, "fsync", fails_once)
    async with vault.receive(ANN, step(), 5, 1.0, META) as incoming:
        await incoming.write(b"12345")
        with pytest.raises(Refused, match=r"cannot keep 'www/bad\.php': Input/output error"):
            await incoming.commit(1.0)
        with pytest.raises(LocalProtocolError):
            await incoming.commit(1.0)
    assert await nothing_is_left(vault, store)


@contextmanager
def no_file_grows_beyond(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_a_disk_that_takes_no_more_is_named_and_nothing_is_left(vault: Vault, store: Store) -> None:
    size = 4 * BUFFER_BYTES
    roomy = with_limits(vault, store, max_bytes_per_account=10 * size)
    async with roomy.receive(ANN, step(), size, 1.0, META) as incoming:
        await incoming.write(b"x" * BUFFER_BYTES)
        with no_file_grows_beyond(size - 10), pytest.raises(Refused, match=r"'www/bad\.php': File too large"):
            await incoming.write(b"x" * (size - BUFFER_BYTES))
    assert await nothing_is_left(vault, store)


async def test_a_file_system_that_is_nearly_full_is_refused(vault: Vault, store: Store) -> None:
    strict = with_limits(vault, store, min_free=1.0)
    with pytest.raises(Refused, match="the file system of the vault would have less than 100% free"):
        await keep(strict)
    assert await nothing_is_left(vault, store)
    assert strict.statistics().refused == 1


async def test_a_full_vault_refuses_and_keeps_what_it_has(vault: Vault, store: Store) -> None:
    for seq in range(5):
        await keep(vault, b"12345", step(seq + 1))
    with pytest.raises(Refused, match=r"the vault of this account is full \(25 of 1000000 bytes and 5 of 5 items used"):
        await keep(vault, b"12345", step(6))
    assert await store.usage(1001, "ann") == Usage(bytes=25, items=5)
    assert (await keep(vault, b"12345", step(6), BOB)).uid == 1002


async def test_copies_of_deleted_files_make_room_oldest_first(vault: Vault, store: Store) -> None:
    kept = await keep(vault, b"q" * 400_000, step(1), now=1.0)
    newer = await keep(vault, b"n" * 200_000, step(2, Action.DELETE), now=3.0)
    older = await keep(vault, b"o" * 200_000, step(3, Action.DELETE), now=2.0)
    item = await keep(vault, b"x" * 300_000, step(4), now=4.0)
    assert await store.items(1001, "ann") == [kept, newer, item]
    assert await store.item_file(older.id) is None
    assert len(files(vault)) == 3


async def test_nothing_gives_way_to_what_cannot_fit_at_all(vault: Vault, store: Store) -> None:
    item = await keep(vault, b"12345", step(1, Action.DELETE))
    with pytest.raises(Refused, match="is full"):
        async with vault.receive(ANN, step(2), 1_000_001, 1.0, META):
            pass
    assert await store.items(1001, "ann") == [item]


async def test_what_is_being_received_counts_against_the_caps(vault: Vault, store: Store) -> None:
    async with vault.receive(ANN, step(1), 600_000, 1.0, META):
        with pytest.raises(Refused, match="is full"):
            async with vault.receive(ANN, step(2), 600_000, 1.0, META):
                pass
    assert await store.usage(1001, "ann") == Usage(bytes=0, items=0)


async def test_items_expire_with_their_files(vault: Vault, store: Store) -> None:
    deleted = await keep(vault, one=step(1, Action.DELETE))
    kept = await keep(vault, one=step(2))
    assert await vault.expire(169.0) == 0
    assert {item.id for item in await store.items(1001, "ann")} == {kept.id, deleted.id}
    assert await vault.expire(170.0) == 1
    assert await store.items(1001, "ann") == [kept]
    assert len(files(vault)) == 1
    with pytest.raises(StateError, match="it is not in the vault"):
        await vault.read(deleted)


async def test_an_item_is_removed_once(vault: Vault, store: Store) -> None:
    item = await keep(vault)
    assert await vault.remove(item.id) is True
    assert await vault.remove(item.id) is False
    assert await nothing_is_left(vault, store)


@pytest.mark.parametrize("content", [CONTENT[:-1], CONTENT + b"x", b"y" + CONTENT[1:]])
async def test_a_file_that_is_not_what_was_kept_is_not_given_out_as_whole(vault: Vault, content: bytes) -> None:
    item = await keep(vault)
    [path] = files(vault)
    path.chmod(0o600)
    path.write_bytes(content.translate(vault_files.NEUTRAL))
    with pytest.raises(StateError, match=f"cannot read item {item.id}: its file is not what was kept"):
        await vault.read(item)


async def test_what_a_crash_left_half_received_is_cleaned(vault: Vault, store: Store) -> None:
    kept = await keep(vault)
    caps_and_name = "ab" + "0" * 30
    await store.reserve_item(ANN, step(2), 10, caps_and_name, META, _caps(), 1.0)
    await store.reserve_item(ANN, step(3), 10, "cd" + "0" * 30, META, _caps(), 1.0)
    vault_files.make_directory(vault._directory / "ab")
    vault_files.path_of(vault._directory, caps_and_name).write_bytes(b"half")
    assert await vault.check() == VaultReport(cleaned=2)
    assert await store.usage(1001, "ann") == Usage(bytes=len(CONTENT), items=1)
    assert await vault.read(kept) == CONTENT


async def test_what_may_have_been_whole_before_the_log_was_torn_stays(vault: Vault, store: Store) -> None:
    file, gone = "ab" + "0" * 30, await keep(vault)
    await store.remove_item(gone.id)
    await store.reserve_item(ANN, step(2), 10, file, META, _caps(), 1.0)
    vault_files.make_directory(vault._directory / "ab")
    vault_files.path_of(vault._directory, file).write_bytes(b"the only one")
    store._db.doubtful = True
    report = await vault.check()
    assert (report.cleaned, report.strays) == (1, (f"ab/{file}.item",))
    assert await store.items_in_passing() == []


async def test_what_a_crash_left_half_removed_is_cleaned(vault: Vault, store: Store) -> None:
    item = await keep(vault)
    await store.remove_item(item.id)
    assert await vault.check() == VaultReport(cleaned=1)
    assert await nothing_is_left(vault, store)


async def test_a_receive_under_way_is_no_residue(vault: Vault) -> None:
    async with vault.receive(ANN, step(), 5, 1.0, META) as incoming:
        await incoming.write(b"12345")
        assert await vault.check() == VaultReport()
        item = await incoming.commit(1.0)
    assert await vault.read(item) == b"12345"


async def test_strays_and_missing_files_are_reported_and_left(vault: Vault, store: Store) -> None:
    item = await keep(vault)
    [path] = files(vault)
    stray = path.with_name("f" * 32 + ".item")
    path.rename(stray)
    report = await vault.check()
    assert report == VaultReport(
        strays=(f"{stray.parent.name}/{stray.name}",), stray_count=1, missing=(item.id,), missing_count=1
    )
    assert files(vault) == [stray]
    assert await store.items(1001, "ann") == [item]
    with pytest.raises(StateError, match="No such file or directory"):
        await vault.read(item)


async def test_a_check_of_a_vault_never_used_finds_nothing(vault: Vault) -> None:
    assert await vault.check() == VaultReport()


async def test_a_step_is_ended_with_the_item_kept_for_it(vault: Vault, store: Store) -> None:
    new = NewStep(
        path=b"x", action=Action.QUARANTINE, finding_id=1, identity=step().identity, signature="Eicar-Signature"
    )
    task = await store.add_task(ANN, 1, [new, new], 1001, 1.0)
    item = await keep(vault, one=await store.begin_step(task.id, 1, b"name"))
    other = await store.begin_step(task.id, 2, b"name")
    with pytest.raises(LocalProtocolError, match="not kept for it"):
        await store.end_step(task.id, other.seq, Outcome.QUARANTINED, None, 2.0, "/home/ann/x", None, item.id)
    await store.end_step(task.id, 1, Outcome.QUARANTINED, None, 2.0, "/home/ann/x", None, item.id)


async def test_many_contents_at_once_each_stay_whole(vault: Vault, store: Store) -> None:
    roomy = with_limits(vault, store, max_items_per_account=100)
    items: list[tuple[Item, bytes]] = []

    async def one(seq: int) -> None:
        content = bytes([seq]) * (seq * 20_000)
        items.append((await keep(roomy, content, step(seq)), content))

    async with trio.open_nursery() as nursery:
        for seq in range(1, 10):
            nursery.start_soon(one, seq)
    for item, content in items:
        assert await roomy.read(item) == content


def _caps() -> Caps:
    return Caps(max_bytes=1_000_000, max_items=5)
