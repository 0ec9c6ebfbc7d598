"""As root: the daemon killed or stopped in the middle of its work, and started again.

Moments are chosen by how far the work has got, as its records say, and at random within it.
"""

import itertools
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from clamscannerd.state.vault_blobs import SMALL_BYTES
from tests.fakes.accounts import Person, throw_away
from tests.fakes.aftermath import Processes, check_log, leftovers, rows, vault
from tests.fakes.manifest import names
from tests.fakes.realclamd import MARKER
from tests.fakes.running import RunningDaemon, wait_for
from tests.rows import Amount, Figure

FILES = 2_000  # groups end 64 at once, some 5,000 a second, and a stop is to come in time
SCANNED = 6_000
STOP_LIMIT_S = 10.0
RETRIES = "[scans]\nretries = 20\n"
END_S = 600.0
PATIENCE_S = 5.0  # a worker that died is replaced after a second, after its second death at one step after four
LARGE_BYTES = SMALL_BYTES + 4_096
ACTIONS = ("quarantine", "delete")
STATES = {"quarantine": "quarantined", "delete": "deleted", "ignore": "no-action"}
MIXED = ("quarantine", "delete", "ignore", "quarantine", "delete")
LARGE = 3  # of MIXED. So most go alone, in many steps, and some in small groups


@pytest.fixture
def daemon() -> Iterator[RunningDaemon]:
    with RunningDaemon() as running:
        yield running


@pytest.fixture
def alice() -> Iterator[Person]:
    with throw_away("kill_a") as account:
        empty(account)
        yield account


@pytest.fixture
def bob() -> Iterator[Person]:
    with throw_away("kill_b") as account:
        empty(account)
        yield account


def empty(account: Person) -> None:
    """Without what /etc/skel gave."""
    for path in Path(account.home).iterdir():
        path.unlink()


def fill(account: Person, number: int, content: bytes = MARKER, *, large: bool = False) -> list[str]:
    """Files named in the order of the steps, each with a content of its own, in directories of fifty.

    `large`: some too large to go in groups.
    """
    made = []
    for file in range(number):
        path = Path(account.home, f"d{file // 50:03}", f"f{file:05}")
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content + b" %d" % file)
        if large and file % len(MIXED) == LARGE:
            os.truncate(path, LARGE_BYTES)
        for owned in (path.parent, path):
            os.chown(owned, account.uid, account.gid)
        made.append(str(path))
    return made


def ask(daemon: RunningDaemon, account: Person, files: list[str]) -> None:
    """A scan, then the disinfection of all, half of it each way; returns while that runs."""
    with daemon.client(account.uid) as client:
        assert client.scan()["infected_file_count"] == len(files)
        client.good("disinfect_files", {"actions": dict(zip(files, itertools.cycle(ACTIONS), strict=False))})


def wait_for_steps(daemon: RunningDaemon, number: int) -> int:
    """Until so many steps have ended; how many there are."""

    def look() -> int | None:
        done = steps_ended(daemon)
        return done if done >= number else None

    return wait_for(look, f"{number} steps")


def steps_ended(daemon: RunningDaemon) -> int:
    number: int = rows(daemon, "SELECT count(*) FROM step WHERE state = 'ended'")[0][0]
    return number


def check_all_done_once(
    daemon: RunningDaemon, account: Person, files: list[str], actions: Sequence[str] = ACTIONS
) -> None:
    asked = dict(zip(files, itertools.cycle(actions), strict=False))
    with daemon.client(account.uid) as client:
        details = client.wait_disinfection(END_S)
    *steps, done = details
    assert [step["file"] for step in steps] == files
    assert [step["state"] for step in steps] == [STATES[action] for action in asked.values()]
    assert (done["type"], done["status"], done["state"]) == ("done", "done", "success")
    check_log(account.home, details)
    taken = [file for file, action in asked.items() if action != "ignore"]
    tasks = {
        row[0]
        for row in rows(
            daemon, "SELECT t.id FROM task t JOIN account a ON a.id = t.account WHERE a.uid = ?", account.uid
        )
    }
    kept = [item for item in vault(daemon) if item.task in tasks]
    assert len(kept) == len(taken)
    assert {f"{account.home}/{os.fsdecode(item.path)}": item.content.rstrip(b"\0") for item in kept} == {
        file: MARKER + b" %d" % place for place, file in enumerate(files) if asked[file] != "ignore"
    }
    assert leftovers(account.home) == []
    left = {os.fsencode(os.path.relpath(file, account.home)) for file in asked.keys() - set(taken)}
    assert names(account.home).keys() == {b".clamavconnector.disinfection.log", *left}


class Killer:
    """Kills the daemon or a worker, at random, spread over the work that there is."""

    def __init__(self, daemon: RunningDaemon, steps: int) -> None:
        self.daemon = daemon
        self.steps = steps
        self.killed = Counter[str]()

    def wait(self, ended: int) -> None:
        """Until about so many steps have ended; a random moment where they have already."""
        until = time.monotonic() + PATIENCE_S
        while steps_ended(self.daemon) < ended and time.monotonic() < until:
            time.sleep(0.001)  # a state of the database: there is no event of it
        time.sleep(random.uniform(0.0, 0.05))  # the moment of the kill is what is tried

    def kill(self) -> None:
        assert steps_ended(self.daemon) < self.steps, "killed too late"
        processes = Processes(self.daemon)
        if processes.workers and random.random() < 0.5:
            victim = random.choice(processes.workers)
            with suppress(ProcessLookupError):  # its job is over
                os.kill(victim, signal.SIGKILL)
                self.killed["worker"] += 1
            processes.close()
            return
        self.daemon.kill()
        self.killed["daemon"] += 1
        processes.wait_gone()
        self.daemon.start(engine=False)


