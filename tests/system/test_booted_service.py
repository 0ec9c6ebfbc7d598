"""The hardened unit in a booted system: the six calls, starts, stops, crashes, the watchdog, timers; private engine."""

import json
import time

import pytest

from tests.fakes.machine import Machine
from tests.fakes.realclamd import EICAR
from tests.system.conftest import TEST_NAME

SERVICE = "clamscannerd.service"
ENGINE = "clamscannerd-engine@1.service"
READY_S = 0.5
MOST_EXPOSURE = 1.5
USERS = ("alice", "bob")
STEPS = 2_000
MANY = 20_000
"""Files that take the engine some seconds, so that what happens meanwhile happens to a scan under way."""

DENIED = ("SIGSYS", "status=31/SYS", "signal 31")
"""How systemd and the daemon name the end of a process whose call was denied."""

CALLS = r"""
import json, os, socket, sys, time
PATH = "/run/clamscannerd/clamscannerd.sock"
count, bad = 0, []
while not os.path.exists("/tmp/enough"):
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(30)
            sock.connect(PATH)
            sock.sendall(b'{"jsonrpc":"2.0","id":1,"method":"ClamScanner.get_scan_paths"}\n')
            answer = json.loads(sock.makefile().readline())
            kind = answer.get("error", {}).get("data", {}).get("kind")
            if "result" not in answer and kind != "shutting_down":
                bad.append(str(answer))
    except (OSError, ValueError) as error:
        bad.append(repr(error))
    count += 1
    time.sleep(0.02)
print(json.dumps({"count": count, "bad": bad}))
"""
"""A new connection for each call. `shutting_down` is an answer; a connection refused, or closed without one, is not."""


def fill(machine: Machine, user: str, *, files: int = 0) -> None:
    """An infected file, in a home of at least so many others."""
    machine.write(f"/home/{user}/bad.com", EICAR, owner=user)
    heap = machine.tree / f"home/{user}/heap"
    if not heap.exists() and files:
        heap.mkdir()
        for number in range(files):
            (heap / str(number)).write_text(f"{number}\n")
        machine.run("chown", "--recursive", f"{user}:{user}", f"/home/{user}/heap")


def worker_count(machine: Machine) -> int:
    return sum("worker.drop" in line for line in machine.processes())


def start_scan(machine: Machine, user: str) -> object:
    """The id of a scan that is under way, in the midst of many files."""
    scan = machine.ask(user, "ClamScanner.start_scan", scan_type="home")["scan_id"]
    deadline = time.monotonic() + 60
    while not (status := machine.ask(user, "ClamScanner.get_scan_status"))["scanned_file_count"]:
        assert time.monotonic() < deadline, f"the scan does not begin: {status}"
    assert status["state"] == "running", "the scan was too quick"
    return scan


def wait_scan(machine: Machine, user: str) -> dict[str, object]:
    ended = machine.ctl(user, "--json", "status", "--wait", timeout_s=120)
    status: dict[str, object] = json.loads(ended.stdout)["result"]["data"]
    return status


def sandboxed(machine: Machine, name: str, code: str, *, start: bool = True) -> None:
    """A unit `name` that runs `code` in the sandbox of the service, word for word."""
    others = ("Exec", "Type=", "Restart", "Watchdog", "NotifyAccess", "SystemCallErrorNumber")
    unit = (machine.tree / "lib/systemd/system/clamscannerd.service").read_text()
    lines = [line for line in unit.splitlines() if not line.startswith(others)]
    here = lines.index("[Service]") + 1
    lines[here:here] = ["Type=oneshot", f'ExecStart=/usr/lib/clamscannerd/bin/python -I -c "{code}"']
    machine.write(f"/etc/systemd/system/{name}", "\n".join(lines))
    machine.run("systemctl", "daemon-reload")
    if start:
        machine.run("systemctl", "start", name)


def resumed(status: dict[str, object]) -> bool:
    """Whether the scan was under way when the daemon ended."""
    times = status["resumed"]
    assert isinstance(times, int)
    return times >= 1


