"""Accounts for this tier. They need root: as an ordinary user the tests that need them are skipped, with a reason."""

import os
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.fakes.accounts import Person, have_service_users, throw_away
from tests.integration.people import clear


@pytest.fixture(scope="session")
def _people() -> Iterator[tuple[Person, Person]]:
    if os.geteuid() != 0:
        pytest.skip("throw-away accounts need root: an ordinary user's daemon would scan that user's real home")
    with ExitStack() as stack:
        have_service_users()
        yield stack.enter_context(throw_away("int_a")), stack.enter_context(throw_away("int_b"))


@pytest.fixture
def alice(_people: tuple[Person, Person]) -> Person:
    clear(_people[0])
    return _people[0]


@pytest.fixture
def bob(_people: tuple[Person, Person]) -> Person:
    clear(_people[1])
    return _people[1]
