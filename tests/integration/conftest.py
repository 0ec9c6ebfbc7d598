"""Accounts for this tier. They need root: as an ordinary user the tests that need them are skipped, with a reason."""

import os
import pwd
import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.fakes.accounts import Person, have_service_users, throw_away
from tests.integration.people import MINE, clear


@pytest.fixture(scope="session")
def _people() -> Iterator[tuple[Person, Person]]:
    if os.geteuid() != 0:
        pytest.skip("throw-away accounts need root: an ordinary user's daemon would scan that user's real home")
    with ExitStack() as stack:
        have_service_users()
        _remove_left_over()
        yield stack.enter_context(throw_away(f"{MINE}_a")), stack.enter_context(throw_away(f"{MINE}_b"))


def _remove_left_over() -> None:
    """Accounts of runs that were killed."""
    for entry in pwd.getpwall():
        match = re.fullmatch(r"csd_test_int(\d+)_.*", entry.pw_name)
        if match and not os.path.exists(f"/proc/{match[1]}"):
            subprocess.run(["userdel", "-rf", entry.pw_name], check=False, capture_output=True)


@pytest.fixture
def alice(_people: tuple[Person, Person]) -> Person:
    clear(_people[0])
    return _people[0]


@pytest.fixture
def bob(_people: tuple[Person, Person]) -> Person:
    clear(_people[1])
    return _people[1]
