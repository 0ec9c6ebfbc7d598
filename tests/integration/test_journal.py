"""The real daemon and a journal: what happened to whom is an entry with fields, of that account and of nobody else."""

from collections.abc import Iterator

import pytest

from clamscannerd import events
from tests.fakes.accounts import Person
from tests.fakes.clamd import FakeClamd
from tests.fakes.journal import Journal
from tests.fakes.realclamd import EICAR_NAME
from tests.fakes.running import RunningDaemon
from tests.integration.fake_engine import listen
from tests.integration.people import engine_socket, home, put

Pair = tuple[RunningDaemon, Journal]


@pytest.fixture
def pair(_people: object) -> Iterator[Pair]:
    daemon = RunningDaemon()
    with Journal(daemon.directory / "journal") as journal:
        daemon.program = journal.program
        try:
            yield daemon, journal
        finally:
            daemon.close()


def ours(entry: object) -> dict[str, str]:
    assert isinstance(entry, dict)
    return {key: value for key, value in entry.items() if key.startswith("CLAMSCANNERD_")}


def test_infections_and_actions_are_entries_of_their_account(pair: Pair, alice: Person, bob: Person) -> None:
    daemon, journal = pair
    daemon.start(engine=False)
    bad, line = put(alice, "bad"), put(alice, "two\nlines")
    put(bob, "other")
    with daemon.client(alice.uid) as client, daemon.client(bob.uid) as other:
        scan = str(client.scan()["scan_id"])
        other.scan()
        uid = str(alice.uid)
        found = journal.wait_of(2, MESSAGE_ID=events.INFECTION_FOUND, CLAMSCANNERD_UID=uid)
        about = {"CLAMSCANNERD_UID": uid, "CLAMSCANNERD_SIGNATURE": EICAR_NAME}
        for path in (bad, line):
            assert {**about, "CLAMSCANNERD_SCAN_ID": scan, "CLAMSCANNERD_PATH": str(path)} in map(ours, found)
        assert len(found) == 2
        client.disinfect({str(bad): "quarantine"}, "ignore")
        task = client.good("check_disinfection_status")
        assert task["status"] == "done"
        acted = journal.wait_of(2, MESSAGE_ID=events.ACTION_TAKEN, CLAMSCANNERD_UID=uid)
    told = {entry["CLAMSCANNERD_PATH"]: entry["CLAMSCANNERD_OUTCOME"] for entry in acted}
    assert told == {str(bad): "quarantined", str(line): "no-action"}
    assert all(entry["CLAMSCANNERD_SIGNATURE"] == EICAR_NAME and entry["CLAMSCANNERD_TASK_ID"] for entry in acted)
    theirs = journal.of(CLAMSCANNERD_UID=str(bob.uid))
    assert len([entry for entry in theirs if entry.get("MESSAGE_ID") == events.INFECTION_FOUND]) == 1
    assert not any(str(home(bob)) in entry["MESSAGE"] for entry in journal.of(CLAMSCANNERD_UID=uid))
    assert "Traceback" not in daemon.log()


def test_files_that_go_together_are_an_entry_each(pair: Pair, alice: Person) -> None:
    daemon, journal = pair
    daemon.start(engine=False)
    for number in range(20):
        put(alice, f"bad{number}")
    with daemon.client(alice.uid) as client:
        client.scan()
        client.disinfect({}, "delete")
    acted = journal.wait_of(20, MESSAGE_ID=events.ACTION_TAKEN)
    assert {entry["CLAMSCANNERD_OUTCOME"] for entry in acted} == {"deleted"}
    assert len({entry["CLAMSCANNERD_PATH"] for entry in acted}) == len(acted) == 20


def test_an_engine_that_goes_and_comes_back_is_two_entries(pair: Pair) -> None:
    daemon, journal = pair
    daemon.write_config("", f'["{engine_socket(daemon)}"]')
    clamd = FakeClamd(engine_socket(daemon))
    listen(clamd)
    try:
        daemon.start(engine=False)
        journal.wait(lambda entries: any(e["MESSAGE"].startswith("engine ready") for e in entries), "engine")
        assert journal.of(MESSAGE_ID=events.ENGINE_BACK) == [], "it was never away"
        for times in (1, 2):
            clamd.stop()
            (*_, lost) = journal.wait_of(times, MESSAGE_ID=events.ENGINE_LOST)
            assert lost["PRIORITY"] == "4"
            listen(clamd)
            journal.wait_of(times, MESSAGE_ID=events.ENGINE_BACK)
        assert len(journal.of(MESSAGE_ID=events.ENGINE_LOST)) == 2, "each time one, however often it was looked for"
    finally:
        clamd.close()
