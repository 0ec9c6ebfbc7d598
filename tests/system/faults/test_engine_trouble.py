"""Row R4: a real clamd killed, stopped, reloaded, its socket gone, in the middle of a scan.

What its trouble costs is time: afterwards the list of infected files is the true one, each file that has no verdict is
named with a reason, and a second scan, which may use what the first remembered, finds what is there to be found.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.accounts import Person, have_service_users, throw_away
from tests.fakes.aftermath import rows
from tests.fakes.realclamd import RealClamd, ndb
from tests.fakes.running import PeerClient, RunningDaemon, wait_for
from tests.integration.people import clear, fill, started_by_monitor
from tests.rows import Amount, Figure

BACK_S = 60.0  # the claim: it goes on within this after the engine's recovery
SHORT = """
[engine]
first_ping_timeout_s = 1
ping_timeout_s = 1
check_interval_s = 0.2
"""
LASTING_FAULTS = ("timed_out", "engine_error")
TROUBLES = ("killed", "stopped", "socket gone")


@pytest.fixture(scope="module")
def _person() -> Iterator[Person]:
    have_service_users()
    with throw_away("r4_real") as person:
        yield person


@pytest.fixture
def alice(_person: Person) -> Person:
    clear(_person)
    return _person


@pytest.fixture
def shared() -> Iterator[RealClamd]:
    """As a system's clamd: every user's, and not the daemon's to start."""
    clamd = RealClamd()
    clamd.directory.chmod(0o755)
    with clamd:
        yield clamd


def infected(person: Person, files: int) -> set[str]:
    """Of what `fill` makes: every other one."""
    numbers = range(0, files, 2)
    fill(person, files, infected=numbers)
    return {f"{person.home}/d{number // 100 * 100:06d}/f{number:06d}" for number in numbers}


