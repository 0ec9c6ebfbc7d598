"""Scans, findings, and what was not scanned. [daemon, writer or reader thread] See store_rows.

How an old finding leaves the list: acted on; looked at again when its scan is resumed (clear_findings); found again
by a later scan, whose row then stands instead; or covered by a later scan that was done and did not find it. The last
needs proof: a path that the later scan left out or could not scan still stands, and where that scan found or failed to
scan more than the lists hold nothing is concluded at all. Of a recent scan, which leaves files out, nothing is
concluded ever: it looks again at each older finding that it covers. How one comes back by force: store_relist.
"""

import sqlite3
from collections.abc import Sequence

import msgspec

from clamscannerd.errors import LocalProtocolError
from clamscannerd.globs import Globs
from clamscannerd.model import Account, Counts, Depth, EngineInfo, Finding, FindingState, Reason, Scan, ScanState
from clamscannerd.state.store_rows import (
    SIGNATURE_MAX_CHARS,
    clipped,
    finding_of,
    identity_values,
    make_account,
    next_turn,
    only,
    refuse_if_busy,
    scan_of,
    to_json,
)
from clamscannerd.state.store_values import NewFinding, StoreLimits
from clamscannerd.state.tasks import advance

MAX_PATH_BYTES = 16 << 20
"""Of all paths kept in one scan: 100,000 of the usual length. The longest would take 400 MB wherever the list is in
memory, and that several times over."""

_KNOWN_WITHOUT_PATH = (Reason.VANISHED, Reason.EXCLUDED)

_OLDER = (
    "FROM finding INDEXED BY finding_standing WHERE account = ? AND scan < ? AND state = 'standing' AND covers(?, path)"
)
"""What stands of the account since before a scan, and that scan covers."""

_SCAN = "SELECT s.*, a.uid, a.name FROM scan s JOIN account a ON a.id = s.account"


def add(
    c: sqlite3.Connection,
    limits: StoreLimits,
    account: Account,
    scan_type: str,
    paths: tuple[bytes, ...],
    asked_by: int,
    now: float,
    since: float | None,
    scheduled: bool,  # noqa: FBT001
    depth: Depth,
) -> Scan:
    owner = make_account(c, account.uid, account.name)
    refuse_if_busy(c, owner, "start the scan")
    cursor = c.execute(
        "INSERT INTO scan (account, turn, scan_type, paths, state, asked_by, asked_at, engine, since, scheduled, depth)"
        " VALUES (?, ?, ?, ?, 'queued', ?, ?, ?, ?, ?, ?)",
        (
            owner,
            next_turn(c),
            scan_type,
            b"\0".join(paths),
            asked_by,
            now,
            to_json(EngineInfo()),
            since,
            scheduled,
            depth,
        ),
    )
    scan_id = cursor.lastrowid
    c.execute(
        "DELETE FROM scan WHERE account = :account AND id <> :latest AND ended_at IS NOT NULL AND (ended_at < :oldest"
        " OR id NOT IN (SELECT id FROM scan WHERE account = :account ORDER BY id DESC LIMIT :keep))",
        {"account": owner, "latest": scan_id, "oldest": now - limits.keep_s, "keep": limits.keep_per_account},
    )
    return scan_of(_row(c, scan_id))


def _row(c: sqlite3.Connection, scan_id: int | None) -> sqlite3.Row:
    return only(c.execute(f"{_SCAN} WHERE s.id = ?", (scan_id,)).fetchone(), f"scan {scan_id}")


def _move(c: sqlite3.Connection, scan_id: int, to: ScanState) -> sqlite3.Row:
    """Check the move; the caller writes it, with what belongs to it."""
    row = _row(c, scan_id)
    advance(ScanState(row["state"]), to, f"scan {scan_id}")
    return row


def latest(c: sqlite3.Connection, uid: int, name: str) -> Scan | None:
    scans = listed(c, uid, name, 1)
    return scans[0] if scans else None


def get(c: sqlite3.Connection, scan_id: int) -> Scan | None:
    row = c.execute(f"{_SCAN} WHERE s.id = ?", (scan_id,)).fetchone()
    return None if row is None else scan_of(row)


def listed(c: sqlite3.Connection, uid: int, name: str, limit: int) -> list[Scan]:
    """Newest first."""
    rows = c.execute(f"{_SCAN} WHERE a.uid = ? AND a.name = ? ORDER BY s.id DESC LIMIT ?", (uid, name, limit))
    return [scan_of(row) for row in rows]


