"""The real daemon with something that stands for systemd: what it says while it runs, and whom no stop refuses.

A booted systemd is what tests/system has; here are its notify socket and its listening socket, which outlives daemons.
"""

import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.fakes.accounts import Person
from tests.fakes.manager import Manager
from tests.fakes.running import PeerClient, RpcError, RunningDaemon, wait_for
from tests.integration.people import (
    alive,
    children,
    engine_socket,
    fill,
    held_in_mid_scan,
    monitor,
    put,
    started_by_monitor,
)

FILES = 300
OTHER_VERSION = (
    "import sys, clamscannerd; clamscannerd.__version__ = '0.0.9'; from clamscannerd import daemon, launch;"
    " daemon.RESTART_AFTER_S = {after}; sys.exit(launch.main())"
)


@contextmanager
def activated(
    *, engine: bool = True, config: str = "", watchdog_s: float = 0.0, start: bool = True
) -> Iterator[tuple[RunningDaemon, Manager]]:
    daemon = RunningDaemon(config=config)
    if not engine:
        daemon.write_config(config, f'["{engine_socket(daemon)}"]')
    with Manager(daemon.socket_path, watchdog_s=watchdog_s) as manager:
        daemon.manager = manager
        try:
            if start:
                daemon.start(engine=engine)
            yield daemon, manager
        finally:
            daemon.close()


@pytest.fixture
def pair(_people: object) -> Iterator[tuple[RunningDaemon, Manager]]:
    with activated() as made:
        yield made


@pytest.fixture
def without_engine(_people: object) -> Iterator[tuple[RunningDaemon, Manager]]:
    with activated(engine=False) as made:
        yield made


def waiting_call(daemon: RunningDaemon) -> PeerClient:
    """A client that has connected and asked while nobody accepts."""
    client = PeerClient(daemon.socket_path)
    client.sock.sendall(b'{"jsonrpc":"2.0","id":7,"method":"Daemon.version"}\n')
    return client


def ended(daemon: RunningDaemon) -> int:
    assert daemon.process is not None
    return daemon.process.wait(30)


def all_gone(pids: list[int]) -> None:
    wait_for(lambda: not any(map(alive, pids)), f"{pids} to be gone")


# What is said


def test_ready_and_status_are_said_and_kept_current(pair: tuple[RunningDaemon, Manager], alice: Person) -> None:
    daemon, manager = pair
    manager.wait("READY")
    assert re.fullmatch(r"idle; clamd [0-9.]+", manager.wait_status("idle; clamd"))
    fill(alice, FILES)
    with daemon.client(alice.uid) as client:
        with held_in_mid_scan(daemon, client, alice):
            assert manager.wait_status("1 scan").startswith("1 scan; clamd ")
        client.wait_scan()
    manager.wait_status("idle")
    assert daemon.stop() == 0
    assert manager.values("STOPPING") == ["1"]
    assert manager.status().startswith("stopping; ")
    said = " ".join(value for _, value in manager.said)
    assert alice.name not in said
    assert "/" not in said.replace("clamd ", "")


def test_without_an_engine_it_is_degraded_and_says_so(
    without_engine: tuple[RunningDaemon, Manager], alice: Person
) -> None:
    daemon, manager = without_engine
    assert re.fullmatch(r"degraded: clamd not reachable since \d\d:\d\d; idle", manager.wait_status("not reachable"))
    put(alice, "fine", b"fine")
    with daemon.client(alice.uid) as client:
        client.good("start_scan", {"scan_type": "home"})
        assert manager.wait_status("1 queued").startswith("degraded: ")


@pytest.mark.usefixtures("_people")
def test_the_watchdog_hears_from_a_degraded_daemon_and_not_from_one_whose_monitor_hangs() -> None:
    with activated(engine=False, watchdog_s=0.4) as (daemon, manager):
        manager.wait("WATCHDOG", more_than=3)
        hanging = monitor(daemon)
        os.kill(hanging, signal.SIGSTOP)
        wait_for(lambda: "no answer from the monitor for 0.2 s" in daemon.log(), "the complaint")
        before = len(manager.values("WATCHDOG"))
        with daemon.client(0) as client:
            for _ in range(50):
                client.call("Daemon.version")
        assert len(manager.values("WATCHDOG")) == before, "the loop runs, and that is not enough"
        os.kill(hanging, signal.SIGCONT)
        manager.wait("WATCHDOG", more_than=before)


# Stopping


