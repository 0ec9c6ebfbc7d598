"""[daemon, in a thread] What one call shows, in one look: one view of all of it, and one way to a thread and back."""

import sqlite3

from clamscannerd.model import Finding, Frozen, MailMessage, Scan, Task
from clamscannerd.state import store_mail, store_scans, store_tasks


class Found(Frozen, frozen=True, kw_only=True):
    """An account's latest scan: how many of its findings are kept, and the paths of the first, in the order found."""

    scan: Scan
    kept: int
    first: tuple[bytes, ...]


class Listed(Frozen, frozen=True, kw_only=True):
    """The latest scan with what still stands of it, in the order found. `kept`: as in Found. `earlier`: how many stand
    that it did not and will not look at. `messages`: of mail, by the finding's id."""

    scan: Scan
    kept: int
    standing: list[Finding]
    earlier: int
    messages: dict[int, list[MailMessage]]


def found(c: sqlite3.Connection, uid: int, name: str, limit: int) -> Found | None:
    scan = store_scans.latest(c, uid, name)
    if scan is None:
        return None
    kept, first = store_scans.found(c, scan.id, limit)
    return Found(scan=scan, kept=kept, first=tuple(first))


def listed(c: sqlite3.Connection, uid: int, name: str) -> Listed | None:
    scan = store_scans.latest(c, uid, name)
    if scan is None:
        return None
    return Listed(
        scan=scan,
        kept=store_scans.found(c, scan.id, 0)[0],
        standing=store_scans.standing(c, uid, name, None, 0),
        earlier=store_scans.earlier_standing_count(c, uid, name),
        messages=store_mail.standing_messages(c, scan.id),
    )


def latest_records(
    c: sqlite3.Connection, uid: int, name: str, after_id: int, limit: int
) -> tuple[Task, list[bytes]] | None:
    task = store_tasks.latest(c, uid, name)
    return None if task is None else (task, store_tasks.records(c, task.id, after_id, limit))
