"""Engines on other machines: three real clamds over TCP, each in a network namespace of its own."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.fakes.accounts import Person
from tests.fakes.hosts import Network
from tests.fakes.realclamd import EICAR, MARKER, RealClamd, ndb, official
from tests.fakes.running import RunningDaemon, wait_for
from tests.integration.people import fill, held_in_mid_scan, put

FILES = 3_000
INFECTED = range(0, FILES, 50)
NEW, OLD = 27_400, 27_390
TIMES = "[engine]\nping_timeout_s = 2\nfirst_ping_timeout_s = 2\ncheck_interval_s = 0.2\n"
SIGNATURES = ndb("Eicar-Test", EICAR) + ndb("Test.Marker", MARKER)


@pytest.fixture
def hosts() -> Iterator[tuple[RunningDaemon, list[RealClamd]]]:
    """A daemon and three engines, the last with older signatures."""
    now = time.time()
    with ExitStack() as stack:
        network = stack.enter_context(Network())
        there = [network.host() for _ in range(3)]
        clamds = []
        for host, version in zip(there, (NEW, NEW, OLD), strict=True):
            signatures = official(version, now - (NEW - version) * 86_400, SIGNATURES)
            clamds.append(RealClamd(prefix=host.prefix, options=host.listening(), signatures=signatures))
            stack.enter_context(clamds[-1])
        daemon = RunningDaemon(config=TIMES, sockets=str([host.address for host in there]))
        daemon.program = [*network.prefix, *daemon.program]
        stack.enter_context(daemon)
        with daemon.client() as root:
            wait_for(lambda: len(members(root.call("Daemon.health"), "ok")) == 2, "all three engines")
        yield daemon, clamds


def members(health: dict[str, list[dict[str, str]]], grade: str) -> list[str]:
    return [one["message"] for one in health["checks"] if (one["id"], one["grade"]) == ("engine.member", grade)]


def test_one_killed_one_hung_and_one_with_older_signatures_leave_no_file_without_an_honest_verdict(
    hosts: tuple[RunningDaemon, list[RealClamd]], alice: Person
) -> None:
    daemon, (killed, hung, older) = hosts
    fill(alice, FILES, infected=INFECTED)
    put(alice, "large", MARKER.rjust(3 << 20, b"x"))
    with daemon.client(alice.uid) as client, daemon.client() as root:
        with held_in_mid_scan(daemon, client, alice):
            killed.kill()
            os.kill(hung.pid, signal.SIGSTOP)
        status = client.wait_scan()
        assert (status["state"], status["not_scanned"]) == ("done", {})
        assert status["scanned_file_count"] == status["total_file_count"] == FILES + 1
        listed = client.good("list_infected_files")
        assert len(listed) == status["infected_file_count"] == len(INFECTED) + 1
        assert {one["engine"]["database"] for one in listed} <= {NEW, OLD}
        assert OLD in {one["engine"]["database"] for one in listed}, "the rest was the third one's"
        assert status["engine"]["database"] == OLD, "no file was scanned with less"
        assert any("10.0 days behind" in words for words in members(root.call("Daemon.health"), "warning"))
        killed.start()
        os.kill(hung.pid, signal.SIGCONT)
        wait_for(lambda: len(members(root.call("Daemon.health"), "ok")) == 2, "both to be back")
        older.kill()
        assert client.scan()["engine"]["database"] == NEW