@pytest.mark.row("R1")
@pytest.mark.fails_with("new-name-for-a-step-begun", "captured-is-not-looked-for", "vault-not-cleaned-at-start")
def test_kills_at_random_moments_leave_every_queued_action_done_once(
    daemon: RunningDaemon, amount: Amount, figure: Figure
) -> None:
    kills, each, accounts = amount(quick=10, long=1_000), amount(quick=80, long=2_500), amount(quick=2, long=4)
    with ExitStack() as stack:
        people = [stack.enter_context(throw_away(f"kill_{number}")) for number in range(accounts)]
        work = {}
        for account in people:
            empty(account)
            work[account] = fill(account, each, large=True)
            with daemon.client(account.uid) as client:
                assert client.scan()["infected_file_count"] == each
        daemon.stop()
        daemon.write_config(RETRIES, '["/nonexistent"]')  # an engine that starts anew each time is not what is tried
        daemon.start(engine=False)
        for account, files in work.items():
            with daemon.client(account.uid) as client:
                client.good("disinfect_files", {"actions": dict(zip(files, itertools.cycle(MIXED), strict=False))})
        killer = Killer(daemon, each * accounts)
        while killer.killed.total() < kills:
            killer.wait(killer.killed.total() * each * accounts * 9 // (10 * kills))
            killer.kill()
        for account, files in work.items():
            check_all_done_once(daemon, account, files, MIXED)
    assert min(killer.killed.values()) > kills // 10
    figure(f"{killer.killed['daemon']} kills of the daemon and {killer.killed['worker']} of workers")
    figure(f"{each * accounts} actions")


@pytest.mark.row("R7")
@pytest.mark.fails_with("a-stop-gives-up-the-rest")
def test_a_disinfection_that_is_stopped_goes_on_at_the_next_start(daemon: RunningDaemon, alice: Person) -> None:
    files = fill(alice, FILES)
    ask(daemon, alice, files)
    for moment in (20, 300, 700):
        wait_for_steps(daemon, moment)
        processes = Processes(daemon)
        began = time.monotonic()
        assert daemon.stop() == 0
        assert time.monotonic() - began < STOP_LIMIT_S
        processes.wait_gone()
        daemon.start(engine=False)
        assert steps_ended(daemon) < FILES, "stopped too late"
    assert "Traceback" not in daemon.log()
    check_all_done_once(daemon, alice, files)


@pytest.mark.row("R8")
@pytest.mark.fails_with("worker-without-the-lock")
def test_a_worker_that_outlives_its_daemon_holds_up_its_own_account_and_no_other(
    daemon: RunningDaemon, alice: Person, bob: Person
) -> None:
    files = fill(alice, FILES)
    ask(daemon, alice, files)
    wait_for_steps(daemon, 20)
    processes = Processes(daemon)
    old = [processes.monitor, *processes.workers]
    assert len(old) == 2
    for pid in old:  # as its user could; only the monitor's stop needs root
        os.kill(pid, signal.SIGSTOP)
    daemon.kill()
    try:
        daemon.start()
        done = steps_ended(daemon)
        tree = names(alice.home)
        theirs = fill(bob, 3)
        with daemon.client(bob.uid) as client:  # asked later, and of the same runner: it has passed over the first
            assert client.scan()["infected_file_count"] == len(theirs)
            assert client.disinfect(dict.fromkeys(theirs, "delete"))[-1]["state"] == "success"
        assert steps_ended(daemon) == done + len(theirs) < FILES
        assert names(alice.home) == tree
        with daemon.client(alice.uid) as client:
            assert client.good("check_disinfection_status")["status"] == "queued"
    finally:
        for pid in reversed(old):  # the worker first: it ends the step at hand, then reads EOF
            os.kill(pid, signal.SIGCONT)
    processes.wait_gone()
    with daemon.client(alice.uid) as client:
        details = client.wait_disinfection()
    assert [step["file"] for step in details[:-1]] == files
    check_log(alice.home, details)
    mine = Counter(item.path for item in vault(daemon) if item.task == 1)
    assert mine == Counter(os.fsencode(os.path.relpath(file, alice.home)) for file in files)
    assert leftovers(alice.home) == []


def interrupt(daemon: RunningDaemon, how: str) -> None:
    processes = Processes(daemon)
    if how == "killed":
        daemon.kill()
    else:
        assert daemon.stop() == 0
    processes.wait_gone()


@pytest.mark.row("R1")
@pytest.mark.fails_with("running-stays-running")
@pytest.mark.parametrize("how", ["killed", "stopped"])
def test_a_scan_that_is_interrupted_goes_on_under_its_id(daemon: RunningDaemon, alice: Person, how: str) -> None:
    fill(alice, SCANNED, b"fine")
    bad = Path(alice.home, "d000", "bad")
    bad.write_bytes(MARKER)
    os.chown(bad, alice.uid, alice.gid)
    with daemon.client(alice.uid) as client:
        scan_id = client.good("start_scan", {"scan_type": "home"})["scan_id"]

        def under_way() -> dict[str, Any] | None:
            status: dict[str, Any] = client.good("get_scan_status")
            return status if status["scanned_file_count"] > 100 else None

        assert wait_for(under_way, "a scan under way")["scan_complete"] == 0
    interrupt(daemon, how)
    daemon.start()
    with daemon.client(alice.uid) as client:
        status = client.wait_scan()
        listed = client.good("list_infected_files")
    assert (status["scan_id"], status["state"]) == (scan_id, "done")
    assert status["resumed"] >= 1
    assert (status["scanned_file_count"], status["total_file_count"]) == (SCANNED + 1, SCANNED + 1)
    assert [file["file"] for file in listed] == [str(bad)]
