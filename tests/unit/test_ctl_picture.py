"""The picture of `status --watch`: what fits a screen, and the lines that a pipe gets."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clamscannerd.ctl.picture import LEAVE, Picture, line_of
from clamscannerd.ctl.watching import PLAIN_S, Lines
from tests.fakes.answers import NOT_SCANNED, STATUS

TASK = "00000007/5a9ec8dd4c345d"
RUNS = {"scan_complete": 0, "state": "running", "current_file": "/h/now", "files_per_second": 2.0, "eta_seconds": 9}


def progress(**change: object) -> dict[str, Any]:
    return {name: value for name, value in {**STATUS, **change}.items() if name != "infected_files"}


def finding(number: int, scan: int = 3) -> dict[str, Any]:
    return {"scan_id": scan, "file": f"/h/f{number}", "virus_type": "Eicar"}


def step(number: int, task: str = TASK) -> dict[str, Any]:
    record = {"type": "step", "id": number, "file": f"/h/f{number}", "state": "quarantined"}
    return {"task_id": task, "kind": "disinfect", "record": record}


def test_a_picture_has_the_scan_the_last_findings_and_the_last_records() -> None:
    picture = Picture()
    for number in range(50):
        picture.take("Scan.finding", finding(number))
    picture.take("Scan.progress", progress(**RUNS))
    for number in range(1, 40):
        picture.take("Task.step", step(number))
    lines = picture.lines(80, 23)
    assert len(lines) == 23
    assert lines[0] == "scan 3 (home): running"
    assert any(line.endswith(NOT_SCANNED) for line in lines)
    assert "  speed:      2 files/s, about 9 s left" in lines
    assert "/h/f49: Eicar FOUND" in lines
    assert "quarantined: /h/f39" in lines
    assert "/h/f0: Eicar FOUND" not in lines
    assert lines[-1] == LEAVE


def test_what_another_scan_or_task_left_goes_when_the_next_begins() -> None:
    picture = Picture()
    picture.take("Scan.done", progress())
    picture.take("Scan.finding", finding(1))
    picture.take("Task.step", step(1))
    picture.take("Task.done", {"task_id": TASK, "kind": "disinfect"})
    assert f"task {TASK}: disinfect, done" in picture.lines(80, 24)
    picture.take("Scan.finding", finding(2, scan=4))
    picture.take("Scan.progress", progress(scan_id=4, **RUNS))
    picture.take("Task.step", step(2, "00000008/5a9ec8dd4c345d"))
    lines = picture.lines(80, 24)
    assert "/h/f2: Eicar FOUND" in lines
    assert "/h/f1: Eicar FOUND" not in lines
    assert "quarantined: /h/f1" not in lines


def test_an_absence_is_said_and_what_comes_after_it_stands_once() -> None:
    picture = Picture()
    picture.take("Scan.finding", finding(1))
    picture.trouble("cannot reach it\x1b")
    picture.again()
    assert "cannot reach it\\x1b" in picture.lines(80, 24)
    picture.take("Scan.finding", finding(1))
    lines = picture.lines(80, 24)
    assert lines.count("/h/f1: Eicar FOUND") == 1
    assert not any("cannot reach" in line for line in lines)


@given(
    columns=st.integers(1, 200),
    rows=st.integers(1, 60),
    found=st.integers(0, 120),
    records=st.integers(0, 120),
    known=st.booleans(),
)
def test_a_picture_never_has_more_lines_than_the_screen(
    columns: int, rows: int, found: int, records: int, *, known: bool
) -> None:
    picture = Picture()
    for number in range(found):
        picture.take("Scan.finding", finding(number))
    if known:
        picture.take("Scan.progress", progress(**RUNS))
    for number in range(records):
        picture.take("Task.step", step(number))
    assert len(picture.lines(columns, rows)) <= rows


@pytest.mark.parametrize(
    ("method", "params", "line"),
    [
        ("Scan.progress", progress(**RUNS), f"scan 3 (home): running, 24 of 24 files: {NOT_SCANNED}"),
        ("Scan.done", progress(), f"scan 3 (home): done: {NOT_SCANNED}"),
        ("Scan.finding", finding(1), "/h/f1: Eicar FOUND"),
        ("Task.step", step(1), "quarantined: /h/f1"),
        ("Task.done", {"task_id": TASK, "kind": "undo"}, f"task {TASK}: undo, done"),
        (
            "Engine.changed",
            {"state": "lost", "reason": "gone\x1b", "signatures": False, "engine": {}},
            "engine: lost: gone\\x1b",
        ),
        ("New.kind\x1b", {}, "New.kind\\x1b"),
    ],
)
def test_an_event_is_one_line(method: str, params: dict[str, Any], line: str) -> None:
    assert line_of(method, params) == line


def test_in_a_pipe_progress_is_told_now_and_then_and_everything_else_at_once() -> None:
    now = [0.0]
    lines = Lines(lambda: now[0])
    told = [lines.wanted("Scan.progress", progress(**RUNS)) for _ in range(5)]
    assert told == [True, False, False, False, False]
    assert lines.wanted("Scan.finding", finding(1))
    now[0] = PLAIN_S
    assert lines.wanted("Scan.progress", progress(**RUNS))
    assert lines.wanted("Scan.progress", progress(**{**RUNS, "state": "paused"}))
