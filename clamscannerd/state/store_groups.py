"""Steps with small contents, a group at a time. [daemon, writer thread] See store_rows.

The moves are those of store_tasks and store_items for a single step. What differs is what they cost: one statement is
run for all rows of a group, instead of asking before and after each, and names that a transaction is to insert
lie side by side in their index. So the statements themselves guard the moves: each says from which state, and as many
rows must have moved as were meant.

Up to three groups of a task are under way at once (pipeline/group.py), each at another point; one transaction takes
all of them one point further. Rejected: a transaction for each point of each group (three commits a group, each with
its wait for the disk and its way to the thread and back).
"""

import secrets
import sqlite3
from collections.abc import Mapping, Sequence

import msgspec

from clamscannerd.errors import LocalProtocolError, Refused
from clamscannerd.model import Account, Action, FindingState, Step, StepState
from clamscannerd.state import store_items
from clamscannerd.state.store_rows import SIGNATURE_MAX_CHARS, clipped, make_account, step_of
from clamscannerd.state.store_scans import move_finding
from clamscannerd.state.store_tasks import append_all
from clamscannerd.state.store_values import (
    Caps,
    GroupTurn,
    GroupTurned,
    ItemFile,
    SmallContent,
    SmallItem,
    StepEnd,
    Usage,
)
from clamscannerd.state.tasks import advance

_LOT_BYTES = 14
"""Random bytes of a file name that a group shares; two more number its items."""


def waiting_steps(c: sqlite3.Connection, task_id: int, after_seq: int, limit: int) -> list[Step]:
    """Steps that were never begun; the second condition lets SQLite use the index of open steps."""
    rows = c.execute(
        "SELECT * FROM step WHERE task = ? AND state = 'waiting' AND state <> 'ended' AND seq > ? ORDER BY seq LIMIT ?",
        (task_id, after_seq, limit),
    )
    return [step_of(row) for row in rows]


def turn(
    c: sqlite3.Connection,
    account: Account,
    groups: GroupTurn,
    expires_at: Mapping[Action, float],
    caps: Caps,
    now: float,
) -> GroupTurned:
    """One group ended, the next kept, the one after next begun; each may be empty."""
    records = _end(c, groups.task_id, groups.ends, now) if groups.ends else []
    if groups.kept:
        _keep(c, groups.kept, expires_at, now)
    if not groups.begin:
        return GroupTurned(records=records, begun=[], evicted=[], used=groups.used)
    begun, evicted, used = _begin(c, account, groups, caps, now)
    return GroupTurned(records=records, begun=begun, evicted=evicted, used=used)


def _begin(
    c: sqlite3.Connection, account: Account, groups: GroupTurn, caps: Caps, now: float
) -> tuple[list[SmallItem], list[ItemFile], Usage]:
    """Intent: room in the vault, and `doing`. Only steps that got room are begun; the others are left waiting."""
    owner = make_account(c, account.uid, account.name)
    room = _Room(c, owner, caps, groups.used)
    small: list[SmallItem] = []
    evicted: list[ItemFile] = []
    first_id = _last_item_id(c) + 1
    lot = secrets.token_hex(_LOT_BYTES)
    advance(StepState.WAITING, StepState.DOING, f"steps of task {groups.task_id}")
    for number, (step, capture) in enumerate(zip(groups.begin, groups.captures, strict=True)):
        try:
            evicted += room.take(step)
        except Refused:
            break  # this one and the rest go one by one, and each gets its own answer
        begun = msgspec.structs.replace(step, state=StepState.DOING, capture=capture)
        small.append(SmallItem(item_id=first_id + number, file=f"{lot}{number:04x}", step=begun))
    c.executemany(
        "INSERT INTO item (id, account, task, seq, path, action, size, signature, owner, grp, mode, mtime_ns, xattrs,"
        " engine, database, file, place, state, reserved_at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0, 0, 0, 0, x'', ?, ?, ?, 'blob', 'receiving', ?)",
        [
            (
                one.item_id,
                owner,
                one.step.task_id,
                one.step.seq,
                one.step.path,
                one.step.action,
                one.step.identity.size,
                clipped(one.step.signature, SIGNATURE_MAX_CHARS),
                *store_items.engine_of(c, groups.task_id, one.step.seq),
                one.file,
                now,
            )
            for one in small
        ],
    )
    changed = c.executemany(
        "UPDATE step SET state = 'doing', capture = ? WHERE task = ? AND seq = ? AND state = 'waiting'",
        [(one.step.capture, one.step.task_id, one.step.seq) for one in small],
    ).rowcount
    _check(changed, len(small), f"begin steps of task {groups.task_id}: they do not all wait")
    return small, evicted, room.used


