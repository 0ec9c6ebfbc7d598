"""`clamscannerctl doctor` and Daemon.self_test against a real daemon: what is well, what is wrong, what is absent."""

import json
import os
from collections.abc import Iterator
from typing import Any

import pytest

from tests.fakes.accounts import Person
from tests.fakes.realclamd import MARKER, ndb
from tests.fakes.running import RunningDaemon
from tests.integration.command import Ended
from tests.integration.people import no_engine
from tests.integration.test_history import ctl

NOBODY = 65_534
OURS = {"engine", "signatures", "homes", "kernel.seccomp", "program", "clock", "scans", "vault"}


@pytest.fixture(scope="module")
def daemon(_people: object) -> Iterator[RunningDaemon]:
    with RunningDaemon() as running:
        yield running


def checks(ended: Ended) -> dict[str, Any]:
    answer = json.loads(ended.out)
    grades = [check["grade"] for check in answer["checks"]]
    assert grades == sorted(grades, key=["error", "warning", "ok"].index)
    assert answer["grade"] == grades[0]
    assert ended.code == {"ok": 0, "warning": 1, "error": 2}[answer["grade"]]
    assert all(bool(check["cure"]) == (check["grade"] != "ok") for check in answer["checks"])
    return {check["id"]: check for check in answer["checks"]}


def test_the_test_file_is_found_by_a_worker_of_the_account_and_nothing_is_left(
    daemon: RunningDaemon, alice: Person
) -> None:
    before = os.listdir(alice.home)
    found = checks(ctl(daemon, "--json", "doctor", user=alice.name))
    assert found.keys() >= OURS | {"self_test"}
    assert not found.keys() & {"database", "disk", "denials"}
    assert found["self_test"]["grade"] == "ok", found["self_test"]
    assert f"in a file of {alice.name}: Eicar-Test" in found["self_test"]["message"]
    assert os.listdir(alice.home) == before


def test_root_hears_of_all_and_has_the_database_read(daemon: RunningDaemon, alice: Person) -> None:
    with daemon.client(alice.uid) as client:
        client.scan()
    found = checks(ctl(daemon, "--json", "doctor"))
    assert found.keys() >= OURS | {"self_test", "database", "disk", "denials"}
    assert found["database"]["grade"] == found["disk"]["grade"] == "ok"
    assert alice.name in found["self_test"]["message"]
    words = ctl(daemon, "doctor").out.splitlines()
    assert any(line.startswith("ok       The database is whole") for line in words)
    assert words[-1].endswith((" well", " checks"))


def test_who_has_no_home_has_the_engine_asked_alone(daemon: RunningDaemon) -> None:
    with daemon.client(NOBODY) as client:
        check = client.call("Daemon.self_test")
    assert (check["grade"], check["id"]) == ("ok", "self_test")
    assert "by the engine, without a file" in check["message"]


def test_an_engine_that_does_not_find_it_is_trouble(alice: Person) -> None:
    with RunningDaemon(signatures=ndb("Test.Marker", MARKER)) as daemon:
        for user in (alice.name, None):
            ended = ctl(daemon, "--json", "doctor", user=user)
            check = checks(ended)["self_test"]
            assert (ended.code, check["grade"]) == (2, "error")
            assert "the engine calls it clean" in check["message"]


def test_a_home_that_takes_no_file_is_what_is_said(daemon: RunningDaemon, alice: Person) -> None:
    os.chmod(alice.home, 0o500)
    try:
        check = checks(ctl(daemon, "--json", "doctor", user=alice.name))["self_test"]
    finally:
        os.chmod(alice.home, 0o700)
    assert "cannot make a file in the home directory: Permission denied" in check["message"]


def test_without_an_engine_that_is_said_and_how_to_have_one(alice: Person) -> None:
    with no_engine() as daemon:
        found = checks(ctl(daemon, "--json", "doctor", user=alice.name))
    assert found["engine"]["grade"] == found["self_test"]["grade"] == "error"
    assert "apt install" in found["engine"]["cure"]


def test_a_daemon_that_is_away_is_the_first_that_is_said() -> None:
    with RunningDaemon() as daemon:
        running = checks(ctl(daemon, "--json", "doctor"))
        assert "daemon" not in running
        daemon.kill()
        gone = checks(ctl(daemon, "--json", "doctor"))["daemon"]
        assert "nobody listens" in gone["message"]
        os.unlink(daemon.socket_path)
        ended = ctl(daemon, "doctor")
        assert ended.code == 2
        first, cure, *_ = ended.out.splitlines()
        assert first == f"error    The daemon is not running: there is no socket {daemon.socket_path}."
        assert cure.startswith("         -> ")
        assert ended.err == ""
