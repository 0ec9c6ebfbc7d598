"""What an administrator sees of it in a booted system: STATUS, reload, a broken configuration, the journal, memory."""

import json

from tests.fakes.machine import Machine
from tests.system.conftest import TEST_NAME
from tests.system.test_booted_service import ENGINE, MANY, SERVICE, fill, resumed, start_scan, wait_scan

MOST_IDLE_BYTES = 60 << 20
CONF = "/etc/clamscannerd/conf.d/zz.toml"
BROKEN = "[scans]\nmax_active = 0\n"
FIELDS = ("CLAMSCANNERD_SCAN_ID", "CLAMSCANNERD_SIGNATURE", "CLAMSCANNERD_PATH", "MESSAGE_ID")


def status_text(machine: Machine) -> str:
    return machine.show(SERVICE, "StatusText")


def events(machine: Machine, *words: str) -> list[dict[str, str]]:
    said = machine.run("journalctl", "--no-pager", "--output=json", *words).stdout
    return [json.loads(line) for line in said.splitlines()]


def test_the_status_line_says_what_is_under_way_and_names_nobody(machine: Machine) -> None:
    fill(machine, "alice", files=MANY)
    start_scan(machine, "alice")
    machine.wait_for_text(SERVICE, "1 scan")
    assert wait_scan(machine, "alice")["state"] == "done"
    machine.wait_for_text(SERVICE, "idle; clamd 1.")
    said = machine.run("systemctl", "status", "--no-pager", "--lines=0", SERVICE).stdout
    assert 'Status: "idle; clamd 1.' in said
    assert "alice" not in status_text(machine)


def test_a_reload_is_done_when_it_returns_and_drops_no_scan(machine: Machine) -> None:
    pid = machine.pid()
    scan = start_scan(machine, "alice")
    machine.write(CONF, '[scan_types.mail]\nenabled = false\n[scan_types.home]\nmessage = "All of it"\n')
    machine.run("systemctl", "reload", SERVICE)
    assert machine.ask("alice", "ClamScanner.get_scan_paths") == [{"id": "home", "message": "All of it"}]
    status = wait_scan(machine, "alice")
    assert (status["scan_id"], status["state"], resumed(status)) == (scan, "done", False)
    assert machine.pid() == pid


def test_a_reload_gives_the_private_engine_its_new_settings_and_drops_no_scan(machine: Machine) -> None:
    small = machine.ask("alice", "ClamScanner.get_scan_status")["scan_id"]
    machine.sh("head -c 3000000 /dev/zero >big", user="alice")
    pid, engine = machine.pid(), machine.pid(ENGINE)
    scan = start_scan(machine, "alice")
    machine.write(CONF, '[engine]\nmax_file_size = "2M"\n')
    machine.run("systemctl", "reload", SERVICE)
    machine.wait_for_text(SERVICE, "clamd 1.")
    assert wait_scan(machine, "alice")["state"] == "done"
    assert (machine.pid() == pid, machine.pid(ENGINE) != engine) == (True, True)
    assert "next start" not in status_text(machine)
    machine.ask("alice", "ClamScanner.start_scan", scan_type="home")
    status = wait_scan(machine, "alice")
    assert status["not_scanned"] == {"too_big": 1}
    assert scan > small
    machine.run("rm", CONF)
    machine.run("systemctl", "reload", SERVICE)
    machine.sh("rm big", user="alice")


def test_a_reload_makes_more_private_engines_and_fewer(machine: Machine) -> None:
    second = "clamscannerd-engine@2"
    for number in (3, 1):
        machine.write(CONF, f"[engine]\nprivate_engines = {number}\n")
        machine.run("systemctl", "reload", SERVICE)
        for job in range(1, 4):
            state = "running" if job <= number else "dead"
            machine.wait_for(f"clamscannerd-engine@{job}.service", "SubState", state)
        assert f"engine.private_engines is {number}" in machine.ctl("root", "health").stdout
        machine.ask("alice", "ClamScanner.start_scan", scan_type="home")
        if number > 1:
            machine.run("systemctl", "kill", "--signal=KILL", f"{second}.service")
        assert wait_scan(machine, "alice")["state"] == "done"
    assert machine.show(f"{second}.socket", "ActiveState") == "inactive"
    assert not machine.exists("/run/clamscannerd-engine/2.conf")
    machine.run("rm", CONF)
    machine.run("systemctl", "reload", SERVICE)


def test_a_reload_of_a_broken_file_fails_says_why_and_keeps_the_old_one(machine: Machine) -> None:
    machine.write(CONF, BROKEN)
    ended = machine.run("systemctl", "reload", SERVICE, check=False)
    assert ended.returncode != 0
    assert "scans.max_active" in machine.journal(SERVICE)
    machine.wait_for_text(SERVICE, "scans.max_active")
    assert machine.ctl("alice", "paths").returncode == 0
    machine.run("rm", CONF)
    machine.run("systemctl", "reload", SERVICE)
    machine.wait_for_text(SERVICE, "idle")


def test_a_broken_file_at_the_start_is_answered_until_it_is_mended(machine: Machine) -> None:
    machine.write(CONF, BROKEN)
    machine.run("systemctl", "restart", SERVICE)
    ended = machine.ctl("alice", "--json", "paths")
    assert json.loads(ended.stdout)["error"]["data"]["kind"] == "misconfigured"
    assert "scans.max_active" in status_text(machine)
    machine.run("rm", CONF)
    machine.run("systemctl", "reload", SERVICE, check=False)
    machine.wait_for_text(SERVICE, "idle")
    assert machine.ctl("alice", "paths").returncode == 0


def test_the_journal_has_a_users_events_by_uid_with_fields_and_explanation(machine: Machine) -> None:
    uids = {user: machine.run("id", "-u", user).stdout.strip() for user in ("alice", "bob")}
    for user in uids:
        fill(machine, user)
        assert machine.ctl(user, "scan", "home", "--wait", timeout_s=120).returncode == 1
        assert machine.ctl(user, "disinfect", "quarantine", "--all", "--wait").returncode == 0
    for user, uid in uids.items():
        found = events(machine, f"CLAMSCANNERD_UID={uid}")
        assert {event["CLAMSCANNERD_UID"] for event in found} == {uid}
        paths = {event["CLAMSCANNERD_PATH"] for event in found if "CLAMSCANNERD_PATH" in event}
        assert paths == {f"/home/{user}/bad.com"}
        infections = [event for event in found if event.get("CLAMSCANNERD_SIGNATURE") == TEST_NAME]
        assert any(all(field in event for field in FIELDS) for event in infections)
        assert any("CLAMSCANNERD_TASK_ID" in event for event in infections)
    explained = machine.run("journalctl", "--no-pager", "-x", f"CLAMSCANNERD_UID={uids['alice']}").stdout
    assert "An infected file was found" in explained
    assert "An infected file was acted on" in explained
    assert "/home/bob" not in explained


def test_idle_it_needs_little_memory(machine: Machine) -> None:
    machine.wait_for_text(SERVICE, "idle")
    used = machine.sh("for pid in $(pgrep -u clamscannerd); do grep ^Rss: /proc/$pid/smaps_rollup; done").split()
    assert len(used) == 3 * 2  # daemon and monitor
    assert sum(int(word) for word in used if word.isdecimal()) << 10 <= MOST_IDLE_BYTES
