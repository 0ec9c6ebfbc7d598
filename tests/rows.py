"""A pytest plugin: rows of SECURITY.md, their quick and their long form, and the figures that they report.

--long            the long form of the tests that have two
--row ID          only tests of this row (may be given again)
--fails-with NAME only tests that are to fail with this mutation (tests/mutate.py)
--figures FILE    merge the figures of the rows that passed into FILE; with --long alone
"""

import datetime
import json
from pathlib import Path
from typing import Protocol

import pytest


class Amount(Protocol):
    """How much of something: so many in the quick form, so many in the long one."""

    def __call__(self, quick: int, long: int) -> int: ...


class Figure(Protocol):
    """Report something counted or measured: a few words with a number in them ("50,312 flips")."""

    def __call__(self, words: str, /) -> None: ...


class _Row:
    def __init__(self) -> None:
        self.passed = 0
        self.failed = 0
        self.seconds = 0.0
        self.figures: list[str] = []


_ROWS = pytest.StashKey[dict[str, _Row]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("rows of SECURITY.md")
    group.addoption("--long", action="store_true", help="the long form of the tests that have two")
    group.addoption("--row", action="append", default=[], metavar="ID", help="only tests of this row")
    group.addoption("--fails-with", metavar="NAME", help="only tests that are to fail with this mutation")
    group.addoption("--figures", type=Path, metavar="FILE", help="merge figures of the rows that passed into FILE")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_ROWS] = {}
    config.addinivalue_line("markers", "row(id): the claim of SECURITY.md that the test belongs to")
    config.addinivalue_line("markers", "fails_with(name, ...): mutations (tests/mutations/) that the test fails with")


def _row_of(item: pytest.Item) -> str | None:
    marker = item.get_closest_marker("row")
    return None if marker is None else str(marker.args[0])


def _mutations_of(item: pytest.Item) -> set[str]:
    return {name for marker in item.iter_markers("fails_with") for name in marker.args}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    wanted, mutation = set(config.getoption("--row")), config.getoption("--fails-with")

    def is_wanted(item: pytest.Item) -> bool:
        return (not wanted or _row_of(item) in wanted) and (mutation is None or mutation in _mutations_of(item))

    kept: list[pytest.Item] = []
    left: list[pytest.Item] = []
    for item in items:
        (kept if is_wanted(item) else left).append(item)
    if left:
        config.hook.pytest_deselected(items=left)
        items[:] = kept


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):  # type: ignore[no-untyped-def]  # noqa: ANN201
    outcome = yield
    if (name := _row_of(item)) is None:
        return
    row = item.config.stash[_ROWS].setdefault(name, _Row())
    row.seconds += call.duration
    report = outcome.get_result()
    row.failed += report.outcome != "passed"
    row.passed += report.passed and call.when == "call"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    rows = config.stash[_ROWS]
    if not rows:
        return
    terminalreporter.section(f"rows of SECURITY.md, {'long' if config.getoption('--long') else 'quick'} form")
    for name, row in sorted(rows.items(), key=lambda one: (one[0][0], int(one[0][1:]))):
        state = "FAILED" if row.failed else "passed"
        terminalreporter.write_line(f"{name:4} {state}  {row.seconds:7.1f} s  {'; '.join(row.figures)}")
    terminalreporter.write_line(f"together {sum(row.seconds for row in rows.values()):.0f} s")
    file = config.getoption("--figures")
    if file is not None and config.getoption("--long"):
        _merge(file, {name: row for name, row in rows.items() if row.passed and not row.failed})


def _merge(file: Path, rows: dict[str, _Row]) -> None:
    known = json.loads(file.read_text()) if file.exists() else {}
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    known |= {
        name: {"date": today, "seconds": round(row.seconds), "figures": row.figures} for name, row in rows.items()
    }
    file.write_text(json.dumps(dict(sorted(known.items())), indent=1) + "\n")


@pytest.fixture
def amount(request: pytest.FixtureRequest) -> Amount:
    is_long = bool(request.config.getoption("--long"))
    return lambda quick, long: long if is_long else quick


@pytest.fixture
def figure(request: pytest.FixtureRequest) -> Figure:
    name = _row_of(request.node)
    assert name is not None, "a test that reports figures needs @pytest.mark.row"
    return request.config.stash[_ROWS].setdefault(name, _Row()).figures.append
