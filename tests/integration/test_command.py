"""`clamscannerd` on the command line: usage, version, configuration; one quiet line and an exit code, no traceback."""

import os
import re
import stat
from pathlib import Path

import pytest

from clamscannerd import __version__
from tests.integration.command import Ended, environment, run
from tests.integration.people import no_engine

NO_ENGINE = '[engine]\nsockets = ["/nonexistent"]\n'


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Somewhere that the service's user can enter, as pytest's own directories are not."""
    tmp_path.chmod(0o755)
    return tmp_path


def start(place: Path, text: str, *options: str) -> Ended:
    file = place / "clamscannerd.toml"
    file.write_text(text)
    return run("--config", str(file), *options, env=environment(place))


def quiet(ended: Ended, code: int) -> str:
    """The only line of a start that failed on purpose."""
    assert ended.code == code, ended
    assert ended.out == ""
    (line,) = ended.err.splitlines()
    assert line.startswith("clamscannerd: cannot ")
    return line


def test_version() -> None:
    assert run("--version") == Ended(0, f"clamscannerd {__version__}\n", "")


def test_help_names_every_option() -> None:
    ended = run("--help")
    assert ended.code == 0
    assert {"--config", "--check-config", "--version"} <= set(re.findall(r"--[a-z-]+", ended.out))


@pytest.mark.parametrize("arguments", [["--burn"], ["--config"], ["file.toml"], ["--version=1"], ["--check-config=x"]])
def test_usage_errors_exit_with_2(arguments: list[str]) -> None:
    ended = run(*arguments)
    assert ended.code == 2
    assert "usage: clamscannerd" in ended.err
    assert "Traceback" not in ended.err


def test_check_config_reads_and_starts_nothing(place: Path) -> None:
    state, socket = place / "state", place / "run" / "s"
    text = f'[state]\ndirectory = "{state}"\n[server]\nsocket = "{socket}"\n'
    assert start(place, text, "--check-config") == Ended(0, "the configuration is valid\n", "")
    assert not state.exists()
    assert not socket.parent.exists()


BROKEN: dict[str, tuple[str, str]] = {
    "no TOML": ("[server\n", "not TOML"),
    "an unknown key": ("[server]\nsockt = '/x'\n", "server.sockt: unknown key"),
    "a wrong type": ("[server]\nmax_batch = 'x'\n", "server.max_batch: expected"),
    "a wrong value": ("[vault]\nkeep_deleted = 'x'\n", "vault.keep_deleted: expected"),
    "a relative path": ("[state]\ndirectory = 'x'\n", "state.directory: expected an absolute path"),
    "a socket too long": (f"[server]\nsocket = '/{'x' * 120}'\n", "server.socket: expected at most 107 bytes"),
    "an infinite number": ("[engine]\nmax_scan_time_s = inf\n", "engine.max_scan_time_s: expected"),
}


@pytest.mark.parametrize("option", [[], ["--check-config"]], ids=["start", "check"])
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_configuration_exits_with_78_and_one_line(place: Path, name: str, option: list[str]) -> None:
    text, words = BROKEN[name]
    line = quiet(start(place, text, *option), 78)
    assert words in line
    assert f"{place}/clamscannerd.toml" in line


def test_the_broken_file_of_conf_d_is_named(place: Path) -> None:
    (place / "conf.d").mkdir()
    (place / "conf.d" / "50-local.toml").write_text("[server]\nmax_batch = 0\n")
    assert f"{place}/conf.d/50-local.toml: server.max_batch" in quiet(start(place, ""), 78)


@pytest.mark.parametrize("name", ["none.toml", "directory"])
def test_a_configuration_that_cannot_be_read_exits_with_78(place: Path, name: str) -> None:
    (place / "directory").mkdir()
    assert f"cannot read {place}/{name}: " in quiet(run("--config", str(place / name)), 78)


@pytest.mark.parametrize("what", ["file", "link", "somebody else's", "open to others"])
def test_a_state_directory_that_cannot_be_used_exits_with_1(place: Path, what: str) -> None:
    state = place / "state"
    if what == "file":
        state.write_bytes(b"mine")
    elif what == "link":
        (place / "elsewhere").mkdir()
        state.symlink_to(place / "elsewhere")
    else:
        state.mkdir()
        (state / "precious").write_bytes(b"mine")
        if what == "open to others":
            state.chmod(0o777)
        elif os.geteuid() == 0:
            os.chown(state, 65534, 65534)
        else:
            state = Path("/")
    before = _shape(state)
    text = f'{NO_ENGINE}[state]\ndirectory = "{state}"\n[server]\nsocket = "{place}/run/s"\n'
    assert f"{state}" in quiet(start(place, text), 1)
    assert _shape(state) == before


def _shape(path: Path) -> tuple[int, int, int]:
    status = path.lstat()
    return status.st_mode, status.st_uid, status.st_gid


@pytest.mark.parametrize("what", ["file", "directory", "live socket"])
def test_a_socket_whose_place_is_taken_exits_with_1_and_takes_nothing_away(what: str) -> None:
    with no_engine() as daemon:
        # Started without its engine; then a second one that has a state of its own and wants the same place.
        second = daemon.directory / "second"
        second.mkdir()
        socket = Path(daemon.socket_path)
        if what != "live socket":
            daemon.stop()
            socket.unlink(missing_ok=True)
            socket.mkdir() if what == "directory" else socket.write_bytes(b"mine")
        kind = stat.S_IFMT(socket.lstat().st_mode)
        text = f'{NO_ENGINE}[state]\ndirectory = "{second}/state"\n[server]\nsocket = "{socket}"\n'
        file = second / "c.toml"
        file.write_text(text)
        ended = run("--config", str(file))
        assert ended.code == 1
        assert "Traceback" not in ended.err
        assert f"cannot listen on {socket}: " in ended.err.splitlines()[-1]
        assert stat.S_IFMT(socket.lstat().st_mode) == kind
        if what == "live socket":
            with daemon.client() as client:
                assert client.call("Daemon.version")


def test_a_second_daemon_on_the_same_state_exits_with_1() -> None:
    with no_engine() as daemon:
        file = daemon.directory / "second.toml"
        file.write_text(
            f'{NO_ENGINE}[state]\ndirectory = "{daemon.state}"\n[server]\nsocket = "{daemon.directory}/run2/s"\n'
        )
        ended = run("--config", str(file))
        assert ended.code == 1
        line = ended.err.splitlines()[-1]
        assert str(daemon.state) in line
        assert "Traceback" not in ended.err
        with daemon.client() as client:
            assert client.call("Daemon.version")
        assert not (daemon.directory / "run2" / "s").exists()
