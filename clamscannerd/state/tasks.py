"""The legal moves of scans, tasks, steps and findings, and how a task is summed up. Pure; used in [daemon].

One table per noun and one `advance()`, so that no caller can bring a state about that recovery does not know. A move
that is not in a table is our bug (LocalProtocolError), never a reason to repair rows in silence. SQLite's CHECKs
guard the values; these tables guard the order. A test derives the diagrams below from the tables.

Rejected: triggers that check moves (the reason for a refusal would be lost in an SQL error text); a class per state.
"""

from collections.abc import Collection, Mapping
from typing import TypeVar

from clamscannerd.errors import LocalProtocolError
from clamscannerd.model import Action, FindingState, Outcome, RestoreOutcome, ScanState, StepState, TaskState

State = TypeVar("State", ScanState, TaskState, StepState, FindingState)

# A scan that is interrupted (the daemon ended, the engine was lost) goes back to queued and starts over under its id.
# One that is paused while it runs goes the same way, and is paused from there.
#
#   queued -> running | paused | cancelled | failed
#   running -> queued | done | cancelled | failed
#   paused -> queued | cancelled | failed
#   done -> (end)
#   cancelled -> (end)
#   failed -> (end)
SCAN_MOVES: Mapping[ScanState, frozenset[ScanState]] = {
    ScanState.QUEUED: frozenset({ScanState.RUNNING, ScanState.PAUSED, ScanState.CANCELLED, ScanState.FAILED}),
    ScanState.RUNNING: frozenset({ScanState.QUEUED, ScanState.DONE, ScanState.CANCELLED, ScanState.FAILED}),
    ScanState.PAUSED: frozenset({ScanState.QUEUED, ScanState.CANCELLED, ScanState.FAILED}),
    ScanState.DONE: frozenset(),
    ScanState.CANCELLED: frozenset(),
    ScanState.FAILED: frozenset(),
}

# A task never fails as a whole: what goes wrong is the outcome of a step, and the task goes on to its done record.
#
#   queued -> running
#   running -> queued | done
#   done -> (end)
TASK_MOVES: Mapping[TaskState, frozenset[TaskState]] = {
    TaskState.QUEUED: frozenset({TaskState.RUNNING}),
    TaskState.RUNNING: frozenset({TaskState.QUEUED, TaskState.DONE}),
    TaskState.DONE: frozenset(),
}

# waiting -> ended without doing: a step that touches nothing (ignore). doing -> doing: done again after a crash, under
# the capture name that was committed the first time.
#
#   waiting -> doing | ended
#   doing -> doing | ended
#   ended -> (end)
STEP_MOVES: Mapping[StepState, frozenset[StepState]] = {
    StepState.WAITING: frozenset({StepState.DOING, StepState.ENDED}),
    StepState.DOING: frozenset({StepState.DOING, StepState.ENDED}),
    StepState.ENDED: frozenset(),
}

# cleared -> standing: a resumed scan found the path clean, then infected again before it ended. deleted, quarantined,
# cleansed -> standing: put back by force, and detected still.
#
#   standing -> deleted | quarantined | cleansed | cleared
#   deleted -> standing
#   quarantined -> standing
#   cleansed -> standing
#   cleared -> standing
FINDING_MOVES: Mapping[FindingState, frozenset[FindingState]] = {
    FindingState.STANDING: frozenset(
        {FindingState.DELETED, FindingState.QUARANTINED, FindingState.CLEANSED, FindingState.CLEARED}
    ),
    FindingState.DELETED: frozenset({FindingState.STANDING}),
    FindingState.QUARANTINED: frozenset({FindingState.STANDING}),
    FindingState.CLEANSED: frozenset({FindingState.STANDING}),
    FindingState.CLEARED: frozenset({FindingState.STANDING}),
}


def may_move(state: State, to: State) -> bool:
    """Whether the table of this kind of state has the move."""
    if isinstance(state, ScanState):
        return to in SCAN_MOVES[state]
    if isinstance(state, TaskState):
        return to in TASK_MOVES[state]
    if isinstance(state, StepState):
        return to in STEP_MOVES[state]
    return to in FINDING_MOVES[state]


def advance(state: State, to: State, what: str) -> State:
    """`to`, if it may follow `state`; else LocalProtocolError. `what` names the thing: "scan 7"."""
    if type(state) is not type(to) or not may_move(state, to):
        raise LocalProtocolError(f"cannot move {what} to {to}: it is {state}")
    return to


class Area:
    """What a scan of `paths` (beneath the home, b"." is all of it) meets. Quick: asked for each of many findings."""

    __slots__ = ("_beneath", "_tops")

    def __init__(self, paths: Collection[bytes]) -> None:
        self._tops = frozenset(paths)
        self._beneath = (b"",) if b"." in self._tops else tuple(top + b"/" for top in self._tops)

    def __contains__(self, path: bytes) -> bool:
        return path in self._tops or path.startswith(self._beneath)


def covers(paths: Collection[bytes], path: bytes) -> bool:
    """Whether a scan of `paths` meets `path`."""
    return path in Area(paths)


_DONE_WORDS: Mapping[Outcome, tuple[str, str]] = {
    Outcome.QUARANTINED: ("quarantined", "quarantined"),
    Outcome.DELETED: ("deleted", "deleted"),
    Outcome.MAILBOX_CLEANSED: ("mailbox cleansed", "mailboxes cleansed"),
    Outcome.NO_ACTION: ("left as it was", "left as they were"),
    Outcome.ERROR: ("failed", "failed"),
}


def summary(steps: Mapping[tuple[Action, Outcome], int], error_issues: int) -> tuple[str, str]:
    """State and message of the done record, from how many steps asked for what and how they ended.

    `error`: a step or an issue was an error. `info`: something other than ignore was asked of a file that was then
    deliberately left (it changed and is clean, it is gone). `success`: everything as asked.
    """
    totals: dict[Outcome, int] = {}
    for (_, outcome), number in steps.items():
        totals[outcome] = totals.get(outcome, 0) + number
    left = any(
        number and outcome is Outcome.NO_ACTION and action is not Action.IGNORE
        for (action, outcome), number in steps.items()
    )
    state = "error" if totals.get(Outcome.ERROR) or error_issues else "info" if left else "success"
    parts = [
        f"{number} {words[0] if number == 1 else words[1]}"
        for outcome, words in _DONE_WORDS.items()
        if (number := totals.get(outcome, 0))
    ]
    return state, ", ".join(parts) or "nothing to do"


_RESTORE_WORDS: Mapping[RestoreOutcome, str] = {
    RestoreOutcome.RESTORED: "restored",
    RestoreOutcome.NO_ACTION: "left in the vault",
    RestoreOutcome.ERROR: "failed",
}


def restore_summary(steps: Mapping[RestoreOutcome, int]) -> tuple[str, str]:
    """The same for a restore or an undo. `info`: something was deliberately left, being detected still."""
    state = "error" if steps.get(RestoreOutcome.ERROR) else "info" if steps.get(RestoreOutcome.NO_ACTION) else "success"
    parts = [f"{number} {words}" for outcome, words in _RESTORE_WORDS.items() if (number := steps.get(outcome, 0))]
    return state, ", ".join(parts) or "nothing to do"
