"""As root: the daemon killed or stopped in the middle of its work, and started again.

Moments are chosen by how far the work has got, as its records say, and at random within it. Beside each test stands
the mutation of the product that it was seen to fail with.
"""

import itertools
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.accounts import Person, throw_away
from tests.fakes.aftermath import Processes, check_log, leftovers, rows, vault
from tests.fakes.manifest import names
from tests.fakes.realclamd import MARKER
from tests.fakes.running import RunningDaemon, wait_for

FILES = 4_000  # groups end 64 at once, some 5,000 a second, and a kill or a stop is to come in time
KILLS = 5
SCANNED = 8_000
STOP_LIMIT_S = 10.0
ACTIONS = ("quarantine", "delete")
STATES = ("quarantined", "deleted")


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


def fill(account: Person, number: int, content: bytes = MARKER) -> list[str]:
    """Files named in the order of the steps, each with a content of its own, in directories of fifty."""
    made = []
    for file in range(number):
        path = Path(account.home, f"d{file // 50:03}", f"f{file:05}")
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content + b" %d" % file)
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
    """Of the first task."""
    number: int = rows(daemon, "SELECT count(*) FROM step WHERE state = 'ended' AND task = 1")[0][0]
    return number


def check_all_done_once(daemon: RunningDaemon, account: Person, files: list[str]) -> None:
    with daemon.client(account.uid) as client:
        details = client.wait_disinfection()
    *steps, done = details
    assert [step["file"] for step in steps] == files
    assert [step["state"] for step in steps] == [STATES[place % 2] for place in range(len(files))]
    assert (done["type"], done["status"], done["state"]) == ("done", "done", "success")
    check_log(account.home, details)
    items = {f"{account.home}/{os.fsdecode(item.path)}": item for item in vault(daemon)}
    assert len(vault(daemon)) == len(files)
    assert {path: item.content for path, item in items.items()} == {
        path: MARKER + b" %d" % place for place, path in enumerate(files)
    }
    assert leftovers(account.home) == []
    assert names(account.home).keys() == {b".clamavconnector.disinfection.log"}


# Fails when begin_step gives a step that was begun before a new capture name and when the worker does not look at
# `again` (either way the captured file counts as gone), and when Vault.check is not run at start (half received
# contents stay).
def test_a_disinfection_that_is_killed_again_and_again_does_every_file_once(
    daemon: RunningDaemon, alice: Person
) -> None:
    files = fill(alice, FILES)
    ask(daemon, alice, files)
    moments = sorted(random.sample(range(5, FILES // 2), KILLS))
    for moment in moments:
        reached = wait_for_steps(daemon, moment)
        processes = Processes(daemon)
        daemon.kill()
        assert reached < FILES, f"killed too late: {moments}"
        processes.wait_gone()
        daemon.start(engine=False)
    check_all_done_once(daemon, alice, files)


# Fails when a stop counts as one more failed attempt (go() raises WorkerFailed where it returns False).
def test_a_disinfection_that_is_stopped_goes_on_at_the_next_start(daemon: RunningDaemon, alice: Person) -> None:
    files = fill(alice, FILES)
    ask(daemon, alice, files)
    for moment in (20, 700, 1_400):
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


# Fails when the worker does not get the lock that the daemon holds (spawn.py): the new daemon acts beside the old one.
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
        assert steps_ended(daemon) == done < FILES
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


# Fails when recover() leaves what was running `running` (killed), and when ScanJobs.run ends the scan (stopped).
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
