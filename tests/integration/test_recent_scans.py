"""Scans of what changed since, on real daemons: nothing is hidden by a forged time, nothing vanishes unlooked at."""

import os
import time
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.accounts import Person
from tests.fakes.realclamd import EICAR
from tests.fakes.running import PeerClient, RpcError, RunningDaemon, acting_as, wait_for
from tests.integration.people import balanced, engine_later, put, wait_state

JUST_NOW_S = 1e-6
"""So recent that nothing made before the call counts as changed."""


def start(client: PeerClient, **params: object) -> float:
    """The border of the recent scan that was queued."""
    client.call("Scan.start", {"recent_s": JUST_NOW_S, **params})
    since: float = client.good("get_scan_status")["since"]
    assert time.time() - 60 < since <= time.time()
    return since


def change(person: Person, name: str, content: bytes, since: float) -> Path:
    """Written after the border, as its file system's clock has it."""

    def write() -> Path | None:
        path = put(person, name, content)
        return path if path.stat().st_ctime > since else None

    return wait_for(write, "the clock of the file system")


def warnings(client: PeerClient) -> list[Any]:
    """About findings; an engine that is shared has its own."""
    return [one for one in client.uapi("list_infected_files")["warnings"] or () if "earlier scans" in one]


def test_what_changed_is_scanned_whatever_its_mtime_and_the_rest_is_counted_apart(alice: Person) -> None:
    put(alice, "old/clean", b"clean")
    unseen = put(alice, "old/bad")
    with engine_later() as (daemon, clamd), daemon.client(alice.uid) as client:
        since = start(client, scan_type="home")
        forged, moved = change(alice, "old/forged", EICAR, since), put(alice, "old/was")
        with acting_as(alice.uid):
            os.utime(forged, (0, 0))
            moved.rename(moved.with_name("moved"))
        clamd.start()
        status = client.wait_scan()
        assert (status["state"], status["scan_type"], balanced(status)) == ("done", "home", True)
        assert (status["scanned_file_count"], status["not_scanned"]) == (2, {"unchanged": 2})
        assert sorted(status["infected_files"]) == [str(forged), f"{alice.home}/old/moved"]
        whole = client.call("Scan.get", {"scan_id": status["scan_id"]})
        assert (whole["since"], whole["not_scanned_files"]) == (since, [])
        assert client.scan()["infected_file_count"] == 3, f"{unseen} is there for a scan of all"


def test_what_stood_is_looked_at_again_and_nothing_else_of_it_vanishes(alice: Person) -> None:
    stands, shut = put(alice, "a/stands"), put(alice, "a/shut")
    mended, gone, elsewhere = put(alice, "a/mended"), put(alice, "a/gone"), put(alice, "b/elsewhere")
    with engine_later() as (daemon, clamd):
        clamd.start()
        with daemon.client(alice.uid) as client:
            wait_for(lambda: "engine ready" in daemon.log(), "the engine")
            assert client.scan()["infected_file_count"] == 5
            put(alice, "a/mended", b"clean")
            with acting_as(alice.uid):
                gone.unlink()
                shut.chmod(0)
            start(client, paths=["a"])
            status = client.wait_scan()
            assert (status["state"], status["infected_files"]) == ("done", [str(stands)])
            assert [found["file"] for found in client.good("list_infected_files")] == [str(stands)]
            (warning,) = warnings(client)
            assert warning.startswith("2 infected files of earlier scans still stand"), (shut, elsewhere)
            # And what is on the list can be acted on, as after any scan.
            assert [one["state"] for one in client.disinfect({str(stands): "quarantine"})] == ["quarantined", "success"]
            shut.chmod(0o600)
            assert sorted(client.scan()["infected_files"]) == [str(shut), str(elsewhere)]
            assert mended.read_bytes() == b"clean"


def test_the_border_stays_where_it_was_through_kill_9_and_restart(alice: Person) -> None:
    put(alice, "old", EICAR)
    with engine_later() as (daemon, clamd):
        with daemon.client(alice.uid) as client:
            since = start(client, paths=["."])
        daemon.kill()
        changed = change(alice, "new", EICAR, since)
        daemon.start(engine=False)
        with daemon.client(alice.uid) as client:
            assert wait_state(client, "queued")["since"] == since
            clamd.start()
            status = client.wait_scan()
        assert (status["since"], status["infected_files"]) == (since, [str(changed)])
        assert status["not_scanned"] == {"unchanged": 1}


def test_a_file_named_by_itself_may_be_unchanged(alice: Person) -> None:
    put(alice, "old")
    with RunningDaemon() as daemon, daemon.client(alice.uid) as client:
        start(client, paths=["old"])
        status = client.wait_scan()
        assert (status["total_file_count"], status["not_scanned"]) == (1, {"unchanged": 1})
        assert client.good("list_infected_files") == []
        for recent_s in (0, -1, 1e300, "2d", True):
            with pytest.raises(RpcError) as error:
                client.call("Scan.start", {"scan_type": "home", "recent_s": recent_s})
            assert error.value.kind == "invalid_params"
        assert client.call("Scan.start", {"scan_type": "home", "recent_s": 36_500 * 86_400})["scan_id"]
        assert client.wait_scan()["infected_file_count"] == 1, "a hundred years ago there was nothing"
