"""The STATUS line: what is in it for which state, and that nothing of a user or a place ever is."""

import time
from datetime import UTC, datetime

import pytest

from clamscannerd.daemon_status import status_line
from clamscannerd.model import EngineInfo, Frozen

NOW = datetime(2026, 5, 4, 15, 0, tzinfo=UTC).timestamp()
CLAMD = EngineInfo(version="1.4.6", database=27400, database_time=NOW - 3 * 3600 - 60)


class Jobs(Frozen, frozen=True, kw_only=True):
    scans: int = 0
    tasks: int = 0
    waiting: int = 0
    paused: int = 0
    stuck: int = 0
    stuck_since: float = 0.0


class Engine(Frozen, frozen=True, kw_only=True):
    kind: str = "ready"
    since: float = NOW - 58 * 60
    info: EngineInfo = CLAMD
    signatures: bool = True
    reason: str = "cannot connect to clamd at /run/secret.ctl"


IDLE, READY = Jobs(), Engine()


@pytest.fixture(autouse=True)
def _utc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()


def line(jobs: Jobs = IDLE, engine: Engine = READY, *, notes: tuple[str, ...] = (), bad: tuple[str, ...] = ()) -> str:
    return status_line(jobs, engine, list(notes), list(bad), NOW)


@pytest.mark.parametrize(
    ("jobs", "words"),
    [
        (Jobs(), "idle"),
        (Jobs(scans=2, waiting=1, tasks=1), "2 scans, 1 queued, 1 task"),
        (Jobs(scans=1, tasks=10), "1 scan, 10 tasks"),
        (Jobs(waiting=10), "10 queued"),
        (Jobs(scans=1, waiting=2, paused=3), "1 scan, 2 queued, 3 paused"),
    ],
)
def test_what_runs_and_waits_is_counted(jobs: Jobs, words: str) -> None:
    assert line(jobs) == f"{words}; clamd 1.4.6/27400 of 3 h ago"


@pytest.mark.parametrize(
    ("age_s", "words"),
    [
        (-5, "0 min"),
        (59 * 60, "59 min"),
        (3600, "1 h"),
        (47.9 * 3600, "47 h"),
        (48 * 3600, "2 days"),
        (9e6, "104 days"),
    ],
)
def test_the_age_of_the_database_has_one_unit(age_s: float, words: str) -> None:
    info = EngineInfo(version="1.4.6", database=1, database_time=NOW - age_s)
    assert line(engine=Engine(info=info)) == f"idle; clamd 1.4.6/1 of {words} ago"


def test_a_database_without_a_number_has_none() -> None:
    assert line(engine=Engine(info=EngineInfo(version="1.4.6"))) == "idle; clamd 1.4.6"


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("lost", "clamd not reachable since 14:02"),
        ("loading", "clamd does not answer yet since 14:02"),
        ("starting", "clamd is starting since 14:02"),
    ],
)
def test_without_an_engine_it_is_degraded_and_says_since_when(kind: str, words: str) -> None:
    assert line(Jobs(waiting=1), Engine(kind=kind)) == f"degraded: {words}; 1 queued"


def test_what_began_long_ago_has_its_date() -> None:
    assert "since 2026-05-03 15:00;" in line(engine=Engine(kind="lost", since=NOW - 86_400))


def test_everything_else_that_is_wrong_stands_in_front_as_well() -> None:
    jobs = Jobs(tasks=1, waiting=2, stuck=2, stuck_since=NOW - 600)
    assert line(jobs, Engine(signatures=False), notes=("a note",), bad=("configuration refused",)) == (
        "degraded: no signatures, so no file is called clean, configuration refused,"
        " 2 jobs cannot start since 14:50, see the log; a note; 2 queued, 1 task; clamd 1.4.6/27400 of 3 h ago"
    )


def test_no_reason_of_an_engine_gets_in() -> None:
    """It names places."""
    assert "secret" not in line(engine=Engine(kind="lost"))
