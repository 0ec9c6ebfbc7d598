"""Two private engines of one thread each, started by the monitor: work is shared, and one that goes costs nothing."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.accounts import Person
from tests.fakes.running import RunningDaemon, wait_for
from tests.integration.people import balanced, clear, fill, held_in_mid_scan, home, started_by_monitor, wait_state

FILES = 3_000
INFECTED = (0, 7, 599, 2_900)


@pytest.fixture(scope="module")
def daemon(_people: object) -> Iterator[RunningDaemon]:
    with RunningDaemon(private_engines="2") as running:
        wait_for(lambda: ready(running) == 2, "both engines")
        yield running


def ready(daemon: RunningDaemon) -> int:
    with daemon.client() as client:
        text: str = client.call("Daemon.metrics")["text"]
    return int(float(text.partition("\nclamscannerd_engines_ready ")[2].split()[0]))


def listed(daemon: RunningDaemon, person: Person) -> set[str]:
    with daemon.client(person.uid) as client:
        return {file["file"] for file in client.good("list_infected_files")}


def truth(person: Person) -> set[str]:
    return {f"{person.home}/d{number // 100 * 100:06d}/f{number:06d}" for number in INFECTED}


def test_each_has_a_configuration_a_socket_and_a_temporary_directory_of_its_own(daemon: RunningDaemon) -> None:
    places = Path(f"{daemon.directory}/run-engine")
    assert len(started_by_monitor(daemon, "clamd")) == 2
    assert sorted(path.name for path in places.glob("run/*.sock")) == ["1.sock", "2.sock"]
    for name in ("1", "2"):
        conf = (places / f"{name}.conf").read_text()
        assert "MaxThreads 1\n" in conf
        assert f"TemporaryDirectory {daemon.state}-engine/tmp/{name}\n" in conf
        assert Path(f"{daemon.state}-engine/tmp/{name}").stat().st_mode & 0o777 == 0o700


def test_health_says_how_many_there_are_and_why(daemon: RunningDaemon) -> None:
    with daemon.client() as client:
        checks = {check["id"]: check for check in client.call("Daemon.health")["checks"]}
    assert checks["engine.private"]["message"].startswith("2 engines of one thread each: engine.private_engines is 2 (")
    assert checks["engine.private"]["grade"] == "ok"


def test_one_that_is_killed_amid_a_scan_is_started_again_and_the_findings_are_complete(
    daemon: RunningDaemon, alice: Person
) -> None:
    clear(alice)
    fill(alice, FILES, infected=INFECTED)
    first, second = started_by_monitor(daemon, "clamd")
    with daemon.client(alice.uid) as client:
        with held_in_mid_scan(daemon, client, alice):
            os.kill(first, signal.SIGKILL)
        status = wait_state(client, "done")
    assert balanced(status)
    assert (status["scanned_file_count"], status["not_scanned"]) == (FILES, {})
    assert listed(daemon, alice) == truth(alice)
    wait_for(lambda: ready(daemon) == 2, "another one in its place")
    pids = started_by_monitor(daemon, "clamd")
    assert (second in pids, first in pids) == (True, False)


def test_one_that_hangs_keeps_nothing_from_the_other(daemon: RunningDaemon, alice: Person, bob: Person) -> None:
    """As behind a huge file: each scan goes on, but for what is at that engine already."""
    stopped = started_by_monitor(daemon, "clamd")[0]
    clear(bob)
    fill(bob, 300, infected=(5,))
    os.kill(stopped, signal.SIGSTOP)
    try:
        with daemon.client(bob.uid) as client:
            client.good("start_scan", {"scan_type": "home"})

            def almost() -> bool:
                return bool(client.good("get_scan_status")["scanned_file_count"] >= 280)

            wait_for(almost, "what the other engine can do")
    finally:
        os.kill(stopped, signal.SIGCONT)
    with daemon.client(bob.uid) as client:
        status = wait_state(client, "done")
        assert status["scanned_file_count"] == 300
    assert listed(daemon, bob) == {f"{home(bob)}/d000000/f000005"}
