"""[daemon, in a thread] SQL of what was: scans with what became of their findings, accounts at a glance."""

import sqlite3
from collections import Counter
from collections.abc import Sequence

import msgspec

from clamscannerd.model import EngineInfo, Finding, Frozen, Reason, Scan
from clamscannerd.state import store_scans
from clamscannerd.state.store_rows import finding_of, scan_of

_SCAN = "SELECT s.*, a.uid, a.name FROM scan s JOIN account a ON a.id = s.account"
_LAST_DONE = (
    "SELECT s.total_files, s.not_scanned, s.engine FROM account a JOIN scan s"
    " ON s.id = (SELECT id FROM scan WHERE account = a.id AND state = 'done' ORDER BY id DESC LIMIT 1)"
)
_FINDINGS = (
    "FROM finding INDEXED BY finding_owner WHERE account = (SELECT account FROM scan WHERE id = :scan) AND scan = :scan"
)


class AccountEntry(Frozen, frozen=True, kw_only=True):
    """An account with its latest scan. `standing`: infected files that stand, of whichever scan."""

    uid: int
    name: str
    scan: Scan
    standing: int


class Became(Frozen, frozen=True, kw_only=True):
    """Of what a scan found: how many findings are kept, and how many of all are in which state now."""

    kept: int
    states: dict[str, int]


class LastScans(Frozen, frozen=True, kw_only=True):
    """Of the latest scan of one account or of each: how many, entries met, and what was not scanned."""

    scans: int
    files: int
    not_scanned: dict[Reason, int]
    limits: frozenset[int] = frozenset()
    """What was too big was over one of these bytes; 0 is among them where that is not known."""


class AccountUsage(Frozen, frozen=True, kw_only=True):
    """What an account has in the vault."""

    uid: int
    name: str
    bytes: int
    items: int


def scans(c: sqlite3.Connection, uid: int, name: str, limit: int, offset: int) -> list[Scan]:
    """Newest first."""
    where = "WHERE a.uid = ? AND a.name = ? ORDER BY s.id DESC LIMIT ? OFFSET ?"
    return [scan_of(row) for row in c.execute(f"{_SCAN} {where}", (uid, name, limit, offset))]


def fates(c: sqlite3.Connection, scan_id: int) -> dict[str, int]:
    """State -> number of the findings of a scan that are in it now."""
    rows = c.execute(f"SELECT state, count(*) AS number {_FINDINGS} GROUP BY state ORDER BY state", {"scan": scan_id})
    return {row["state"]: row["number"] for row in rows}


def became(c: sqlite3.Connection, scan_ids: Sequence[int]) -> dict[int, Became]:
    """Of each scan, by its id."""
    return {one: Became(kept=store_scans.found(c, one, 0)[0], states=fates(c, one)) for one in scan_ids}


def findings(c: sqlite3.Connection, scan_id: int, limit: int, offset: int) -> list[Finding]:
    """Of a scan, whatever became of them, in the order found."""
    where = {"scan": scan_id, "limit": limit, "offset": offset}
    return [
        finding_of(row) for row in c.execute(f"SELECT * {_FINDINGS} ORDER BY id LIMIT :limit OFFSET :offset", where)
    ]


def accounts(c: sqlite3.Connection, limit: int, offset: int) -> list[AccountEntry]:
    """Those of which a scan is known, by name."""
    latest = "WHERE s.id = (SELECT max(id) FROM scan WHERE account = a.id)"
    rows = c.execute(f"{_SCAN} {latest} ORDER BY a.name, a.uid LIMIT ? OFFSET ?", (limit, offset)).fetchall()
    return [
        AccountEntry(uid=row["uid"], name=row["name"], scan=scan_of(row), standing=_standing(c, row["account"]))
        for row in rows
    ]


def last_scans(c: sqlite3.Connection, uid: int | None, name: str) -> LastScans:
    """The latest scan that was done of each account, or (`uid`) of one, added up."""
    rows = (
        c.execute(_LAST_DONE) if uid is None else c.execute(f"{_LAST_DONE} WHERE a.uid = ? AND a.name = ?", (uid, name))
    )
    scans, files, counts, limits = 0, 0, Counter[Reason](), set[int]()
    for row in rows:
        scans, files = scans + 1, files + row["total_files"]
        left = msgspec.json.decode(row["not_scanned"], type=dict[Reason, int])
        counts.update(left)
        if left.get(Reason.TOO_BIG):
            limits.add(msgspec.json.decode(row["engine"], type=EngineInfo).max_file_size)
    return LastScans(scans=scans, files=files, not_scanned=dict(counts), limits=frozenset(limits))


def usages(c: sqlite3.Connection, least_bytes: int, least_items: int, limit: int) -> tuple[int, list[AccountUsage]]:
    """Accounts with so much in the vault, or so many: how many there are, and the fullest."""
    rows = c.execute(
        "SELECT a.uid, a.name, u.bytes, u.items FROM account a JOIN"
        " (SELECT account, sum(size) AS bytes, count(*) AS items FROM item INDEXED BY item_usage"
        " WHERE state IN ('receiving', 'kept') GROUP BY account) u ON u.account = a.id"
        " WHERE u.bytes >= ? OR u.items >= ? ORDER BY u.bytes DESC, u.items DESC",
        (least_bytes, least_items),
    ).fetchall()
    found = [AccountUsage(uid=r["uid"], name=r["name"], bytes=r["bytes"], items=r["items"]) for r in rows[:limit]]
    return len(rows), found


def newest_moment(c: sqlite3.Connection) -> float:
    """When something was asked for last, by the clock of then; 0.0: nothing yet."""
    row = c.execute(
        "SELECT max(coalesce((SELECT asked_at FROM scan ORDER BY id DESC LIMIT 1), 0.0),"
        " coalesce((SELECT asked_at FROM task ORDER BY id DESC LIMIT 1), 0.0))"
    ).fetchone()
    return float(row[0])


def last_account(c: sqlite3.Connection) -> tuple[int, str] | None:
    """Whose scan was asked for last: uid and name."""
    row = c.execute(f"{_SCAN} ORDER BY s.id DESC LIMIT 1").fetchone()
    return None if row is None else (row["uid"], row["name"])


def _standing(c: sqlite3.Connection, account: int) -> int:
    which = "FROM finding INDEXED BY finding_standing WHERE account = ? AND state = 'standing'"
    return int(c.execute(f"SELECT count(*) {which}", (account,)).fetchone()[0])
