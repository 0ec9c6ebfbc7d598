"""[daemon, in a thread] SQL of ignore lists, and of the findings that they are compared with."""

import sqlite3

from clamscannerd.errors import Refused
from clamscannerd.model import Account, IgnoreEntry, IgnoreKind
from clamscannerd.state.store_rows import clipped, find_account, make_account
from clamscannerd.state.store_values import FoundFile

_FOUND = "SELECT id, path, signature, sha256, mailbox FROM finding"


def add(c: sqlite3.Connection, account: Account, most: int, entry: IgnoreEntry) -> IgnoreEntry:
    owner = make_account(c, account.uid, account.name)
    this = (owner, entry.kind, entry.value)
    c.execute(
        "DELETE FROM ignore_entry WHERE account = ? AND kind = ? AND value = ? AND expires_at <= ?",
        (*this, entry.added_at),
    )
    old = c.execute("SELECT id FROM ignore_entry WHERE account = ? AND kind = ? AND value = ?", this).fetchone()
    if old is not None:
        raise Refused(f"cannot add the entry: entry {old['id']} is the same")
    if _count(c, owner) >= most:
        c.execute("DELETE FROM ignore_entry WHERE account = ? AND expires_at <= ?", (owner, entry.added_at))
    if _count(c, owner) >= most:
        raise Refused(f"cannot add the entry: the list of this account has {most}, and no more are kept: remove some")
    row = c.execute(
        "INSERT INTO ignore_entry (account, kind, value, note, added_by, added_at, expires_at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?) RETURNING *",
        (
            owner,
            entry.kind,
            entry.value,
            clipped(entry.note),
            entry.added_by,
            entry.added_at,
            entry.expires_at,
        ),
    ).fetchone()
    return _entry(row)


def _count(c: sqlite3.Connection, owner: int) -> int:
    return int(c.execute("SELECT count(*) FROM ignore_entry WHERE account = ?", (owner,)).fetchone()[0])


def _entry(row: sqlite3.Row) -> IgnoreEntry:
    return IgnoreEntry(
        id=row["id"],
        kind=IgnoreKind(row["kind"]),
        value=row["value"],
        note=row["note"],
        added_by=row["added_by"],
        added_at=row["added_at"],
        expires_at=row["expires_at"],
    )


def listed(c: sqlite3.Connection, uid: int, name: str) -> list[IgnoreEntry]:
    """By number."""
    owner = find_account(c, uid, name)
    rows = c.execute("SELECT * FROM ignore_entry WHERE account = ? ORDER BY id", (owner,))
    return [_entry(row) for row in rows]


def remove(c: sqlite3.Connection, uid: int, name: str, entry_id: int) -> bool:
    """False: this account has none of this number."""
    owner = find_account(c, uid, name)
    return c.execute("DELETE FROM ignore_entry WHERE account = ? AND id = ?", (owner, entry_id)).rowcount > 0


def owners(c: sqlite3.Connection) -> set[tuple[int, str]]:
    """Who has a list."""
    rows = c.execute("SELECT uid, name FROM account WHERE id IN (SELECT account FROM ignore_entry)")
    return {(row["uid"], row["name"]) for row in rows}


def found(c: sqlite3.Connection, scan_id: int) -> list[FoundFile]:
    """What a scan itself found, as far as kept, whatever became of it."""
    return [_found(row) for row in c.execute(f"{_FOUND} WHERE scan = ? AND restored = 0", (scan_id,))]


def standing(c: sqlite3.Connection, uid: int, name: str) -> list[FoundFile]:
    """What stands, of whichever scan."""
    owner = find_account(c, uid, name)
    rows = c.execute(f"{_FOUND} INDEXED BY finding_standing WHERE account = ? AND state = 'standing'", (owner,))
    return [_found(row) for row in rows]


def _found(row: sqlite3.Row) -> FoundFile:
    return FoundFile(
        id=row["id"],
        path=row["path"],
        signature=row["signature"],
        sha256=row["sha256"],
        is_box=row["mailbox"] is not None,
    )
