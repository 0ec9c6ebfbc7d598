"""The vault's index. [daemon, writer or reader thread] See store_rows; the files themselves are vault.py's.

An item is `receiving` before its file has a name, `kept` after the file is whole and on disk, `removed` before the
file is unlinked, and then gone. So at every moment each file in the vault has a row that says what it is worth, and a
file without a row is nothing that this program left behind.
"""

import secrets
import sqlite3
from collections.abc import Sequence
from typing import Literal

import msgspec

from clamscannerd.errors import LocalProtocolError, Refused
from clamscannerd.model import Account, Action, EngineInfo, Item, Step
from clamscannerd.state.store_rows import SIGNATURE_MAX_CHARS, clipped, find_account, item_of, make_account, only
from clamscannerd.state.store_values import (
    Caps,
    FileMeta,
    ItemEntry,
    ItemFile,
    Reservation,
    Usage,
)

_ENGINE_MAX_CHARS = 100  # "ClamAV 1.4.6", with a distribution's own words

_ITEM = "SELECT i.*, a.uid, a.name FROM item i JOIN account a ON a.id = i.account"


def new_file_name() -> str:
    """Random, and not the id: an index that came back from an old copy must not meet the files of later ids."""
    return secrets.token_hex(16)


def shown(path: bytes) -> str:
    """A path of a user as part of a sentence."""
    return repr(path.decode("utf-8", "backslashreplace"))


def _file(row: sqlite3.Row, state: Literal["receiving", "kept", "removed"] | None = None) -> ItemFile:
    return ItemFile(item_id=row["id"], file=row["file"], state=state or row["state"], place=row["place"])


def reserve(
    c: sqlite3.Connection, account: Account, step: Step, size: int, file: str, meta: FileMeta, caps: Caps, now: float
) -> Reservation:
    """Room for `size` bytes, held against the account's caps from now on. Refused: there is none."""
    owner = make_account(c, account.uid, account.name)
    evicted = make_room(c, owner, step.path, size, caps, usage_of(c, owner))
    item_id = c.execute(
        "INSERT INTO item (account, task, seq, path, action, size, signature, owner, grp, mode, mtime_ns, xattrs,"
        " engine, database, file, state, reserved_at, part, range_start, range_end)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'receiving', ?, ?, ?, ?)",
        (
            owner,
            step.task_id,
            step.seq,
            step.path,
            step.action,
            size,
            clipped(step.signature, SIGNATURE_MAX_CHARS),
            meta.owner,
            meta.group,
            meta.mode,
            meta.mtime_ns,
            meta.xattrs,
            *engine_of(c, step.task_id, step.seq),
            file,
            now,
            meta.part,
            meta.start,
            meta.end,
        ),
    ).lastrowid
    return Reservation(item_id=item_id or 0, evicted=tuple(evicted))


def engine_of(c: sqlite3.Connection, task_id: int, seq: int) -> tuple[str, int]:
    """Version of the engine, and of its signatures, that found what this step is about; where that was not recorded, of
    the scan that the task was chosen from."""
    row = c.execute(
        "SELECT coalesce(f.engine, s.engine) AS engine FROM step p JOIN task t ON t.id = p.task"
        " JOIN scan s ON s.id = t.scan LEFT JOIN finding f ON f.id = p.finding WHERE p.task = ? AND p.seq = ?",
        (task_id, seq),
    ).fetchone()
    if row is None:
        return "", 0
    engine = msgspec.json.decode(row["engine"], type=EngineInfo)
    return clipped(engine.version, _ENGINE_MAX_CHARS), engine.database


