"""The client against a scripted daemon on a real socket."""

import os
import socket
from pathlib import Path

import pytest

from clamscannerd import client_socket, config
from clamscannerd.client import Client, RemoteError, Unreachable
from clamscannerd.errors import RemoteProtocolError
from tests.fakes.daemon import Failure, FakeDaemon, envelope


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every place where a daemon is looked for lies in tmp_path, and there is none."""
    monkeypatch.delenv("CLAMSCANNERD_SOCKET", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr(client_socket, "SYSTEM_SOCKET", str(tmp_path / "system.sock"))
    (tmp_path / "clamscannerd").mkdir()
    return tmp_path


def test_a_call_answers_its_result(tmp_path: Path) -> None:
    answer = envelope("get_scan_paths", [{"id": "home", "message": "All"}])
    with (
        FakeDaemon(tmp_path / "s", {"ClamScanner.get_scan_paths": [answer]}) as daemon,
        Client(daemon.path) as client,
    ):
        assert client.call("ClamScanner.get_scan_paths") == answer
        assert client.call("ClamScanner.get_scan_paths", {"user": "x"}) == answer
        assert client.call("ClamScanner.get_scan_paths", [1]) == answer
    assert daemon.asked("ClamScanner.get_scan_paths") == [None, {"user": "x"}, [1]]


def test_an_error_of_the_daemon_keeps_code_message_and_kind(tmp_path: Path) -> None:
    with (
        FakeDaemon(tmp_path / "s", {"X": [Failure(-32003, "not yours", "denied"), "fine"]}) as daemon,
        Client(daemon.path) as client,
    ):
        with pytest.raises(RemoteError, match="not yours") as caught:
            client.call("X")
        assert client.call("X") == "fine"
    assert (caught.value.code, caught.value.kind, caught.value.data()) == (-32003, "denied", {"kind": "denied"})


def test_an_error_without_kind_has_a_general_one() -> None:
    assert RemoteError(-1, "m").kind == "error"
    assert RemoteError(-1, "m", {"kind": 7}).kind == "error"
    assert RemoteError(-1, "m", ["x"]).data() == {"kind": "error"}


def test_a_big_answer_is_taken_whole(tmp_path: Path) -> None:
    found = [{"file": f"/home/x/{number:0200}", "virus_type": "Eicar"} for number in range(20_000)]
    answer = envelope("list_infected_files", found)
    with FakeDaemon(tmp_path / "s", {"X": [answer]}) as daemon, Client(daemon.path) as client:
        assert client.call("X") == answer


def test_an_error_without_id_is_the_answer(tmp_path: Path) -> None:
    line = b'{"jsonrpc":"2.0","id":null,"error":{"code":-32008,"message":"big","data":{"kind":"message_too_large"}}}\n'
    with (
        FakeDaemon(tmp_path / "s", {"X": [line]}) as daemon,
        Client(daemon.path) as client,
        pytest.raises(RemoteError) as caught,
    ):
        client.call("X")
    assert caught.value.kind == "message_too_large"


def test_what_a_daemon_says_before_it_hangs_up_is_told(tmp_path: Path) -> None:
    line = b'{"jsonrpc":"2.0","id":null,"error":{"code":-32007,"message":"too many","data":{"kind":"x"}}}\n'
    with (
        FakeDaemon(tmp_path / "s", {"X": [None]}, greeting=line) as daemon,
        Client(daemon.path) as client,
        pytest.raises(RemoteError, match="too many"),
    ):
        client.call("X")


@pytest.mark.parametrize(
    "line",
    [b"nonsense\n", b'{"jsonrpc":"2.0","id":99,"result":1}\n', b"[]\n", b'{"jsonrpc":"2.0","id":1,"method":"m"}\n'],
)
def test_an_answer_that_is_none_is_an_error_of_the_other_side(tmp_path: Path, line: bytes) -> None:
    with (
        FakeDaemon(tmp_path / "s", {"X": [line]}) as daemon,
        Client(daemon.path) as client,
        pytest.raises(RemoteProtocolError, match="cannot use what"),
    ):
        client.call("X")


def test_notifications_are_passed_over(tmp_path: Path) -> None:
    line = b'{"jsonrpc":"2.0","method":"event"}\n{"jsonrpc":"2.0","id":1,"result":"yes"}\n'
    with FakeDaemon(tmp_path / "s", {"X": [line]}) as daemon, Client(daemon.path) as client:
        assert client.call("X") == "yes"


def test_a_connection_that_breaks_is_unreachable(tmp_path: Path) -> None:
    with (
        FakeDaemon(tmp_path / "s", {"X": [None]}) as daemon,
        Client(daemon.path) as client,
        pytest.raises(Unreachable, match=r"cannot reach clamscannerd at .*/s: it closed the connection"),
    ):
        client.call("X")


def test_a_silent_daemon_is_unreachable_after_the_time_given(tmp_path: Path) -> None:
    with (
        FakeDaemon(tmp_path / "s", {"X": [b""]}) as daemon,
        Client(daemon.path, timeout_s=0.05) as client,
        pytest.raises(Unreachable, match=r"no answer within 0\.05 s"),
    ):
        client.call("X")


def test_no_daemon_is_told_with_the_cure(nowhere: Path) -> None:
    with pytest.raises(Unreachable) as caught:
        Client()
    expected = f"cannot reach clamscannerd at {nowhere}/system.sock: no such file or directory; is it running?"
    assert str(caught.value) == f"{expected} (systemctl status clamscannerd)"
    assert caught.value.exit_code == 2


def test_a_socket_that_refuses_says_more_than_one_that_is_not_there(nowhere: Path) -> None:
    own = nowhere / "clamscannerd" / "clamscannerd.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(own))
    with pytest.raises(Unreachable, match=f"at {own}: connection refused"):
        Client()


def test_a_path_too_long_for_a_socket_is_told(nowhere: Path) -> None:
    with pytest.raises(Unreachable, match="path too long"):
        Client("/" + "x" * 200)


def test_the_system_daemon_comes_before_the_users_own(nowhere: Path) -> None:
    own = nowhere / "clamscannerd" / "clamscannerd.sock"
    with FakeDaemon(own, {"X": ["own"]}), Client() as first:
        assert first.call("X") == "own"
        with FakeDaemon(nowhere / "system.sock", {"X": ["system"]}), Client() as second:
            assert second.call("X") == "system"


def test_the_environment_names_the_only_place(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLAMSCANNERD_SOCKET", str(nowhere / "given"))
    with FakeDaemon(nowhere / "system.sock", {}), pytest.raises(Unreachable, match="given"):
        Client()


@pytest.mark.parametrize(("mode", "used"), [(0o700, True), (0o755, False)])
def test_a_directory_in_tmp_is_used_only_if_it_is_ours_alone(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch, mode: int, used: bool
) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    directory = nowhere / "own"
    directory.mkdir(mode)
    directory.chmod(mode)
    real = os.lstat
    expected = f"/tmp/clamscannerd-{os.getuid()}"
    monkeypatch.setattr(os, "lstat", lambda path: real(directory) if path == expected else real(path))
    assert list(client_socket._places())[1:] == ([f"{expected}/clamscannerd.sock"] if used else [])


def test_client_and_daemon_agree_on_the_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    assert config.default_socket(system=True) == client_socket.SYSTEM_SOCKET
    assert config.default_socket(system=False) == f"/tmp/clamscannerd-{os.getuid()}/clamscannerd.sock"
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/7")
    assert list(client_socket._places())[1] == config.default_socket(system=False)
