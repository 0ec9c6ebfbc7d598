"""Tasks, steps and the records of their logs. [daemon, writer or reader thread] See store_rows.

The record of a step is made in the transaction that ends the step: the log can be written to the home late, twice or
not at all, and still has each step once, with ids from 1 without gaps.
"""

import secrets
import sqlite3
from collections.abc import Sequence

from clamscannerd.errors import LocalProtocolError
from clamscannerd.model import Account, Action, FindingState, Outcome, Step, StepState, Task, TaskKind, TaskState
from clamscannerd.state.store_rows import (
    SIGNATURE_MAX_CHARS,
    clipped,
    identity_values,
    make_account,
    next_turn,
    only,
    record_line,
    refuse_if_busy,
    step_of,
    task_of,
)
from clamscannerd.state.store_scans import move_finding
from clamscannerd.state.store_values import NewStep, StoreLimits
from clamscannerd.state.tasks import advance, summary

_TASK = "SELECT t.*, a.uid, a.name FROM task t JOIN account a ON a.id = t.account"


def add(
    c: sqlite3.Connection,
    limits: StoreLimits,
    account: Account,
    scan_id: int,
    steps: Sequence[NewStep],
    asked_by: int,
    now: float,
) -> Task:
    owner = make_account(c, account.uid, account.name)
    refuse_if_busy(c, owner, "disinfect")
    task_id = new_task(c, limits, owner, TaskKind.DISINFECT, scan_id, asked_by, now)
    c.executemany(
        "INSERT INTO step (task, seq, path, action, finding, dev, ino, size, mtime_ns, sha256, signature, state)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'waiting')",
        [
            (
                task_id,
                seq,
                step.path,
                step.action,
                step.finding_id,
                *identity_values(step.identity),
                clipped(step.signature, SIGNATURE_MAX_CHARS),
            )
            for seq, step in enumerate(steps, start=1)
        ],
    )
    return task_of(_row(c, task_id))


def new_task(
    c: sqlite3.Connection,
    limits: StoreLimits,
    owner: int,
    kind: TaskKind,
    scan_id: int,
    asked_by: int,
    now: float,
    undoes: str = "",
) -> int:
    """A queued task without steps, and older ones beyond the limits go. Call 6 keeps its task, however many restores
    follow it."""
    turn = next_turn(c)
    task_id = c.execute(
        "INSERT INTO task (public_id, account, kind, undoes, scan, turn, state, asked_by, asked_at)"
        " VALUES (?, ?, ?, ?, ?, ?, 'queued', ?, ?)",
        (_public_id(c, turn), owner, kind, undoes, scan_id, turn, asked_by, now),
    ).lastrowid
    c.execute(
        "DELETE FROM task WHERE account = :account AND id <> :latest AND state = 'done' AND (ended_at < :oldest"
        " OR id NOT IN (SELECT id FROM task WHERE account = :account ORDER BY id DESC LIMIT :keep))"
        " AND id <> (SELECT coalesce(max(id), 0) FROM task WHERE account = :account AND kind = 'disinfect')",
        {"account": owner, "latest": task_id, "oldest": now - limits.keep_s, "keep": limits.keep_per_account},
    )
    return task_id or 0


def _public_id(c: sqlite3.Connection, turn: int) -> str:
    """The turn makes it unique here, the random half makes it unguessable and unique between installations."""
    while True:
        public_id = f"{turn % (1 << 32):08x}/{secrets.token_hex(7)}"
        if c.execute("SELECT 1 FROM task WHERE public_id = ?", (public_id,)).fetchone() is None:
            return public_id


def _row(c: sqlite3.Connection, task_id: int | None) -> sqlite3.Row:
    return only(c.execute(f"{_TASK} WHERE t.id = ?", (task_id,)).fetchone(), f"task {task_id}")


def move(c: sqlite3.Connection, task_id: int, to: TaskState) -> None:
    advance(TaskState(_row(c, task_id)["state"]), to, f"task {task_id}")


def get(c: sqlite3.Connection, task_id: int) -> Task | None:
    row = c.execute(f"{_TASK} WHERE t.id = ?", (task_id,)).fetchone()
    return None if row is None else task_of(row)


