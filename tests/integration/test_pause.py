"""Pausing and resuming on real daemons: what was found stands, nothing is scanned meanwhile, and a restart keeps it."""

import json
import pwd
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.accounts import Person
from tests.fakes.running import PeerClient, RpcError, RunningDaemon, wait_for
from tests.integration.people import (
    alive,
    balanced,
    engine_later,
    fill,
    held_in_mid_scan,
    put,
    wait_state,
)

CTL = str(Path(sys.executable).with_name("clamscannerctl"))
FILES = 500
INFECTED = (7, 300, 499)


@pytest.fixture(scope="module")
def daemon(_people: object) -> Iterator[RunningDaemon]:
    with RunningDaemon() as running:
        yield running


def end(client: PeerClient) -> dict[str, Any]:
    """Of the scan of what `fill` made: whole, as if it had never been held."""
    status = client.wait_scan()
    assert (status["state"], balanced(status)) == ("done", True)
    assert (status["scanned_file_count"], status["infected_file_count"]) == (FILES, len(INFECTED))
    assert len(client.good("list_infected_files")) == len(INFECTED)
    return status


def test_a_running_scan_is_held_and_goes_on_whole(daemon: RunningDaemon, alice: Person) -> None:
    fill(alice, FILES, infected=INFECTED)
    with daemon.client(alice.uid) as client, daemon.client() as admin:
        with held_in_mid_scan(daemon, client, alice) as worker:
            before = client.good("get_scan_status")
            answer = client.call("Scan.pause")
            assert answer == {"scan_id": before["scan_id"], "state": "paused"}
            assert not alive(worker)
        status = client.good("get_scan_status")
        assert (status["state"], status["scan_complete"], status["queue_position"]) == ("paused", 0, 0)
        assert status["scanned_file_count"] >= before["scanned_file_count"], "what was counted is still said"
        assert set(before["infected_files"]) <= set(status["infected_files"])
        assert client.call("Scan.pause") == answer, "it may be said again"

        (refused,) = client.uapi("start_scan", {"scan_type": "home"})["errors"]
        assert refused == "cannot start the scan: a scan of this account is already paused; resume or cancel it"
        with pytest.raises(RpcError, match="already paused; resume or cancel it"):
            client.call("Scan.start", {"paths": ["."]})
        (refused,) = client.uapi("disinfect_files", {"actions": {}, "others": "ignore"})["errors"]
        assert refused == "cannot disinfect: a scan of this account is already paused; resume or cancel it"
        assert "clamscannerd_scans_paused 1.0\n" in admin.call("Daemon.metrics")["text"]

        resumed = client.call("Scan.resume")
        assert resumed["scan_id"] == before["scan_id"]
        status = end(client)
        assert (status["scan_id"], status["resumed"]) == (before["scan_id"], 1)
        for method in ("Scan.pause", "Scan.resume", "Scan.cancel"):
            with pytest.raises(RpcError) as error:
                client.call(method)
            assert error.value.kind == "not_found"
        assert "clamscannerd_scans_paused 0.0\n" in admin.call("Daemon.metrics")["text"]


@pytest.mark.parametrize("how", ["SIGTERM", "SIGKILL"])
def test_a_paused_scan_is_paused_after_a_restart_and_then_goes_on(alice: Person, how: str) -> None:
    fill(alice, FILES, infected=INFECTED)
    with RunningDaemon() as daemon:
        with daemon.client(alice.uid) as client, held_in_mid_scan(daemon, client, alice):
            scan_id = client.call("Scan.pause")["scan_id"]
        if how == "SIGTERM":
            assert daemon.stop() == 0
        else:
            daemon.kill()
        daemon.start()
        with daemon.client(alice.uid) as client:
            assert client.good("get_scan_status")["state"] == "paused"
            client.call("Scan.resume")
            assert end(client)["scan_id"] == scan_id


