"""As root: the three ways of starting `clamscannerd`, what each makes and becomes, and every way of refusing to.

The launcher, the monitor and the workers are the real ones; the daemon is tests/fakes/probe_daemon.py.
"""

import grp
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.accounts import Person, have_service_users, throw_away
from tests.fakes.launched import as_root, as_unit, as_user, configure, ended, run, scan, started
from tests.fakes.monitored import fds_of, status_of

REAL = str(Path(sys.executable).parent / "clamscannerd")
THREE = 1 << 5 | 1 << 6 | 1 << 7
CAPS = ("CapInh", "CapPrm", "CapEff", "CapAmb")
EICAR = b"X5O!P%@AP[4\\PZX54(P^)7CC)7}$" + b"EICAR-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*"


@pytest.fixture(scope="module")
def alice() -> Iterator[Person]:
    with throw_away("alice", "one") as account:
        yield account


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that everybody can enter (tmp_path is not one), with a configuration that stays within it."""
    have_service_users()
    path = Path(tempfile.mkdtemp(prefix="csd-", dir="/var/tmp"))
    path.chmod(0o755)
    configure(path)
    yield path
    tmpfs = path / "state-engine/tmp"
    if tmpfs.is_mount():
        subprocess.run(["umount", tmpfs], check=True)
    shutil.rmtree(path)


def look(path: Path) -> tuple[str, str, str]:
    status = path.stat()
    return pwd.getpwuid(status.st_uid).pw_name, grp.getgrgid(status.st_gid).gr_name, f"{status.st_mode & 0o7777:o}"


def assert_daemon_without_rights(pid: int, uid: int) -> None:
    status = status_of(pid)
    assert status["Uid"].split() == [str(uid)] * 4
    assert [int(status[caps], 16) for caps in CAPS] == [0, 0, 0, 0]
    assert status["NoNewPrivs"] == "1"
    assert os.stat(f"/proc/{pid}/mem").st_uid == 0


# --- as root -----------------------------------------------------------------------------------------------------


def test_started_by_root_it_is_the_service_without_rights(place: Path, alice: Person) -> None:
    with started(as_root(place)) as daemon:
        user = pwd.getpwnam("clamscannerd")
        assert daemon.hello["pid"] == daemon.process.pid
        assert daemon.hello["system"] is True
        assert daemon.hello["cwd"] == "/"
        assert daemon.hello["path"] == f"{place}/c.toml"
        assert_daemon_without_rights(daemon.process.pid, user.pw_uid)
        status = status_of(daemon.process.pid)
        assert status["Gid"].split() == [str(user.pw_gid)] * 4
        assert sorted(map(int, status["Groups"].split())) == sorted(os.getgrouplist("clamscannerd", user.pw_gid))
        monitor = status_of(daemon.hello["monitor"])
        assert [int(monitor[caps], 16) for caps in CAPS] == [THREE] * 4
        assert int(monitor["VmRSS"].split()[0]) <= 15 * 1024
        worker = daemon.spawn(alice.name)
        assert status_of(worker)["Uid"].split() == [str(alice.uid)] * 4
        assert os.getpriority(os.PRIO_PROCESS, worker) == 10
        assert os.getpriority(os.PRIO_PROCESS, daemon.process.pid) == -5


@pytest.mark.parametrize(
    ("more", "expected"),
    [("", os.SCHED_OTHER), ('[scans]\ncpu_class = "idle"\n', os.SCHED_IDLE)],
    ids=["usual", "idle"],
)
def test_workers_wait_for_others_at_the_processor(place: Path, alice: Person, more: str, expected: int) -> None:
    configure(place, more)
    with started(as_root(place)) as daemon:
        assert os.sched_getscheduler(daemon.spawn(alice.name)) == expected


@pytest.mark.parametrize(
    ("more", "expected"), [("", "best-effort: prio 7"), ('[scans]\nio_class = "idle"\n', "idle")], ids=["usual", "idle"]
)
def test_workers_wait_for_others_at_the_disk(place: Path, alice: Person, more: str, expected: str) -> None:
    configure(place, more)
    with started(as_root(place)) as daemon:
        assert run("ionice", "-p", str(daemon.spawn(alice.name))).stdout.strip() == expected


def test_root_makes_the_directories_and_gives_them_away(place: Path) -> None:
    for _ in range(2):  # and takes what it finds the next time
        with started(as_root(place)):
            assert look(place / "run") == ("clamscannerd", "clamscannerd", "755")
            assert look(place / "state") == ("clamscannerd", "clamscannerd", "700")
            assert look(place / "run-engine") == ("root", "root", "755")
            assert look(place / "run-engine/run") == ("clamscannerd-engine", "clamscannerd", "2750")
            assert look(place / "run-engine/builtin.conf") == ("root", "root", "644")
            assert look(place / "run-engine/1.conf") == ("root", "root", "644")
            assert look(place / "run-engine/why") == ("root", "root", "644")
            assert look(place / "state-engine") == ("root", "root", "755")
            assert look(place / "state-engine/tmp") == ("clamscannerd-engine", "clamscannerd-engine", "700")


def test_the_private_engine_finds_the_test_file_through_its_groups_socket(place: Path) -> None:
    with started(as_root(place)) as daemon:
        left = place / "state-engine/tmp/builtin/left-over"
        left.mkdir(parents=True)
        for owned in (left, left.parent):
            os.chown(owned, *pwd.getpwnam("clamscannerd-engine")[2:4])
        pid = daemon.ask("engine", "0")["pid"]
        assert isinstance(pid, int)
        address = daemon.hello["sockets"][0]
        assert scan(address, EICAR) == b"stream: Eicar-Test-Signature.UNOFFICIAL FOUND\0"
        assert look(Path(address)) == ("clamscannerd-engine", "clamscannerd", "660")
        assert not left.exists()
        status = status_of(pid)
        assert status["Uid"].split() == [str(pwd.getpwnam("clamscannerd-engine").pw_uid)] * 4
        assert [int(status[caps], 16) for caps in CAPS] == [0, 0, 0, 0]
        assert "refused" in daemon.ask("engine", "0")
        assert daemon.ask("stop", "0") == {"ended": "exit code 0"}
        assert not Path(address).exists()


def test_as_many_engines_are_set_up_as_are_asked_for_and_no_more_are_left_the_next_time(place: Path) -> None:
    for number in (3, 2):
        configure(place, f"private_engines = {number}\n")
        with started(as_root(place)) as daemon:
            names = [f"{job}.conf" for job in range(1, number + 1)]
            assert sorted(path.name for path in place.glob("run-engine/?.conf")) == names
            assert all("MaxThreads 1\n" in (place / "run-engine" / name).read_text() for name in names)
            assert "MaxThreads 10\n" in (place / "run-engine/builtin.conf").read_text()
            assert f"{number} engines of one thread each" in (place / "run-engine/why").read_text()
            assert f"{number + 1} private engines are set up" in str(daemon.ask("engine", str(number + 1))["refused"])


def test_no_listening_socket_of_systemd_stays_with_the_monitor(place: Path) -> None:
    """It would go on accepting connections that nobody answers."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("\0csd-test-listener")
        listener.listen()
        fd = listener.fileno()
        words = ["bash", "-c", f'exec 3<&{fd}; LISTEN_FDS=1 LISTEN_PID=$$ exec "$@"', "bash", *as_root(place)]
        with started(words, pass_fds=(fd,)) as daemon:
            inode = f"socket:[{os.fstat(fd).st_ino}]"
            assert inode in fds_of(daemon.process.pid).values()
            assert inode not in fds_of(daemon.hello["monitor"]).values()
            assert not (place / "run").exists()  # the socket's directory is systemd's then


