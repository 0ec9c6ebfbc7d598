"""What a start finds and does before it serves, with the real daemon: leftovers of a crash, names, directories."""

import pwd
import sqlite3
from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.fakes.running import RunningDaemon, acting_as
from tests.integration.people import no_engine, rows

LEFT_OVER = 50_000
"""Enough that cleaning takes longer than being served."""


@pytest.fixture
def daemon(_people: object) -> Iterator[RunningDaemon]:
    with no_engine() as running:
        yield running


def test_what_a_crash_left_in_the_vault_is_cleaned_before_anybody_is_served(daemon: RunningDaemon) -> None:
    """A job that is begun meanwhile would have its own content taken for a crash's."""
    daemon.stop()
    with (
        acting_as(pwd.getpwnam("clamscannerd").pw_uid),
        closing(sqlite3.connect(daemon.state / "state.db")) as database,
        database,
    ):
        database.execute("INSERT INTO account (uid, name) VALUES (1234, 'x')")
        database.executemany(
            "INSERT INTO item (account, task, seq, path, action, size, signature, owner, grp, mode, mtime_ns, xattrs,"
            " file, state, reserved_at) VALUES (1, 1, ?, x'78', 'delete', 1, 's', 1, 1, 1, 1, x'', ?, 'receiving', 1)",
            [(number, f"{number:032x}") for number in range(LEFT_OVER)],
        )
    daemon.start(engine=False)
    assert rows(daemon, "SELECT count(*) FROM item") == [(0,)]
