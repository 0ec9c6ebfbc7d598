"""What survives: scans, findings and tasks a restart; nothing of them a change of who stands behind a uid."""

import fcntl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.fakes.accounts import Person, throw_away
from tests.fakes.clamd import FakeClamd
from tests.fakes.realclamd import EICAR
from tests.fakes.running import PeerClient, RpcError, RunningDaemon, wait_for
from tests.integration.fake_engine import HOLD, at_engine, fake_engine, holding_engine, listen
from tests.integration.people import MINE, clear, home, put, rows, wait_state


@pytest.fixture
def carol(_people: object) -> Iterator[Person]:
    """One that a test may rename or remove."""
    with throw_away(f"{MINE}_c") as person:
        clear(person)
        try:
            yield person
        finally:
            subprocess.run(["rm", "-rf", person.home], check=True)  # userdel leaves it


@pytest.fixture(scope="module")
def lasting(_people: object) -> Iterator[tuple[RunningDaemon, FakeClamd]]:
    with holding_engine() as (daemon, fake):
        yield daemon, fake


def seen(client: PeerClient) -> list[Any]:
    """Everything that the six calls say of an account."""
    return [
        client.uapi(func, params)
        for func, params in (
            ("get_scan_status", None),
            ("list_infected_files", None),
            ("check_disinfection_status", None),
            ("check_disinfection_status", {"last_id": 1}),
        )
    ]


@pytest.mark.parametrize("how", ["stopped", "killed"])
def test_scans_findings_and_tasks_survive_a_restart(
    lasting: tuple[RunningDaemon, FakeClamd], alice: Person, how: str
) -> None:
    daemon, _ = lasting
    for name in ("bad1", "bad2", "bad3"):
        put(alice, name)
    put(alice, "fine", b"fine")
    with daemon.client(alice.uid) as client:
        client.scan()
        client.disinfect({"bad1": "quarantine", "bad2": "ignore"})
        before = seen(client)
    if how == "killed":
        daemon.kill()
    else:
        assert daemon.stop() == 0
    daemon.start()
    with daemon.client(alice.uid) as client:
        assert seen(client) == before
        assert {file["file"] for file in client.good("list_infected_files")} == {
            f"{alice.home}/bad2",
            f"{alice.home}/bad3",
        }
        assert client.disinfect({}, "delete")[-1]["state"] == "success"
    assert sorted(path.name for path in home(alice).iterdir()) == [".clamavconnector.disinfection.log", "fine"]


def test_a_scan_in_its_middle_starts_over_under_its_id(
    lasting: tuple[RunningDaemon, FakeClamd], alice: Person, bob: Person
) -> None:
    """The one queued behind it keeps its place; what was found is found still, once."""
    daemon, fake = lasting
    put(alice, "bad")
    put(alice, "held", HOLD)
    put(bob, "bad")
    with daemon.client(alice.uid) as client:
        scan_id = client.good("start_scan", {"scan_type": "home"})["scan_id"]
        at_engine(fake, 1)
        wait_for(lambda: client.good("get_scan_status")["infected_file_count"] == 1, "the finding")
        started = client.good("get_scan_status")["time_started"]
    assert daemon.stop() == 0
    daemon.start(engine=False)
    with daemon.client(alice.uid) as client:
        assert [file["file"] for file in client.good("list_infected_files")] == [f"{alice.home}/bad"]
        at_engine(fake, 2)
        fake.release()
        status = client.wait_scan()
        assert (status["scan_id"], status["state"], status["resumed"]) == (scan_id, "done", 1)
        assert (status["scanned_file_count"], status["infected_file_count"]) == (2, 1)
        assert status["time_started"] == started


@contextmanager
def renamed(person: Person) -> Iterator[str]:
    """Another name behind the same uid."""
    name = f"{person.name}x"
    subprocess.run(["usermod", "-l", name, person.name], check=True)
    try:
        yield name
    finally:
        subprocess.run(["usermod", "-l", person.name, name], check=True)


