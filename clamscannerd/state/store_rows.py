"""Rows to model's values and back, and what every table needs: accounts, turns. [daemon, writer or reader thread]

Functions here and in store_scans, store_tasks and store_items take a Connection and run inside the transaction that
store_open.Database began. They never begin or end one.
"""

import sqlite3
import struct

import msgspec

from clamscannerd.errors import LocalProtocolError, Refused
from clamscannerd.model import (
    Account,
    Action,
    Counts,
    Depth,
    EngineInfo,
    Finding,
    FindingState,
    Identity,
    Item,
    Reason,
    Scan,
    ScanState,
    Step,
    StepState,
    Task,
    TaskKind,
    TaskState,
)

MESSAGE_MAX_CHARS = 2_000
"""Of a message kept: a sentence with one path of 255 bytes, escaped, has room; a worker's essay has not."""

SIGNATURE_MAX_CHARS = 500
"""ClamAV's own names stay below 100."""


def clipped(text: str, limit: int = MESSAGE_MAX_CHARS) -> str:
    """Text that SQLite and JSON can hold (no lone surrogates), of bounded length."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")[:limit]


def to_json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def record_line(record: object) -> bytes:
    """JSON that is one line of printable text to everybody, not to JSON alone: a name may hold U+2028 and others that
    end a line for some readers, controls of the terminal beyond ASCII, and what turns the direction of text."""
    line = msgspec.json.encode(record)
    text = line.decode()
    return line if text.isprintable() else "".join(c if c.isprintable() else _escaped(c) for c in text).encode()


def _escaped(character: str) -> str:
    """In UTF-16, as JSON escapes have it (RFC 8259, 7)."""
    return "".join(f"\\u{unit:04x}" for (unit,) in struct.iter_unpack(">H", character.encode("utf-16-be")))


def identity_values(identity: Identity) -> tuple[int, int, int, int, bytes]:
    """dev, ino, size, mtime_ns, sha256: in this order in every table."""
    return identity.dev, identity.ino, identity.size, identity.mtime_ns, identity.sha256


def identity_of(row: sqlite3.Row) -> Identity:
    return Identity(
        dev=row["dev"],
        ino=row["ino"],
        size=row["size"],
        mtime_ns=row["mtime_ns"],
        sha256=row["sha256"],
    )


def scan_of(row: sqlite3.Row) -> Scan:
    return Scan(
        id=row["id"],
        uid=row["uid"],
        name=row["name"],
        scan_type=row["scan_type"],
        paths=tuple(row["paths"].split(b"\0")),
        state=ScanState(row["state"]),
        asked_by=row["asked_by"],
        asked_at=row["asked_at"],
        started_at=row["started_at"],
        ended_at=row["ended_at"],
        resumed=row["resumed"],
        counts=Counts(
            total_files=row["total_files"],
            total_bytes=row["total_bytes"],
            scanned_files=row["scanned_files"],
            scanned_bytes=row["scanned_bytes"],
            infected_files=row["infected_files"],
            cached_files=row["cached_files"],
            not_scanned=msgspec.json.decode(row["not_scanned"], type=dict[Reason, int]),
            earlier=msgspec.json.decode(row["earlier"], type=dict[int, int]),
        ),
        engine=msgspec.json.decode(row["engine"], type=EngineInfo),
        message=row["message"],
        excludes=tuple(row["excludes"].split(b"\0")) if row["excludes"] else (),
        since=row["since"],
        pauses=row["pauses"],
        scheduled=bool(row["scheduled"]),
        depth=Depth(row["depth"]),
    )


def finding_of(row: sqlite3.Row) -> Finding:
    return Finding(
        id=row["id"],
        scan_id=row["scan"],
        path=row["path"],
        identity=identity_of(row),
        signature=row["signature"],
        state=FindingState(row["state"]),
        found_at=row["found_at"],
        mailbox=row["mailbox"],
        owner=row["owner"],
        engine=None if row["engine"] is None else msgspec.json.decode(row["engine"], type=EngineInfo),
    )


def task_of(row: sqlite3.Row) -> Task:
    return Task(
        id=row["id"],
        public_id=row["public_id"],
        kind=TaskKind(row["kind"]),
        undoes=row["undoes"],
        uid=row["uid"],
        name=row["name"],
        state=TaskState(row["state"]),
        asked_by=row["asked_by"],
        asked_at=row["asked_at"],
        started_at=row["started_at"],
        ended_at=row["ended_at"],
    )


def step_of(row: sqlite3.Row) -> Step:
    return Step(
        task_id=row["task"],
        seq=row["seq"],
        path=row["path"],
        action=Action(row["action"]),
        finding_id=row["finding"],
        identity=identity_of(row),
        signature=row["signature"],
        state=StepState(row["state"]),
        capture=row["capture"],
    )


def item_of(row: sqlite3.Row) -> Item:
    """Of a row that is, or was, kept."""
    return Item(
        id=row["id"],
        uid=row["uid"],
        name=row["name"],
        task_id=row["task"],
        seq=row["seq"],
        path=row["path"],
        action=Action(row["action"]),
        size=row["size"],
        sha256=row["sha256"],
        signature=row["signature"],
        kept_at=row["kept_at"],
        expires_at=row["expires_at"],
        engine=row["engine"],
        database=row["database"],
        part=row["part"],
        start=row["range_start"],
        end=row["range_end"],
        notice=row["notice"],
    )


def find_account(c: sqlite3.Connection, uid: int, name: str) -> int | None:
    row = c.execute("SELECT id FROM account WHERE uid = ? AND name = ?", (uid, name)).fetchone()
    return None if row is None else int(row["id"])


def account_named(c: sqlite3.Connection, name: str) -> Account | None:
    row = c.execute("SELECT uid FROM account WHERE name = ? ORDER BY id DESC LIMIT 1", (name,)).fetchone()
    return None if row is None else Account(uid=row["uid"], gid=0, name=name, home=b"")


def make_account(c: sqlite3.Connection, uid: int, name: str) -> int:
    """The account's row, made when it is asked for first."""
    c.execute("INSERT INTO account (uid, name) VALUES (?, ?) ON CONFLICT DO NOTHING", (uid, name))
    found = find_account(c, uid, name)
    if found is None:
        raise LocalProtocolError(f"cannot make account {name!r}: no row after the insert")
    return found