def test_who_is_connected_at_a_stop_is_told_and_who_connects_then_is_served_by_the_next(
    pair: tuple[RunningDaemon, Manager],
) -> None:
    daemon, _ = pair
    with daemon.client() as idle, daemon.client() as busy:
        assert busy.call("Daemon.version")
        assert daemon.stop() == 0
        for client in (idle, busy):
            answer = client.answer()
            assert (answer["id"], answer["error"]["data"]["kind"]) == (None, "shutting_down")
    with waiting_call(daemon) as client:
        daemon.start()
        assert client.answer()["result"]["version"]


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL, signal.SIGABRT])
def test_no_call_is_refused_while_there_is_no_daemon(pair: tuple[RunningDaemon, Manager], how: signal.Signals) -> None:
    """Abort is the watchdog's."""
    daemon, _ = pair
    for _ in range(3):
        left = [monitor(daemon), *children(monitor(daemon))]
        os.kill(daemon.pid, how)
        with waiting_call(daemon) as client:
            ended(daemon)
            all_gone(left)
            with waiting_call(daemon) as later:
                daemon.start(engine=False)
                assert later.answer()["result"]["version"]
                answer = client.answer()  # it may have been accepted by the one that was ending
                assert "result" in answer or answer["error"]["data"]["kind"] == "shutting_down"


def test_a_monitor_that_ends_takes_the_daemon_with_it_at_once(
    pair: tuple[RunningDaemon, Manager], alice: Person
) -> None:
    """Though worker and engine were under way: nobody waits for what nobody can tell any more."""
    daemon, _ = pair
    fill(alice, FILES)
    with daemon.client(alice.uid) as client, held_in_mid_scan(daemon, client, alice):
        os.kill(monitor(daemon), signal.SIGKILL)
        assert daemon.process is not None
        assert daemon.process.wait(2.5) == 1
    assert "waits, and is tried" not in daemon.log()


# Reloading


def write(daemon: RunningDaemon, text: str) -> None:
    (daemon.config_path.parent / "conf.d" / "test.toml").write_text(text)


def test_a_broken_configuration_is_refused_with_its_error_in_the_status_and_the_old_one_stays(
    without_engine: tuple[RunningDaemon, Manager],
) -> None:
    daemon, manager = without_engine
    write(daemon, '[scans]\nnice = "/home/secret"\n')
    os.kill(daemon.pid, signal.SIGHUP)
    status = manager.wait_status("refused")
    assert "the new configuration is refused, the old one stays: test.toml: scans.nice: expected `int`" in status
    assert "secret" not in status
    assert str(daemon.directory) not in status
    assert manager.values("RELOADING") == ["1"]
    manager.wait("READY", more_than=1)
    with daemon.client(0) as client, pytest.raises(RpcError, match=r"scans\.nice") as refused:
        client.call("Daemon.reload")
    assert refused.value.kind == "misconfigured"
    write(daemon, "")
    with daemon.client(0) as client:
        assert client.call("Daemon.reload") == {"at_next_start": []}
        assert "refused" not in manager.status(), "READY and the status come before the answer"
        write(daemon, "[scans]\nnice = 3\n")
        assert client.call("Daemon.reload") == {"at_next_start": ["scans.nice"]}
    assert "changed for the next start: scans.nice" in manager.status()


def test_only_administrators_reload(without_engine: tuple[RunningDaemon, Manager], alice: Person) -> None:
    daemon, _ = without_engine
    with daemon.client(alice.uid) as client, pytest.raises(RpcError) as refused:
        client.call("Daemon.reload")
    assert refused.value.kind == "denied"


def test_a_reload_drops_neither_a_scan_nor_a_connection(pair: tuple[RunningDaemon, Manager], alice: Person) -> None:
    daemon, _ = pair
    fill(alice, FILES)
    extra = "[scans]\nmax_active = 1\n[engine]\ncheck_interval_s = 0.4\nping_timeout_s = 7\n"
    extra += '[scan_types.d]\npaths = ["d000000"]\nmessage = "D"\n'
    with daemon.client(alice.uid) as client:
        with held_in_mid_scan(daemon, client, alice) as worker:
            write(daemon, extra)
            with daemon.client(0) as root:
                assert root.call("Daemon.reload") == {"at_next_start": []}
            assert alive(worker)
        status = client.wait_scan()
        assert (status["state"], status["resumed"], status["scanned_file_count"]) == ("done", 0, FILES)
        assert {kind["id"] for kind in client.good("get_scan_paths")} == {"home", "d"}


def test_another_engine_is_taken_at_a_reload_and_the_private_one_ends(
    pair: tuple[RunningDaemon, Manager], alice: Person
) -> None:
    daemon, manager = pair
    put(alice, "fine", b"fine")
    (engine,) = started_by_monitor(daemon, "clamd")
    with daemon.client(0) as root, daemon.client(alice.uid) as client:
        daemon.write_config("", f'["{engine_socket(daemon)}"]')
        assert root.call("Daemon.reload") == {"at_next_start": []}
        manager.wait_status("degraded: clamd not reachable")
        wait_for(lambda: not alive(engine), "the private engine to end")
        client.good("start_scan", {"scan_type": "home"})
        daemon.write_config("")
        assert root.call("Daemon.reload") == {"at_next_start": []}
        assert client.wait_scan()["state"] == "done"


# Misconfigured


