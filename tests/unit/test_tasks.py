"""The tables of legal moves, coverage of paths, and how a task is summed up."""

import inspect
import re
from collections.abc import Mapping
from enum import StrEnum
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clamscannerd.errors import LocalProtocolError
from clamscannerd.model import (
    SCAN_ENDED,
    Action,
    FindingState,
    Outcome,
    Reason,
    ScanState,
    StepState,
    TaskState,
)
from clamscannerd.state import schema, tasks

State = ScanState | TaskState | StepState | FindingState
TABLES: dict[str, Mapping[State, frozenset[State]]] = {
    name: cast("Mapping[State, frozenset[State]]", getattr(tasks, name))
    for name in ("SCAN_MOVES", "TASK_MOVES", "STEP_MOVES", "FINDING_MOVES")
}
KINDS: tuple[type[StrEnum], ...] = (ScanState, TaskState, StepState, FindingState)
STATES: list[State] = [state for table in TABLES.values() for state in table]


@pytest.mark.parametrize(("name", "kind"), list(zip(TABLES, KINDS, strict=True)))
def test_each_state_has_its_row(name: str, kind: type[StrEnum]) -> None:
    assert set(TABLES[name]) == set(kind)


@pytest.mark.parametrize("name", TABLES)
def test_the_diagram_above_a_table_is_the_table(name: str) -> None:
    source = inspect.getsource(tasks)
    comment = source[: source.index(f"\n{name}: ")].rsplit("\n\n", 1)[1]
    drawn = {
        match[1]: set() if match[2] == "(end)" else set(match[2].split(" | "))
        for match in re.finditer(r"^#   (\w+) -> (.+)$", comment, re.MULTILINE)
    }
    assert drawn == {str(state): {str(to) for to in moves} for state, moves in TABLES[name].items()}


@given(state=st.sampled_from(STATES), to=st.sampled_from(STATES))
def test_every_pair_of_states_is_legal_or_raises(state: State, to: State) -> None:
    table = next(table for table in TABLES.values() if state in table and type(next(iter(table))) is type(state))
    legal = type(to) is type(state) and to in table[state]
    if legal:
        assert tasks.advance(state, to, "thing 1") is to  # type: ignore[type-var]
    else:
        with pytest.raises(LocalProtocolError, match=f"cannot move thing 1 to {to}: it is {state}"):
            tasks.advance(state, to, "thing 1")  # type: ignore[type-var]


def test_an_ended_scan_stays_ended() -> None:
    assert {state for state, moves in tasks.SCAN_MOVES.items() if not moves} == SCAN_ENDED


@pytest.mark.parametrize("kind", [ScanState, TaskState, StepState, FindingState, Outcome, Action])
def test_the_schema_knows_every_value(kind: type[StrEnum]) -> None:
    lists = [
        set(re.findall(r"'([^']*)'", found)) for found in re.findall(r"IN \(((?:'[^']*'(?:, )?)+)\)", schema.SCHEMA)
    ]
    assert {str(value) for value in kind} in lists


def test_a_path_that_is_gone_is_the_one_reason_that_clears() -> None:
    # store_scans.end() spells the value in SQL.
    assert str(Reason.VANISHED) == "vanished"


@pytest.mark.parametrize(
    ("paths", "path", "covered"),
    [
        ((b".",), b"anything/at/all", True),
        ((b"mail", b"Maildir"), b"Maildir/new/1", True),
        ((b"mail",), b"mail", True),
        ((b"mail",), b"mailing/list", False),
        ((b"mail",), b"old/mail/1", False),
        ((b"a/b",), b"a/b/c", True),
        ((b"a/b",), b"a/c", False),
        ((), b"a", False),
    ],
)
def test_a_scan_covers_whole_components(paths: tuple[bytes, ...], path: bytes, covered: bool) -> None:
    assert tasks.covers(paths, path) is covered


NAME = st.binary(min_size=1, max_size=4).filter(lambda name: b"/" not in name and b"\0" not in name and name != b".")


@given(top=st.lists(NAME, min_size=1, max_size=3), below=st.lists(NAME, max_size=3))
def test_what_lies_beneath_a_path_is_covered_by_it(top: list[bytes], below: list[bytes]) -> None:
    assert tasks.covers([b"/".join(top)], b"/".join(top + below))
    assert not tasks.covers([b"/".join(top)], b"x" + b"/".join(top + below)) or top[0] == b"x" + top[0]


@pytest.mark.parametrize(
    ("steps", "issues", "state", "message"),
    [
        ({}, 0, "success", "nothing to do"),
        ({(Action.QUARANTINE, Outcome.QUARANTINED): 3}, 0, "success", "3 quarantined"),
        ({(Action.IGNORE, Outcome.NO_ACTION): 2}, 0, "success", "2 left as they were"),
        (
            {(Action.QUARANTINE, Outcome.QUARANTINED): 3, (Action.DELETE, Outcome.NO_ACTION): 1},
            0,
            "info",
            "3 quarantined, 1 left as it was",
        ),
        (
            {(Action.DELETE, Outcome.DELETED): 1, (Action.DELETE, Outcome.ERROR): 2},
            0,
            "error",
            "1 deleted, 2 failed",
        ),
        ({(Action.DELETE, Outcome.DELETED): 1}, 1, "error", "1 deleted"),
        ({(Action.CLEANSE_MAILBOX, Outcome.MAILBOX_CLEANSED): 1}, 0, "success", "1 mailbox cleansed"),
    ],
)
def test_a_task_is_summed_up(steps: dict[tuple[Action, Outcome], int], issues: int, state: str, message: str) -> None:
    assert tasks.summary(steps, issues) == (state, message)