def test_what_belonged_to_another_name_behind_the_uid_is_seen_by_administrators_alone(
    lasting: tuple[RunningDaemon, FakeClamd], carol: Person
) -> None:
    daemon, _ = lasting
    put(carol, "bad")
    with daemon.client(carol.uid) as client:
        client.scan()
        client.disinfect({"bad": "quarantine"})
        put(carol, "bad2")
        client.scan()
    daemon.stop()  # which also empties its memory of passwd
    with renamed(carol) as name:
        daemon.start()
        for caller, more in ((carol.uid, {}), (0, {"user": name})):
            with daemon.client(caller) as client:
                for func in ("get_scan_status", "list_infected_files"):
                    assert "no scan of this account" in client.uapi(func, more)["errors"][0]
                assert client.good("check_disinfection_status", more)["status"] == "none"
                actions = {"actions": {"bad2": "delete"}, **more}
                assert client.uapi("disinfect_files", actions)["status"] == 0
        with daemon.client(0) as root:  # what is only shown: for administrators alone
            assert root.good("get_scan_status", {"user": carol.name})["infected_file_count"] == 1
            with pytest.raises(RpcError) as refused:
                root.call("ClamScanner.start_scan", {"user": carol.name, "scan_type": "home"})
        assert refused.value.kind == "unknown_account"
        with daemon.client(carol.uid) as client:
            assert client.scan()["infected_file_count"] == 1
    assert (home(carol) / "bad2").read_bytes() == EICAR
    assert len(rows(daemon, "SELECT 1 FROM account WHERE uid = ?", carol.uid)) == 2


@pytest.mark.parametrize("how", ["removed", "renamed"])
def test_a_queued_scan_of_an_account_that_is_no_more_fails_and_looks_at_nothing(carol: Person, how: str) -> None:
    put(carol, "bad")
    with fake_engine("[engine]\ncheck_interval_s = 0.2\n") as (daemon, fake), daemon.client(carol.uid) as client:
        client.good("start_scan", {"scan_type": "home"})
        wait_state(client, "queued")
        command = ["userdel", carol.name] if how == "removed" else ["usermod", "-l", f"{carol.name}x", carol.name]
        subprocess.run(command, check=True, capture_output=True)
        try:
            listen(fake)
            state, message = wait_for(
                lambda: next(iter(rows(daemon, "SELECT state, message FROM scan WHERE state = 'failed'")), None),
                "the scan to fail",
            )
        finally:
            if how == "renamed":
                subprocess.run(["usermod", "-l", carol.name, f"{carol.name}x"], check=True)
        assert state == "failed"
        assert str(message).startswith("cannot scan: ")
        assert ("no such user" if how == "removed" else "no longer the user it was") in str(message)
        assert fake.contents == []
        assert "Traceback" not in daemon.log()
        with daemon.client() as other:
            assert other.call("Daemon.version")


def test_a_queued_disinfection_of_an_account_that_is_no_more_touches_nothing(carol: Person) -> None:
    """It waits for the account's lock, as behind a worker that outlived its daemon."""
    bad = put(carol, "bad")
    # A daemon of its own: another may know the uid under an earlier test's name for some seconds.
    with holding_engine() as (daemon, _), daemon.client(carol.uid) as client:
        client.scan()
        with (daemon.state / "locks" / str(carol.uid)).open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            client.good("disinfect_files", {"actions": {"bad": "delete"}})
            subprocess.run(["userdel", carol.name], check=True, capture_output=True)

        def ended() -> tuple[object, ...] | None:
            sql = "SELECT outcome, step.message FROM step JOIN task ON task.id = task WHERE task.state = 'done'"
            return next(iter(rows(daemon, sql)), None)

        outcome, message = wait_for(ended, "the task to end")
    assert outcome == "error"
    assert "no such user" in str(message)
    assert bad.read_bytes() == EICAR


def test_a_task_whose_daemon_was_killed_before_its_first_step_goes_on(
    lasting: tuple[RunningDaemon, FakeClamd], alice: Person
) -> None:
    daemon, _ = lasting
    put(alice, "bad")
    with daemon.client(alice.uid) as client:
        client.scan()
        with (daemon.state / "locks" / str(alice.uid)).open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            task_id = client.good("disinfect_files", {"actions": {"bad": "quarantine"}})["task_id"]
            daemon.kill()
    daemon.start()
    with daemon.client(alice.uid) as client:
        records = client.wait_disinfection()
        assert [record["state"] for record in records] == ["quarantined", "success"]
    assert rows(daemon, "SELECT count(*) FROM task WHERE public_id = ?", task_id) == [(1,)]
    assert not (home(alice) / "bad").exists()
