"""ctl/absent.py and ctl/machine.py: what is made of what systemd and the kernel say."""

from collections.abc import Mapping

import pytest

from clamscannerd.ctl.absent import units
from clamscannerd.ctl.machine import denials, synchronized

ACTIVE = {"LoadState": "loaded", "ActiveState": "active", "UnitFileState": "enabled"}
FAILED = {"LoadState": "loaded", "ActiveState": "failed", "Result": "exit-code", "ExecMainStatus": "1"}
APPARMOR = 'audit: type=1400 apparmor="DENIED" operation="open" profile="/usr/sbin/clamd" name="/srv/a" comm="clamd"'
SELINUX = 'audit: avc:  denied  { read } for  pid=7 comm="clamd" name="a" scontext=system_u:system_r:antivirus_t'
OTHER = 'audit: apparmor="DENIED" operation="open" profile="/usr/sbin/ntpd" comm="ntpd"'


@pytest.mark.parametrize(
    ("service", "listening", "found", "words"),
    [
        (ACTIVE, ACTIVE, [], ""),
        ({"LoadState": "not-found"}, {}, ["unit"], "is not installed"),
        (FAILED, ACTIVE, ["unit"], "failed: exit-code, exit code 1: it said so."),
        (FAILED | {"ExecMainStatus": "78"}, ACTIVE, ["unit"], "exit code 78"),
        (ACTIVE, ACTIVE | {"ActiveState": "inactive"}, ["unit.socket"], "does not listen."),
        ({}, {"ActiveState": "inactive", "UnitFileState": "disabled"}, ["unit.socket"], "does not listen, and not"),
        ({}, {}, [], ""),
    ],
    ids=["well", "not installed", "failed", "misconfigured", "socket off", "socket disabled", "no systemctl"],
)
def test_what_systemd_says_of_a_daemon_that_is_away(
    service: dict[str, str], listening: dict[str, str], found: list[str], words: str
) -> None:
    checks = units(service, listening, lambda: "it said so")
    assert [check["id"] for check in checks] == found
    assert all(words in check["message"] and check["cure"] for check in checks)


def test_a_configuration_that_is_broken_has_a_cure_of_its_own() -> None:
    (check,) = units(FAILED | {"ExecMainStatus": "78"}, ACTIVE, lambda: "")
    assert "--check-config" in check["cure"]


def test_a_clock_that_nobody_may_ask_is_not_mentioned() -> None:
    assert synchronized(-1) is None
    states: Mapping[int, object] = {state: (synchronized(state) or {}).get("grade") for state in (0, 1, 5)}
    assert states == {0: "ok", 1: "ok", 5: "warning"}


def test_denials_are_found_for_clamd_and_for_nobody_else_and_made_safe() -> None:
    assert denials([OTHER, "clamd: started", ""])["grade"] == "ok"
    check = denials([OTHER, APPARMOR + "\x1b[2J", SELINUX])
    assert check["grade"] == "warning"
    assert "denied 2 accesses" in check["message"]
    assert "ntpd" not in check["message"]
    assert "\x1b" not in check["message"]
    assert "apparmor_parser" in check["cure"]
    assert "setsebool" in check["cure"]