def test_a_kill_9_while_it_is_being_paused_leaves_it_paused_or_going_on(alice: Person) -> None:
    """The order is not acknowledged: either is true. It is one scan, and it can be ended."""
    fill(alice, FILES, infected=INFECTED)
    ends = set()
    with RunningDaemon() as daemon:
        for _ in range(4):
            with daemon.client(alice.uid) as client:
                started = client.good("start_scan", {"scan_type": "home"})["scan_id"]
                wait_state(client, "running", "done")
                client._stream.write(b'{"jsonrpc":"2.0","id":1,"method":"Scan.pause"}\n')
                client._stream.flush()
            daemon.kill()
            daemon.start()
            with daemon.client(alice.uid) as client:
                state = client.good("get_scan_status")["state"]
                ends.add(state)
                if state == "paused":
                    client.call("Scan.resume")
                assert end(client)["scan_id"] == started
    assert ends <= {"paused", "queued", "running", "done"}


def test_a_paused_scan_is_cancelled_and_then_others_start(alice: Person) -> None:
    put(alice, "bad")
    with engine_later() as (daemon, clamd), daemon.client(alice.uid) as client:
        client.good("start_scan", {"scan_type": "home"})
        assert client.call("Scan.pause")["state"] == "paused"
        clamd.start()
        wait_for(lambda: "engine ready" in daemon.log(), "the engine")
        assert client.good("get_scan_status")["state"] == "paused", "an engine that comes starts it not"
        assert client.call("Scan.cancel")["state"] == "cancelled"
        assert client.uapi("get_scan_status")["warnings"] == ["the scan was cancelled while it was paused"]
        assert client.scan()["infected_file_count"] == 1


def test_whoever_listens_hears_of_it_and_an_administrator_may_do_it(alice: Person) -> None:
    with engine_later() as (daemon, clamd), daemon.client(alice.uid) as client, daemon.client() as admin:
        client.good("start_scan", {"scan_type": "home"})
        with daemon.client(alice.uid) as listener:
            listener.call("Events.subscribe", {"kinds": ["Scan.progress", "Scan.done"]})
            seen = [listener.answer()["params"]["state"]]
            assert admin.call("Scan.pause", {"user": alice.name})["state"] == "paused"
            while seen[-1] != "paused":
                seen.append(listener.answer()["params"]["state"])
            clamd.start()
            wait_for(lambda: "engine ready" in daemon.log(), "the engine")
            assert client.call("Scan.resume")["state"] in ("queued", "running", "done")
            while seen[-1] != "done":
                seen.append(listener.answer()["params"]["state"])
        assert seen[0] == "queued"


def test_the_command_says_how_to_come_back(alice: Person) -> None:
    entry = pwd.getpwuid(alice.uid)
    with engine_later() as (daemon, _), daemon.client(alice.uid) as client:

        def ctl(*words: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [CTL, "--socket", daemon.socket_path, *words],
                user=entry.pw_uid,
                group=entry.pw_gid,
                extra_groups=[],
                env={"PATH": "/usr/bin:/bin", "HOME": entry.pw_dir, "LC_ALL": "C.UTF-8"},
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )

        nothing = ctl("pause")
        assert nothing.returncode == 2
        assert nothing.stderr.startswith("clamscannerctl: cannot pause a scan: none is queued, running or paused\n")
        scan_id = client.good("start_scan", {"scan_type": "home"})["scan_id"]
        again = f"go on with: clamscannerctl --socket {daemon.socket_path} resume"
        assert ctl("pause").stdout == f"scan {scan_id}: paused\n{again}\n"
        assert again in ctl("status").stdout.splitlines()
        assert f"scan {scan_id} (home): paused" in ctl("status").stdout
        assert json.loads(ctl("pause", "--json").stdout) == {"scan_id": scan_id, "state": "paused"}
        resumed = ctl("resume")
        assert resumed.stdout.splitlines()[0] == f"scan {scan_id}: queued, number 1 in the queue"
        assert ctl("cancel").stdout == f"scan {scan_id}: cancelled\n"