# --- by the unit -------------------------------------------------------------------------------------------------


def test_started_by_the_unit_it_is_the_same(place: Path, alice: Person) -> None:
    with started(as_root(place)):
        pass  # tmpfiles and StateDirectory, so to speak
    with started(as_unit(place)) as daemon:
        assert_daemon_without_rights(daemon.process.pid, pwd.getpwnam("clamscannerd").pw_uid)
        monitor = status_of(daemon.hello["monitor"])
        assert [int(monitor[caps], 16) for caps in CAPS] == [THREE] * 4
        assert os.stat(f"/proc/{daemon.hello['monitor']}/mem").st_uid == 0
        worker = status_of(daemon.spawn(alice.name))
        assert worker["Uid"].split() == [str(alice.uid)] * 4
        assert sorted(map(int, worker["Groups"].split())) == list(alice.groups)
        daemon.ask("engine", "0")
        assert scan(daemon.hello["sockets"][0], EICAR).endswith(b"FOUND\0")


def test_a_unit_without_the_engines_places_starts_without_an_engine(place: Path) -> None:
    (place / "run").mkdir()
    (place / "state").mkdir()
    for name in ("run", "state"):
        shutil.chown(place / name, "clamscannerd", "clamscannerd")
    with started(as_unit(place)) as daemon:
        assert "no private engine is set up" in str(daemon.ask("engine", "0")["refused"])


