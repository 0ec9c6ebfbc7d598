"""The state directory: who may open it, what is refused, and what a kill or a fault of the disk leaves."""

import os
import resource
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
import trio
import trio.testing

from clamscannerd.errors import StateError
from clamscannerd.model import Account, Scan
from clamscannerd.state.schema import MIGRATIONS, VERSION
from clamscannerd.state.store import Store, StoreLimits, open_store

ANN = Account(uid=1001, gid=1001, name="ann", home=b"/home/ann")
LIMITS = StoreLimits()

CHILD = """
import sys, trio
from pathlib import Path
from clamscannerd.model import Account, Action, Identity, Outcome
from clamscannerd.state.store import NewStep, StoreLimits, open_store

async def main():
    account = Account(uid=1001, gid=1001, name="ann", home=b"/home/ann")
    identity = Identity(dev=1, ino=2, size=3, mtime_ns=4, sha256=bytes(32))
    async with open_store(Path(sys.argv[1]), StoreLimits()) as store:
        steps = [
            NewStep(path=b"f%d" % number, action=Action.DELETE, finding_id=0, identity=identity, signature="S")
            for number in range(20_000)
        ]
        task = await store.add_task(account, 0, steps, 1001, 1.0)
        await store.begin_task(task.id, 1.0)
        while step := await store.next_step(task.id):
            await store.begin_step(task.id, step.seq, b"capture-%d" % step.seq)
            print("doing", step.seq, flush=True)
            await store.end_step(task.id, step.seq, Outcome.DELETED, None, 2.0, f"/home/ann/{step.seq}", None, None)
            print("ended", step.seq, flush=True)

trio.run(main)
"""


async def opened_once(directory: Path) -> None:
    async with open_store(directory, LIMITS) as store:
        await store.add_scan(ANN, "home", (b".",), 1001, 1.0)


async def refused(directory: Path) -> str:
    with pytest.raises(StateError) as caught:
        async with open_store(directory, LIMITS):
            pass
    return str(caught.value)


async def test_everything_is_the_daemons_alone(tmp_path: Path) -> None:
    directory = tmp_path / "a" / "state"
    old = os.umask(0)
    try:
        async with open_store(directory, LIMITS) as store:
            await store.add_scan(ANN, "home", (b".",), 1001, 1.0)
            modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()}
    finally:
        os.umask(old)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert modes == {"daemon.lock": 0o600, "state.db": 0o600, "state.db-wal": 0o600, "state.db-shm": 0o600}


async def test_a_directory_left_open_to_others_is_closed(tmp_path: Path) -> None:
    directory = tmp_path / "state"
    directory.mkdir()
    directory.chmod(0o755)
    await opened_once(directory)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


async def test_what_was_written_is_there_after_a_new_start(tmp_path: Path) -> None:
    await opened_once(tmp_path)
    async with open_store(tmp_path, LIMITS) as store:
        scan = await store.latest_scan(1001, "ann")
        await store.verify()
        await store.check()
    assert scan is not None
    assert scan.asked_at == 1.0


async def test_a_second_daemon_is_refused_while_the_first_lives(tmp_path: Path) -> None:
    async with open_store(tmp_path, LIMITS):
        assert await refused(tmp_path) == (f"cannot open state {tmp_path}: another daemon (pid {os.getpid()}) uses it")
    await opened_once(tmp_path)


async def test_a_newer_version_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    await opened_once(tmp_path)
    with sqlite3.connect(tmp_path / "state.db") as connection:
        connection.execute(f"PRAGMA user_version = {VERSION + 1}")
    connection.close()
    before = (tmp_path / "state.db").read_bytes()
    assert f"version {VERSION + 1} is newer than {VERSION}" in await refused(tmp_path)
    assert (tmp_path / "state.db").read_bytes() == before


