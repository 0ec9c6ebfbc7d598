"""Row R8: no job acts twice, whoever of daemon, monitor, worker and engine is killed or stands still at work, and
whoever starts a second daemon meanwhile.

Ours is the part of systemd: what stands still is killed, first the daemon, then what is left of its control group.
"""

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress

import pytest

from tests.fakes.accounts import Person, have_service_users, throw_away
from tests.fakes.aftermath import Processes, check_log, leftovers, rows, vault
from tests.fakes.manager import Manager
from tests.fakes.manifest import names
from tests.fakes.realclamd import MARKER
from tests.fakes.running import RunningDaemon, wait_for
from tests.integration.people import alive, clear, fill, held_in_mid_scan, monitor, put, started_by_monitor
from tests.rows import Amount, Figure

LOG_NAME = b".clamavconnector.disinfection.log"
WATCHDOG_S = 1.0
ENDS_S = 600.0


@pytest.fixture(scope="module")
def _person() -> Iterator[Person]:
    have_service_users()
    with throw_away("r8_twice") as person:
        yield person


@pytest.fixture
def alice(_person: Person) -> Person:
    clear(_person)
    return _person


@pytest.fixture
def daemon() -> Iterator[RunningDaemon]:
    with RunningDaemon(timed=False) as running:
        yield running


class Disinfection:
    """Of so many files, under way."""

    def __init__(self, daemon: RunningDaemon, person: Person, files: int) -> None:
        self.daemon, self.person = daemon, person
        self.bodies = [MARKER + b" %d" % number for number in range(files)]
        for number, body in enumerate(self.bodies):
            put(person, f"d{number // 100:03}/f{number:05}", body)
        with daemon.client(person.uid) as client:
            assert client.scan()["infected_file_count"] == files
            client.good("disinfect_files", {"actions": {}, "others": "quarantine"})

    def ended(self) -> int:
        number: int = rows(self.daemon, "SELECT count(*) FROM step WHERE state = 'ended'")[0][0]
        return number

    def wait_under_way(self) -> None:
        """A good part is done, and a good part is not."""
        before = self.ended()
        wait_for(lambda: self.ended() > before + 20, "steps")

    def check_done_once(self) -> None:
        with self.daemon.client(self.person.uid) as client:
            details = client.wait_disinfection(ENDS_S)
        assert [record["state"] for record in details] == ["quarantined"] * len(self.bodies) + ["success"]
        assert Counter(item.content for item in vault(self.daemon)) == Counter(self.bodies)
        check_log(self.person.home, details)
        assert leftovers(self.person.home) == []
        assert names(self.person.home).keys() == {LOG_NAME}


def harm(daemon: RunningDaemon, who: str, number: signal.Signals) -> None:
    """One of its processes at work; then what systemd does. Returns when all that must end has ended."""
    processes = Processes(daemon)
    if who == "worker":
        for pid in processes.workers:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        return
    os.kill(daemon.pid if who == "daemon" else processes.monitor, number)
    assert daemon.process is not None
    if number == signal.SIGKILL:
        assert daemon.process.wait(30) == (-signal.SIGKILL if who == "daemon" else 1)
    else:
        daemon.kill()
        if who == "monitor":
            os.kill(processes.monitor, signal.SIGKILL)
    processes.wait_gone()


CASES = [
    ("daemon", signal.SIGKILL),
    ("monitor", signal.SIGKILL),
    ("worker", signal.SIGKILL),
    ("daemon", signal.SIGSTOP),
    ("monitor", signal.SIGSTOP),
]


@pytest.mark.row("R8")
@pytest.mark.fails_with("capture-forgotten")
def test_each_process_killed_or_stopped_in_one_disinfection_and_no_file_is_acted_on_twice(
    daemon: RunningDaemon, alice: Person, amount: Amount, figure: Figure
) -> None:
    rounds = amount(quick=1, long=12)
    work = Disinfection(daemon, alice, amount(quick=1_600, long=20_000))
    for who, number in CASES * rounds:
        work.wait_under_way()
        harm(daemon, who, number)
        assert work.ended() < len(work.bodies), "too late"
        if who != "worker":
            daemon.start(engine=False)
    work.check_done_once()
    assert "Traceback" not in daemon.log()
    figure(f"{len(CASES) * rounds} processes killed or stopped in {len(work.bodies):,} actions")


def second(daemon: RunningDaemon) -> RunningDaemon:
    """Another daemon for the same state, on a socket of its own."""
    other = RunningDaemon(timed=False)
    other.state = daemon.state
    other.write_config()
    return other


