"""Stores of all component tests are watched: a memory that is not what the file has fails the test that meets it."""

from collections.abc import Mapping

import pytest

from clamscannerd.state.store_open import Database
from tests.fakes.remembering import Watch, watch


@pytest.fixture(autouse=True)
def watched_stores(monkeypatch: pytest.MonkeyPatch) -> Mapping[Database, Watch]:
    return watch(monkeypatch)
