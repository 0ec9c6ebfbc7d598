"""Whole scans with real engines: whatever happens meanwhile, every entry ends with a verdict or a reason."""

import base64
import os
import re
import signal
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.fakes.accounts import Person
from tests.fakes.realclamd import EICAR, EICAR_NAME, RealClamd, ndb
from tests.fakes.running import PeerClient, RunningDaemon, acting_as, wait_for
from tests.integration.people import (
    alive,
    balanced,
    clear,
    fill,
    held_in_mid_scan,
    home,
    put,
    started_by_monitor,
)

FILES = 500
INFECTED = (7, 300, 499)
CONFIG = """
[engine]
check_interval_s = 0.2
ping_timeout_s = 1
"""
PATIENCE_S = 120.0

ENCRYPTED_ZIP = (
    "UEsDBAoACQAAABuad13aiUmbGAAAAAwAAAACABwAc3hVVAkAAyWRBGslkQRrdXgLAAEEAAAAAAQAAAAA+3bTEL/upq0TvGeu+bdG"
    "yob+oOHOEpb/UEsHCNqJSZsYAAAADAAAAFBLAQIeAwoACQAAABuad13aiUmbGAAAAAwAAAACABgAAAAAAAEAAACkgQAAAABzeFVU"
    "BQADJZEEa3V4CwABBAAAAAAEAAAAAFBLBQYAAAAAAQABAEgAAABkAAAAAAA="
)
"""`zip -P secret` of one line of text: the standard library writes no encrypted archives."""

DEBIAN = {
    "MaxThreads": "12", "MaxScanSize": "100M", "MaxFileSize": "25M", "StreamMaxLength": "25M", "MaxQueue": "100",
    "MaxConnectionQueueLength": "15", "ReadTimeout": "180", "CommandReadTimeout": "30", "IdleTimeout": "30",
    "SelfCheck": "3600", "ExtendedDetectionInfo": "true", "HeuristicScanPrecedence": "false", "Bytecode": "true",
    "ArchiveBlockEncrypted": "false", "AlertExceedsMax": "no", "AlertEncrypted": "no",
}  # fmt: skip
"""Of Debian 12's clamd.conf what matters here."""


@pytest.fixture(scope="module")
def private(_people: object) -> Iterator[RunningDaemon]:
    with RunningDaemon(config=CONFIG) as daemon:
        yield daemon


@contextmanager
def shared(options: dict[str, str] | None = None) -> Iterator[tuple[RunningDaemon, RealClamd]]:
    """A daemon on somebody else's clamd, whose clamd.conf it may read."""
    daemon = RunningDaemon()
    try:
        with RealClamd(f"{daemon.directory}/clamd", options=options) as clamd:
            text = f'{CONFIG}clamd_conf = "{clamd.conf_path}"\n'
            daemon.write_config(text, f'["{clamd.socket_path}"]')
            daemon.start()
            yield daemon, clamd
    finally:
        daemon.close()


def engine_of(daemon: RunningDaemon) -> int:
    return wait_for(lambda: next(iter(started_by_monitor(daemon, "clamd")), None), "a private engine")


def said_last_of_engine(daemon: RunningDaemon) -> str:
    """Its state by the daemon's log: on a busy machine an engine may be late, and ready again, before it is stopped."""
    return str(re.findall(r"\bengine (starting|loading|ready|lost): ", daemon.log())[-1])


def whole(client: PeerClient) -> dict[str, Any]:
    """The end of a scan of what `fill` made: nothing lost, nothing doubled, nothing called what it is not."""
    status = client.wait_scan(PATIENCE_S)
    assert status["state"] == "done", client.uapi("get_scan_status")["warnings"]
    assert (status["scanned_file_count"], status["total_file_count"], status["not_scanned"]) == (FILES, FILES, {})
    assert status["infected_file_count"] == len(INFECTED)
    assert len(client.good("list_infected_files")) == len(INFECTED)
    return status


def test_a_private_engine_killed_in_mid_scan_is_started_again_and_the_scan_ends_whole(
    private: RunningDaemon, alice: Person
) -> None:
    fill(alice, FILES, infected=INFECTED)
    with private.client(alice.uid) as client:
        first = engine_of(private)
        with held_in_mid_scan(private, client, alice):
            os.kill(first, signal.SIGKILL)
        whole(client)
        assert engine_of(private) != first