def begin(c: sqlite3.Connection, scan_id: int, engine: EngineInfo, now: float, excludes: Sequence[bytes]) -> Scan:
    """queued -> running. What an interrupted run did not scan is looked at again, so that list starts over."""
    _move(c, scan_id, ScanState.RUNNING)
    c.execute("DELETE FROM not_scanned WHERE scan = ?", (scan_id,))
    c.execute(
        "UPDATE scan SET state = 'running', started_at = coalesce(started_at, ?), engine = ?, excludes = ?"
        " WHERE id = ?",
        (now, to_json(engine), b"\0".join(excludes), scan_id),
    )
    return scan_of(_row(c, scan_id))


def save_progress(c: sqlite3.Connection, scan_id: int, counts: Counts, engine: EngineInfo) -> None:
    row = _row(c, scan_id)
    if row["state"] != ScanState.RUNNING:
        raise LocalProtocolError(f"cannot save the progress of scan {scan_id}: it is {row['state']}")
    c.execute("UPDATE scan SET engine = ? WHERE id = ?", (to_json(engine), scan_id))
    _save_counts(c, scan_id, counts)


def _save_counts(c: sqlite3.Connection, scan_id: int, counts: Counts) -> None:
    c.execute(
        "UPDATE scan SET total_files = ?, total_bytes = ?, scanned_files = ?, scanned_bytes = ?, infected_files = ?,"
        " cached_files = ?, not_scanned = ?, earlier = ? WHERE id = ?",
        (
            counts.total_files,
            counts.total_bytes,
            counts.scanned_files,
            counts.scanned_bytes,
            counts.infected_files,
            counts.cached_files,
            to_json(dict(counts.not_scanned)),
            to_json(dict(counts.earlier)),
            scan_id,
        ),
    )


def end(c: sqlite3.Connection, scan_id: int, state: ScanState, counts: Counts, message: str, now: float) -> Scan:
    row = _move(c, scan_id, state)
    c.execute(
        "UPDATE scan SET state = ?, ended_at = ?, message = ? WHERE id = ?", (state, now, clipped(message), scan_id)
    )
    _save_counts(c, scan_id, counts)
    if state is ScanState.DONE and row["since"] is None and lists_are_whole(c, scan_id, counts):
        _clear_what_was_looked_at(c, scan_id, row)
    return scan_of(_row(c, scan_id))


def _clear_what_was_looked_at(c: sqlite3.Connection, scan_id: int, row: sqlite3.Row) -> None:
    """Older findings that this scan covered and did not find again. Not those that it could not look at: excluded,
    unreadable, or beneath a directory that was (or that was not at its place just then)."""
    skipped = c.execute("SELECT path, reason FROM not_scanned WHERE scan = ?", (scan_id,)).fetchall()
    unseen = {skip["path"] for skip in skipped if skip["reason"] != Reason.VANISHED}
    shut = {skip["path"] for skip in skipped}
    older = c.execute(f"SELECT id, path {_OLDER}", (row["account"], scan_id, row["paths"])).fetchall()
    excludes = Globs(row["excludes"].split(b"\0") if row["excludes"] else ())
    seen = [
        (one["id"],)
        for one in older
        if one["path"] not in unseen
        and not _beneath(one["path"], shut)
        and not excludes.why(one["path"], directory=False)
    ]
    c.executemany("UPDATE finding SET state = 'cleared' WHERE id = ?", seen)


def _beneath(path: bytes, directories: set[bytes]) -> bool:
    while (cut := path.rfind(b"/")) > 0:
        path = path[:cut]
        if path in directories:
            return True
    return b"." in directories  # the home itself


def lists_are_whole(c: sqlite3.Connection, scan_id: int, counts: Counts) -> bool:
    """What vanished meanwhile is counted without its path, and a finding among it is no reason to let it stand. What is
    excluded the patterns say."""
    found = c.execute("SELECT count(*) FROM finding WHERE scan = ?", (scan_id,)).fetchone()[0]
    unscanned = c.execute(
        "SELECT count(*) FROM not_scanned WHERE scan = ? AND reason NOT IN ('vanished', 'excluded')", (scan_id,)
    ).fetchone()[0]
    counted = sum(number for reason, number in counts.not_scanned.items() if reason not in _KNOWN_WITHOUT_PATH)
    return bool(counts.infected_files <= found and counted <= unscanned)