def refused(daemon: RunningDaemon, other: RunningDaemon) -> None:
    before = len(other.log())
    other.start(wait=False)
    assert other.process is not None
    assert other.process.wait(30) == 1
    said = other.log()[before:]
    assert f"cannot open state {daemon.state}: another daemon (pid {daemon.pid}) uses it" in said
    assert "Traceback" not in said


@pytest.mark.row("R8")
@pytest.mark.fails_with("no-lock")
def test_a_second_daemon_on_one_state_is_refused_and_disturbs_nothing(
    daemon: RunningDaemon, alice: Person, amount: Amount, figure: Figure
) -> None:
    """Also while the first one stands still: who has the state is for the kernel to say, not for an answer in time."""
    starts = amount(quick=2, long=40)
    work = Disinfection(daemon, alice, amount(quick=500, long=20_000))
    engine = started_by_monitor(daemon, "clamd")
    other = second(daemon)
    for _ in range(starts):
        refused(daemon, other)
    os.kill(daemon.pid, signal.SIGSTOP)
    try:
        refused(daemon, other)
    finally:
        os.kill(daemon.pid, signal.SIGCONT)
    work.check_done_once()
    assert started_by_monitor(daemon, "clamd") == engine
    put(alice, "more", MARKER)
    with daemon.client(alice.uid) as client:
        assert client.scan()["infected_file_count"] == 1, "the first one's engine is as it was"
    harm(daemon, "daemon", signal.SIGSTOP)
    daemon.start(engine=False)
    refused(daemon, other)
    other.config_path.unlink()
    figure(f"{starts + 2} second daemons refused")


@pytest.mark.row("R8")
@pytest.mark.fails_with("watchdog-fed-blindly")
def test_a_monitor_that_stands_still_is_told_to_nobody_as_health(alice: Person) -> None:
    """The watchdog is fed no more; systemd kills the daemon then, and workers go by themselves."""
    fill(alice, 300)
    daemon = RunningDaemon(timed=False)
    with Manager(daemon.socket_path, watchdog_s=WATCHDOG_S) as manager:
        daemon.manager = manager
        with daemon, daemon.client(alice.uid) as client, held_in_mid_scan(daemon, client, alice) as worker:
            manager.wait("WATCHDOG")
            above = monitor(daemon)
            os.kill(above, signal.SIGSTOP)
            fed = settled(manager)
            assert client.call("Daemon.version"), "calls are still answered"
            assert len(manager.values("WATCHDOG")) == fed
            daemon.kill()
            os.kill(worker, signal.SIGCONT)
            wait_for(lambda: not alive(worker), "the worker to go", 20)
            os.kill(above, signal.SIGKILL)
            wait_for(lambda: not alive(above), "the monitor to go", 20)


def settled(manager: Manager) -> int:
    """How often the watchdog was fed, as soon as it is not for three times its time."""
    seen = [len(manager.values("WATCHDOG"))]
    quiet = Quiet(3 * WATCHDOG_S)

    def look() -> bool:
        seen.append(len(manager.values("WATCHDOG")))
        return quiet.holds(seen[-1])

    wait_for(look, "an end of WATCHDOG=1", 30)
    return seen[-1]


class Quiet:
    """Whether a number has been the same for so long."""

    def __init__(self, for_s: float) -> None:
        self._for_s = for_s
        self._since, self._last = time.monotonic(), -1

    def holds(self, number: int) -> bool:
        if number != self._last:
            self._since, self._last = time.monotonic(), number
        return time.monotonic() - self._since > self._for_s


@pytest.mark.row("R8")
@pytest.mark.fails_with("engine-loss-ends-us")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_an_engine_killed_or_stopped_at_work_ends_nobody_else(alice: Person, number: signal.Signals) -> None:
    fill(alice, 300, infected=range(50, 60))
    with (
        RunningDaemon(config="[engine]\nfirst_ping_timeout_s = 1\nping_timeout_s = 1\n", timed=False) as daemon,
        daemon.client(alice.uid) as client,
    ):
        with held_in_mid_scan(daemon, client, alice) as worker:
            before = (daemon.pid, monitor(daemon), [worker])
            (engine,) = started_by_monitor(daemon, "clamd")
            os.kill(engine, number)
            wait_for(lambda: started_by_monitor(daemon, "clamd") not in ([], [engine]), "another engine")
            after = (daemon.pid, monitor(daemon), started_by_monitor(daemon, "csd-worker"))
            assert after == before
        status = client.wait_scan()
        assert (status["state"], status["infected_file_count"], status["not_scanned"]) == ("done", 10, {})
        assert status["resumed"] == 0