def six_calls(machine: Machine, user: str) -> None:
    """Found, listed, quarantined, gone from the list."""
    bad = f"/home/{user}/bad.com"
    fill(machine, user)
    assert "home" in [kind["id"] for kind in machine.ask(user, "ClamScanner.get_scan_paths")]
    assert machine.ask(user, "ClamScanner.start_scan", scan_type="home")["scan_id"]
    status = wait_scan(machine, user)
    assert (status["state"], status["infected_file_count"]) == ("done", 1)
    (found,) = machine.ask(user, "ClamScanner.list_infected_files")
    assert (found["file"], found["virus_type"]) == (bad, TEST_NAME)
    assert machine.ask(user, "ClamScanner.disinfect_files", actions={bad: "quarantine"})["task_id"]
    deadline = time.monotonic() + 60
    while (task := machine.ask(user, "ClamScanner.check_disinfection_status"))["status"] != "done":
        assert time.monotonic() < deadline, f"the disinfection does not end: {task}"
    assert task["details"][-1]["state"] == "success"
    assert machine.ask(user, "ClamScanner.list_infected_files") == []
    assert not machine.exists(bad)


def test_the_socket_listens_and_the_first_client_starts_the_daemon(machine: Machine) -> None:
    assert machine.show("clamscannerd.socket", "SubState") == "listening"
    assert machine.show(SERVICE, "ActiveState") == "inactive"
    assert machine.ctl("alice", "paths").returncode == 0
    assert machine.show(SERVICE, "SubState") == "running"
    assert machine.show("clamscannerd-prepare.service", "Result") == "success"


@pytest.mark.parametrize("user", USERS)
def test_the_six_calls_with_the_private_engine(machine: Machine, user: str) -> None:
    six_calls(machine, user)
    assert machine.show(ENGINE, "SubState") == "running"
    assert "one for each core" in machine.ctl(user, "health").stdout
    assert machine.run("ps", "-o", "user=", "-p", str(machine.pid(ENGINE))).stdout.strip().startswith("clamsca")


def test_the_engine_sees_neither_vault_nor_homes(machine: Machine) -> None:
    machine.ctl("alice", "paths")
    pid = str(machine.pid(ENGINE))
    for place in ("/var/lib/clamscannerd", "/etc/clamscannerd", "/home", "/root"):
        listed = machine.run("nsenter", "--target", pid, "--mount", "ls", "-A", place, check=False).stdout
        assert listed == "", place


def test_systemd_finds_nothing_wrong_with_the_units(machine: Machine) -> None:
    units = "/lib/systemd/system/clamscannerd*.{service,socket,timer}"
    ended = machine.run("bash", "-c", f"systemd-analyze verify --man=no {units} 2>&1", check=False)
    said = ended.stdout
    assert ended.returncode == 0, said
    assert [line for line in said.splitlines() if "clamscannerd" in line] == []