def _last_item_id(c: sqlite3.Connection) -> int:
    """What AUTOINCREMENT gave last; it notes a larger one that is given by hand as well."""
    row = c.execute("SELECT seq FROM sqlite_sequence WHERE name = 'item'").fetchone()
    return 0 if row is None else int(row["seq"])


class _Room:
    """Room in an account's part of the vault, for one group.

    `used` may be more than is true, never less: nobody else adds to it during a task (rule 10), but items expire and
    are deleted. So it is summed up afresh only where it would say no: for each group, that is a third of a task's cost.
    """

    def __init__(self, c: sqlite3.Connection, owner: int, caps: Caps, used: Usage | None) -> None:
        self._c = c
        self._owner = owner
        self._caps = caps
        self._taken = Usage(bytes=0, items=0)  # by this group, whose rows are not there yet
        self.used = used or self._sum()

    def take(self, step: Step) -> list[ItemFile]:
        """What gave way for it. Refused: the vault is full."""
        size = step.identity.size
        evicted: list[ItemFile] = []
        if self.used.bytes + size > self._caps.max_bytes or self.used.items + 1 > self._caps.max_items:
            self.used = self._sum()
            evicted = store_items.make_room(self._c, self._owner, step.path, size, self._caps, self.used)
            if evicted:
                self.used = self._sum()
        self._taken = _more(self._taken, size)
        self.used = _more(self.used, size)
        return evicted

    def _sum(self) -> Usage:
        there = store_items.usage_of(self._c, self._owner)
        return Usage(bytes=there.bytes + self._taken.bytes, items=there.items + self._taken.items)


def _more(used: Usage, size: int) -> Usage:
    return Usage(bytes=used.bytes + size, items=used.items + 1)


def _keep(
    c: sqlite3.Connection, contents: Sequence[SmallContent], expires_at: Mapping[Action, float], now: float
) -> None:
    """receiving -> kept for contents that are on disk."""
    changed = c.executemany(
        "UPDATE item SET state = 'kept', sha256 = ?, owner = ?, grp = ?, mode = ?, mtime_ns = ?, xattrs = ?,"
        " kept_at = ?, expires_at = ? WHERE id = ? AND state = 'receiving'",
        [
            (
                one.item.step.identity.sha256,
                one.meta.owner,
                one.meta.group,
                one.meta.mode,
                one.meta.mtime_ns,
                one.meta.xattrs,
                now,
                expires_at[one.item.step.action],
                one.item.item_id,
            )
            for one in contents
        ],
    ).rowcount
    _check(changed, len(contents), f"keep items from {contents[0].item.item_id} on: they are not all being received")


def _end(c: sqlite3.Connection, task_id: int, ends: Sequence[StepEnd], now: float) -> list[bytes]:
    """The proofs: step, finding, item and record change together or not at all. Returns the records."""
    advance(StepState.DOING, StepState.ENDED, f"steps of task {task_id}")
    said = [None if end.message is None else clipped(end.message) for end in ends]
    changed = c.executemany(
        "UPDATE step SET state = 'ended', outcome = ?, message = ?, item = ?, ended_at = ?"
        " WHERE task = ? AND seq = ? AND state = 'doing' AND EXISTS"
        " (SELECT 1 FROM item i WHERE i.id = ? AND i.task = step.task AND i.seq = step.seq AND i.state = 'kept')",
        [
            (end.outcome, message, end.item, now, task_id, end.seq, end.item)
            for end, message in zip(ends, said, strict=True)
        ],
    ).rowcount
    _check(changed, len(ends), f"end steps of task {task_id}: they are not all being done, with their items kept")
    _move_findings(c, task_id, ends)
    bodies: list[dict[str, object]] = [{"file": end.file_text, "state": end.outcome.value} for end in ends]
    return append_all(c, task_id, "step", "step", bodies, said)


def _move_findings(c: sqlite3.Connection, task_id: int, ends: Sequence[StepEnd]) -> None:
    moves = [(end.finding_state, end.finding_id) for end in ends]
    for state in {state for state, _ in moves}:
        advance(FindingState.STANDING, state, f"findings of task {task_id}")
    changed = c.executemany("UPDATE finding SET state = ? WHERE id = ? AND state = 'standing'", moves).rowcount
    if changed != len(moves):  # pruned since, or moved before: one by one, as for a single step
        for state, finding_id in moves:
            move_finding(c, finding_id, state)


def _check(changed: int, meant: int, what: str) -> None:
    if changed != meant:
        raise LocalProtocolError(f"cannot {what} ({changed} of {meant} rows)")
