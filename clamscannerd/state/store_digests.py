"""[daemon, in a thread] SQL of notifications: what nobody was told of yet, and digests on their way to the outbox.

What is new is found by comparing: a finding that stands, of a scan that has ended, is told of unless its account, path
and signature are in `reported`. So no scan has to remember to notify, a crash at any point loses none, and what could
not be told (an interval, a full outbox) is told later. The marks go with what they mark: a file that was taken away and
comes back is news. What was put back by force, or is on the ignore list now, is none: its owner knows.

Rejected: a mark on the finding's row (each scan makes new rows of what still stands); marking when the file is written
(a crash after it would tell everything twice under two ids; this way it is one file, once more, under the same id).
"""

import json
import sqlite3
from collections.abc import Callable, Collection, Sequence

from clamscannerd.model import Finding, Frozen, Scan
from clamscannerd.state.store_rows import find_account, finding_of, scan_of

_SCAN = "SELECT s.*, a.uid, a.name FROM scan s JOIN account a ON a.id = s.account"

_NEW = (
    "FROM finding f INDEXED BY finding_standing JOIN scan s ON s.id = f.scan"
    " WHERE f.account = :account AND f.state = 'standing' AND f.restored = 0 AND s.ended_at IS NOT NULL"
    " AND f.id NOT IN (SELECT value FROM json_each(:ignored)) AND NOT EXISTS (SELECT 1 FROM reported r"
    " WHERE r.account = f.account AND r.path = f.path AND r.signature = f.signature)"
)


class Due(Frozen, frozen=True, kw_only=True):
    """An account of which `scan_id` has ended since it was looked at. `told_at`: its latest digest; 0.0 none yet."""

    uid: int
    name: str
    scan_id: int
    told_at: float


class Report(Frozen, frozen=True, kw_only=True):
    """What there is to tell of an account: its latest ended scan, and the first `findings` of the `new` ones."""

    scan: Scan
    findings: Sequence[Finding]
    new: int
    standing: int


class Digest(Frozen, frozen=True, kw_only=True):
    """On its way to the outbox."""

    id: str
    body: bytes


class Told(Frozen, frozen=True, kw_only=True):
    """A trouble that administrators were told of; `standing`: and that has not passed since."""

    topic: str
    told_at: float
    standing: bool


MakeBody = Callable[[Report], bytes]


def due(c: sqlite3.Connection, limit: int) -> list[Due]:
    rows = c.execute(
        "SELECT a.uid, a.name, coalesce(n.told_at, 0.0) AS told_at, coalesce(n.scan, 0) AS seen,"
        " (SELECT max(s.id) FROM scan s WHERE s.account = a.id AND s.ended_at IS NOT NULL) AS latest"
        " FROM account a LEFT JOIN notified n ON n.account = a.id WHERE latest > seen ORDER BY told_at, a.id LIMIT ?",
        (limit,),
    )
    return [Due(uid=row["uid"], name=row["name"], scan_id=row["latest"], told_at=row["told_at"]) for row in rows]


def make(
    c: sqlite3.Connection,
    whose: Due,
    digest_id: str,
    minimum: int,
    named: int,
    ignored: Collection[int],
    body: MakeBody,
    now: float,
) -> Digest | None:
    account = find_account(c, whose.uid, whose.name)
    row = c.execute(
        f"{_SCAN} WHERE s.account = ? AND s.ended_at IS NOT NULL ORDER BY s.id DESC LIMIT 1", (account,)
    ).fetchone()
    if account is None or row is None:  # pruned since
        return None
    _look_at(c, account, row["id"])
    c.execute(
        "DELETE FROM reported WHERE account = :account AND NOT EXISTS (SELECT 1 FROM finding f"
        " INDEXED BY finding_standing WHERE f.account = reported.account AND f.path = reported.path"
        " AND f.state = 'standing' AND f.signature = reported.signature)",
        {"account": account},
    )
    this = {"account": account, "named": named, "ignored": json.dumps(list(ignored))}
    new = c.execute(f"SELECT count(*) {_NEW}", this).fetchone()[0]
    if new < minimum:
        return None
    findings = [finding_of(one) for one in c.execute(f"SELECT f.* {_NEW} ORDER BY f.id LIMIT :named", this)]
    standing = c.execute(
        "SELECT count(*) FROM finding INDEXED BY finding_standing WHERE account = :account AND state = 'standing'"
        " AND id NOT IN (SELECT value FROM json_each(:ignored))",
        this,
    ).fetchone()[0]
    report = Report(scan=scan_of(row), findings=findings, new=new, standing=standing)
    digest = Digest(id=digest_id, body=body(report))
    c.execute(f"INSERT INTO reported SELECT f.account, f.path, f.signature {_NEW}", this)
    c.execute("UPDATE notified SET told_at = ? WHERE account = ?", (now, account))
    _add(c, digest, now)
    return digest


def skip(c: sqlite3.Connection, whose: Due) -> None:
    if (account := find_account(c, whose.uid, whose.name)) is not None:
        _look_at(c, account, whose.scan_id)


def _look_at(c: sqlite3.Connection, account: int, scan_id: int) -> None:
    c.execute(
        "INSERT INTO notified (account, scan) VALUES (?, ?) ON CONFLICT (account) DO UPDATE SET scan = excluded.scan",
        (account, scan_id),
    )


def _add(c: sqlite3.Connection, digest: Digest, now: float) -> None:
    c.execute("INSERT INTO digest (id, made_at, body) VALUES (?, ?, ?)", (digest.id, now, digest.body))


def waiting(c: sqlite3.Connection, limit: int) -> list[Digest]:
    rows = c.execute("SELECT id, body FROM digest ORDER BY made_at, id LIMIT ?", (limit,))
    return [Digest(id=row["id"], body=row["body"]) for row in rows]


def forget(c: sqlite3.Connection, digest_id: str) -> None:
    c.execute("DELETE FROM digest WHERE id = ?", (digest_id,))


def told(c: sqlite3.Connection) -> list[Told]:
    return [
        Told(topic=row["topic"], told_at=row["told_at"], standing=bool(row["standing"]))
        for row in c.execute("SELECT * FROM told")
    ]


def tell(c: sqlite3.Connection, topics: Sequence[str], digest: Digest, now: float) -> None:
    c.executemany(
        "INSERT INTO told VALUES (?, ?, 1) ON CONFLICT (topic) DO UPDATE SET told_at = excluded.told_at, standing = 1",
        [(topic, now) for topic in topics],
    )
    _add(c, digest, now)


def passed(c: sqlite3.Connection, topics: Sequence[str]) -> None:
    c.executemany("UPDATE told SET standing = 0 WHERE topic = ?", [(topic,) for topic in topics])
