"""A daemon started by an ordinary user: its places, its one account, no root anywhere."""

import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.accounts import Person
from tests.fakes.realclamd import EICAR_NAME
from tests.fakes.running import PeerClient, RpcError, RunningDaemon, acting_as
from tests.integration.command import Command, environment, run
from tests.integration.people import balanced, clear, home, monitor, put, started_by_monitor

QUIET = '[engine]\nsockets = ["/nonexistent/clamd.ctl"]\n'


@pytest.fixture(scope="module")
def daemon(_people: tuple[Person, Person]) -> Iterator[RunningDaemon]:
    """Alice's, its private engine included; in a directory that others may enter."""
    with RunningDaemon(user=_people[0].name) as running:
        yield running


def configure(person: Person, text: str = QUIET) -> None:
    put(person, ".config/clamscannerd/clamscannerd.toml", text.encode())


def test_the_six_steps_run_in_order_without_root(daemon: RunningDaemon, alice: Person) -> None:
    bad = put(alice, "public_html/bad.php")
    put(alice, "fine", b"fine")
    with daemon.client(alice.uid) as client:
        assert {kind["id"] for kind in client.good("get_scan_paths")} == {"home", "public_html"}
        status = client.scan()
        assert (status["state"], status["scanned_file_count"], status["not_scanned"]) == ("done", 2, {})
        (found,) = client.good("list_infected_files")
        assert (found["file"], found["virus_type"]) == (str(bad), EICAR_NAME)
        records = client.disinfect({str(bad): "quarantine"})
        assert [(record["type"], record["state"]) for record in records] == [
            ("step", "quarantined"),
            ("done", "success"),
        ]
    assert not bad.exists()
    log = home(alice) / ".clamavconnector.disinfection.log"
    assert (log.stat().st_uid, stat.S_IMODE(log.stat().st_mode)) == (alice.uid, 0o600)


