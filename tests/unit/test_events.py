"""Journal fields: the limit for each uid, and the catalog's text for each id."""

import logging
import re
from pathlib import Path

import pytest

from clamscannerd import events

CATALOG = Path(__file__).parents[2] / "systemd" / "clamscannerd.catalog"
IDS = {value for name, value in vars(events).items() if name.isupper() and isinstance(value, str)}


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def record(uid: int | None, level: int = logging.INFO) -> logging.LogRecord:
    made = logging.LogRecord("x", level, "f", 1, "scan %d", (7,), None)
    made.__dict__.update({} if uid is None else events.about(uid))
    return made


def test_a_uid_has_so_many_lines_a_minute_and_the_last_says_that_there_are_more() -> None:
    clock = Clock()
    limit = events.EventLimit(clock)
    records = [record(1001) for _ in range(events.MOST_A_MINUTE + 50)]
    passed = [one.getMessage() for one in records if limit.filter(one)]
    assert len(passed) == events.MOST_A_MINUTE
    assert passed[0] == "scan 7"
    assert passed[-1] == "scan 7 (and more: the rest of this minute about uid 1001 is not logged)"
    assert limit.filter(record(1002)), "another uid's"
    assert limit.filter(record(None)), "nobody's"
    assert limit.filter(record(1001, logging.WARNING))
    assert not limit.filter(record(1001))
    clock.now = 61
    assert limit.filter(record(1001))


def test_however_many_uids_there_are_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "_KEPT", 100)
    limit = events.EventLimit(Clock())
    assert all(limit.filter(record(uid)) for uid in range(1_000))
    assert len(limit._counts) <= 102


def test_the_catalog_explains_every_id_and_no_other() -> None:
    entries = re.findall(r"^-- (\S+)\nSubject: ([^\n]+)\nDefined-By: clamscannerd\n\n(.+?)(?=^-- |\Z)", *_catalog())
    assert {entry[0] for entry in entries} == IDS
    assert len(IDS) == 4
    assert all(re.fullmatch(r"[0-9a-f]{32}", one) for one in IDS)


def test_the_catalog_names_only_fields_that_are_sent() -> None:
    fields = set(re.findall(r"@(\w+)@", CATALOG.read_text()))
    source = Path(events.__file__).read_text()
    assert fields
    assert all(f'"{field}"' in source for field in fields)


def _catalog() -> tuple[str, re.RegexFlag]:
    return CATALOG.read_text(), re.MULTILINE | re.DOTALL
