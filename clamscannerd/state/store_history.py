"""[daemon, in a thread] SQL of what was: scans with what became of their findings, accounts at a glance."""

import sqlite3

from clamscannerd.model import Finding, Frozen, Scan
from clamscannerd.state.store_rows import finding_of, scan_of

_SCAN = "SELECT s.*, a.uid, a.name FROM scan s JOIN account a ON a.id = s.account"
_FINDINGS = (
    "FROM finding INDEXED BY finding_owner WHERE account = (SELECT account FROM scan WHERE id = :scan) AND scan = :scan"
)


class AccountEntry(Frozen, frozen=True, kw_only=True):
    """An account with its latest scan. `standing`: infected files that stand, of whichever scan."""

    uid: int
    name: str
    scan: Scan
    standing: int


def scans(c: sqlite3.Connection, uid: int, name: str, limit: int, offset: int) -> list[Scan]:
    """Newest first."""
    where = "WHERE a.uid = ? AND a.name = ? ORDER BY s.id DESC LIMIT ? OFFSET ?"
    return [scan_of(row) for row in c.execute(f"{_SCAN} {where}", (uid, name, limit, offset))]


def fates(c: sqlite3.Connection, scan_id: int) -> dict[str, int]:
    """State -> number of the findings of a scan that are in it now."""
    rows = c.execute(f"SELECT state, count(*) AS number {_FINDINGS} GROUP BY state ORDER BY state", {"scan": scan_id})
    return {row["state"]: row["number"] for row in rows}


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


def _standing(c: sqlite3.Connection, account: int) -> int:
    which = "FROM finding INDEXED BY finding_standing WHERE account = ? AND state = 'standing'"
    return int(c.execute(f"SELECT count(*) {which}", (account,)).fetchone()[0])
