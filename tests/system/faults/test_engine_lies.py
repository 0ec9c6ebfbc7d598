"""Row R4: a clamd that speaks nonsense, late, in part, twice or of others: never clean, never infected from it.

A scriptable engine in clamd's place; what befalls a real one is in test_engine_trouble.
"""

from collections.abc import Iterator

import pytest

from tests.fakes.accounts import Person, have_service_users, throw_away
from tests.fakes.clamd import FakeClamd, Fault
from tests.fakes.realclamd import EICAR, EICAR_NAME
from tests.fakes.running import RunningDaemon, wait_for
from tests.integration.fake_engine import config, fake_engine, listen
from tests.integration.people import balanced, clear, fill, put, wait_state
from tests.rows import Figure


@pytest.fixture(scope="module")
def _person() -> Iterator[Person]:
    have_service_users()
    with throw_away("r4_lies") as person:
        yield person


@pytest.fixture
def alice(_person: Person) -> Person:
    clear(_person)
    return _person


@pytest.fixture(scope="module")
def engine() -> Iterator[tuple[RunningDaemon, FakeClamd]]:
    """One that answers health checks and misbehaves by file."""
    with fake_engine(config(file_deadline_s=1)) as (daemon, fake):
        listen(fake)
        wait_for(lambda: "engine ready" in daemon.log(), "the engine")
        yield daemon, fake


FAULTS = ["GARBAGE", "PARTIAL", "DOUBLED", "FOREIGN", "CLOSE", "ERROR", "ENDLESS", "TIMED_OUT", "SILENCE"]


@pytest.mark.row("R4")
@pytest.mark.fails_with("verdict-on-eof")
@pytest.mark.parametrize("name", FAULTS)
def test_files_that_break_the_engine_are_neither_clean_nor_infected_and_harm_no_other(
    engine: tuple[RunningDaemon, FakeClamd], alice: Person, name: str
) -> None:
    daemon, fake = engine
    fill(alice, 30, infected=[20])
    evil = {str(put(alice, file, content)) for file, content in (("evil", b"evil"), ("worse", b"evil" + EICAR))}
    fake.content_faults = {b"evil": Fault[name]}
    with daemon.client(alice.uid) as client:
        status = client.scan()
        listed = client.good("list_infected_files")
    reason = "timed_out" if name == "SILENCE" else "engine_error"
    if name == "DOUBLED":
        # The first of two equal replies may be read alone, and was right.
        assert status["not_scanned"] in ({}, {reason: 1}, {reason: 2})
        listed = [file for file in listed if file["file"] not in evil]
    else:
        assert status["not_scanned"] == {reason: 2}, (status, daemon.log()[-1500:])
        assert status["scanned_file_count"] == 30
    assert (status["state"], balanced(status)) == ("done", True)
    assert [(one["file"], one["virus_type"]) for one in listed] == [(f"{alice.home}/d000000/f000020", EICAR_NAME)]


VERDICTS = (
    *("", "ok", "OK OK", "OK ERROR", "FOUND", " FOUND", "NOT OK", "Error FOUND ERROR", "Ok", "X", "\x01\x02", "ÿ OK"),
    *("lstat() failed: ERROR", "Heuristics.Limits.Exceeded.MaxFileSize FOUND", "Heuristics.Encrypted.Zip FOUND"),
)


@pytest.mark.row("R4")
@pytest.mark.fails_with("lax-reply")
def test_verdicts_that_are_none_are_neither_clean_nor_infected(
    engine: tuple[RunningDaemon, FakeClamd], alice: Person
) -> None:
    daemon, fake = engine
    put(alice, "fine", b"fine")
    fake.content_faults = {}
    for number, verdict in enumerate(VERDICTS):
        content = b"odd content %02d" % number
        put(alice, f"odd{number:02}", content)
        fake.verdicts[content] = verdict
    with daemon.client(alice.uid) as client:
        status = client.scan()
        assert (status["state"], status["scanned_file_count"], status["infected_file_count"]) == ("done", 1, 0)
        assert sum(status["not_scanned"].values()) == len(VERDICTS), status
        assert client.good("list_infected_files") == []


@pytest.mark.row("R4")
@pytest.mark.fails_with("verdict-on-eof")
def test_an_engine_that_goes_away_in_mid_scan_is_waited_for(alice: Person, figure: Figure) -> None:
    """Verdicts that were missing are asked for again; nothing is taken for clean meanwhile."""
    fill(alice, 50, infected=range(50))
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
        assert (status["state"], status["scanned_file_count"], status["infected_file_count"]) == ("done", 50, 50)
    figure(f"{2 * len(FAULTS) + len(VERDICTS)} kinds of false replies")
