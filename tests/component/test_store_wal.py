"""The log beside state.db: what SQLite would drop without a word is refused, or kept and said."""

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from clamscannerd.errors import StateError
from clamscannerd.state import store_wal
from clamscannerd.state.store_open import open_database
from clamscannerd.state.store_wal import COPIES, Log, check_log, read_log

COMMITS = 6
FRAME = 24 + 4096


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state directory as a kill leaves it: COMMITS transactions in the log, and none of them in the file."""
    live, left = tmp_path / "live", tmp_path / "left"
    open_database(live)._writer.close()
    with closing(sqlite3.connect(live / "state.db", isolation_level=None)) as connection:
        for number in range(COMMITS):
            connection.execute("UPDATE sequence SET value = ?", (number + 1,))
        shutil.copytree(live, left)
    return left


def counts(state: Path) -> tuple[int, int]:
    read: Log = read_log(state / "state.db-wal")
    return read.frames, read.dropped


def value(state: Path) -> int:
    with closing(sqlite3.connect(state / "state.db")) as connection:
        number: int = connection.execute("SELECT value FROM sequence").fetchone()[0]
        return number


def spoil(state: Path, offset: int, size: int = 8) -> None:
    with (state / "state.db-wal").open("r+b") as file:
        file.seek(offset)
        file.write(b"\xa5" * size)


def cut(state: Path, size: int) -> None:
    with (state / "state.db-wal").open("r+b") as file:
        file.truncate(size)


def test_a_whole_log_drops_nothing(state: Path) -> None:
    assert (state / "state.db-wal").stat().st_size == 32 + COMMITS * FRAME
    assert counts(state) == (COMMITS, 0)
    assert not check_log(state / "state.db")
    assert value(state) == COMMITS


@pytest.mark.parametrize("frame", range(COMMITS))
def test_what_is_counted_is_what_sqlite_drops(state: Path, frame: int) -> None:
    spoil(state, 32 + frame * FRAME + 1000)
    assert counts(state) == (frame, COMMITS - frame)
    assert value(state) == frame


@pytest.mark.parametrize(
    "damage",
    [
        lambda state: spoil(state, 32 + (COMMITS - 1) * FRAME + 1000),
        lambda state: cut(state, 32 + COMMITS * FRAME - 1000),
    ],
    ids=["spoiled", "cut"],
)
def test_a_last_transaction_in_part_is_left_out_kept_and_said(
    state: Path, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    (state / "state.db-shm").unlink()  # as after a loss of power: nothing says that it was synced
    damage(state)
    torn = (state / "state.db-wal").read_bytes()
    database = open_database(state)
    assert database.doubtful
    assert (state / "state.db-wal.torn.1").read_bytes() == torn
    assert (state / "state.db-wal.torn.1").stat().st_mode & 0o777 == 0o600
    assert "is not whole and is left out; kept as state.db-wal.torn.1" in caplog.text
    assert database._writer.execute("SELECT value FROM sequence").fetchone()[0] == COMMITS - 1
    assert (state / "state.db-wal").stat().st_size == 0, "so that it is not found again"
    database._reader.close()
    database._writer.close()


@pytest.mark.parametrize("frames", [0, COMMITS - 1])
def test_a_commit_that_a_kill_cut_off_leaves_nothing_in_doubt(tmp_path: Path, frames: int) -> None:
    """SQLite writes a frame's header and its page in two calls, and the index knows nothing of either yet."""
    live, left = tmp_path / "live", tmp_path / "left"
    open_database(live)._writer.close()
    with closing(sqlite3.connect(live / "state.db", isolation_level=None)) as connection:
        for number in range(frames):
            connection.execute("UPDATE sequence SET value = ?", (number + 1,))
        index = (live / "state.db-shm").read_bytes()
        connection.execute("UPDATE sequence SET value = 99")
        shutil.copytree(live, left)
    (left / "state.db-shm").write_bytes(index)
    cut(left, 32 + frames * FRAME + 24)
    assert counts(left) == (frames, 1)
    assert not check_log(left / "state.db")
    assert value(left) == frames


@pytest.mark.parametrize(
    ("offset", "size"), [(0, 8), (0, 64), (20, 8), (32 + 500, 8), (32 + (COMMITS - 3) * FRAME + 8, 8)]
)
def test_more_than_that_is_refused_and_left_as_it_is(state: Path, offset: int, size: int) -> None:
    spoil(state, offset, size)
    before = {path.name: path.read_bytes() for path in state.glob("state.db*")}
    with pytest.raises(StateError, match=r"state.db-wal is damaged: \d transactions in it cannot be read"):
        open_database(state)
    assert {path.name: path.read_bytes() for path in state.glob("state.db*")} == before


@pytest.mark.parametrize("frames", range(COMMITS))
def test_a_log_that_was_cut_after_a_transaction_is_missed_where_its_index_knows_it(state: Path, frames: int) -> None:
    cut(state, 32 + frames * FRAME)
    with pytest.raises(StateError, match=rf"state.db-wal is damaged: {COMMITS - frames} pages are cut off"):
        check_log(state / "state.db")
    (state / "state.db-shm").unlink()
    assert check_log(state / "state.db") == (frames > 0)


def test_a_last_transaction_that_was_synced_is_missed(state: Path) -> None:
    spoil(state, 32 + (COMMITS - 1) * FRAME + 1000)
    with pytest.raises(StateError, match=r"state.db-wal is damaged: 1 transactions in it cannot be read"):
        check_log(state / "state.db")


def test_a_log_that_was_removed_is_missed(state: Path) -> None:
    (state / "state.db-wal").unlink()
    with pytest.raises(StateError, match=r"state\.db-wal is missing"):
        open_database(state)
    (state / "state.db-shm").unlink()
    database = open_database(state)
    database._reader.close()
    database._writer.close()


def test_frames_of_an_earlier_log_are_no_transactions(state: Path) -> None:
    """After a checkpoint the log is written anew from its start, over what it was."""
    with closing(sqlite3.connect(state / "state.db", isolation_level=None)) as connection:
        connection.execute("PRAGMA wal_checkpoint(RESTART)")
        connection.execute("UPDATE sequence SET value = 99")
        assert (state / "state.db-wal").stat().st_size == 32 + COMMITS * FRAME
        assert counts(state) == (1, 0)


def test_what_was_never_ended_is_no_loss(state: Path) -> None:
    with closing(sqlite3.connect(state / "state.db", isolation_level=None)) as connection:
        connection.execute("PRAGMA cache_size = 1")
        connection.execute("BEGIN")
        connection.executemany(
            "INSERT INTO account (uid, name) VALUES (?, ?)", [(number, "x" * 500) for number in range(500)]
        )
        assert (state / "state.db-wal").stat().st_size > 32 + COMMITS * FRAME
        assert counts(state) == (COMMITS, 0)


def test_copies_are_bounded(state: Path) -> None:
    for _ in range(COPIES + 2):
        store_wal._keep(state / "state.db-wal")
    assert sorted(path.suffix for path in state.glob("*.torn.*")) == [f".{n}" for n in range(3, COPIES + 3)]
