"""Which of several engines are used, and what holds for all of them; their addresses."""

import math

import pytest

from clamscannerd.addresses import fits, host_port, is_remote
from clamscannerd.daemon_health import member_checks
from clamscannerd.engine.choice import budget, combined, lags, usable
from clamscannerd.engine.health import EngineState
from clamscannerd.model import EngineInfo
from tests.unit.test_health import state

NOW = 2_000_000_000.0
DAY = 86_400.0


def engine(address: str, days_old: float | None, kind: str = "ready", **more: object) -> EngineState:
    """`days_old`: of its official database; None: it has none."""
    has = days_old is not None
    moment = NOW - (days_old or 0.0) * DAY if has else 0.0
    info = EngineInfo(version="1.4.6", database=27_400 - int(days_old or 0) if has else 0, database_time=moment)
    return state(kind, address=address, info=info, **more)


def test_how_far_each_is_behind_the_newest_also_one_that_is_away() -> None:
    states = [engine("/a", 0, "lost"), engine("/b", 0), engine("/c", 3), engine("/d", None)]
    assert lags(states, NOW) == {"/a": 0.0, "/b": 0.0, "/c": 3 * DAY, "/d": math.inf}


def test_without_official_signatures_anywhere_nobody_is_behind() -> None:
    states = [engine("/a", None), engine("/b", None)]
    assert lags(states, NOW) == {"/a": 0.0, "/b": 0.0}
    assert len(usable(states, DAY, NOW)) == 2


def test_a_database_from_the_future_leaves_nobody_behind() -> None:
    states = [engine("/a", -30), engine("/b", 0), engine("/c", 1)]
    assert lags(states, NOW) == {"/a": 0.0, "/b": 0.0, "/c": DAY}


@pytest.mark.parametrize(
    ("max_lag_s", "used"), [(0.0, ["/a", "/b", "/c"]), (2 * DAY, ["/a", "/b"]), (1.0, ["/a"])], ids=["0", "2 d", "1 s"]
)
def test_what_is_too_far_behind_is_left_out(max_lag_s: float, used: list[str]) -> None:
    states = [engine("/a", 0), engine("/b", 1), engine("/c", 3), engine("/d", 0, "lost")]
    assert [one.address for one in usable(states, max_lag_s, NOW)] == used


def test_the_newest_that_is_ready_is_never_left_out() -> None:
    assert [one.address for one in usable([engine("/a", 0, "lost"), engine("/b", 9)], 1.0, NOW)] == ["/b"]


def test_together_they_are_as_old_as_the_oldest_and_take_what_all_take() -> None:
    all_of_them = combined([engine("/a", 0, max_file_size=9), engine("/b", 3, max_file_size=5, max_threads=4)])
    assert all_of_them.info.database == 27_397
    assert (all_of_them.max_file_size, all_of_them.max_threads) == (5, 5)


def test_files_at_the_engines_at_once_are_bounded_by_our_processors_where_the_engine_has_these() -> None:
    local, remote = engine("/a", 0, max_threads=30), engine("tcp://b:1", 0, max_threads=30)
    assert budget([local], 2) == 8
    assert budget([remote], 2) == 20
    assert budget([local, remote], 2) == 28
    assert budget([], 2) == 1


@pytest.mark.parametrize(("shared", "threads", "files"), [(False, 1, 4), (True, 1, 2), (True, 2, 1), (True, 12, 8)])
def test_an_engine_of_few_threads_has_work_waiting(shared: bool, threads: int, files: int) -> None:
    one = engine("/one", 0, shared=shared, max_threads=threads)
    assert budget([one], 2) == files
    assert budget([one, one], 2) == 2 * files


def test_each_of_several_engines_is_said_and_graded() -> None:
    states = [engine("/a", 0), engine("tcp://b:1", 1), engine("/c", 3), engine("/d", 0, "lost"), engine("/e", None)]
    found = member_checks(states, {"/a", "tcp://b:1", "/c"}, NOW)
    assert [(check.id, check.grade.value) for check in found] == [
        ("engine.remote", "ok"),
        ("engine.member", "ok"),
        ("engine.member", "ok"),
        ("engine.member", "warning"),
        ("engine.member", "warning"),
        ("engine.member", "warning"),
    ]
    words = [check.message for check in found]
    assert "in the clear" in words[0]
    assert "1.0 days behind" in words[2]
    assert "3.0 days behind" in words[3]
    assert "is not used: cannot use it" in words[4]
    assert "none of the official ones" in words[5]
    assert words[5].endswith("and it is left out.")
    assert member_checks(states[:1], {"/a"}, NOW) == []


ADDRESSES = {
    "/run/clamav/clamd.ctl": (True, None),
    "tcp://10.0.0.5:3310": (True, ("10.0.0.5", 3310)),
    "tcp://av-1.example.org:3310": (True, ("av-1.example.org", 3310)),
    "tcp://[fd00::5]:3310": (True, ("fd00::5", 3310)),
    "tcp://[fe80::1%eth0]:3310": (True, ("fe80::1%eth0", 3310)),
    "tcp://fd00::5:3310": (False, None),
    "tcp://av1": (False, None),
    "tcp://av1:0": (False, None),
    "tcp://av1:65536": (False, None),
    "tcp://av1:33 10": (False, None),
    "tcp://me@av1:3310": (False, None),
    "tcp://av1:3310/": (False, None),
    "udp://av1:3310": (False, None),
    "clamd.ctl": (False, None),
    "/run/\0": (False, None),
}


@pytest.mark.parametrize("address", ADDRESSES)
def test_addresses(address: str) -> None:
    good, place = ADDRESSES[address]
    assert fits(address) is good
    assert host_port(address) == place
    assert is_remote(address) is not address.startswith("/")