def test_a_broken_configuration_at_the_start_answers_every_call_with_the_reason(alice: Person) -> None:
    with activated(engine=False, config="[scans]\nnice = 99\n", start=False) as (daemon, manager):
        with waiting_call(daemon) as early:
            daemon.start(engine=False, wait=False)
            error = early.answer()["error"]
        cause = "test.toml: scans.nice: expected 0 to 19"
        reason = f"cannot take the call: the configuration is broken: {cause}"
        assert (error["code"], error["message"], error["data"]["kind"]) == (-32001, reason, "misconfigured")
        assert manager.wait("READY") == "1"
        assert manager.wait_status("misconfigured").endswith(
            "every call is refused: test.toml: scans.nice: expected 0 to 19"
        )
        status = Path(f"/proc/{daemon.pid}/status").read_text()
        assert re.search(r"^CapPrm:\t0+$", status, re.MULTILINE)
        assert "\nUid:\t0" not in status
        assert children(daemon.pid) == [], "no monitor, nor its zombie"
        with daemon.client(alice.uid) as client:
            for method in ("ClamScanner.start_scan", "Daemon.version", "rpc.discover", "nonsense"):
                with pytest.raises(RpcError, match=r"scans\.nice") as refused:
                    client.call(method, {"user": "root"})
                assert refused.value.kind == "misconfigured"
        write(daemon, "[scans]\nnice = 98\n")
        os.kill(daemon.pid, signal.SIGHUP)
        manager.wait("READY", more_than=1)
        write(daemon, "[nonsense]\n")
        with daemon.client(0) as root, pytest.raises(RpcError, match="unknown key"):
            root.call("Daemon.reload")
        manager.wait_status("nonsense: unknown key")
        write(daemon, "")
        with daemon.client(0) as root:
            assert root.call("Daemon.reload")["restarting"] is True
            assert ended(daemon) == 75
        with waiting_call(daemon) as client:
            daemon.start(engine=False)
            assert "result" in client.answer()


@pytest.mark.usefixtures("_people")
def test_a_broken_configuration_is_78_where_no_socket_is_handed_over() -> None:
    daemon = RunningDaemon(config="[scans]\nnice = 99\n")
    with Manager(daemon.socket_path, activated=False) as manager:
        daemon.manager = manager
        try:
            daemon.start(wait=False)
            assert ended(daemon) == 78
            assert "scans.nice: expected 0 to 19" in daemon.log()
            assert manager.values("READY") == []
        finally:
            daemon.close()


# Another version


def test_when_another_version_is_installed_jobs_wait_and_the_daemon_ends_to_be_started_anew(
    alice: Person,
) -> None:
    with activated(start=False) as (daemon, manager):
        normal = daemon.program
        daemon.program = [sys.executable, "-c", OTHER_VERSION.format(after=0)]
        daemon.start()
        put(alice, "fine", b"fine")
        with daemon.client(alice.uid) as client:
            with pytest.raises(RpcError) as refused:
                client.call("ClamScanner.nonsense")
            assert refused.value.kind == "unknown_method"
            client.sock.sendall(
                b'{"jsonrpc":"2.0","id":1,"method":"ClamScanner.start_scan","params":{"scan_type":"home"}}\n'
            )
            assert ended(daemon) == 75
        assert "ending with code 75 to be started anew, by its unit" in daemon.log()
        assert "another version is installed" in " ".join(manager.values("STATUS"))
        daemon.program = normal
        daemon.start()
        with daemon.client(alice.uid) as client:
            assert client.scan()["state"] == "done"


def test_a_job_that_waits_for_another_version_is_done_by_it(alice: Person) -> None:
    put(alice, "fine", b"fine")
    with activated(engine=False) as (daemon, manager):
        with daemon.client(alice.uid) as client:
            client.good("start_scan", {"scan_type": "home"})
        normal = daemon.program
        assert daemon.stop() == 0
        daemon.program = [sys.executable, "-c", OTHER_VERSION.format(after=0)]
        daemon.write_config("")
        daemon.start(wait=False)
        assert ended(daemon) == 75
        daemon.program = normal
        daemon.start()
        with daemon.client(alice.uid) as client:
            status = client.wait_scan()
        assert (status["state"], status["resumed"]) == ("done", 0)
        assert manager.values("STOPPING") == ["1", "1"]


def test_a_daemon_that_was_just_started_is_not_started_anew_at_once(alice: Person) -> None:
    """Should versions never meet, that would be a loop."""
    with activated(start=False) as (daemon, manager):
        daemon.program = [sys.executable, "-c", OTHER_VERSION.format(after=3600)]
        daemon.start()
        put(alice, "fine", b"fine")
        with daemon.client(alice.uid) as client:
            result = client.uapi("start_scan", {"scan_type": "home"})
            assert "worker is version" in result["errors"][0]
            assert manager.wait_status("another version is installed: a new start when nothing runs; idle")
            assert client.call("Daemon.version") == {"version": "0.0.9"}