def begin(client: PeerClient, files: int) -> None:
    """A scan, a good part of which is done."""
    client.good("start_scan", {"scan_type": "home"})
    wait_for(lambda: _scanned(client) > files // 20, "a scan under way")


def _scanned(client: PeerClient) -> int:
    status: dict[str, Any] = client.good("get_scan_status")
    number: int = status["scanned_file_count"]
    return number


def check_truth(daemon: RunningDaemon, client: PeerClient, person: Person, truth: set[str], files: int) -> int:
    """What is listed is infected, what is not listed has a reason; how many have one. A new scan then finds all."""
    status = client.wait_scan(180)
    assert status["state"] == "done", client.uapi("get_scan_status")["warnings"]
    listed = {file["file"] for file in client.good("list_infected_files")}
    sql = "SELECT path, reason FROM not_scanned WHERE scan = ?"
    unknown = {f"{person.home}/{os.fsdecode(path)}": why for path, why in rows(daemon, sql, status["scan_id"])}
    assert listed <= truth
    assert truth - listed <= unknown.keys(), "infected, and neither found nor named"
    assert set(unknown.values()) <= set(LASTING_FAULTS), unknown
    assert status["scanned_file_count"] + len(unknown) == status["total_file_count"] == files
    again = client.scan(timeout_s=180)
    assert (again["scanned_file_count"], again["not_scanned"]) == (files, {})
    assert {file["file"] for file in client.good("list_infected_files")} == truth
    return len(unknown)


@contextmanager
def trouble(clamd: RealClamd, what: str) -> Iterator[Callable[[], None]]:
    """Makes it, and gives what ends it."""
    aside = Path(f"{clamd.socket_path}.aside")
    if what == "killed":
        clamd.kill()
        yield clamd.start
    elif what == "stopped":
        os.kill(clamd.pid, signal.SIGSTOP)
        try:
            yield lambda: os.kill(clamd.pid, signal.SIGCONT)
        finally:
            os.kill(clamd.pid, signal.SIGCONT)
    else:
        Path(clamd.socket_path).rename(aside)
        clamd.kill()

        def back() -> None:
            clamd.start(wait=False)
            clamd.wait_ready()

        yield back


@pytest.mark.row("R4")
@pytest.mark.fails_with("verdict-on-eof", "engine-not-awaited")
@pytest.mark.parametrize("what", TROUBLES)
def test_a_shared_clamd_in_trouble_costs_time_and_no_truth(
    shared: RealClamd, alice: Person, what: str, amount: Amount, figure: Figure
) -> None:
    files, trouble_s = amount(quick=1_200, long=20_000), amount(quick=1, long=60)
    truth = infected(alice, files)
    config = "" if amount(quick=0, long=1) else SHORT
    sockets = f'["{shared.socket_path}"]'
    with RunningDaemon(config=config, sockets=sockets) as daemon, daemon.client(alice.uid) as client:
        begin(client, files)
        with trouble(shared, what) as end:
            began = time.monotonic()
            before = settled(client)
            wait_for(lambda: "engine lost" in daemon.log() or "engine loading" in daemon.log(), "it to be noticed", 60)
            wait_for(lambda: time.monotonic() - began >= trouble_s, "the trouble to last", trouble_s + 10)
            status = client.good("get_scan_status")
            assert (status["scan_complete"], status["scanned_file_count"]) == (0, before)
            end()
        ended = time.monotonic()
        wait_for(lambda: _scanned(client) > before, "the scan to go on", BACK_S)
        back_s = time.monotonic() - ended
        left = check_truth(daemon, client, alice, truth, files)
        assert "Traceback" not in daemon.log()
    figure(f"{what} for {trouble_s:g} s: goes on after {back_s:.1f} s, {left} of {files:,} files without a verdict")


def settled(client: PeerClient) -> int:
    """How many have a verdict, as soon as no more come: what the engine said before is read."""
    seen: list[tuple[float, int]] = []

    def look() -> int | None:
        now, number = time.monotonic(), _scanned(client)
        if not seen or seen[-1][1] != number:
            seen.append((now, number))
        return number if now - seen[-1][0] > 0.5 else None

    return wait_for(look, "an end of verdicts")


@pytest.mark.row("R4")
@pytest.mark.fails_with("found-dropped")
def test_a_clamd_that_reloads_again_and_again_changes_no_verdict(
    shared: RealClamd, alice: Person, amount: Amount, figure: Figure
) -> None:
    """With more signatures each time, of which none fits anything here."""
    files, least = amount(quick=1_200, long=20_000), amount(quick=3, long=20)
    truth = infected(alice, files)
    sockets = f'["{shared.socket_path}"]'
    with RunningDaemon(config=SHORT, sockets=sockets) as daemon, daemon.client(alice.uid) as client:
        begin(client, files)
        reloads = 0
        while not client.good("get_scan_status")["scan_complete"] or reloads < least:
            shared.add(f"more{reloads}.ndb", ndb(f"Test.More{reloads}", b"no file has this %d" % reloads))
            assert shared.ask(b"RELOAD") == b"RELOADING"
            reloads += 1
            loaded = f"{reloads + 2} signatures"
            wait_for(lambda text=loaded: text in shared.log(), "the reload", 60)  # type: ignore[misc]
            if client.good("get_scan_status")["scan_complete"] and reloads < least:
                client.good("start_scan", {"scan_type": "home"})
        shared.kill()  # what a reload may have left half done ends with it
        shared.start()
        check_truth(daemon, client, alice, truth, files)
    figure(f"{reloads} reloads in mid-scan")


@pytest.mark.row("R4")
@pytest.mark.fails_with("engine-loss-ends-us")
def test_a_private_clamd_that_is_killed_again_and_again_is_replaced(
    alice: Person, amount: Amount, figure: Figure
) -> None:
    files, kills = amount(quick=2_000, long=20_000), amount(quick=2, long=5)
    truth = infected(alice, files)
    with RunningDaemon(config=SHORT) as daemon, daemon.client(alice.uid) as client:
        begin(client, files)
        worst = max(harmed(daemon, client, signal.SIGKILL) for _ in range(kills))
        check_truth(daemon, client, alice, truth, files)
    figure(f"private, killed {kills} times: goes on after {worst:.1f} s at most")


@pytest.mark.row("R4")
@pytest.mark.fails_with("hanging-engine-kept")
def test_a_private_clamd_that_hangs_is_replaced(alice: Person, amount: Amount, figure: Figure) -> None:
    files = amount(quick=2_000, long=20_000)
    truth = infected(alice, files)
    with RunningDaemon(config=SHORT) as daemon, daemon.client(alice.uid) as client:
        begin(client, files)
        back_s = harmed(daemon, client, signal.SIGSTOP)
        check_truth(daemon, client, alice, truth, files)
    figure(f"private, stopped: goes on after {back_s:.1f} s")


def harmed(daemon: RunningDaemon, client: PeerClient, number: signal.Signals) -> float:
    """The private engine, in the middle of a scan; seconds until verdicts come again, from another process."""
    (engine,) = wait_for(lambda: started_by_monitor(daemon, "clamd"), "an engine")
    os.kill(engine, number)
    began = time.monotonic()
    status = client.good("get_scan_status")
    assert status["scan_complete"] == 0

    def others() -> bool:
        return started_by_monitor(daemon, "clamd") not in ([], [engine])

    wait_for(others, "another engine", BACK_S)
    before = max(status["scanned_file_count"], _scanned(client))
    wait_for(lambda: _scanned(client) > before or is_done(client), "the scan to go on", BACK_S)
    return time.monotonic() - began


def is_done(client: PeerClient) -> bool:
    return bool(client.good("get_scan_status")["scan_complete"])