def make_room(c: sqlite3.Connection, owner: int, path: bytes, size: int, caps: Caps, used: Usage) -> list[ItemFile]:
    """Copies of deleted files give way, oldest first: as many as it takes, and none if all would not do.

    Not one whose step is at hand: on the word that it is kept, the file is about to go.
    """
    over_bytes = used.bytes + size - caps.max_bytes
    over_items = used.items + 1 - caps.max_items
    evicted: list[ItemFile] = []
    if over_bytes <= 0 and over_items <= 0:
        return evicted
    rows = c.execute(
        "SELECT id, file, size, place FROM item"
        " WHERE account = ? AND state = 'kept' AND action = 'delete' AND NOT EXISTS"
        " (SELECT 1 FROM step s WHERE s.task = item.task AND s.seq = item.seq AND s.state <> 'ended')"
        " ORDER BY kept_at, id",
        (owner,),
    )
    while over_bytes > 0 or over_items > 0:
        row = rows.fetchone()
        if row is None:
            raise Refused(
                f"cannot keep {shown(path)}: the vault of this account is full ({used.bytes} of {caps.max_bytes} bytes"
                f" and {used.items} of {caps.max_items} items used, {size} bytes asked for)"
            )
        over_bytes -= row["size"]
        over_items -= 1
        evicted.append(ItemFile(item_id=row["id"], file=row["file"], state="removed", place=row["place"]))
    rows.close()
    _mark_removed(c, [gone.item_id for gone in evicted])
    return evicted


def usage_of(c: sqlite3.Connection, owner: int) -> Usage:
    row = c.execute(
        "SELECT coalesce(sum(size), 0), count(*) FROM item WHERE account = ? AND state IN ('receiving', 'kept')",
        (owner,),
    ).fetchone()
    return Usage(bytes=row[0], items=row[1])


def usage(c: sqlite3.Connection, uid: int, name: str) -> Usage:
    owner = find_account(c, uid, name)
    return Usage(bytes=0, items=0) if owner is None else usage_of(c, owner)


def keep(c: sqlite3.Connection, item_id: int, sha256: bytes, expires_at: float, now: float) -> Item:
    """receiving -> kept: the file is whole and on disk."""
    changed = c.execute(
        "UPDATE item SET state = 'kept', sha256 = ?, kept_at = ?, expires_at = ? WHERE id = ? AND state = 'receiving'",
        (sha256, now, expires_at, item_id),
    ).rowcount
    if changed != 1:
        raise LocalProtocolError(f"cannot keep item {item_id}: it is not being received")
    return item_of(only(c.execute(f"{_ITEM} WHERE i.id = ?", (item_id,)).fetchone(), f"item {item_id}"))


def _mark_removed(c: sqlite3.Connection, item_ids: Sequence[int]) -> None:
    c.executemany(
        "UPDATE item SET state = 'removed' WHERE id = ? AND state = 'kept'", [(item_id,) for item_id in item_ids]
    )


def remove(c: sqlite3.Connection, item_id: int) -> ItemFile | None:
    """kept -> removed; the caller unlinks the file and forgets the row. None: no such item is kept."""
    row = c.execute("SELECT * FROM item WHERE id = ? AND state = 'kept'", (item_id,)).fetchone()
    if row is None:
        return None
    _mark_removed(c, [item_id])
    return _file(row, "removed")


def remove_expired(c: sqlite3.Connection, now: float, limit: int) -> list[ItemFile]:
    """kept -> removed for up to `limit` items whose time is over, and whose task is; not while one is being restored.

    A clock may be set on by a month between a step and its recovery, which relies on the item.
    """
    rows = c.execute(
        "SELECT * FROM item i WHERE state = 'kept' AND expires_at <= ? AND NOT EXISTS"
        " (SELECT 1 FROM task t WHERE t.id = i.task AND t.state <> 'done') AND NOT EXISTS"
        " (SELECT 1 FROM restore_step r WHERE r.item = i.id AND r.state <> 'ended') ORDER BY expires_at LIMIT ?",
        (now, limit),
    ).fetchall()
    _mark_removed(c, [row["id"] for row in rows])
    return [_file(row, "removed") for row in rows]


def forget(c: sqlite3.Connection, item_ids: Sequence[int]) -> None:
    """The files are gone. A kept item is not forgotten, whatever is asked."""
    c.executemany("DELETE FROM item WHERE id = ? AND state <> 'kept'", [(item_id,) for item_id in item_ids])


def listed(c: sqlite3.Connection, uid: int, name: str, limit: int | None, after_id: int) -> list[Item]:
    rows = c.execute(
        f"{_ITEM} WHERE a.uid = ? AND a.name = ? AND i.state = 'kept' AND i.id > ? ORDER BY i.id LIMIT ?",
        (uid, name, after_id, -1 if limit is None else limit),
    )
    return [item_of(row) for row in rows]


