"""Shared by all tiers: in CI a skip is a failure, and nothing that a test started stays behind."""

import os
import pwd
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import settings

from tests.fakes.realclamd import RealClamd

# Hypothesis' 200 ms an example fail a right test on a busy machine. What it sets up for CI by itself stays.
settings.register_profile("clamscannerd", parent=settings(), deadline=None)
settings.load_profile("clamscannerd")


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


class AccountOnHost(NamedTuple):
    """A throw-away account with an empty 0700 home."""

    name: str
    uid: int
    gid: int
    home: Path


def _make_account(name: str) -> AccountOnHost:
    subprocess.run(["userdel", "-rf", name], check=False, capture_output=True)
    subprocess.run(["useradd", "-m", "-k", "/dev/null", "-s", "/bin/bash", name], check=True)
    entry = pwd.getpwnam(name)
    home = Path(entry.pw_dir)
    home.chmod(0o700)
    return AccountOnHost(name, entry.pw_uid, entry.pw_gid, home)


@pytest.fixture(scope="session")
def _two_accounts() -> Iterator[tuple[AccountOnHost, AccountOnHost]]:
    if os.geteuid() != 0:
        pytest.skip("two accounts need root")
    here = os.getpid()  # other runs of the tests may go on beside this one
    made = (_make_account(f"csd_test_{here}_a"), _make_account(f"csd_test_{here}_b"))
    yield made
    for account in made:
        subprocess.run(["userdel", "-rf", account.name], check=False, capture_output=True)


@pytest.fixture
def accounts(_two_accounts: tuple[AccountOnHost, AccountOnHost]) -> tuple[AccountOnHost, AccountOnHost]:
    """Two accounts, A and B, their homes empty again for each test."""
    for account in _two_accounts:
        subprocess.run(["rm", "-rf", str(account.home)], check=True)
        account.home.mkdir(mode=0o700)
        os.chown(account.home, account.uid, account.gid)
    return _two_accounts