def next_turn(c: sqlite3.Connection) -> int:
    """The next place in the queue of scans and tasks; never given twice."""
    row = c.execute("UPDATE sequence SET value = value + 1 WHERE name = 'turn' RETURNING value").fetchone()
    return int(row["value"])


_KIND_WORDS = {TaskKind.DISINFECT: "a disinfection", TaskKind.RESTORE: "a restore", TaskKind.UNDO: "an undo"}


def refuse_if_busy(c: sqlite3.Connection, account: int, verb: str) -> None:
    """One job of an account at a time (rule 10). `verb`: "start the scan"."""
    row = c.execute(
        "SELECT state FROM scan WHERE account = ? AND state IN ('queued', 'running', 'paused')", (account,)
    ).fetchone()
    if row is not None:
        held = "; resume or cancel it" if row["state"] == ScanState.PAUSED else ""
        raise Refused(f"cannot {verb}: a scan of this account is already {row['state']}{held}")
    row = c.execute("SELECT kind FROM task WHERE account = ? AND state <> 'done'", (account,)).fetchone()
    if row is not None:
        raise Refused(f"cannot {verb}: {_KIND_WORDS[TaskKind(row['kind'])]} of this account is under way")


def only(row: object, what: str) -> sqlite3.Row:
    """The row that must be there."""
    if not isinstance(row, sqlite3.Row):
        raise LocalProtocolError(f"cannot use {what}: it does not exist")
    return row