def of_step(c: sqlite3.Connection, task_id: int, seq: int) -> Item | None:
    """The latest content kept of this step: recovery's question whether the file may go."""
    row = c.execute(
        f"{_ITEM} WHERE i.task = ? AND i.seq = ? AND i.state = 'kept' ORDER BY i.id DESC LIMIT 1", (task_id, seq)
    ).fetchone()
    return None if row is None else item_of(row)


def get(c: sqlite3.Connection, item_id: int) -> Item | None:
    row = c.execute(f"{_ITEM} WHERE i.id = ? AND i.state = 'kept'", (item_id,)).fetchone()
    return None if row is None else item_of(row)


def meta(c: sqlite3.Connection, item_id: int) -> FileMeta | None:
    """What a restore needs."""
    row = c.execute("SELECT * FROM item WHERE id = ? AND state = 'kept'", (item_id,)).fetchone()
    return None if row is None else _meta_of(row)


def _meta_of(row: sqlite3.Row) -> FileMeta:
    return FileMeta(
        owner=row["owner"], group=row["grp"], mode=row["mode"], mtime_ns=row["mtime_ns"], xattrs=row["xattrs"]
    )


def file_of(c: sqlite3.Connection, item_id: int) -> ItemFile | None:
    row = c.execute("SELECT * FROM item WHERE id = ?", (item_id,)).fetchone()
    return None if row is None else _file(row)


def files_in(c: sqlite3.Connection, prefix: str) -> list[ItemFile]:
    """Every row whose file name begins with `prefix` (hex), so that a check needs memory for one folder only."""
    return [_file(row) for row in c.execute("SELECT * FROM item WHERE file >= ? AND file < ?", (prefix, prefix + "g"))]


def in_passing(c: sqlite3.Connection) -> list[ItemFile]:
    """What a crash left half received or half removed."""
    return [_file(row) for row in c.execute("SELECT * FROM item WHERE state <> 'kept'")]


def entries(
    c: sqlite3.Connection, uid: int, name: str, actions: Sequence[Action], limit: int, offset: int, now: float
) -> tuple[int, list[ItemEntry]]:
    """How many items of an account are kept, of those that one of `actions` brought; and a page of them."""
    marks = ", ".join("?" * len(actions))
    where = f"a.uid = ? AND a.name = ? AND i.state = 'kept' AND i.expires_at > ? AND i.action IN ({marks})"
    values = (uid, name, now, *actions)
    total = c.execute(
        f"SELECT count(*) FROM item i JOIN account a ON a.id = i.account WHERE {where}",  # noqa: S608  marks alone
        values,
    ).fetchone()[0]
    rows = c.execute(f"{_ENTRY} WHERE {where} ORDER BY i.id LIMIT ? OFFSET ?", (*values, limit, offset))
    return total, [_entry_of(row) for row in rows]


def entry(c: sqlite3.Connection, uid: int, name: str, item_id: int, now: float) -> ItemEntry | None:
    row = c.execute(
        f"{_ENTRY} WHERE i.id = ? AND a.uid = ? AND a.name = ? AND i.state = 'kept' AND i.expires_at > ?",
        (item_id, uid, name, now),
    ).fetchone()
    return None if row is None else _entry_of(row)


_ENTRY = (
    "SELECT i.*, a.uid, a.name, t.public_id, t.scan FROM item i JOIN account a ON a.id = i.account"
    " LEFT JOIN task t ON t.id = i.task"
)


def _entry_of(row: sqlite3.Row) -> ItemEntry:
    return ItemEntry(
        item=item_of(row), meta=_meta_of(row), task_public_id=row["public_id"] or "", scan_id=row["scan"] or 0
    )


def kept_after(c: sqlite3.Connection, owner: tuple[int, str] | None, after_id: int, limit: int) -> list[Item]:
    """The next kept items by id, of one account (uid, name) or of all: for a check that reads every content."""
    rows = c.execute(
        f"{_ITEM} WHERE i.state = 'kept' AND i.id > :after AND (:uid IS NULL OR (a.uid = :uid AND a.name = :name))"
        " ORDER BY i.id LIMIT :limit",
        {"after": after_id, "uid": owner and owner[0], "name": owner and owner[1], "limit": limit},
    )
    return [item_of(row) for row in rows]
