"""[daemon, in a thread] SQL of one path: what was last found in it, and what the last scan of it had to say."""

import sqlite3
from typing import NamedTuple

from clamscannerd.model import Finding, Reason, Scan
from clamscannerd.state.store_rows import find_account, finding_of, scan_of
from clamscannerd.state.store_scans import lists_are_whole


class Known(NamedTuple):
    """`finding`: the newest of this path, whatever became of it. `scan`: the newest that ended and covered the path;
    `skipped`: what of the path it did not scan, itself or a directory above it, and why; `whole`: the lists of that
    scan have everything that it found or did not scan."""

    finding: Finding | None
    scan: Scan | None
    skipped: tuple[bytes, Reason] | None
    whole: bool


def about(c: sqlite3.Connection, uid: int, name: str, path: bytes) -> Known:
    owner = find_account(c, uid, name)
    found = c.execute(
        "SELECT * FROM finding WHERE scan IN (SELECT id FROM scan WHERE account = ?) AND path = ?"
        " ORDER BY scan DESC LIMIT 1",
        (owner, path),
    ).fetchone()
    finding = None if found is None else finding_of(found)
    row = c.execute(
        "SELECT s.*, a.uid, a.name FROM scan s JOIN account a ON a.id = s.account"
        " WHERE s.account = ? AND s.started_at IS NOT NULL AND s.ended_at IS NOT NULL AND covers(s.paths, ?)"
        " ORDER BY s.id DESC LIMIT 1",
        (owner, path),
    ).fetchone()
    if row is None:
        return Known(finding, None, None, whole=False)
    scan = scan_of(row)
    above = {path[:at] for at, byte in enumerate(path) if byte == ord("/")} | {path}
    rows = c.execute("SELECT path, reason FROM not_scanned WHERE scan = ? AND length(path) <= ?", (scan.id, len(path)))
    skipped = next(((one["path"], Reason(one["reason"])) for one in rows if one["path"] in above), None)
    return Known(finding, scan, skipped, whole=lists_are_whole(c, scan.id, scan.counts))
