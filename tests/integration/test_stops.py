"""SIGTERM to the real daemon while something hangs, and a database that cannot be used for a while."""

import os
import pwd
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from tests.fakes.accounts import Person
from tests.fakes.running import RpcError, RunningDaemon, acting_as, wait_for
from tests.integration.people import (
    alive,
    children,
    fill,
    held_in_mid_scan,
    monitor,
    put,
    rows,
    started_by_monitor,
    worker_of,
)

STOP_S = 10.0
FILES = 300


@pytest.fixture
def daemon(_people: object) -> Iterator[RunningDaemon]:
    with RunningDaemon() as running:
        yield running


def stopped_in_time(daemon: RunningDaemon) -> None:
    """With everything that it started."""
    pids = [monitor(daemon), *children(monitor(daemon))]
    began = time.monotonic()
    assert daemon.process is not None
    daemon.process.terminate()
    assert daemon.process.wait(3 * STOP_S) == 0
    assert time.monotonic() - began < STOP_S
    wait_for(lambda: not any(map(alive, pids)), f"{pids} to be gone", 5)


@contextmanager
def held(*pids: int) -> Iterator[None]:
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


@contextmanager
def locked(daemon: RunningDaemon) -> Iterator[None]:
    """An administrator's shell in the middle of a transaction."""
    with acting_as(pwd.getpwnam("clamscannerd").pw_uid):
        shell = sqlite3.connect(daemon.state / "state.db", isolation_level=None)
    with closing(shell):
        shell.execute("BEGIN IMMEDIATE")
        yield
        shell.execute("ROLLBACK")


def test_a_step_and_an_engine_that_hang_are_left_in_time(daemon: RunningDaemon, alice: Person) -> None:
    """The step at hand has its 8 s; what comes after has what is left."""
    fill(alice, FILES, infected=range(FILES))
    with daemon.client(alice.uid) as client:
        client.scan()
        client.good("disinfect_files", {"actions": {}, "others": "quarantine"})
        worker = worker_of(daemon, alice)
        wait_for(lambda: rows(daemon, "SELECT 1 FROM step WHERE state = 'ended'"), "the task to begin")
        with held(worker, *started_by_monitor(daemon, "clamd")):
            assert rows(daemon, "SELECT count(*) FROM step WHERE state = 'ended'")[0] < (FILES,)
            stopped_in_time(daemon)
    daemon.start()
    with daemon.client(alice.uid) as client:
        records = client.wait_disinfection()
    assert [record["state"] for record in records] == ["quarantined"] * FILES + ["success"]


def test_a_database_that_is_locked_does_not_hold_up_a_stop(daemon: RunningDaemon, alice: Person) -> None:
    fill(alice, FILES)
    with daemon.client(alice.uid) as client, held_in_mid_scan(daemon, client, alice), locked(daemon):
        stopped_in_time(daemon)
    daemon.start()
    with daemon.client(alice.uid) as client:
        status = client.wait_scan()
        assert (status["state"], status["resumed"]) == ("done", 1)


@contextmanager
def dead_disk(daemon: RunningDaemon) -> Iterator[None]:
    """Whatever is synced does not come back, and the thread that asked with it."""
    calls = "fsync,fdatasync"
    words = ["strace", "-f", "-q", "-p", str(daemon.pid), "-e", f"trace={calls}"]
    tracer = subprocess.Popen([*words, "-e", f"inject={calls}:delay_enter=60s"], stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: "TracerPid:\t0\n" not in Path(f"/proc/{daemon.pid}/status").read_text(), "the tracer")
        yield
    finally:
        tracer.kill()  # it holds what it delays even when the process has ended
        tracer.wait()


def test_a_thread_that_hangs_in_the_kernel_does_not_hold_up_a_stop(daemon: RunningDaemon, alice: Person) -> None:
    fill(alice, FILES)
    assert daemon.process is not None
    with daemon.client(alice.uid) as client, held_in_mid_scan(daemon, client, alice), dead_disk(daemon):
        daemon.process.terminate()
        wait_for(lambda: "cannot stop in time: leaving" in daemon.log(), "the daemon to leave", STOP_S)
    assert daemon.process.wait(STOP_S) == 1
    daemon.start()
    with daemon.client(alice.uid) as client:
        status = client.wait_scan()
        assert (status["state"], status["resumed"]) == ("done", 1)


def test_a_database_that_is_locked_delays_and_ends_nothing(daemon: RunningDaemon, alice: Person) -> None:
    put(alice, "fine", b"fine")
    with daemon.client(alice.uid) as client:
        with locked(daemon):
            with pytest.raises(RpcError, match="state cannot be used now") as failed:
                client.call("ClamScanner.start_scan", {"scan_type": "home"})
            assert failed.value.kind == "fault"
        assert client.scan()["state"] == "done"
    assert "database is locked" in daemon.log()
    assert "Traceback" not in daemon.log()