def park(c: sqlite3.Connection, scan_id: int, counts: Counts | None = None) -> Scan:
    _move(c, scan_id, ScanState.QUEUED)
    if counts is not None:
        _save_counts(c, scan_id, counts)
    c.execute("UPDATE scan SET state = 'queued', resumed = resumed + 1 WHERE id = ?", (scan_id,))
    return scan_of(_row(c, scan_id))


def pause(c: sqlite3.Connection, scan_id: int) -> Scan:
    _move(c, scan_id, ScanState.PAUSED)
    c.execute("UPDATE scan SET state = 'paused', pauses = pauses + 1 WHERE id = ?", (scan_id,))
    return scan_of(_row(c, scan_id))


def resume(c: sqlite3.Connection, scan_id: int) -> Scan:
    _move(c, scan_id, ScanState.QUEUED)
    c.execute("UPDATE scan SET state = 'queued' WHERE id = ?", (scan_id,))
    return scan_of(_row(c, scan_id))


def paused(c: sqlite3.Connection) -> int:
    under_way = "FROM scan INDEXED BY scan_under_way WHERE state IN ('queued', 'running', 'paused')"
    return int(c.execute(f"SELECT count(*) {under_way} AND state = 'paused'").fetchone()[0])


def add_findings(
    c: sqlite3.Connection, limits: StoreLimits, scan_id: int, found: Sequence[NewFinding], now: float
) -> list[Finding]:
    account = _row(c, scan_id)["account"]
    asked = "SELECT count(*), coalesce(sum(length(path)), 0) FROM finding WHERE scan = ?"
    kept, path_bytes = c.execute(asked, (scan_id,)).fetchone()
    findings = []
    for new in found:
        old = c.execute("SELECT * FROM finding WHERE scan = ? AND path = ?", (scan_id, new.path)).fetchone()
        if old is None and (kept >= limits.max_findings_per_scan or path_bytes + len(new.path) > MAX_PATH_BYTES):
            continue
        finding = stand(c, account, scan_id, new, old, now)
        if old is not None:  # its messages are told anew
            c.execute("DELETE FROM finding_message WHERE finding = ?", (finding.id,))
        if old is None:
            kept, path_bytes = kept + 1, path_bytes + len(new.path)
        findings.append(finding)
    return findings


def stand(
    c: sqlite3.Connection,
    account: int,
    scan_id: int,
    new: NewFinding,
    old: sqlite3.Row | None,
    now: float,
    *,
    restored: bool = False,
) -> Finding:
    """The finding of this scan and path stands from now on, as `new`, and no other of the path; messages are not told
    yet. `old`: its row as it was. `restored`: where there is no row, it is one that the scan did not find."""
    if old is not None and old["state"] != FindingState.STANDING:
        advance(FindingState(old["state"]), FindingState.STANDING, f"finding {old['id']}")
    c.execute(
        "UPDATE finding SET state = 'cleared' WHERE account = ? AND path = ? AND state = 'standing' AND scan <> ?",
        (account, new.path, scan_id),
    )
    row = c.execute(
        "INSERT INTO finding (scan, account, path, dev, ino, size, mtime_ns, sha256, signature, state, found_at,"
        " mailbox, restored, owner, engine) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 'standing', ?, ?, ?, ?, ?)"
        " ON CONFLICT (scan, path) DO UPDATE SET"
        " dev = excluded.dev, ino = excluded.ino, size = excluded.size, mtime_ns = excluded.mtime_ns,"
        " sha256 = excluded.sha256, signature = excluded.signature, state = 'standing',"
        " found_at = excluded.found_at, messages = 0, mailbox = excluded.mailbox, owner = excluded.owner,"
        " engine = excluded.engine"
        " RETURNING *",
        (
            scan_id,
            account,
            new.path,
            *identity_values(new.identity),
            clipped(new.signature, SIGNATURE_MAX_CHARS),
            now,
            0 if new.mailbox else None,
            restored,
            new.owner,
            None if new.engine is None else to_json(msgspec.structs.replace(new.engine, blind=())),
        ),
    ).fetchone()
    return finding_of(row)


def older_standing(c: sqlite3.Connection, scan_id: int) -> list[bytes]:
    row = _row(c, scan_id)
    rows = c.execute(f"SELECT path {_OLDER} ORDER BY id", (row["account"], scan_id, row["paths"]))
    return [one["path"] for one in rows]


def clear_findings(c: sqlite3.Connection, scan_id: int, paths: Sequence[bytes]) -> int:
    """standing -> cleared, by path, in whichever scan of the account; how many. What does not stand is left."""
    account = _row(c, scan_id)["account"]
    before = c.total_changes
    c.executemany(
        "UPDATE finding SET state = 'cleared' WHERE account = ? AND path = ? AND state = 'standing'",
        [(account, path) for path in paths],
    )
    return int(c.total_changes - before)


