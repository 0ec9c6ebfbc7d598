"""What the command line prints of an answer. Pure."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clamscannerd.ctl import text
from clamscannerd.model import Reason

STATUS: dict[str, Any] = {
    "current_file": "",
    "infected_files": [],
    "scan_complete": 1,
    "scanned_file_count": 10,
    "scanned_file_size": 2048,
    "time_started": "1700000000",
    "total_file_count": 24,
    "total_file_size_MiB": 1,
    "scan_id": 3,
    "scan_type": "home",
    "state": "done",
    "infected_file_count": 0,
    "not_scanned": {"encrypted": 5, "too_big": 9},
}


@given(st.text())
def test_json_is_ascii_without_controls_and_means_the_same(anything: str) -> None:
    line = text.json_line({"file": anything})
    assert line.isascii()
    assert line.isprintable()
    assert json.loads(line) == {"file": anything}


def test_no_infected_files_is_never_said_without_what_was_not_scanned() -> None:
    assert text.result(STATUS) == "0 infected, 10 scanned, 14 not scanned (9 over the size limit, 5 encrypted)"
    assert text.result(STATUS) in "\n".join(text.status_lines(STATUS))
    assert text.result({**STATUS, "not_scanned": {}}) == "0 infected, 10 scanned, 0 not scanned"


@pytest.mark.fails_with("limit-not-named")
def test_the_limit_of_the_engine_is_named_where_it_is_known() -> None:
    for size, words in ((25 << 20, "over 25 MiB"), (25_500_000, "over 24.3 MiB"), (0, "over the size limit")):
        shown = {**STATUS, "engine": {"version": "1.4.6", "max_file_size": size}}
        assert text.result(shown) == f"0 infected, 10 scanned, 14 not scanned (9 {words}, 5 encrypted)"


@pytest.mark.fails_with("ignored-as-clean")
def test_what_is_ignored_is_counted_apart_and_said() -> None:
    ignored = {**STATUS, "infected_file_count": 3, "ignored_file_count": 2}
    assert text.result(ignored).startswith("1 infected, 2 ignored, 10 scanned")
    assert text.result({**ignored, "ignored_file_count": 3}).startswith("0 infected, 3 ignored, 10 scanned")


@pytest.mark.fails_with("strict-for-nothing")
def test_strict_tells_a_scan_that_left_files_out() -> None:
    assert text.scan_exit(STATUS, strict=True) == 3
    assert text.scan_exit({**STATUS, "not_scanned": {"unchanged": 5}}, strict=True) == 0
    assert text.scan_exit({**STATUS, "infected_file_count": 1}, strict=True) == 1


def test_every_reason_has_its_words() -> None:
    for reason in Reason:
        assert reason.value not in text.not_scanned({reason.value: 1}, 0) or "_" not in reason.value


def test_a_reason_of_a_newer_daemon_is_shown_by_its_name() -> None:
    assert text.not_scanned({"moon_phase": 2}, 1) == "2 not scanned (2 moon_phase)"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({}, 0),
        ({"infected_file_count": 1}, 1),
        ({"infected_file_count": 1, "state": "failed"}, 1),
        ({"state": "failed"}, 2),
        ({"state": "cancelled"}, 2),
        ({"not_scanned": {"no_signatures": 3}}, 2),
        ({"not_scanned": {"engine_error": 1}}, 2),
        ({"not_scanned": {"no_signatures": 0, "unreadable": 4}}, 0),
        ({"state": "running", "scan_complete": 0}, 0),
    ],
)
def test_exit_codes_are_those_of_clamscan(change: dict[str, object], code: int) -> None:
    assert text.scan_exit({**STATUS, **change}) == code


def test_a_running_scan_shows_speed_place_and_file() -> None:
    running = {"state": "running", "scan_complete": 0, "files_per_second": 400.4, "eta_seconds": 9}
    lines = text.status_lines({**STATUS, **running, "current_file": "/home/a/\x1bfile", "resumed": 1})
    assert lines[0] == "scan 3 (home): running"
    assert "  speed:      400 files/s, about 9 s left" in lines
    assert "  now at:     /home/a/\\x1bfile" in lines
    assert lines[1].endswith(", started over 1 time")


def test_a_queued_scan_shows_its_place() -> None:
    lines = text.status_lines({**STATUS, "state": "queued", "scan_complete": 0, "queue_position": 4})
    assert lines[0] == "scan 3 (home): queued, number 4 in the queue"


def test_the_engine_and_what_it_is_blind_to_are_shown() -> None:
    engine = {"version": "ClamAV 1.4.6", "database": 27400, "database_time": 1700000000.0, "blind": ["big members"]}
    lines = text.status_lines({**STATUS, "engine": engine})
    assert lines[-1] == "  blind to:   big members"
    assert lines[-2].startswith("  engine:     ClamAV 1.4.6, signatures 27400 of 20")
    assert text.status_lines({**STATUS, "engine": {"version": "1.4.6"}})[-1] == "  engine:     ClamAV 1.4.6"


def test_a_status_with_the_named_keys_alone_can_be_shown() -> None:
    named = ("current_file", "infected_files", "scan_complete", "scanned_file_count", "scanned_file_size")
    status = {key: STATUS[key] for key in (*named, "time_started", "total_file_count", "total_file_size_MiB")}
    assert text.status_lines(status)[0] == "scan ? (?): done"
    assert text.scan_exit(status) == 0


@pytest.mark.parametrize(
    ("record", "line"),
    [
        ({"type": "step", "id": 1, "file": "/h/a\nb", "state": "quarantined"}, "quarantined: /h/a\\x0ab"),
        ({"type": "step", "id": 1, "file": "/h/a", "state": "error", "message": "no"}, "error: /h/a (no)"),
        ({"type": "issue", "id": 2, "state": "warning", "message": "log\x1b"}, "warning: log\\x1b"),
        ({"type": "done", "id": 3, "state": "success", "status": "done"}, "done: success"),
        ({"type": "done", "id": 3, "state": "info", "status": "done", "message": "m"}, "done: info, m"),
    ],
)
def test_records_of_the_log_are_one_line_each(record: dict[str, object], line: str) -> None:
    assert text.record_line(record) == line


@pytest.mark.parametrize(
    ("number", "shown"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (1 << 20, "1.0 MiB"), (5 << 40, "5.0 TiB")]
)
def test_sizes_are_for_people(number: int, shown: str) -> None:
    assert text.size(number) == shown


@pytest.mark.parametrize(("seconds", "shown"), [(9, "9 s"), (600, "10 min"), (36_000, "10.0 h")])
def test_durations_are_for_people(seconds: float, shown: str) -> None:
    assert text.duration(seconds) == shown


def test_paths_and_findings_are_columns() -> None:
    paths = [{"id": "home", "message": "All"}, {"id": "public_html", "message": "Web"}]
    assert text.paths_lines(paths) == ["home         All", "public_html  Web"]
    found = [{"file": "/h/x\x1b", "virus_type": "Eicar"}]
    assert text.infected_lines(found) == ["/h/x\\x1b: Eicar FOUND"]


def test_a_status_says_what_share_was_checked_with_which_signatures() -> None:
    shares = [
        {"database": 27_502, "files": 950, "present": True},
        {"database": 27_500, "files": 50, "present": False},
    ]
    lines = text.status_lines({**STATUS, "depth": "rapid", "checked_with": shares})
    assert "  checked:    95 % with signatures 27502, 5 % with earlier signatures 27500 (rapid)" in lines
    assert "checked:" not in "\n".join(text.status_lines({**STATUS, "depth": "full", "checked_with": shares[:1]}))
