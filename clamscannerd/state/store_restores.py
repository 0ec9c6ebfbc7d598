"""Restores and undos: their steps, and the items that leave the vault with them. [daemon, writer or reader thread]

See store_rows. A restore is a task like a disinfection (store_tasks has what they share), with steps of its own kind:
they name items, not findings. While a step is open its item stays, whatever its age; the transaction that ends
the step as restored also takes the item off the vault's list, and only after that the content is removed. So a
content is at every moment in the vault, in the home with its step open, or in the home alone.
"""

import sqlite3
from collections.abc import Sequence

from clamscannerd.errors import LocalProtocolError, NotFound, Refused
from clamscannerd.model import Account, Item, RestoreOutcome, RestoreStep, StepState, Task, TaskKind, TaskState
from clamscannerd.state import store_items, store_relist, store_tasks
from clamscannerd.state.store_rows import clipped, find_account, item_of, only, refuse_if_busy
from clamscannerd.state.store_values import ItemFile, Redetected, StoreLimits, TaskProgress
from clamscannerd.state.tasks import advance, restore_summary

_LISTED = "it is listed as infected again"
_NOT_LISTED = "the list of infected files has no room for it: scan again"

_ITEM = "SELECT i.*, a.uid, a.name FROM item i JOIN account a ON a.id = i.account"


def add(
    c: sqlite3.Connection,
    limits: StoreLimits,
    account: Account,
    item_ids: Sequence[int],
    to: bytes | None,
    *,
    force: bool,
    asked_by: int,
    now: float,
) -> Task:
    """A queued restore of these items, to where they came from or (`to`) into a directory beneath the home."""
    items = wanted(c, account, item_ids, now)
    owner = _owner(c, account)
    refuse_if_busy(c, owner, "restore")
    task_id = store_tasks.new_task(c, limits, owner, TaskKind.RESTORE, 0, asked_by, now)
    _add_steps(c, task_id, items, to, force=force)
    return only_task(c, task_id)


def wanted(c: sqlite3.Connection, account: Account, item_ids: Sequence[int], now: float) -> list[Item]:
    """These kept items of the account, in this order. NotFound for unknown, foreign and expired ones alike."""
    found = []
    for item_id in item_ids:
        row = c.execute(
            f"{_ITEM} WHERE i.id = ? AND a.uid = ? AND a.name = ? AND i.state = 'kept' AND i.expires_at > ?",
            (item_id, account.uid, account.name, now),
        ).fetchone()
        if row is None:
            raise NotFound(f"cannot find item {item_id} in the vault of this account", id=item_id)
        found.append(item_of(row))
    return found


def _owner(c: sqlite3.Connection, account: Account) -> int:
    owner = find_account(c, account.uid, account.name)
    if owner is None:  # an account that has an item or a task has a row
        raise LocalProtocolError(f"cannot restore for {account.name!r}: no such row")
    return owner


def _add_steps(c: sqlite3.Connection, task_id: int, items: Sequence[Item], to: bytes | None, *, force: bool) -> None:
    c.executemany(
        "INSERT INTO restore_step (task, seq, item, path, target, make_dirs, force, state)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, 'waiting')",
        [
            (task_id, seq, item.id, item.path, _target(item, to), to is not None, force)
            for seq, item in enumerate(items, start=1)
        ],
    )


def _target(item: Item, to: bytes | None) -> bytes:
    """`to` is b"" for the home itself. A message of a mailbox becomes a file named after both."""
    if to is None:
        return item.path
    name = item.path.rpartition(b"/")[2]
    if item.part:
        number = b".message-%d" % item.id
        name = name[: 255 - len(number)] + number
    return (to + b"/" if to else b"") + name


def add_undo(
    c: sqlite3.Connection,
    limits: StoreLimits,
    account: Account,
    public_id: str,
    *,
    force: bool,
    asked_by: int,
    now: float,
) -> Task:
    """A queued undo of a disinfection: all that the vault still has of it goes back to where it was."""
    undone = store_tasks.by_public_id(c, account.uid, account.name, public_id)
    if undone is None:
        raise NotFound("cannot undo: there is no such task of this account")
    if undone.kind is not TaskKind.DISINFECT:
        raise Refused(f"cannot undo: the task is a {undone.kind.value}, which took nothing away")
    owner = _owner(c, account)
    refuse_if_busy(c, owner, "undo")
    rows = c.execute(
        f"{_ITEM} WHERE i.task = ? AND i.state = 'kept' AND i.expires_at > ? ORDER BY i.seq, i.id", (undone.id, now)
    )
    items = [item_of(row) for row in rows]
    if not items:
        raise Refused("cannot undo: nothing that the task took away is in the vault")
    task_id = store_tasks.new_task(c, limits, owner, TaskKind.UNDO, 0, asked_by, now, undone.public_id)
    _add_steps(c, task_id, items, None, force=force)
    lost = _without_copy(c, undone.id, now)
    if lost:
        files = "1 file" if lost == 1 else f"{lost} files"
        store_tasks.add_issue(
            c, task_id, "warning", f"of {files} that the task took away the vault has nothing (any more)"
        )
    return only_task(c, task_id)


def _without_copy(c: sqlite3.Connection, task_id: int, now: float) -> int:
    """Steps that took something away of which nothing can be put back: no copy made, expired, deleted, restored."""
    row = c.execute(
        "SELECT count(*) FROM step s WHERE s.task = ? AND s.outcome IN ('deleted', 'quarantined', 'mailbox-cleansed')"
        " AND NOT EXISTS (SELECT 1 FROM item i WHERE i.task = s.task AND i.seq = s.seq AND i.state = 'kept'"
        " AND i.expires_at > ?)",
        (task_id, now),
    ).fetchone()
    return int(row[0])