def test_an_engine_stopped_for_a_while_goes_on_where_it_was(private: RunningDaemon, alice: Person, bob: Person) -> None:
    fill(alice, FILES, infected=INFECTED)
    engine = engine_of(private)
    with private.client(alice.uid) as client:
        with held_in_mid_scan(private, client, alice):
            os.kill(engine, signal.SIGSTOP)
        try:
            wait_for(lambda: said_last_of_engine(private) != "ready", "the daemon to notice")
            status = client.good("get_scan_status")
            assert (status["state"], status["scan_complete"]) == ("running", 0)
            with private.client(bob.uid) as other:
                result = other.uapi("start_scan", {"scan_type": "home"})
                assert result["status"] == 1
                assert result["warnings"][0].startswith("the scan waits for the engine: ")
        finally:
            os.kill(engine, signal.SIGCONT)
        whole(client)
    with private.client(bob.uid) as other:
        assert other.wait_scan()["state"] == "done"


def test_an_engine_that_hangs_for_good_is_replaced(alice: Person) -> None:
    fill(alice, FILES, infected=INFECTED)
    with RunningDaemon(config=f"{CONFIG}first_ping_timeout_s = 1\n") as daemon, daemon.client(alice.uid) as client:
        engine = engine_of(daemon)
        with held_in_mid_scan(daemon, client, alice):
            os.kill(engine, signal.SIGSTOP)
        whole(client)
        assert not alive(engine)


def test_a_shared_clamd_killed_and_started_in_mid_scan_costs_no_verdict(alice: Person) -> None:
    fill(alice, FILES, infected=INFECTED)
    with shared() as (daemon, clamd), daemon.client(alice.uid) as client:
        with held_in_mid_scan(daemon, client, alice):
            clamd.kill()
            wait_for(lambda: "engine lost" in daemon.log(), "the daemon to notice")
            assert client.good("get_scan_status")["state"] == "running"
        clamd.start()
        whole(client)


def test_a_clamd_that_reloads_in_mid_scan_costs_no_verdict(alice: Person) -> None:
    fill(alice, FILES, infected=INFECTED)
    with shared() as (daemon, clamd), daemon.client(alice.uid) as client:
        with held_in_mid_scan(daemon, client, alice):
            clamd.add("more.ndb", ndb("Test.More", b"a marker of ours"))
            assert clamd.ask(b"RELOAD") == b"RELOADING"
        whole(client)


def test_a_clamd_with_debians_settings_is_used_and_said_to_be_blind(alice: Person) -> None:
    bad = put(alice, "bad")
    with acting_as(alice.uid), (home(alice) / "large").open("wb") as stream:
        stream.write(EICAR)
        stream.truncate((25 << 20) + 1)
    with acting_as(alice.uid), (home(alice) / "just-fits").open("wb") as stream:
        stream.truncate(25 << 20)
    with shared(DEBIAN) as (daemon, _), daemon.client(alice.uid) as client:
        status = client.scan()
        assert status["not_scanned"] == {"too_big": 1}
        assert status["scanned_file_count"] == 2
        assert status["engine"]["max_file_size"] == 25 << 20
        (found,) = client.good("list_infected_files")
        assert (found["file"], found["virus_type"]) == (str(bad), EICAR_NAME)
        blind = status["engine"]["blind"]
        assert any("AlertExceedsMax" in sentence for sentence in blind)
        assert any("Encrypted archives" in sentence for sentence in blind)
        for func in ("get_scan_status", "list_infected_files"):
            assert set(blind) <= set(client.uapi(func)["warnings"])