def by_public_id(c: sqlite3.Connection, uid: int, name: str, public_id: str) -> Task | None:
    """Only among the account's own."""
    row = c.execute(f"{_TASK} WHERE t.public_id = ? AND a.uid = ? AND a.name = ?", (public_id, uid, name)).fetchone()
    return None if row is None else task_of(row)


def latest(c: sqlite3.Connection, uid: int, name: str) -> Task | None:
    """The latest disinfection: what call 6 speaks of."""
    row = c.execute(
        f"{_TASK} WHERE a.uid = ? AND a.name = ? AND t.kind = 'disinfect' ORDER BY t.id DESC LIMIT 1", (uid, name)
    ).fetchone()
    return None if row is None else task_of(row)


def listed(c: sqlite3.Connection, uid: int, name: str, limit: int, offset: int) -> list[Task]:
    rows = c.execute(
        f"{_TASK} WHERE a.uid = ? AND a.name = ? ORDER BY t.id DESC LIMIT ? OFFSET ?", (uid, name, limit, offset)
    )
    return [task_of(row) for row in rows]


def begin(c: sqlite3.Connection, task_id: int, now: float) -> Task:
    move(c, task_id, TaskState.RUNNING)
    c.execute("UPDATE task SET state = 'running', started_at = coalesce(started_at, ?) WHERE id = ?", (now, task_id))
    return task_of(_row(c, task_id))


def park(c: sqlite3.Connection, task_id: int) -> Task:
    move(c, task_id, TaskState.QUEUED)
    c.execute("UPDATE task SET state = 'queued' WHERE id = ?", (task_id,))
    return task_of(_row(c, task_id))


def steps(c: sqlite3.Connection, task_id: int, after_seq: int, limit: int) -> list[Step]:
    rows = c.execute("SELECT * FROM step WHERE task = ? AND seq > ? ORDER BY seq LIMIT ?", (task_id, after_seq, limit))
    return [step_of(row) for row in rows]


def next_step(c: sqlite3.Connection, task_id: int) -> Step | None:
    """What was being done comes before what waits: 'doing' < 'waiting' also as text, so the index gives the order."""
    row = c.execute(
        "SELECT * FROM step WHERE task = ? AND state <> 'ended' ORDER BY state, seq LIMIT 1", (task_id,)
    ).fetchone()
    return None if row is None else step_of(row)


def _step(c: sqlite3.Connection, task_id: int, seq: int) -> Step:
    row = c.execute("SELECT * FROM step WHERE task = ? AND seq = ?", (task_id, seq)).fetchone()
    return step_of(only(row, f"step {seq} of task {task_id}"))


def begin_step(c: sqlite3.Connection, task_id: int, seq: int, capture: bytes) -> Step:
    """The intent (rule 6). Done again after a crash, it keeps the name under which the file may lie already."""
    step = _step(c, task_id, seq)
    advance(step.state, StepState.DOING, f"step {seq} of task {task_id}")
    if step.state is StepState.DOING:
        return step
    if not capture:
        raise LocalProtocolError(f"cannot begin step {seq} of task {task_id}: no capture name")
    c.execute("UPDATE step SET state = 'doing', capture = ? WHERE task = ? AND seq = ?", (capture, task_id, seq))
    return _step(c, task_id, seq)


def end_step(
    c: sqlite3.Connection,
    task_id: int,
    seq: int,
    outcome: Outcome,
    message: str | None,
    now: float,
    file_text: str,
    finding_state: FindingState | None,
    item: int | None,
) -> bytes:
    """The proof: step, finding, item and record change together or not at all."""
    step = _step(c, task_id, seq)
    advance(step.state, StepState.ENDED, f"step {seq} of task {task_id}")
    if item is not None:
        _check_item(c, task_id, seq, item)
    said = None if message is None else clipped(message)
    c.execute(
        "UPDATE step SET state = 'ended', outcome = ?, message = ?, item = ?, ended_at = ? WHERE task = ? AND seq = ?",
        (outcome, said, item, now, task_id, seq),
    )
    if finding_state is not None:
        move_finding(c, step.finding_id, finding_state)
    body: dict[str, object] = {"file": file_text, "state": outcome.value}
    return append(c, task_id, "step", "step", body, said)


