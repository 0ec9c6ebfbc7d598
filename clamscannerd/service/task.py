"""Task.*: disinfections, restores and undos, with their records. [daemon]"""

import time
from typing import Any

import msgspec

from clamscannerd.errors import NotFound, Refused
from clamscannerd.model import Account, Task, TaskState
from clamscannerd.service.context import Context

MAX_DETAILS = 10_000
"""Records in one answer of Task.get, as in call 6."""


class TaskShown(msgspec.Struct, frozen=True, kw_only=True):
    """`undoes`: the task that an undo puts back, null for the other kinds. Times are epoch seconds, null until then."""

    task_id: str
    kind: str
    state: str
    undoes: str | None
    asked_by: int
    asked_at: float
    started_at: float | None
    ended_at: float | None


class Tasks(msgspec.Struct, frozen=True, kw_only=True):
    tasks: list[TaskShown]


class TaskWhole(TaskShown, frozen=True, kw_only=True):
    """`details`: the records, as in call 6; while more of them wait, `state` is not yet `done`."""

    steps: int
    steps_ended: int
    details: list[msgspec.Raw]


async def undo(context: Context, account: Account, asked_by: int, task_id: str, *, force: bool) -> dict[str, str]:
    """Put back all that a disinfection took away. Makes the task durable and answers its id."""
    await context.need_room("undo the task")
    if why := context.suspended(account.uid):
        raise Refused(f"cannot start the undo: {why}")
    task = await context.store.add_undo(account, task_id, force=force, asked_by=asked_by, now=time.time())
    context.queued(account)
    return {"task_id": task.public_id}


async def list_tasks(context: Context, account: Account, limit: int, offset: int) -> Tasks:
    """Newest first."""
    tasks = await context.store.list_tasks(account.uid, account.name, limit, offset)
    return Tasks(tasks=[TaskShown(**_common(task)) for task in tasks])


async def get_task(context: Context, account: Account, task_id: str, last_id: int) -> TaskWhole:
    """One task with its records after `last_id`."""
    task = await context.store.task_by_public_id(account.uid, account.name, task_id)
    if task is None:
        raise NotFound("cannot find the task: there is no such task of this account")
    # The state was read first: `done` is said only with the done record among what follows.
    records = await context.store.records(task.id, last_id, MAX_DETAILS + 1)
    progress = await context.store.task_progress(task)
    common = _common(task)
    if len(records) > MAX_DETAILS and task.state is TaskState.DONE:
        common["state"] = TaskState.RUNNING.value
    return TaskWhole(
        **common,
        steps=progress.steps,
        steps_ended=progress.ended,
        details=[msgspec.Raw(record) for record in records[:MAX_DETAILS]],
    )


def _common(task: Task) -> dict[str, Any]:
    return {
        "task_id": task.public_id,
        "kind": task.kind.value,
        "state": task.state.value,
        "undoes": task.undoes or None,
        "asked_by": task.asked_by,
        "asked_at": task.asked_at,
        "started_at": task.started_at,
        "ended_at": task.ended_at,
    }