def test_what_is_not_scanned_is_never_clean_and_has_its_reason(alice: Person) -> None:
    place = home(alice)
    put(alice, "fine", b"fine")
    put(alice, "encrypted.zip", base64.b64decode(ENCRYPTED_ZIP))
    put(alice, "shut", EICAR).chmod(0)
    put(alice, "shut directory/inside", EICAR)
    with acting_as(alice.uid):
        with (place / "large").open("wb") as stream:
            stream.truncate((1 << 20) + 1)
        with zipfile.ZipFile(place / "member.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("zeros", bytes(2 << 20) + EICAR)
        os.mkfifo(place / "fifo")
        (place / "dangling").symlink_to("nowhere")
        (place / "link").symlink_to("/etc/passwd")
        (place / "shut directory").chmod(0)
    with RunningDaemon(config='[engine]\nmax_file_size = "1M"\n') as daemon, daemon.client(alice.uid) as client:
        status = client.scan()
        assert status["not_scanned"] == {
            "encrypted": 1,
            "limit": 1,
            "not_regular": 3,
            "too_big": 1,
            "unreadable": 2,
        }
        assert (status["scanned_file_count"], status["infected_file_count"], balanced(status)) == (1, 0, True)
        assert (status["engine"]["blind"], status["engine"]["max_file_size"]) == ([], 1 << 20)


def test_without_signatures_nothing_is_clean_until_there_are_some(alice: Person) -> None:
    put(alice, "bad")
    put(alice, "fine", b"fine")
    with RunningDaemon(signatures=b"", config=CONFIG) as daemon, daemon.client(alice.uid) as client:
        started = client.uapi("start_scan", {"scan_type": "home"})
        assert "test signature" in started["warnings"][0]
        status = client.wait_scan()
        assert status["not_scanned"] == {"no_signatures": 1}
        assert (status["infected_file_count"], status["scanned_file_count"]) == (1, 1)
        for func in ("get_scan_status", "list_infected_files"):
            assert any("test signature" in text for text in client.uapi(func)["warnings"])
        put(alice, "ill", b"a marker of ours")
        log_was = len(daemon.log())
        (daemon.database / "ours.ndb").write_bytes(ndb("Ours", b"a marker of ours"))
        wait_for(lambda: "engine ready" in daemon.log()[log_was:], "the change over")
        status = client.scan()
        assert status["not_scanned"] == {}
        assert client.uapi("list_infected_files")["warnings"] is None
        assert [file["virus_type"] for file in client.good("list_infected_files")] == ["Ours.UNOFFICIAL"]


def watched(client: PeerClient, meanwhile: Callable[[int, dict[str, Any]], None]) -> dict[str, Any]:
    """Poll to the end; totals never shrink, `meanwhile` gets the number of each poll and its status."""
    client.good("start_scan", {"scan_type": "home"})
    seen: list[tuple[int, int, int]] = [(0, 0, 0)]

    def look() -> dict[str, Any] | None:
        status: dict[str, Any] = client.good("get_scan_status")
        now = (status["total_file_count"], status["total_file_size"], status["scanned_file_count"])
        assert all(new >= old for new, old in zip(now, seen[-1], strict=True)), (now, seen[-1])
        assert status["scanned_file_count"] + sum(status["not_scanned"].values()) <= status["total_file_count"]
        meanwhile(len(seen), status)
        seen.append(now)
        return status if status["scan_complete"] else None

    status = wait_for(look, "the scan to end", PATIENCE_S)
    assert (status["state"], balanced(status)) == ("done", True)
    return status


def test_totals_grow_and_balance_while_files_vanish_and_appear(private: RunningDaemon, alice: Person) -> None:
    fill(alice, FILES, infected=INFECTED)

    def change(poll: int, _: object) -> None:
        with acting_as(alice.uid):
            for number in range(poll * 40, poll * 40 + 20):
                (home(alice) / f"d{number // 100 * 100:06d}" / f"f{number:06d}").unlink(missing_ok=True)
            for number in range(20):
                (home(alice) / f"new{poll}-{number}").write_bytes(b"new")

    with private.client(alice.uid) as client:
        watched(client, change)


def test_a_tree_deleted_under_the_scan_ends_it_without_a_fault(private: RunningDaemon, alice: Person) -> None:
    """And what an earlier scan had found in it stands no longer."""
    with private.client(alice.uid) as client:
        put(alice, "d000000/bad")
        client.scan()
        clear(alice)
        fill(alice, FILES, infected=INFECTED)

        with held_in_mid_scan(private, client, alice):
            clear(alice)
        status = client.wait_scan(PATIENCE_S)
        assert (status["state"], balanced(status)) == ("done", True)
        assert status["not_scanned"].keys() <= {"vanished", "changed", "unreadable"}
        assert status["not_scanned"]["vanished"] > 0
        result = client.uapi("list_infected_files")
        assert result["warnings"] is None, "no earlier finding stands"
        assert "Traceback" not in private.log()
        assert client.scan()["total_file_count"] == 0
        assert client.good("list_infected_files") == []