def test_every_process_is_that_users_and_has_no_capability(daemon: RunningDaemon, alice: Person) -> None:
    (engine,) = started_by_monitor(daemon, "clamd")
    for pid in (daemon.pid, monitor(daemon), engine):
        text = Path(f"/proc/{pid}/status").read_text()
        fields = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
        assert fields["Uid"].split() == [str(alice.uid)] * 4, pid
        assert {fields[name] for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {"0" * 16}, pid


def test_its_socket_is_for_its_user_and_root(daemon: RunningDaemon, alice: Person, bob: Person) -> None:
    assert stat.S_IMODE(Path(daemon.socket_path).parent.stat().st_mode) == 0o700
    with pytest.raises(PermissionError):
        daemon.client(bob.uid)
    with daemon.client(0) as root:
        assert root.good("get_scan_paths", {"user": alice.name})


def test_others_who_reach_it_are_told_whom_it_serves(daemon: RunningDaemon, alice: Person, bob: Person) -> None:
    place = Path(daemon.socket_path).parent
    place.chmod(0o711)
    try:
        with daemon.client(bob.uid) as client:
            for params in (None, {"scan_type": "home"}):
                method = "start_scan" if params else "get_scan_status"
                with pytest.raises(RpcError, match=f"serves uid {alice.uid} alone") as refused:
                    client.call(f"ClamScanner.{method}", params)
                assert refused.value.kind == "unknown_account"
            with pytest.raises(RpcError) as refused:
                client.call("ClamScanner.get_scan_status", {"user": alice.name})
            assert refused.value.kind == "denied"
        with daemon.client(0) as root, pytest.raises(RpcError) as refused:
            root.call("ClamScanner.get_scan_status", {"user": bob.name})
        assert refused.value.kind == "unknown_account"
    finally:
        place.chmod(0o700)


def test_the_socket_is_in_the_runtime_directory_and_state_is_left_out_of_scans(alice: Person) -> None:
    put(alice, "fine", b"fine")
    configure(alice, '[engine]\nsockets = "private"\ndatabase = "/nonexistent"\n')
    state, runtime = home(alice) / "my state", home(alice) / "run"
    env = environment(alice.home, XDG_RUNTIME_DIR=runtime, XDG_STATE_HOME=state)
    place = runtime / "clamscannerd" / "clamscannerd.sock"
    with Command(user=alice.name, env=env, socket=place) as daemon, daemon.client(alice.uid) as client:
        status = client.scan()
    assert status["not_scanned"] == {"excluded": 1, "no_signatures": 2, "not_regular": 1}
    assert balanced(status)
    assert (state / "clamscannerd" / "state.db").stat().st_uid == alice.uid
    assert stat.S_IMODE((state / "clamscannerd").stat().st_mode) == 0o700
    assert daemon.stop().code == 0


def test_state_beneath_the_home_is_left_out_whatever_home_the_environment_names(alice: Person) -> None:
    """sudo and su leave HOME as it was; what is scanned is the home that passwd names."""
    put(alice, "fine", b"fine")
    config = put(alice, "clamscannerd.toml", b'[engine]\nsockets = "private"\ndatabase = "/nonexistent"\n')
    state, runtime = home(alice) / "state", home(alice) / "run"
    env = environment("/", XDG_RUNTIME_DIR=runtime, XDG_STATE_HOME=state)
    place = runtime / "clamscannerd" / "clamscannerd.sock"
    with (
        Command("--config", str(config), user=alice.name, env=env, socket=place) as daemon,
        daemon.client(alice.uid) as client,
    ):
        assert client.scan()["not_scanned"] == {"excluded": 1, "no_signatures": 2, "not_regular": 1}


class TestWithoutRuntimeDirectory:
    """/tmp/clamscannerd-UID: anybody may have made it before."""

    @pytest.fixture
    def place(self, alice: Person) -> Iterator[Path]:
        place = Path(f"/tmp/clamscannerd-{alice.uid}")
        yield place
        if place.is_symlink():
            place.unlink()
        elif place.exists():
            shutil.rmtree(place)

    def start(self, person: Person) -> str:
        """A start that must fail: its one line."""
        ended = run(user=person.name, env=environment(person.home))
        assert ended.code == 1, ended
        (line,) = ended.err.splitlines()
        return line

    def test_it_is_made_for_its_user_alone(self, alice: Person, place: Path) -> None:
        configure(alice)
        socket = place / "clamscannerd.sock"
        with Command(user=alice.name, env=environment(alice.home), socket=socket) as daemon:
            assert (place.stat().st_uid, stat.S_IMODE(place.stat().st_mode)) == (alice.uid, 0o700)
            with daemon.client(alice.uid) as client:
                assert client.uapi("get_scan_status")["status"] == 0
        assert (home(alice) / ".local/state/clamscannerd/state.db").exists()

    def test_one_of_somebody_else_is_refused(self, alice: Person, bob: Person, place: Path) -> None:
        with acting_as(bob.uid):
            place.mkdir(mode=0o777)
            place.chmod(0o777)
        configure(alice)
        assert f"belongs to uid {bob.uid}" in self.start(alice)

    def test_a_link_is_refused(self, alice: Person, bob: Person, place: Path) -> None:
        put(alice, "elsewhere/file", b"")
        with acting_as(bob.uid):
            place.symlink_to(home(alice) / "elsewhere")
        configure(alice)
        assert f"cannot make directory {place}" in self.start(alice)
        assert sorted(os.listdir(home(alice) / "elsewhere")) == ["file"]

    def test_one_that_others_can_write_to_is_refused(self, alice: Person, place: Path) -> None:
        with acting_as(alice.uid):
            place.mkdir()
            (place / "something").touch()
            place.chmod(0o777)
        configure(alice)
        assert "others can write to it" in self.start(alice)


def test_its_configuration_is_read_from_the_users_place(alice: Person) -> None:
    configure(alice, "[server]\nmax_connections = 0\n")
    ended = run("--check-config", user=alice.name, env=environment(alice.home))
    assert ended.code == 78
    assert f"{alice.home}/.config/clamscannerd/clamscannerd.toml: server.max_connections: expected" in ended.err
    elsewhere = put(alice, "elsewhere/clamscannerd/clamscannerd.toml", b"")
    configuration = environment(alice.home, XDG_CONFIG_HOME=elsewhere.parents[1])
    assert run("--check-config", user=alice.name, env=configuration).code == 0


def test_a_home_that_is_emptied_meanwhile_is_no_fault(daemon: RunningDaemon, alice: Person) -> None:
    clear(alice)
    with PeerClient(daemon.socket_path, alice.uid) as client:
        assert client.scan()["total_file_count"] == 0