def only_task(c: sqlite3.Connection, task_id: int) -> Task:
    task = store_tasks.get(c, task_id)
    if task is None:
        raise LocalProtocolError(f"cannot use task {task_id}: it does not exist")
    return task


def step_of(row: sqlite3.Row) -> RestoreStep:
    return RestoreStep(
        task_id=row["task"],
        seq=row["seq"],
        item_id=row["item"],
        path=row["path"],
        target=row["target"],
        make_dirs=bool(row["make_dirs"]),
        force=bool(row["force"]),
        state=StepState(row["state"]),
        capture=row["capture"],
    )


def next_step(c: sqlite3.Connection, task_id: int) -> RestoreStep | None:
    """As store_tasks.next_step."""
    row = c.execute(
        "SELECT * FROM restore_step WHERE task = ? AND state <> 'ended' ORDER BY state, seq LIMIT 1", (task_id,)
    ).fetchone()
    return None if row is None else step_of(row)


def _step(c: sqlite3.Connection, task_id: int, seq: int) -> RestoreStep:
    row = c.execute("SELECT * FROM restore_step WHERE task = ? AND seq = ?", (task_id, seq)).fetchone()
    return step_of(only(row, f"step {seq} of task {task_id}"))


def begin_step(c: sqlite3.Connection, task_id: int, seq: int, capture: bytes) -> RestoreStep:
    """The intent. Done again after a crash, it keeps the name under which a file may lie already."""
    step = _step(c, task_id, seq)
    advance(step.state, StepState.DOING, f"step {seq} of task {task_id}")
    if step.state is StepState.DOING:
        return step
    if not capture:
        raise LocalProtocolError(f"cannot begin step {seq} of task {task_id}: no capture name")
    c.execute(
        "UPDATE restore_step SET state = 'doing', capture = ? WHERE task = ? AND seq = ?", (capture, task_id, seq)
    )
    return _step(c, task_id, seq)


def end_step(
    c: sqlite3.Connection,
    limits: StoreLimits,
    task_id: int,
    seq: int,
    outcome: RestoreOutcome,
    message: str | None,
    now: float,
    file_text: str,
    signature: str,
    found: Redetected | None,
) -> ItemFile | None:
    """The proof: step, item, record and list of infected files change together. Restored: the item that left; its
    content may go now."""
    step = _step(c, task_id, seq)
    advance(step.state, StepState.ENDED, f"step {seq} of task {task_id}")
    if found is not None and outcome is RestoreOutcome.RESTORED:
        item = item_of(only(c.execute(f"{_ITEM} WHERE i.id = ?", (step.item_id,)).fetchone(), f"item {step.item_id}"))
        listed = store_relist.relist(c, limits, step, item, found, now)
        message = "; ".join(filter(None, (message, _LISTED if listed else _NOT_LISTED)))
    said = None if message is None else clipped(message)
    c.execute(
        "UPDATE restore_step SET state = 'ended', outcome = ?, message = ?, ended_at = ? WHERE task = ? AND seq = ?",
        (outcome, said, now, task_id, seq),
    )
    gone = store_items.remove(c, step.item_id) if outcome is RestoreOutcome.RESTORED else None
    body: dict[str, object] = {"file": file_text, "item": step.item_id, "state": outcome.value}
    if signature:
        body["signature"] = signature
    store_tasks.append(c, task_id, "step", "step", body, said)
    return gone


def end(c: sqlite3.Connection, task_id: int, now: float) -> bytes:
    """running -> done, with the done record. Every step must have ended."""
    store_tasks.move(c, task_id, TaskState.DONE)
    if (step := next_step(c, task_id)) is not None:
        raise LocalProtocolError(f"cannot end task {task_id}: step {step.seq} is {step.state}")
    rows = c.execute("SELECT outcome, count(*) AS number FROM restore_step WHERE task = ? GROUP BY outcome", (task_id,))
    state, message = restore_summary({RestoreOutcome(row["outcome"]): row["number"] for row in rows})
    c.execute("UPDATE task SET state = 'done', ended_at = ? WHERE id = ?", (now, task_id))
    return store_tasks.append(c, task_id, "done", "done", {"state": state, "status": "done"}, message)


def progress(c: sqlite3.Connection, task: Task) -> TaskProgress:
    """Of a task of any kind: how many steps it has, and how many have ended."""
    table = "step" if task.kind is TaskKind.DISINFECT else "restore_step"
    row = c.execute(
        f"SELECT count(*), count(*) FILTER (WHERE state = 'ended') FROM {table} WHERE task = ?",  # noqa: S608  a literal
        (task.id,),
    ).fetchone()
    return TaskProgress(steps=row[0], ended=row[1])


def delete(c: sqlite3.Connection, account: Account, item_ids: Sequence[int], now: float) -> list[ItemFile]:
    """kept -> removed for all of these items, or for none. Refused: one is being restored, or just taken away."""
    for item in wanted(c, account, item_ids, now):
        if c.execute("SELECT 1 FROM task WHERE id = ? AND state <> 'done'", (item.task_id,)).fetchone():
            raise Refused(f"cannot delete item {item.id}: the task that took it away is under way")
        if c.execute("SELECT 1 FROM restore_step WHERE item = ? AND state <> 'ended'", (item.id,)).fetchone():
            raise Refused(f"cannot delete item {item.id}: it is being restored")
    return [gone for item_id in item_ids if (gone := store_items.remove(c, item_id)) is not None]
