"""daemon_health_kept.py and the rest of Daemon.health that is pure: each trouble is graded, and has its cure."""

import pytest

from clamscannerd.daemon_health import engine_checks, socket_check
from clamscannerd.daemon_health_kept import clock_check, disk_check, program_check, scans_check, vault_check
from clamscannerd.daemon_selftest import check as verdict
from clamscannerd.model import Check, EngineInfo, Grade, Reason, Verdict
from clamscannerd.state.store_history import AccountUsage, LastScans
from clamscannerd.state.store_values import Caps
from tests.unit.test_health import state

NOW = 2_000_000_000.0
DAY = 86_400.0
MIB = 1 << 20
CAPS = Caps(max_bytes=1_000, max_items=10)
BLIND = EngineInfo(version="1.4.6", blind=("Encrypted archives pass as clean: AlertEncrypted is off.",))


def scans(files: int = 100, limits: tuple[int, ...] = (), **counts: int) -> Check:
    left = {Reason(key): n for key, n in counts.items()}
    return scans_check(LastScans(scans=2, files=files, not_scanned=left, limits=frozenset(limits)))


def usage(name: str, size: int, items: int = 1) -> AccountUsage:
    return AccountUsage(uid=1, name=name, bytes=size, items=items)


CASES: dict[str, tuple[Check, Grade, str]] = {
    "engine loads": (engine_checks(state("loading"), NOW)[0], Grade.WARNING, "is loading"),
    "engine away": (engine_checks(state("lost"), NOW)[0], Grade.ERROR, "cannot use it"),
    "engine too old": (engine_checks(state(info=EngineInfo(version="0.103.8")), NOW)[0], Grade.WARNING, "too old"),
    "engine new": (engine_checks(state(info=EngineInfo(version="1.5.0-rc")), NOW)[0], Grade.OK, "1.5.0-rc"),
    "a version of words": (engine_checks(state(info=EngineInfo(version="devel")), NOW)[0], Grade.OK, "devel"),
    "blind, with lines": (
        engine_checks(state(info=BLIND, cure=("AlertEncrypted yes",)), NOW)[2],
        Grade.WARNING,
        "AlertEncrypted is off",
    ),
    "socket open": (socket_check("/run/c", 0o140666, True), Grade.WARNING, "Every local user can end the clamd"),
    "socket open, shutdown off": (socket_check("/run/c", 0o140666, False), Grade.OK, "/run/c"),
    "socket shut": (socket_check("/run/c", 0o140660, True), Grade.OK, "/run/c"),
    "socket out of sight": (socket_check("/run/c", None, True), Grade.OK, "/run/c"),
    "program in reach": (program_check(None), Grade.OK, "can reach"),
    "program out of reach": (program_check(("/root/p", "/root")), Grade.ERROR, "cannot enter /root"),
    "clock right": (clock_check(NOW, NOW - 5, 0.2, NOW - DAY), Grade.OK, "agrees"),
    "clock knows nothing": (clock_check(NOW, 0.0, 0.0, 0.0), Grade.OK, "agrees"),
    "clock was ahead": (clock_check(NOW, NOW + 3 * DAY, 0.0, 0.0), Grade.WARNING, "3 days from now"),
    "clock is behind": (clock_check(NOW, 0.0, 0.0, NOW + 9 * DAY), Grade.WARNING, "9 days from now"),
    "clock far ahead": (clock_check(NOW, 0.0, 0.0, NOW - 4000 * DAY), Grade.WARNING, "11 years old"),
    "clock set on": (clock_check(NOW, 0.0, 7_300.0, 0.0), Grade.WARNING, "set on by 2 hours"),
    "clock set back": (clock_check(NOW, 0.0, -3_700.0, 0.0), Grade.WARNING, "set back by 62 minutes"),
    "no scan": (scans_check(LastScans(scans=0, files=0, not_scanned={})), Grade.OK, "No scan"),
    "all scanned": (scans(), Grade.OK, "All 100 files of the last 2 scans"),
    "few left out": (
        scans(too_big=3, not_regular=90),
        Grade.OK,
        "93 were not scanned (90 not regular, 3 over the",
    ),
    "one left out": (scans(encrypted=1), Grade.OK, "1 was not scanned (1 encrypted)"),
    "over one limit": (scans(too_big=3, limits=(25 * MIB,)), Grade.OK, "(3 over 25 MiB)"),
    "over several": (scans(too_big=3, limits=(100 * MIB, 5 * MIB // 2)), Grade.OK, "(3 over 2.5 to 100 MiB)"),
    "over one that is not known": (scans(too_big=3, limits=(25 * MIB, 0)), Grade.OK, "(3 over the size limit)"),
    "many left out": (scans(too_big=3, encrypted=4), Grade.WARNING, "7 were not scanned"),
    "one with an engine's error": (scans(10_000, engine_error=1), Grade.WARNING, "1 engine error"),
    "vault": (vault_check(0, [], CAPS), Grade.OK, "has room"),
    "vault nearly full": (
        vault_check(7, [usage("anna", 950), usage("bert", 10, 9)], CAPS),
        Grade.WARNING,
        "anna (95%), bert (90%) and 5 more",
    ),
    "disk": (disk_check(1 << 30, 16 << 20, (0.4, 0.05)), Grade.OK, "40% is free"),
    "state's disk full": (disk_check(1 << 20, 16 << 20, (0.4, 0.05)), Grade.ERROR, "1 MiB free"),
    "vault's disk full": (disk_check(1 << 30, 16 << 20, (0.04, 0.05)), Grade.ERROR, "4.0% free"),
    "found": (verdict(Verdict.INFECTED, "Eicar", "", "so"), Grade.OK, "found so: Eicar"),
    "not found": (verdict(Verdict.CLEAN, "", "", "so"), Grade.ERROR, "calls it clean"),
    "not scanned": (verdict(Verdict.NOT_SCANNED, "", "no room", "so"), Grade.ERROR, "could not be scanned: no room"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_wrong_is_said_graded_and_has_a_cure(case: str) -> None:
    check, grade, words = CASES[case]
    assert check.grade is grade
    assert words in check.message
    assert check.message.endswith(".") or case in ("engine away", "engine loads")
    assert bool(check.cure) == (grade is not Grade.OK)


def test_lines_for_clamd_conf_stand_in_the_cure() -> None:
    assert "AlertEncrypted yes" in CASES["blind, with lines"][0].cure
    unknown = engine_checks(state(info=BLIND), NOW)[2]
    assert "engine.clamd_conf" in unknown.cure
