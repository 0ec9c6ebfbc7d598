"""Row R8: daemon, monitor, workers and engine each killed and stopped at work: who must end ends, nobody else notices.

Two daemons on one state, and a daemon that stands still while another is started: test_two_daemons.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import suppress

import pytest

from tests.fakes.accounts import Person, have_service_users, throw_away
from tests.fakes.running import PeerClient, RunningDaemon, acting_as, wait_for
from tests.integration.fake_engine import HOLD, holding_engine
from tests.integration.people import (
    alive,
    balanced,
    children,
    clear,
    fill,
    held_in_mid_scan,
    home,
    monitor,
    put,
    started_by_monitor,
    uid_of,
)

FILES = 300
SILENCE = "[scans]\nsilence_s = 1.5\nretries = 1\n[tasks]\nstep_timeout_s = 1.5\n"


@pytest.fixture(scope="module")
def _people() -> Iterator[tuple[Person, Person]]:
    have_service_users()
    with throw_away("r8_a") as alice, throw_away("r8_b") as bob:
        yield alice, bob


@pytest.fixture
def alice(_people: tuple[Person, Person]) -> Person:
    clear(_people[0])
    return _people[0]


@pytest.fixture
def bob(_people: tuple[Person, Person]) -> Person:
    clear(_people[1])
    return _people[1]


@pytest.fixture
def daemon(_people: object) -> Iterator[RunningDaemon]:
    """One for each test: most of them do not survive it."""
    with RunningDaemon(config=SILENCE) as running:
        yield running


@pytest.fixture(scope="module")
def lasting(_people: object) -> Iterator[RunningDaemon]:
    with RunningDaemon(config=SILENCE) as running:
        yield running


def gone(*pids: int) -> None:
    wait_for(lambda: not any(map(alive, pids)), f"{pids} to be gone", 20)


@pytest.mark.row("R8")
@pytest.mark.fails_with("monitor-not-missed")
def test_the_monitor_ends_and_the_daemon_with_it(daemon: RunningDaemon, alice: Person) -> None:
    fill(alice, FILES)
    with daemon.client(alice.uid) as client, held_in_mid_scan(daemon, client, alice) as worker:
        above, engine = monitor(daemon), started_by_monitor(daemon, "clamd")[0]
        os.kill(above, signal.SIGKILL)
        assert daemon.process is not None
        assert daemon.process.wait(20) == 1
        gone(above, engine, worker)
    assert "cannot go on: the monitor ended" in daemon.log()
    assert "Traceback" not in daemon.log()
    daemon.start()
    with daemon.client(alice.uid) as client:
        status = client.wait_scan()
        assert (status["state"], status["resumed"], status["scanned_file_count"]) == ("done", 1, FILES)


@pytest.mark.row("R8")
@pytest.mark.fails_with("monitor-stays")
def test_the_daemon_is_killed_and_monitor_workers_and_engine_with_it(daemon: RunningDaemon, alice: Person) -> None:
    fill(alice, FILES, infected=[5])
    with daemon.client(alice.uid) as client, held_in_mid_scan(daemon, client, alice) as worker:
        pids = [monitor(daemon), *children(monitor(daemon))]
        assert worker in pids
        daemon.kill()
        gone(*pids)
    daemon.start()
    with daemon.client(alice.uid) as client:
        status = client.wait_scan()
        assert (status["state"], status["resumed"], status["infected_file_count"]) == ("done", 1, 1)
        assert balanced(status)


@pytest.mark.row("R8")
@pytest.mark.fails_with("monitor-stays")
def test_the_daemon_is_stopped_in_mid_scan_and_everything_ends_in_time(daemon: RunningDaemon, alice: Person) -> None:
    fill(alice, FILES)
    with daemon.client(alice.uid) as client, held_in_mid_scan(daemon, client, alice):
        pids = [monitor(daemon), *children(monitor(daemon))]
        assert daemon.process is not None
        daemon.process.terminate()
        assert daemon.process.wait(10) == 0
    gone(*pids)
    daemon.start()
    with daemon.client(alice.uid) as client:
        assert client.wait_scan()["resumed"] == 1


@pytest.mark.row("R8")
@pytest.mark.fails_with("monitor-heeds-signals")
def test_a_terminals_interrupt_is_a_stop(daemon: RunningDaemon) -> None:
    """Ctrl-C goes to the whole group: monitor and daemon."""
    pids = [monitor(daemon), *children(monitor(daemon))]
    assert daemon.process is not None
    os.killpg(daemon.pid, signal.SIGINT)
    assert daemon.process.wait(10) == 0
    gone(*pids)


@pytest.mark.row("R8")
@pytest.mark.fails_with("no-retry")
def test_a_worker_killed_by_its_user_in_mid_scan_is_replaced(lasting: RunningDaemon, alice: Person) -> None:
    fill(alice, FILES, infected=[5])
    with lasting.client(alice.uid) as client:
        with held_in_mid_scan(lasting, client, alice) as worker, acting_as(alice.uid):
            os.kill(worker, signal.SIGKILL)
        status = client.wait_scan()
        assert (status["state"], status["scanned_file_count"], status["infected_file_count"]) == ("done", FILES, 1)
        assert status["resumed"] == 1
        assert balanced(status)


def signalled(
    daemon: RunningDaemon, client: PeerClient, person: Person, number: signal.Signals, done: set[int]
) -> bool:
    """Send it to each worker of the account, as the account, once. Whether the scan has ended."""
    for pid in started_by_monitor(daemon, "csd-worker"):
        if pid not in done and uid_of(pid) == person.uid:
            with acting_as(person.uid), suppress(ProcessLookupError):
                os.kill(pid, number)
            done.add(pid)
    return bool(client.good("get_scan_status")["scan_complete"])


@pytest.fixture(scope="module")
def holding(_people: object) -> Iterator[RunningDaemon]:
    """Its engine holds Alice's file for as long as the test wants: no scan of hers ends before it is seen."""
    with holding_engine(SILENCE) as (daemon, _):
        yield daemon


