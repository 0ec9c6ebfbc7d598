"""The queue: scans and tasks in the order asked for, scheduled scans last. [daemon, writer or reader thread]

A timer's scan waits as long as any scan or task waits that somebody asked for; each account has one job at a time, so
people who ask again and again do not keep it waiting for ever, unless they alone fill the machine. See store_rows.
"""

import sqlite3

from clamscannerd.state import store_scans
from clamscannerd.state.store_values import Job, Recovered

_QUEUE = (
    "SELECT 'scan' AS kind, s.id, a.uid, a.name, s.turn, s.scheduled FROM scan s INDEXED BY scan_under_way"
    " JOIN account a ON a.id = s.account WHERE s.state IN ('queued', 'running', 'paused') AND s.state = :state"
    " UNION ALL"
    " SELECT 'task', t.id, a.uid, a.name, t.turn, 0 FROM task t INDEXED BY task_under_way"
    " JOIN account a ON a.id = t.account WHERE t.state <> 'done' AND t.state = :state ORDER BY scheduled, turn"
)
"""The first condition of each half is word for word that of the partial index, or SQLite could not use it; left to
itself it walks all jobs ever kept, for the order's sake."""


def _jobs(c: sqlite3.Connection, state: str) -> list[Job]:
    return [
        Job(kind=row["kind"], id=row["id"], uid=row["uid"], name=row["name"], scheduled=bool(row["scheduled"]))
        for row in c.execute(_QUEUE, {"state": state})
    ]


def waiting_jobs(c: sqlite3.Connection) -> list[Job]:
    """Queued scans and tasks in the order in which they are to start."""
    return _jobs(c, "queued")


def recover(c: sqlite3.Connection) -> Recovered:
    """At start: what was running is queued again, at its old place. Steps that were being done stay so."""
    jobs = _jobs(c, "running")
    for job in jobs:
        if job.kind == "scan":
            store_scans.park(c, job.id)
        else:
            c.execute("UPDATE task SET state = 'queued' WHERE id = ?", (job.id,))
    return Recovered(
        scans=tuple(job for job in jobs if job.kind == "scan"),
        tasks=tuple(job for job in jobs if job.kind == "task"),
    )
