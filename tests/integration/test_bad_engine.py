"""clamd absent, wrong, silent or speaking nonsense: never clean, never infected, said in time, and got over."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.accounts import Person
from tests.fakes.clamd import FakeClamd, Fault
from tests.fakes.realclamd import EICAR, EICAR_NAME
from tests.fakes.running import PeerClient, RunningDaemon, wait_for
from tests.integration.fake_engine import OPEN, fake_engine, listen
from tests.integration.people import balanced, fill, put, wait_state

CONFIG = """
[engine]
lost_after_s = {lost_after_s}
wait_s = {wait_s}
first_ping_timeout_s = 1
ping_timeout_s = 1
check_interval_s = 0.2
[scans]
file_deadline_s = 2
"""


def config(*, lost_after_s: float = 120, wait_s: float = 30) -> str:
    return CONFIG.format(lost_after_s=lost_after_s, wait_s=wait_s)


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


@pytest.fixture(scope="module")
def engine() -> Iterator[tuple[RunningDaemon, FakeClamd]]:
    """One that answers health checks and misbehaves by file."""
    with fake_engine(config()) as (daemon, fake):
        listen(fake)
        wait_for(lambda: "engine ready" in daemon.log(), "the engine")
        yield daemon, fake


FAULTS = ["GARBAGE", "PARTIAL", "DOUBLED", "FOREIGN", "CLOSE", "ERROR", "ENDLESS", "TIMED_OUT", "SILENCE"]


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("content", [b"evil", b"evil" + EICAR], ids=["clean", "infected"])
def test_a_file_that_breaks_the_engine_is_neither_clean_nor_infected_and_harms_no_other(
    engine: tuple[RunningDaemon, FakeClamd], alice: Person, name: str, content: bytes
) -> None:
    daemon, fake = engine
    fill(alice, 30, infected=[20])
    put(alice, "evil", content)
    fake.content_faults = {b"evil": Fault[name]}
    with daemon.client(alice.uid) as client:
        status = client.scan()
        listed = client.good("list_infected_files")
    reason = "timed_out" if name == "SILENCE" else "engine_error"
    if name == "DOUBLED":
        # The first of two equal replies may be read alone, and was right.
        assert status["not_scanned"] in ({}, {reason: 1})
        listed = [file for file in listed if not file["file"].endswith("/evil")]
    else:
        assert status["not_scanned"] == {reason: 1}, (status, daemon.log()[-1500:])
        assert status["scanned_file_count"] == 30
    assert (status["state"], balanced(status)) == ("done", True)
    assert listed == [{"file": f"{alice.home}/d000000/f000020", "virus_type": EICAR_NAME}]


@pytest.mark.parametrize(
    "verdict",
    [
        *(
            "",
            "ok",
            "OK OK",
            "OK ERROR",
            "FOUND",
            " FOUND",
            "NOT OK",
            "Error FOUND ERROR",
            "Ok",
            "X",
            "\x01\x02",
            "ÿ OK",
        ),
        *("lstat() failed: ERROR", "Heuristics.Limits.Exceeded.MaxFileSize FOUND", "Heuristics.Encrypted.Zip FOUND"),
    ],
)
def test_a_verdict_that_is_none_is_neither_clean_nor_infected(
    engine: tuple[RunningDaemon, FakeClamd], alice: Person, verdict: str
) -> None:
    daemon, fake = engine
    put(alice, "odd", b"odd content")
    put(alice, "fine", b"fine")
    fake.content_faults = {}
    fake.verdicts[b"odd content"] = verdict
    with daemon.client(alice.uid) as client:
        status = client.scan()
        assert (status["state"], status["scanned_file_count"], status["infected_file_count"]) == ("done", 1, 0)
        assert sum(status["not_scanned"].values()) == 1
        assert client.good("list_infected_files") == []


def test_a_signature_of_any_bytes_is_shown_as_text(engine: tuple[RunningDaemon, FakeClamd], alice: Person) -> None:
    daemon, fake = engine
    put(alice, "odd", b"odd content")
    fake.content_faults = {}
    fake.verdicts[b"odd content"] = 'Évil"\x1b[31m' + "x" * 300 + " FOUND"
    with daemon.client(alice.uid) as client:
        assert client.scan()["not_scanned"] == {}, daemon.log()
        (file,) = client.good("list_infected_files")
    assert file["virus_type"].isascii()
    assert file["virus_type"].isprintable()


def test_an_engine_that_goes_away_in_mid_scan_is_waited_for(alice: Person) -> None:
    """Verdicts that were missing are asked for again; nothing is taken for clean meanwhile."""
    fill(alice, 50, infected=[49])
    with fake_engine(config()) as (daemon, fake), daemon.client(alice.uid) as client:
        fake.faults = dict.fromkeys(range(20, 10_000), Fault.DELAY)
        listen(fake)
        client.good("start_scan", {"scan_type": "home"})
        wait_for(lambda: len(fake.contents) >= 20, "files at the engine")
        fake.stop()
        status = wait_state(client, "running")
        assert int(str(status["scanned_file_count"])) < 20
        fake.faults = {}
        listen(fake)
        status = client.wait_scan()
        assert (status["state"], status["scanned_file_count"], status["infected_file_count"]) == ("done", 50, 1)


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