@pytest.mark.row("R8")
@pytest.mark.fails_with("no-retry")
def test_a_user_who_kills_every_worker_fails_that_users_scan_alone(
    holding: RunningDaemon, alice: Person, bob: Person
) -> None:
    put(alice, "held", HOLD)
    fill(bob, FILES)
    with holding.client(alice.uid) as client, holding.client(bob.uid) as other:
        client.good("start_scan", {"scan_type": "home"})
        other.good("start_scan", {"scan_type": "home"})
        killed: set[int] = set()
        wait_for(lambda: signalled(holding, client, alice, signal.SIGKILL, killed), "the scan to end")
        result = client.uapi("get_scan_status")
        assert result["data"]["state"] == "failed"
        assert result["warnings"][0].startswith("cannot finish the scan: worker ")
        assert len(killed) == 2, "one and its retry"
        assert other.wait_scan()["scanned_file_count"] == FILES
    assert "Traceback" not in holding.log()


@pytest.mark.row("R8")
@pytest.mark.fails_with("silence-endured")
def test_a_worker_stopped_by_its_user_is_given_up_and_blocks_nobody(
    holding: RunningDaemon, alice: Person, bob: Person
) -> None:
    put(alice, "held", HOLD)
    put(bob, "bad")
    with holding.client(alice.uid) as client, holding.client(bob.uid) as other:
        client.good("start_scan", {"scan_type": "home"})
        stopped: set[int] = set()
        wait_for(lambda: signalled(holding, client, alice, signal.SIGSTOP, stopped) or bool(stopped), "a worker")
        assert other.scan()["infected_file_count"] == 1, "while Alice's worker stands still"
        wait_for(lambda: signalled(holding, client, alice, signal.SIGSTOP, stopped), "the scan to end")
        result = client.uapi("get_scan_status")
        assert result["data"]["state"] == "failed"
        assert "said nothing for 1.5 s" in result["warnings"][0]
        assert len(stopped) == 2, "one and its retry"
        gone(*stopped)
        (home(alice) / "held").unlink()
        assert client.scan()["state"] == "done"


@pytest.mark.row("R8")
@pytest.mark.fails_with("silence-endured")
def test_a_worker_stopped_in_a_disinfection_is_given_up_with_an_error_for_its_file(
    lasting: RunningDaemon, alice: Person
) -> None:
    """What was not done is said; the files are where they were."""
    for number in range(2):
        put(alice, f"bad{number}")
    with lasting.client(alice.uid) as client:
        client.scan()
        client.good("disinfect_files", {"actions": {}, "others": "quarantine"})
        stopped: set[int] = set()

        def stop_until_done() -> bool:
            signalled(lasting, client, alice, signal.SIGSTOP, stopped)
            return bool(client.good("check_disinfection_status")["status"] == "done")

        wait_for(stop_until_done, "the task to end")
        records = client.good("check_disinfection_status")["details"]
        steps = [record for record in records if record["type"] == "step"]
        assert len(steps) == 2
        assert records[-1]["type"] == "done"
        left = {path.name for path in home(alice).glob("bad*")}
        for step in steps:
            name = step["file"].rpartition("/")[2]
            assert (name in left) == (step["state"] == "error"), (step, left)
        assert not list(home(alice).glob(".clamscannerd-*"))
        assert stopped
        gone(*stopped)
