"""A state directory of an older version: what it held is there, and what was added is filled in as far as known."""

import sqlite3
from pathlib import Path

import pytest

from clamscannerd.errors import StateError
from clamscannerd.state import store_open
from clamscannerd.state.schema import APPLICATION_ID, MIGRATIONS, VERSION
from clamscannerd.state.store import StoreLimits, open_store

VERSION_1 = """
INSERT INTO account VALUES (1, 1001, 'ann');
INSERT INTO scan (id, account, turn, scan_type, paths, state, asked_by, asked_at, ended_at, engine) VALUES
    (1, 1, 1, 'home', x'2e', 'done', 0, 1.0, 2.0,
     '{"version":"1.4.6","database":27400,"database_time":5.0,"blind":[]}');
INSERT INTO finding VALUES
    (1, 1, 1, CAST('box' AS BLOB), 1, 2, 3, 4, zeroblob(32), 'Sig', 'standing', 1.0, 1),
    (2, 1, 1, CAST('cur/1' AS BLOB), 1, 2, 3, 4, zeroblob(32), 'Sig', 'standing', 1.0, 1),
    (3, 1, 1, CAST('a.php' AS BLOB), 1, 2, 3, 4, zeroblob(32), 'Sig', 'standing', 1.0, 0);
INSERT INTO finding_message VALUES
    (1, 7, 0, 3, '<7@x>', 's', 'a', '', 'Sig', zeroblob(32)), (2, 0, 0, 3, '<1@x>', 's', 'a', '', 'Sig', zeroblob(32));
INSERT INTO task (id, public_id, account, kind, scan, turn, state, asked_by, asked_at, ended_at) VALUES
    (1, '00000002/5a9ec8dd4c345d', 1, 'disinfect', 1, 2, 'done', 0, 1.0, 2.0);
INSERT INTO item (id, account, task, seq, path, action, size, sha256, signature, owner, grp, mode, mtime_ns, xattrs,
    file, state, reserved_at, kept_at, expires_at) VALUES
    (1, 1, 1, 1, x'61', 'delete', 3, zeroblob(32), 'Sig', 0, 0, 0, 0, x'', '00000000000000000000000000000000', 'kept',
     1.0, 1.0, 1e12),
    (2, 1, 99, 1, x'62', 'delete', 3, zeroblob(32), 'Sig', 0, 0, 0, 0, x'', '11111111111111111111111111111111', 'kept',
     1.0, 1.0, 1e12);
"""


def made_of(directory: Path, script: str) -> Path:
    """A database as version 1 wrote it."""
    path = directory / "state.db"
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.executescript(
        f"{MIGRATIONS[0]}{script}PRAGMA application_id = {APPLICATION_ID};PRAGMA user_version = 1;"
    )
    connection.close()
    return path


def test_each_version_has_its_way_from_the_one_before() -> None:
    assert len(MIGRATIONS) == VERSION


async def test_what_version_1_kept_is_there_with_what_is_known_of_it(tmp_path: Path) -> None:
    path = made_of(tmp_path, VERSION_1)
    async with open_store(tmp_path, StoreLimits()) as store:
        found = {one.path: one for one in await store.standing_findings(1001, "ann")}
        assert {name: one.mailbox for name, one in found.items()} == {b"box": 0, b"cur/1": None, b"a.php": None}
        assert {one.owner for one in found.values()} == {None}, "nobody has looked"
        assert not (await store.messages_of(found[b"box"].id)).complete, "nobody has counted it"
        shown = await store.standing_messages(1)
        assert [one.number for one in shown[1]] == [7]
        assert await store.found_paths(1, 10) == (3, [b"box", b"cur/1", b"a.php"])
        known, pruned = await store.items(1001, "ann")
        assert (known.engine, known.database) == ("1.4.6", 27400)
        assert (pruned.engine, pruned.database) == ("", 0)
        await store.verify()
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA user_version").fetchone() == (VERSION,)
    assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
    connection.close()


async def test_a_migration_that_fails_leaves_the_old_version_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = made_of(tmp_path, VERSION_1)
    fault = "PRAGMA query_only = ON; INSERT INTO account VALUES (2, 1002, 'bob');"
    monkeypatch.setattr(store_open, "MIGRATIONS", (MIGRATIONS[0], f"{MIGRATIONS[1]}{fault}"))
    with pytest.raises(StateError, match="readonly"):
        async with open_store(tmp_path, StoreLimits()):
            pass
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA user_version").fetchone() == (1,)
    assert "mailbox" not in [row[1] for row in connection.execute("PRAGMA table_info(finding)")]
    connection.close()
    monkeypatch.undo()
    async with open_store(tmp_path, StoreLimits()) as store:
        assert len(await store.items(1001, "ann")) == 2
