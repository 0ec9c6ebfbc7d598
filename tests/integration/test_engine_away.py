"""clamd absent, wrong or silent: said in time, and got over. What it lies about files: tests/system/faults."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.accounts import Person
from tests.fakes.clamd import FakeClamd, Fault
from tests.fakes.running import PeerClient, RunningDaemon, wait_for
from tests.integration.fake_engine import OPEN, config, fake_engine, listen
from tests.integration.people import fill, put


def begin(client: PeerClient) -> str:
    """Start a scan that is queued; its warning."""
    result = client.uapi("start_scan", {"scan_type": "home"})
    assert result["status"] == 1
    (warning,) = result["warnings"]
    assert result["data"]["queue_position"] == 1
    return str(warning)


def refusal(client: PeerClient) -> str | None:
    result = client.uapi("start_scan", {"scan_type": "home"})
    return str(result["errors"][0]) if result["status"] == 0 else None


def test_without_an_engine_a_scan_waits_and_runs_when_one_comes(alice: Person, bob: Person) -> None:
    put(alice, "bad")
    with fake_engine(config()) as (daemon, fake), daemon.client(alice.uid) as client:
        assert begin(client).startswith("the scan waits for the engine: ")
        status = client.good("get_scan_status")
        assert (status["state"], status["queue_position"], status["scan_complete"]) == ("queued", 1, 0)
        assert client.good("list_infected_files") == []
        with daemon.client(bob.uid) as other:
            assert other.good("get_scan_paths")
            other.good("start_scan", {"scan_type": "home"})
            assert other.good("get_scan_status")["queue_position"] == 2
            listen(fake)
            assert client.wait_scan()["infected_files"] == [f"{alice.home}/bad"]
            assert other.wait_scan()["state"] == "done"


@pytest.fixture(scope="module")
def impatient() -> Iterator[tuple[RunningDaemon, FakeClamd]]:
    """Refuses as soon as its engine is lost."""
    with fake_engine(config(lost_after_s=0)) as (daemon, fake):
        yield daemon, fake


WORDS = {
    "absent": "No such file",
    "a file": "Connection refused",
    "silent": "no answer for 1 s",
    "nonsense": "HTTP/1.0 400",
    "closing": "closed the connection",
    "broken": "does not scan",
}


@pytest.mark.parametrize("what", WORDS)
def test_an_engine_lost_for_too_long_is_said_and_nothing_is_scanned(
    impatient: tuple[RunningDaemon, FakeClamd], alice: Person, what: str
) -> None:
    daemon, fake = impatient
    put(alice, "bad")
    fake.contents.clear()
    fake.silent = what == "silent"
    fake.broken_database = what == "broken"
    fake.nonsense = {"nonsense": b"HTTP/1.0 400 Bad Request\r\n\r\n", "closing": b""}.get(what)
    if what == "a file":
        Path(fake.socket_path).touch()
        os.chmod(fake.socket_path, OPEN)
    elif what != "absent":
        listen(fake)
    with daemon.client(alice.uid) as client:

        def lost() -> str | None:
            """Until the daemon knows, a scan is queued, and waits."""
            error = refusal(client)
            if error is None:
                assert client.call("Scan.cancel")["state"] == "cancelled"
            return error if error and WORDS[what] in error else None

        error = wait_for(lost, f"start_scan to be refused: {daemon.log()}")
        assert error.startswith("cannot start the scan: no engine for ")
        assert fake.contents == []
        # What it is now, it need not stay.
        fake.stop()
        fake.silent, fake.broken_database, fake.nonsense = False, False, None
        listen(fake)
        wait_for(lambda: refusal(client) is None, "the engine to be usable again")
        assert client.wait_scan()["infected_file_count"] == 1
        fake.stop()
        os.unlink(fake.socket_path)


def test_a_signature_of_any_bytes_is_shown_as_text(alice: Person) -> None:
    put(alice, "odd", b"odd content")
    with fake_engine(config()) as (daemon, fake), daemon.client(alice.uid) as client:
        listen(fake)
        fake.verdicts[b"odd content"] = 'Évil"\x1b[31m' + "x" * 300 + " FOUND"
        assert client.scan()["not_scanned"] == {}, daemon.log()
        (file,) = client.good("list_infected_files")
    assert file["virus_type"].isascii()
    assert file["virus_type"].isprintable()


def test_an_engine_that_stays_away_fails_the_scan_with_its_reason(alice: Person, bob: Person) -> None:
    fill(alice, 50, infected=[0])
    with fake_engine(config(wait_s=1)) as (daemon, fake), daemon.client(alice.uid) as client:
        fake.faults = dict.fromkeys(range(20, 10_000), Fault.DELAY)
        listen(fake)
        client.good("start_scan", {"scan_type": "home"})
        wait_for(lambda: len(fake.contents) >= 20, "files at the engine")
        fake.stop()
        status = client.wait_scan()
        warnings = client.uapi("get_scan_status")["warnings"]
        assert status["state"] == "failed"
        assert any(text.startswith("cannot finish the scan: no engine for 1 s: ") for text in warnings)
        assert int(status["scanned_file_count"]) < 20
        with daemon.client(bob.uid) as other:
            assert other.good("get_scan_paths")