def _check_item(c: sqlite3.Connection, task_id: int, seq: int, item: int) -> None:
    row = c.execute(
        "SELECT 1 FROM item WHERE id = ? AND task = ? AND seq = ? AND state = 'kept'", (item, task_id, seq)
    ).fetchone()
    if row is None:
        raise LocalProtocolError(f"cannot end step {seq} of task {task_id}: item {item} is not kept for it")


def append(
    c: sqlite3.Connection, task_id: int, record_type: str, kind: str, body: dict[str, object], message: str | None
) -> bytes:
    """The task's next record: type, id, the body's members, message. What is stored is what is written and answered."""
    return append_all(c, task_id, record_type, kind, [body], [message])[0]


def append_all(
    c: sqlite3.Connection,
    task_id: int,
    record_type: str,
    kind: str,
    bodies: Sequence[dict[str, object]],
    messages: Sequence[str | None],
) -> list[bytes]:
    """The task's next records, one for each body and its message."""
    last = c.execute("SELECT coalesce(max(id), 0) FROM record WHERE task = ?", (task_id,)).fetchone()[0]
    rows = []
    for record_id, (body, message) in enumerate(zip(bodies, messages, strict=True), start=last + 1):
        record: dict[str, object] = {"type": record_type, "id": record_id, **body}
        if message is not None:
            record["message"] = message
        rows.append((task_id, record_id, kind, record_line(record)))
    c.executemany("INSERT INTO record (task, id, kind, body) VALUES (?, ?, ?, ?)", rows)
    return [row[-1] for row in rows]


def add_issue(c: sqlite3.Connection, task_id: int, state: str, message: str) -> bytes:
    """Trouble around the steps; `state` is "error" or "warning". b"": too late, the done record is the last."""
    if _row(c, task_id)["state"] == TaskState.DONE:
        raise LocalProtocolError(f"cannot add an issue to task {task_id}: its done record is the last")
    if _done_record(c, task_id) is not None:
        return b""
    return append(c, task_id, "issue", state, {"state": state}, clipped(message))


def _done_record(c: sqlite3.Connection, task_id: int) -> bytes | None:
    row = c.execute("SELECT body FROM record WHERE task = ? AND kind = 'done'", (task_id,)).fetchone()
    return None if row is None else bytes(row["body"])


def conclude(c: sqlite3.Connection, task_id: int) -> bytes:
    """The done record, to be written to the log before the task ends. b"": it was made before.

    A task that was `done` before its log was would be left so by a crash: nobody takes up what is done.
    """
    if _done_record(c, task_id) is not None:
        return b""
    if (step := next_step(c, task_id)) is not None:
        raise LocalProtocolError(f"cannot end task {task_id}: step {step.seq} is {step.state}")
    rows = c.execute(
        "SELECT action, outcome, count(*) AS number FROM step WHERE task = ? GROUP BY action, outcome", (task_id,)
    )
    numbers = {(Action(row["action"]), Outcome(row["outcome"])): row["number"] for row in rows}
    errors = c.execute("SELECT count(*) FROM record WHERE task = ? AND kind = 'error'", (task_id,)).fetchone()[0]
    state, message = summary(numbers, errors)
    return append(c, task_id, "done", "done", {"state": state, "status": "done"}, message)


def end(c: sqlite3.Connection, task_id: int, now: float) -> bytes:
    """running -> done, concluded if it was not yet; the done record. Every step must have ended."""
    move(c, task_id, TaskState.DONE)
    record = conclude(c, task_id) or _done_record(c, task_id) or b""
    c.execute("UPDATE task SET state = 'done', ended_at = ? WHERE id = ?", (now, task_id))
    return record


def records(c: sqlite3.Connection, task_id: int, after_id: int, limit: int) -> list[bytes]:
    rows = c.execute(
        "SELECT body FROM record WHERE task = ? AND id > ? ORDER BY id LIMIT ?", (task_id, after_id, limit)
    )
    return [bytes(row["body"]) for row in rows]
