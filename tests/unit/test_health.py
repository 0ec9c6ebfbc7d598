"""daemon_health.py: which homes are read-only, and what is said of the engine."""

import pytest

from clamscannerd.daemon_health import (
    cache_checks,
    engine_checks,
    faster_checks,
    homes_check,
    member_checks,
    private_checks,
)
from clamscannerd.engine.health import EngineState
from clamscannerd.model import EngineInfo, Grade

NOW = 2_000_000_000.0
STRICT = {"/": True, "/home": False, "/data/web": False, "/data/web/cold": True, "/proc": False}


@pytest.mark.parametrize(
    ("homes", "named"),
    [
        (["/home/a", "/data/web/b"], ""),
        (["/data/c", "/data/d", "/home/a"], "/data (2)"),
        (["/data/web/cold/e"], "/data/web/cold (1)"),
        (["/data/webs/f"], "/data/webs (1)"),
        (["/", "/root", "/nonexistent", "/var/lib/x", "relative", "/data/../home/a"], ""),
    ],
    ids=["covered", "elsewhere", "nearest mount", "a whole name", "no homes"],
)
def test_homes_on_a_read_only_mount_are_counted_by_their_place(homes: list[str], named: str) -> None:
    check = homes_check(homes, STRICT)
    assert check.grade is (Grade.ERROR if named else Grade.OK)
    assert named in check.message
    assert bool(check.cure) == bool(named)


def state(kind: str = "ready", **more: object) -> EngineState:
    fields = {
        "kind": kind,
        "since": 0.0,
        "steady_since": 0.0,
        "info": EngineInfo(version="1.4.6", database=27400, database_time=NOW - 3600),
        "signatures": True,
        "max_file_size": 1,
        "max_threads": 1,
        "shared": True,
        "address": "/x",
        "reason": "" if kind == "ready" else "cannot use it",
        "generation": "",
        "read_timeout_s": 1.0,
    }
    return EngineState(**(fields | more))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("engine", "grades"),
    [
        (state(), {"engine": "ok", "signatures": "ok"}),
        (state("lost"), {"engine": "error"}),
        (state(signatures=False), {"engine": "ok", "signatures": "error"}),
        (state(info=EngineInfo(database_time=NOW - 3 * 86_400)), {"engine": "ok", "signatures": "warning"}),
        (state(info=EngineInfo(blind=("Zips.",))), {"engine": "ok", "signatures": "ok", "engine.blind": "warning"}),
    ],
    ids=["well", "lost", "no signatures", "old ones", "blind"],
)
def test_what_ails_the_engine_is_graded_and_has_a_cure(engine: EngineState, grades: dict[str, str]) -> None:
    checks = engine_checks(engine, NOW)
    assert {check.id: check.grade.value for check in checks} == grades
    assert all(bool(check.cure) == (check.grade is not Grade.OK) for check in checks)


def test_private_engines_are_told_with_their_number_and_its_reason() -> None:
    two = [state(shared=False, address=f"/{number}") for number in (1, 2)]
    (check,) = private_checks(two, "2 engines of one thread each: one for each core")
    assert (check.grade, check.message) == (Grade.OK, "2 engines of one thread each: one for each core.")
    assert private_checks(two, "") == []
    assert private_checks([state(shared=False, signatures=False)], "2 engines") == []
    assert private_checks([state()], "2 engines") == [], "the system's clamd is used"


def test_one_of_several_private_engines_that_is_away_is_a_warning_with_a_cure_of_its_own() -> None:
    one, gone = state(shared=False, address="/1"), state("lost", shared=False, address="/2")
    there, away = member_checks([one, gone], {"/1"}, NOW)
    assert (there.grade, away.grade) == (Grade.OK, Grade.WARNING)
    assert "started again by itself" in away.cure


def test_what_a_shared_clamd_would_gain_is_a_hint_and_no_fault() -> None:
    (hint,) = faster_checks([state(max_threads=12)], 2)
    assert hint.grade is Grade.OK
    assert "MaxThreads 1" in hint.cure
    assert faster_checks([state(max_threads=1)], 2) == []
    assert faster_checks([state(max_threads=12)], 1) == [], "one core gains nothing"
    assert faster_checks([], 2) == []


@pytest.mark.parametrize(
    ("engine", "grade"),
    [
        (state(settings="s"), ""),
        (state(), "warning"),
        (state(address="tcp://av:3310"), "ok"),
        (state("lost"), ""),
        (state(signatures=False), ""),
    ],
    ids=["known", "unknown", "on another machine", "lost", "no signatures"],
)
def test_an_engine_of_which_no_verdicts_are_kept_is_said(engine: EngineState, grade: str) -> None:
    checks = cache_checks([engine])
    assert [check.grade.value for check in checks] == [grade] * bool(grade)
    assert [("engine.confs" in check.cure, engine.address in check.message) for check in checks] == [
        (grade == "warning", True)
    ] * bool(grade)
