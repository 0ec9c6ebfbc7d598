"""One job of an account at a time, accounts in turn, and what a cancel does."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.fakes.accounts import Person, throw_away
from tests.fakes.clamd import FakeClamd
from tests.fakes.realclamd import EICAR
from tests.fakes.running import PeerClient, RpcError, RunningDaemon, wait_for
from tests.integration.fake_engine import HOLD, at_engine, holding_engine
from tests.integration.people import MINE, clear, put, wait_state

Engine = tuple[RunningDaemon, FakeClamd]


@pytest.fixture
def engine(_people: object) -> Iterator[Engine]:
    with holding_engine("[scans]\nmax_active = 1\n[engine]\ncheck_interval_s = 0.2\n") as (daemon, fake):
        yield daemon, fake


def start(client: PeerClient) -> dict[str, int]:
    data: dict[str, int] = client.good("start_scan", {"scan_type": "home"})
    return data


def refusal(client: PeerClient, func: str, params: object) -> str:
    result = client.uapi(func, params)
    assert (result["status"], result["data"]) == (0, None)
    (error,) = result["errors"]
    return str(error)


def test_while_a_scan_is_under_way_no_other_job_of_the_account_begins(
    engine: Engine, alice: Person, bob: Person
) -> None:
    daemon, fake = engine
    put(alice, "bad")
    with daemon.client(alice.uid) as client, daemon.client(bob.uid) as other:
        client.scan()
        put(alice, "held", HOLD)
        put(bob, "held", HOLD)
        scan_id = start(client)["scan_id"]
        at_engine(fake, 1)
        again = "cannot start the scan: a scan of this account is already running"
        assert refusal(client, "start_scan", {"scan_type": "home"}) == again
        assert "scan of this account is already running" in refusal(
            client, "disinfect_files", {"actions": {}, "others": "delete"}
        )
        start(other)
        assert "already queued" in refusal(other, "start_scan", {"scan_type": "home"})
        assert client.good("get_scan_status")["scan_id"] == scan_id
        fake.release()
        assert client.wait_scan()["state"] == "done"
        assert other.wait_scan()["state"] == "done"


def test_while_a_disinfection_is_under_way_no_scan_begins(engine: Engine, alice: Person) -> None:
    daemon, _ = engine
    for number in range(60):
        put(alice, f"bad{number}")
    with daemon.client(alice.uid) as client:
        client.scan()
        client.good("disinfect_files", {"actions": {}, "others": "quarantine"})
        assert "disinfection of this account is under way" in refusal(client, "start_scan", {"scan_type": "home"})
        assert "disinfection of this account is under way" in refusal(
            client, "disinfect_files", {"actions": {}, "others": "ignore"}
        )
        with pytest.raises(RpcError) as refused:
            client.call("Scan.cancel")
        assert refused.value.kind == "not_found"
        records = client.wait_disinfection()
        assert [record["state"] for record in records] == ["quarantined"] * 60 + ["success"]
        assert start(client)


def test_a_running_scan_is_cancelled_and_keeps_what_it_found(engine: Engine, alice: Person) -> None:
    daemon, fake = engine
    bad = put(alice, "bad")
    put(alice, "held", HOLD)
    with daemon.client(alice.uid) as client:
        scan_id = start(client)["scan_id"]
        at_engine(fake, 1)
        wait_for(lambda: client.good("get_scan_status")["infected_file_count"] == 1, "the finding")
        assert client.call("Scan.cancel") == {"scan_id": scan_id, "state": "cancelled"}
        result = client.uapi("get_scan_status")
        assert (result["data"]["state"], result["data"]["scan_complete"]) == ("cancelled", 1)
        assert "cancelled" in result["warnings"][0]
        assert [file["file"] for file in client.good("list_infected_files")] == [str(bad)]
        with pytest.raises(RpcError) as refused:
            client.call("Scan.cancel")
        assert refused.value.kind == "not_found"
        assert client.disinfect({"bad": "delete"})[0]["state"] == "deleted"
        bad.write_bytes(EICAR)
        fake.release()
        assert client.scan()["state"] == "done"


def test_a_queued_scan_is_cancelled_without_having_run(engine: Engine, alice: Person, bob: Person) -> None:
    daemon, fake = engine
    put(alice, "held", HOLD)
    put(bob, "held", HOLD)
    with daemon.client(alice.uid) as client, daemon.client(bob.uid) as other:
        start(client)
        at_engine(fake, 1)
        scan_id = start(other)["scan_id"]
        assert other.call("Scan.cancel") == {"scan_id": scan_id, "state": "cancelled"}
        result = other.uapi("get_scan_status")
        assert (result["data"]["total_file_count"], result["data"]["scan_complete"]) == (0, 1)
        assert result["warnings"] == ["the scan was cancelled before it started"]
        assert client.good("get_scan_status")["state"] == "running"
        fake.release()
        client.wait_scan()


def test_six_accounts_are_served_in_the_order_asked(engine: Engine) -> None:
    """With one place: positions fall by one each time, nobody is passed over, and who asks again waits again."""
    daemon, fake = engine
    with ExitStack() as stack:
        people = [stack.enter_context(throw_away(f"{MINE}_{number}")) for number in range(6)]
        clients = [stack.enter_context(daemon.client(person.uid)) for person in people]
        for person in people:
            clear(person)
            put(person, "held", HOLD + person.name.encode())
        first, *others = clients
        assert start(first)["queue_position"] in (0, 1)
        at_engine(fake, 1)
        assert [start(client)["queue_position"] for client in others] == [1, 2, 3, 4, 5]
        for served in range(1, 6):
            # One at a time: each file that is held is let go by a cancel of its scan.
            assert clients[served - 1].call("Scan.cancel")["state"] == "cancelled"
            at_engine(fake, served + 1)
            assert [content for content in fake.contents if HOLD in content][-1] == HOLD + people[served].name.encode()
            waiting = [client.good("get_scan_status") for client in clients[served + 1 :]]
            assert [status["queue_position"] for status in waiting] == list(range(1, 6 - served))
            assert {status["state"] for status in waiting} <= {"queued"}
            if served == 1:
                assert start(first)["queue_position"] == 5
                clients[0].call("Scan.cancel")
            wait_state(clients[served], "running")
        fake.release()
        assert clients[-1].wait_scan()["state"] == "done"