def add_not_scanned(
    c: sqlite3.Connection, limits: StoreLimits, scan_id: int, entries: Sequence[tuple[bytes, str]]
) -> int:
    """How many were kept."""
    last = c.execute("SELECT coalesce(max(seq), 0) FROM not_scanned WHERE scan = ?", (scan_id,)).fetchone()[0]
    room = max(0, limits.max_not_scanned_per_scan - last)
    c.executemany(
        "INSERT INTO not_scanned (scan, seq, path, reason) VALUES (?, ?, ?, ?)",
        [(scan_id, seq, path, reason) for seq, (path, reason) in enumerate(entries[:room], start=last + 1)],
    )
    return int(min(room, len(entries)))


def not_scanned(c: sqlite3.Connection, scan_id: int, limit: int, offset: int) -> list[tuple[bytes, str]]:
    rows = c.execute(
        "SELECT path, reason FROM not_scanned WHERE scan = ? AND seq > ? ORDER BY seq LIMIT ?",
        (scan_id, offset, limit),
    )
    return [(row["path"], row["reason"]) for row in rows]


def standing(c: sqlite3.Connection, uid: int, name: str, limit: int | None, after_id: int) -> list[Finding]:
    """Of the latest scan, in the order found."""
    rows = c.execute(
        "SELECT * FROM finding WHERE state = 'standing' AND id > ? AND scan = (SELECT s.id FROM scan s"
        " JOIN account a ON a.id = s.account WHERE a.uid = ? AND a.name = ? ORDER BY s.id DESC LIMIT 1)"
        " ORDER BY id LIMIT ?",
        (after_id, uid, name, -1 if limit is None else limit),
    )
    return [finding_of(row) for row in rows]


def standing_after(c: sqlite3.Connection, scan_id: int, after_id: int, limit: int) -> list[Finding]:
    """Of one scan, in the order found."""
    rows = c.execute(
        "SELECT * FROM finding WHERE state = 'standing' AND scan = ? AND id > ? ORDER BY id LIMIT ?",
        (scan_id, after_id, limit),
    )
    return [finding_of(row) for row in rows]


def findings(c: sqlite3.Connection, scan_id: int) -> list[Finding]:
    """All of a scan, whatever became of them, in the order found."""
    return [finding_of(row) for row in c.execute("SELECT * FROM finding WHERE scan = ? ORDER BY id", (scan_id,))]


def found(c: sqlite3.Connection, scan_id: int, limit: int) -> tuple[int, list[bytes]]:
    """How many the scan itself found, as far as kept, and the paths of the first. Each poll of a client asks: hence by
    the index whose entries are small and, for one scan, in the order of ids."""
    which = (
        "FROM finding INDEXED BY finding_owner WHERE account = (SELECT account FROM scan WHERE id = ?) AND scan = ?"
        " AND restored = 0"
    )
    number = c.execute(f"SELECT count(*) {which}", (scan_id, scan_id)).fetchone()[0]
    rows = c.execute(f"SELECT path {which} ORDER BY id LIMIT ?", (scan_id, scan_id, limit))
    return int(number), [row["path"] for row in rows]


def earlier_standing_count(c: sqlite3.Connection, uid: int, name: str) -> int:
    """Paths that stand in scans before the latest, without those that the latest, still under way, will look at."""
    newest = latest(c, uid, name)
    if newest is None:
        return 0
    coming = newest.state in (ScanState.QUEUED, ScanState.RUNNING, ScanState.PAUSED)
    row = c.execute(
        "SELECT count(*) FROM finding f INDEXED BY finding_standing JOIN account a ON a.id = f.account"
        " WHERE a.uid = ? AND a.name = ? AND f.state = 'standing' AND f.scan < ? AND NOT (? AND covers(?, f.path))",
        (uid, name, newest.id, coming, b"\0".join(newest.paths)),
    ).fetchone()
    return int(row[0])


def move_finding(c: sqlite3.Connection, finding_id: int, to: FindingState) -> None:
    """A finding whose scan was pruned is gone, which is fine; one that is there must be able to move."""
    row = c.execute("SELECT state FROM finding WHERE id = ?", (finding_id,)).fetchone()
    if row is None or row["state"] == to:
        return
    advance(FindingState(row["state"]), to, f"finding {finding_id}")
    c.execute("UPDATE finding SET state = ? WHERE id = ?", (to, finding_id))