def test_a_unit_whose_directories_are_missing_is_told_which(place: Path) -> None:
    done = run(*as_unit(place))
    assert (done.returncode, done.stderr) == (
        1,
        f"clamscannerd: cannot make directory {place}/state: Permission denied\n",
    )


@pytest.mark.parametrize("caps", ["+setuid", "+setuid,+setgid"])
def test_half_of_the_capabilities_is_an_error(caps: str, place: Path) -> None:
    done = run(*as_unit(place, caps))
    assert done.returncode == 1
    assert re.fullmatch(r"clamscannerd: cannot start workers: of CAP_KILL.* only some are here\n", done.stderr)


def test_the_services_user_without_capabilities_is_an_error(place: Path) -> None:
    done = run(*as_user(place, "clamscannerd"))
    assert done.returncode == 1
    assert "cannot start workers as clamscannerd without CAP_KILL" in done.stderr


# --- by an ordinary user -----------------------------------------------------------------------------------------


@pytest.fixture
def own(alice: Person) -> Iterator[Path]:
    path = Path(alice.home, "own")
    path.mkdir()
    configure(path)
    for entry in (path, path / "c.toml"):
        os.chown(entry, alice.uid, alice.gid)
    yield path
    shutil.rmtree(path)


def test_started_by_a_user_it_serves_that_user_alone(own: Path, alice: Person) -> None:
    with started(as_user(own, alice.name)) as daemon:
        assert daemon.hello["system"] is False
        worker = status_of(daemon.spawn(alice.name))
        assert worker["Uid"].split() == [str(alice.uid)] * 4
        assert (worker["NoNewPrivs"], worker["Seccomp"]) == ("1", "2")
        assert [int(worker[caps], 16) for caps in CAPS] == [0, 0, 0, 0]
        assert "not the user who started the daemon" in str(daemon.ask("spawn", "daemon")["refused"])
        assert "uid 0 is never an account" in str(daemon.ask("spawn", "root")["refused"])
        assert look(own / "run")[2] == look(own / "state")[2] == "700"
        daemon.ask("engine", "0")
        assert scan(daemon.hello["sockets"][0], EICAR).endswith(b"FOUND\0")
        assert daemon.hello["base"] == f"{own}/state/engine"


# --- refusing to start -------------------------------------------------------------------------------------------


def test_wrong_configuration_is_one_line_and_78(place: Path) -> None:
    configure(place, "[vault]\nkeep_quarantined = 'for ever'\n")
    done = run(REAL, "--config", f"{place}/c.toml")
    assert done.returncode == 78
    assert re.fullmatch(rf"clamscannerd: cannot use {place}/c.toml: vault.keep_quarantined: .*\n", done.stderr)
    assert not (place / "state").exists()


@pytest.mark.parametrize(("key", "value"), [("socket", "run/s.sock"), ("socket", "/" + "s" * 108)])
def test_a_socket_that_cannot_be_is_wrong_configuration(key: str, value: str, place: Path) -> None:
    (place / "c.toml").write_text(f'[server]\n{key} = "{value}"\n')
    done = run(REAL, "--config", f"{place}/c.toml", "--check-config")
    assert done.returncode == 78
    assert f"server.{key}: expected" in done.stderr


def test_check_config_reads_and_starts_nothing(place: Path) -> None:
    done = run(REAL, "--config", f"{place}/c.toml", "--check-config")
    assert (done.returncode, done.stdout, done.stderr) == (0, "the configuration is valid\n", "")
    assert not (place / "state").exists()


def test_usage_is_two_and_version_is_none() -> None:
    assert run(REAL, "--nonsense").returncode == 2
    done = run(sys.executable, "-m", "clamscannerd", "--version")
    assert done.returncode == 0
    assert re.fullmatch(r"clamscannerd \d+\.\d+\.\d+\n", done.stdout)


def unshared(command: str, *words: str) -> list[str]:
    """`words` in a mount namespace of its own, after `command`."""
    return ["unshare", "-m", "sh", "-c", f'{command} && exec "$@"', "sh", *words]