def overwrite(path: Path) -> None:
    path.write_bytes(b"\xa5" * 8192)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def spoil_pages(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xa5" * 4096 * 8)


def make_foreign(path: Path) -> None:
    path.unlink()
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE other (x)")
    connection.close()


@pytest.mark.parametrize("damage", [overwrite, empty, cut, spoil_pages, make_foreign])
async def test_a_damaged_or_foreign_file_is_refused_by_name_and_never_replaced(tmp_path: Path, damage: object) -> None:
    assert callable(damage)
    await opened_once(tmp_path)
    damage(tmp_path / "state.db")
    before = (tmp_path / "state.db").read_bytes()
    message = await refused(tmp_path)
    assert message.startswith(f"cannot open state {tmp_path / 'state.db'}: ")
    assert (tmp_path / "state.db").read_bytes() == before


async def test_a_database_missing_beside_its_wal_is_refused(tmp_path: Path) -> None:
    tmp_path.joinpath("state.db-wal").write_bytes(b"something")
    assert "it is missing, but state.db-wal is there" in await refused(tmp_path)


async def test_a_database_half_made_is_made_again(tmp_path: Path) -> None:
    tmp_path.joinpath("state.db.new").write_bytes(b"half")
    tmp_path.joinpath("state.db.new-wal").write_bytes(b"half")
    await opened_once(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["daemon.lock", "state.db"]


async def test_a_place_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    tmp_path.joinpath("file").write_bytes(b"")
    assert await refused(tmp_path / "file" / "state") == (
        f"cannot open state {tmp_path / 'file' / 'state'}: Not a directory"
    )


def test_every_column_of_the_schema_is_strict_and_checked() -> None:
    connection = sqlite3.connect(":memory:")
    for script in MIGRATIONS:
        connection.executescript(script)
    tables = connection.execute("PRAGMA table_list").fetchall()
    connection.close()
    strict = {row[1] for row in tables if row[5]}
    assert strict == {
        "sequence",
        "account",
        "scan",
        "finding",
        "finding_message",
        "not_scanned",
        "task",
        "step",
        "restore_step",
        "record",
        "item",
        "ignore_entry",
        "notified",
        "reported",
        "digest",
        "told",
    }


async def test_killed_between_any_two_commits_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    """kill -9 three times in the middle of a task: what was printed is there, and each time the record is whole."""
    for acknowledged in (20, 57, 133):
        directory = tmp_path / str(acknowledged)
        child = subprocess.Popen([sys.executable, "-c", CHILD, directory], stdout=subprocess.PIPE)  # noqa: ASYNC220
        assert child.stdout is not None
        lines = [await trio.to_thread.run_sync(child.stdout.readline) for _ in range(acknowledged)]
        child.send_signal(signal.SIGKILL)
        lines += child.stdout.read().splitlines(keepends=True)
        child.stdout.close()
        child.wait()
        seen = [line.decode().split() for line in lines if line.endswith(b"\n")]
        ended = max((int(seq) for kind, seq in seen if kind == "ended"), default=0)
        doing = max(int(seq) for kind, seq in seen if kind == "doing")
        async with open_store(directory, LIMITS) as store:
            await check_after_kill(store, ended, doing)


async def check_after_kill(store: Store, ended: int, doing: int) -> None:
    recovered = await store.recover()
    assert len(recovered.tasks) == 1
    task_id = recovered.tasks[0].id
    records = [msgspec.json.decode(record) for record in await store.records(task_id, limit=20_000)]
    assert [record["id"] for record in records] == list(range(1, len(records) + 1))
    assert ended <= len(records) <= ended + 1
    step = await store.next_step(task_id)
    assert step is not None
    assert step.seq == len(records) + 1
    if doing > len(records):
        assert step.capture == b"capture-%d" % step.seq


@contextmanager
def no_file_grows_beyond(size: int) -> Iterator[None]:
    """Writes beyond `size` fail with EFBIG: a disk that fails, for SQLite."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_after_an_io_error_nothing_is_done_until_the_next_start(tmp_path: Path) -> None:
    async with open_store(tmp_path, LIMITS) as store:
        kept = await store.add_scan(ANN, "home", (b".",), 1001, 1.0)
        size = (tmp_path / "state.db-wal").stat().st_size
        with no_file_grows_beyond(size), pytest.raises(StateError, match=f"cannot use state {tmp_path}"):
            await store.add_not_scanned(kept.id, [(b"x" * 4000, "limit")] * 50)
        assert store.statistics().broken
        with pytest.raises(StateError, match="disk I/O error"):
            await store.check()
        with pytest.raises(StateError, match="disk I/O error"):
            await store.wait_broken()
    async with open_store(tmp_path, LIMITS) as store:
        assert await store.get_scan(kept.id) == kept
        assert await store.not_scanned(kept.id, 10) == []


async def test_who_waits_for_a_break_hears_of_it_and_of_nothing_less(tmp_path: Path) -> None:
    def no_memory(_: sqlite3.Connection) -> None:
        raise MemoryError

    def fill(c: sqlite3.Connection) -> None:
        c.execute(f"PRAGMA max_page_count = {c.execute('PRAGMA page_count').fetchone()[0]}").fetchone()

    async with open_store(tmp_path, LIMITS) as store:
        kept = await store.add_scan(ANN, "home", (b".",), 1001, 1.0)
        many = [(b"x" * 4000, "limit")] * 50
        with pytest.raises(StateError, match="out of memory"):
            await store._db.write(no_memory)
        await store._db.write(fill)
        with pytest.raises(StateError, match="disk is full"):
            await store.add_not_scanned(kept.id, many)
        assert not store.statistics().broken
        assert await store.get_scan(kept.id) == kept
        with pytest.RaisesGroup(pytest.RaisesExc(StateError, match="disk I/O error")):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(store.wait_broken)
                await trio.testing.wait_all_tasks_blocked()
                await store._db.write(lambda c: c.execute("PRAGMA max_page_count = 1000000").fetchone())
                with no_file_grows_beyond((tmp_path / "state.db-wal").stat().st_size), pytest.raises(StateError):
                    await store.add_not_scanned(kept.id, many)
                await trio.sleep_forever()


async def test_a_cancelled_call_has_not_begun_or_is_finished(tmp_path: Path) -> None:
    async with open_store(tmp_path, LIMITS) as store:
        with trio.CancelScope() as scope:
            scope.cancel()
            await store.add_scan(ANN, "home", (b".",), 1001, 1.0)
        assert scope.cancelled_caught
        assert await store.latest_scan(1001, "ann") is None
        assert not store.statistics().broken


async def test_many_callers_each_get_their_own_answer(tmp_path: Path) -> None:
    answers: dict[int, Scan] = {}

    async def ask(uid: int) -> None:
        account = Account(uid=uid, gid=uid, name=f"u{uid}", home=b"/h")
        answers[uid] = await store.add_scan(account, "home", (b".",), uid, 1.0)

    async with open_store(tmp_path, LIMITS) as store:
        async with trio.open_nursery() as nursery:
            for uid in range(2_000, 2_050):
                nursery.start_soon(ask, uid)
        assert all(scan.uid == uid for uid, scan in answers.items())
        assert len(await store.waiting_jobs()) == 50
        assert store.statistics().writes == 50
