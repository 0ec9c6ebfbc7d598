"""Shared by all tiers: in CI a skip is a failure, and nothing that a test started stays behind."""

import os
from collections.abc import Iterator

import pytest

from tests.fakes.realclamd import RealClamd


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """CI=true: what was skipped was not tested, and that must be seen."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    if report.skipped and os.environ.get("CI") and not hasattr(report, "wasxfail"):
        report.outcome = "failed"


@pytest.fixture(scope="session")
def clamd() -> Iterator[RealClamd]:
    """One real clamd for tests that do not harm it."""
    with RealClamd() as running:
        yield running