@pytest.mark.parametrize("user", ["clamscannerd", "clamscannerd-engine"])
def test_a_missing_user_is_named_with_its_cure(user: str, place: Path) -> None:
    entries = Path("/etc/passwd").read_text().splitlines(keepends=True)
    (place / "passwd").write_text("".join(entry for entry in entries if not entry.startswith(f"{user}:")))
    done = run(*unshared(f"mount --bind {place}/passwd /etc/passwd", *as_root(place)))
    assert done.returncode == 78
    assert done.stderr.startswith(f"clamscannerd: cannot start: there is no user {user} (useradd ")
    assert done.stderr.count("\n") == 1


def test_a_kernel_that_opens_processes_with_changed_ids_is_refused(place: Path) -> None:
    (place / "one").write_text("1\n")
    done = run(*unshared(f"mount --bind {place}/one /proc/sys/fs/suid_dumpable", *as_root(place)))
    assert done.returncode == 1
    assert "fs.suid_dumpable is 1" in done.stderr


def test_an_interpreter_out_of_the_workers_reach_is_refused(place: Path) -> None:
    (place / "shut/bin").mkdir(parents=True)
    (place / "shut").chmod(0o700)
    (place / "shut/bin/python").symlink_to(os.path.realpath(sys.executable))
    shutil.copy(Path(sys.prefix, "pyvenv.cfg"), place / "shut/pyvenv.cfg")
    (place / "shut/lib").symlink_to(Path(sys.prefix, "lib"))
    done = run(f"{place}/shut/bin/python", *as_root(place)[1:])
    assert done.returncode == 1
    assert f"{place}/shut/bin/python is out of their reach, other users cannot enter {place}/shut " in done.stderr


def test_a_directory_of_others_is_not_taken_over(place: Path) -> None:
    before = os.stat("/var/tmp")
    (place / "c.toml").write_text(f'[server]\nsocket = "/var/tmp/s.sock"\n[state]\ndirectory = "{place}/state"\n')
    done = run(*as_root(place))
    assert done.returncode == 1
    assert "cannot use directory /var/tmp: it belongs to uid 0" in done.stderr
    after = os.stat("/var/tmp")
    assert (after.st_uid, after.st_gid, after.st_mode) == (before.st_uid, before.st_gid, before.st_mode)


def test_a_link_in_the_place_of_a_directory_is_not_followed(place: Path, alice: Person) -> None:
    (place / "state").symlink_to(alice.home)
    done = run(*as_root(place))
    assert done.returncode == 1
    assert f"cannot make directory {place}/state: " in done.stderr
    assert os.stat(alice.home).st_uid == alice.uid


def test_a_state_directory_that_the_service_cannot_reach_is_said(place: Path) -> None:
    (place / "shut").mkdir(mode=0o700)
    text = (place / "c.toml").read_text().replace(f"{place}/state", f"{place}/shut/state")
    (place / "c.toml").write_text(text)
    done = run(*as_root(place))
    assert done.returncode == 1
    assert f"cannot enter {place}/shut/state" in done.stderr
    if (place / "shut/state-engine/tmp").is_mount():
        subprocess.run(["umount", place / "shut/state-engine/tmp"], check=True)


# --- who dies with whom ------------------------------------------------------------------------------------------


def test_kill_9_of_the_daemon_ends_monitor_workers_and_engine(place: Path, alice: Person) -> None:
    with started(as_root(place)) as daemon:
        worker = os.pidfd_open(daemon.spawn(alice.name))
        pid = daemon.ask("engine", "0")["pid"]
        assert isinstance(pid, int)
        engine = os.pidfd_open(pid)
        scan(daemon.hello["sockets"][0], b"harmless")
        daemon.process.kill()
        assert ended(worker)
        assert ended(engine)


def test_kill_9_of_the_monitor_ends_the_daemon_with_a_fault(place: Path, alice: Person) -> None:
    with started(as_root(place)) as daemon:
        worker = os.pidfd_open(daemon.spawn(alice.name))
        os.kill(daemon.hello["monitor"], signal.SIGKILL)
        assert ended(worker)
        assert daemon.process.wait(10) == 1


def test_a_terminals_signals_are_the_daemons_to_heed(place: Path, alice: Person) -> None:
    """They go to the whole group: the monitor lives on, and workers are in sessions of their own."""
    with started(as_root(place)) as daemon:
        for signum in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
            os.kill(daemon.hello["monitor"], signum)
        worker = daemon.spawn(alice.name)
        assert os.getpgid(worker) == os.getsid(worker) == worker