@pytest.mark.parametrize(
    "unit",
    [
        SERVICE,
        ENGINE,
        "clamscannerd-prepare.service",
        "clamscannerd-scan@alice.service",
        "clamscannerd-scan-all.service",
    ],
)
def test_exposure_is_low(machine: Machine, unit: str) -> None:
    words = ["systemd-analyze", "security", "--no-pager", f"--threshold={round(MOST_EXPOSURE * 10)}", unit]
    ended = machine.run(*words, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_the_daemon_comes_before_its_workers(machine: Machine) -> None:
    machine.ctl("alice", "health")  # its first call starts it
    stat = machine.run("cat", f"/proc/{machine.pid()}/stat").stdout.rpartition(")")[2].split()
    assert stat[16] == "-5", "nice, field 19 of proc_pid_stat(5)"


def test_workers_stay_beneath_the_home_by_openat2(machine: Machine) -> None:
    """RestrictSUIDSGID would make it answer ENOSYS: asked in the very sandbox of the unit."""
    code = "import os; from clamscannerd.worker.beneath import Kernel; kernel = Kernel();"
    code += "kernel.probe(os.open('/', os.O_RDONLY)); print('openat2', kernel.openat2)"
    sandboxed(machine, "csd-probe.service", code)
    assert "openat2 True" in machine.journal("csd-probe.service")


def test_health_says_whether_workers_have_openat2(machine: Machine) -> None:
    assert "Workers have openat2." in machine.ctl("alice", "health").stdout
    drop_in = "/etc/systemd/system/clamscannerd.service.d/suid.conf"
    machine.write(drop_in, "[Service]\nRestrictSUIDSGID=yes\n")
    machine.sh("systemctl daemon-reload; systemctl restart clamscannerd")
    said = machine.ctl("alice", "health")
    assert (said.returncode, "Workers have no openat2" in said.stdout) == (0, True)
    assert machine.ctl("alice", "scan", "home", "--wait").returncode in (0, 1)  # by the slower walk
    machine.sh(f"rm {drop_in}; systemctl daemon-reload; systemctl restart clamscannerd")


DROP_INS = "/usr/share/clamscannerd/drop-ins"
CONNECT = "import errno, socket; s = socket.socket(); print('connect', errno.errorcode[s.connect_ex(('127.0.0.1', 9))])"


@pytest.mark.parametrize("drop_in", ["remote-engine", "ldap"])
def test_the_drop_ins_open_the_network_and_nothing_else_does(machine: Machine, drop_in: str) -> None:
    sandboxed(machine, "csd-offline.service", CONNECT.replace("; print", "; s.close(); print"), start=False)
    assert machine.run("systemctl", "start", "csd-offline.service", check=False).returncode != 0
    sandboxed(machine, "csd-online.service", CONNECT, start=False)
    place = "/etc/systemd/system/csd-online.service.d"
    machine.sh(f"install -D -m 644 {DROP_INS}/{drop_in}.conf -t {place}; systemctl daemon-reload")
    machine.run("systemctl", "start", "csd-online.service")
    assert "connect ECONNREFUSED" in machine.journal("csd-online.service")
    machine.sh(f"rm -r {place}; systemctl daemon-reload")
    service = "/etc/systemd/system/clamscannerd.service.d"
    machine.sh(f"install -D -m 644 {DROP_INS}/{drop_in}.conf -t {service}; systemctl daemon-reload")
    machine.run("systemctl", "restart", SERVICE)
    six_calls(machine, "bob")
    machine.sh(f"rm {service}/{drop_in}.conf; systemctl daemon-reload; systemctl restart clamscannerd")


@pytest.mark.alone
def test_start_to_ready_is_quick(machine: Machine) -> None:
    took_s = []
    for _ in range(5):
        machine.run("systemctl", "restart", SERVICE)
        started = int(machine.show(SERVICE, "ExecMainStartTimestampMonotonic"))
        took_s.append((int(machine.show(SERVICE, "ActiveEnterTimestampMonotonic")) - started) / 1e6)
    assert min(took_s) <= READY_S, took_s


def test_a_restart_under_load_refuses_nobody_and_loses_nothing(machine: Machine) -> None:
    fill(machine, "alice", files=MANY)
    machine.ctl("alice", "paths")
    engine = machine.pid(ENGINE)
    machine.write("/opt/calls.py", CALLS)
    machine.sh("rm -f /tmp/enough")
    callers = machine.start("python3", "/opt/calls.py", user="bob")
    scan = start_scan(machine, "alice")
    for _ in range(3):
        machine.run("systemctl", "restart", SERVICE)
    machine.sh("touch /tmp/enough")
    said = json.loads(machine.finish(callers).stdout)
    assert said["bad"] == []
    assert said["count"] > 3
    status = wait_scan(machine, "alice")
    assert (status["scan_id"], status["state"], status["infected_file_count"]) == (scan, "done", 1)
    assert resumed(status)
    assert machine.pid(ENGINE) == engine


def test_a_stop_amid_scan_and_disinfection_leaves_nobody_and_both_go_on(machine: Machine) -> None:
    infected = machine.tree / "home/bob/many"
    infected.mkdir()
    for number in range(STEPS):
        (infected / str(number)).write_bytes(EICAR + f" {number}".encode())
    machine.run("chown", "--recursive", "bob:bob", "/home/bob/many")
    assert machine.ctl("bob", "scan", "home", "--wait", timeout_s=120).returncode == 1
    fill(machine, "alice", files=MANY)
    start_scan(machine, "alice")
    machine.ask("bob", "ClamScanner.disinfect_files", actions={}, others="quarantine")
    machine.run("systemctl", "stop", "clamscannerd.socket", SERVICE)
    assert machine.show(SERVICE, "Result") == "success"
    assert machine.processes() == []
    assert any(infected.iterdir())  # amid it, indeed
    machine.run("systemctl", "start", "clamscannerd.socket")
    status = wait_scan(machine, "alice")
    assert status["state"] == "done"
    assert resumed(status)
    machine.ctl("bob", "status", "--wait", timeout_s=120)
    task = machine.ask("bob", "ClamScanner.check_disinfection_status")
    assert (task["status"], task["details"][-1]["state"]) == ("done", "success")
    assert [record["state"] for record in task["details"][:-1]] == ["quarantined"] * STEPS
    assert not any(infected.iterdir())
    assert machine.ask("bob", "Quarantine.list")["total"] >= STEPS


def test_ten_kills_in_a_row_are_recovered_from_each_time(machine: Machine) -> None:
    fill(machine, "alice", files=MANY)
    machine.ctl("alice", "paths")
    scan = start_scan(machine, "alice")
    for _ in range(10):
        former = machine.pid()
        machine.run("kill", "-KILL", str(former))
        assert machine.ctl("bob", "paths").returncode == 0  # waits in the backlog for the next one
        assert machine.pid() != former
    status = wait_scan(machine, "alice")
    assert (status["scan_id"], status["state"], resumed(status)) == (scan, "done", True)
    assert worker_count(machine) == 0
    assert len(machine.processes()) == 2  # daemon and monitor


def test_a_daemon_that_hangs_is_killed_by_the_watchdog_and_is_back(machine: Machine) -> None:
    machine.write("/etc/systemd/system/clamscannerd.service.d/watchdog.conf", "[Service]\nWatchdogSec=3\n")
    machine.sh("systemctl daemon-reload; systemctl restart clamscannerd.service")
    fill(machine, "alice", files=MANY)
    scan = start_scan(machine, "alice")
    former = machine.pid()
    machine.run("kill", "-STOP", str(former))
    machine.wait_for(SERVICE, "NRestarts", "1", timeout_s=30)
    assert machine.ctl("bob", "paths").returncode == 0
    assert machine.pid() not in (0, former)
    status = wait_scan(machine, "alice")
    assert (status["scan_id"], status["state"], resumed(status)) == (scan, "done", True)
    assert len(machine.processes()) == 2
    machine.sh("rm /etc/systemd/system/clamscannerd.service.d/watchdog.conf; systemctl daemon-reload")
    machine.run("systemctl", "restart", SERVICE)


def test_a_timer_scans_for_its_user(machine: Machine) -> None:
    fill(machine, "alice")
    machine.run("systemctl", "enable", "--now", "clamscannerd-scan@alice.timer")
    assert machine.show("clamscannerd-scan@alice.timer", "SubState") == "waiting"
    before = machine.ask("alice", "ClamScanner.get_scan_status")["scan_id"]
    machine.run("systemctl", "start", "clamscannerd-scan@alice.service")  # as the timer does
    after = machine.ask("alice", "ClamScanner.get_scan_status")
    assert (after["state"], after["infected_file_count"]) == ("done", 1)
    assert after["scan_id"] > before


def test_the_timer_of_all_scans_every_account_in_turn(machine: Machine) -> None:
    for user in USERS:
        fill(machine, user)
    before = {user: machine.ask(user, "ClamScanner.get_scan_status")["scan_id"] for user in USERS}
    machine.run("systemctl", "start", "clamscannerd-scan-all.service", timeout_s=120)
    said = machine.journal("clamscannerd-scan-all.service")
    for user in USERS:
        after = machine.ask(user, "ClamScanner.get_scan_status")
        assert (after["state"], after["scan_id"] > before[user]) == ("done", True)
        assert f"{user}: done" in said


def test_no_call_was_denied_by_the_sandbox(machine: Machine) -> None:
    """All of the above ran with denied calls being fatal: what systemd and the daemon say of it, and a proof."""
    assert machine.show(SERVICE, "SystemCallErrorNumber") == "2147483646"  # kill
    sandboxed(machine, "csd-denied.service", "import os; os.sched_setaffinity(0, {0})", start=False)
    machine.run("systemctl", "start", "csd-denied.service", check=False)
    assert any(words in machine.journal("csd-denied.service") for words in DENIED)
    said = machine.run("journalctl", "--no-pager", "--output=cat", "--unit=clamscannerd*").stdout
    assert "scan" in said
    assert [words for words in DENIED if words in said] == []
