"""As root: homes that are made to fill the memory, the fds or the time of whoever walks through them.

Too deep, too many, names too long, and the ways between: directories by the hundred thousand that are all still to be
entered, infected files by the hundred thousand with the longest of paths, which the daemon keeps and lists. Each scan
has to end, or to say which limit it met; how large the processes got is what the kernel says.
"""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.fakes.accounts import Person, throw_away
from tests.fakes.aftermath import rows
from tests.fakes.gauge import MB, Gauge
from tests.fakes.realclamd import MARKER
from tests.fakes.running import RunningDaemon, acting_as, wait_for
from tests.integration.people import balanced
from tests.rows import Amount, Figure

DAEMON_BYTES = 150 * MB
WORKER_BYTES = 200 * MB
WORKER_FDS = 64
LISTED_BYTES = 18 * MB
"""Of paths: what is kept of one scan, and the home before each."""

ENDS_S = 2_400.0
NAME = b"n" * 247
"""And eight digits: the longest name that there is."""

PATH_MAX = 4_095


@pytest.fixture(scope="module")
def daemon() -> Iterator[RunningDaemon]:
    with RunningDaemon(timed=False) as running:  # a list of 40 MB keeps the loop for 30 ms: README, "Limits"
        yield running


@pytest.fixture
def alice() -> Iterator[Person]:
    """With a home in memory: to remove such trees from a disk takes longer than all else here."""
    with throw_away("bomb") as account:
        options = f"size=8g,nr_inodes=0,mode=700,uid={account.uid},gid={account.gid}"
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "bomb", account.home], check=True)
        try:
            yield account
        finally:
            subprocess.run(["umount", "-l", account.home], check=True)


@contextmanager
def entered(account: Person) -> Iterator[int]:
    """An fd of the home, under the account's ids."""
    with acting_as(account.uid):
        fd = os.open(account.home, os.O_RDONLY)
        try:
            yield fd
        finally:
            os.close(fd)


def down(fd: int, name: bytes, levels: int) -> int:
    """So many directories of this name, one in the other, from `fd` on; an fd of the last."""
    here = os.dup(fd)
    for _ in range(levels):
        os.mkdir(name, dir_fd=here)
        below = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    return here


def put(fd: int, name: bytes, content: bytes = b"") -> None:
    file = os.open(name, os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=fd)
    if content:
        os.write(file, content)
    os.close(file)


def latest_state(daemon: RunningDaemon) -> object:
    return rows(daemon, "SELECT state FROM scan ORDER BY id DESC LIMIT 1")[0][0]


def check_bounds(gauge: Gauge) -> None:
    assert gauge.worker.looks > 0, "no worker was seen"
    assert gauge.daemon.memory_bytes < DAEMON_BYTES
    assert gauge.worker.memory_bytes < WORKER_BYTES
    assert gauge.worker.fds < WORKER_FDS


@pytest.mark.row("A8")
@pytest.mark.fails_with("an-fd-a-level")
def test_a_tree_too_deep_is_walked_as_deep_as_paths_go_and_the_rest_is_said(
    daemon: RunningDaemon, alice: Person, amount: Amount, figure: Figure
) -> None:
    levels = amount(quick=2_500, long=20_000)
    with entered(alice) as home:
        for name in (b"d", NAME):
            here = os.dup(home)
            for _ in range(levels // 500):
                below = down(here, name, 500)
                put(below, b"x", MARKER)
                os.close(here)
                here = below
            os.close(here)
    with Gauge(daemon, alice) as gauge, daemon.client(alice.uid) as client:
        status = client.scan(timeout_s=ENDS_S)
        listed = client.good("list_infected_files")
    reached = (PATH_MAX - len(alice.home) - 1) // 2  # levels of one letter and a slash
    assert status["state"] == "done"
    assert len(listed) == status["infected_file_count"] == reached // 500
    assert status["not_scanned"]["path_too_long"] == 2
    assert balanced(status)
    check_bounds(gauge)
    figure(f"{levels:,} levels: daemon {gauge.daemon}, worker {gauge.worker}")


@pytest.mark.row("A8")
@pytest.mark.fails_with("entries-all-at-once")
def test_a_directory_of_very_many_files_is_scanned_in_bounded_memory(
    daemon: RunningDaemon, alice: Person, amount: Amount, figure: Figure
) -> None:
    number = amount(quick=10_000, long=1_000_000)
    with entered(alice) as home:
        for place in range(number):
            put(home, NAME + b"%08d" % place)
    with Gauge(daemon, alice) as gauge, daemon.client(alice.uid) as client:
        status = client.scan(timeout_s=ENDS_S)
    assert (status["state"], status["not_scanned"]) == ("done", {})
    assert status["scanned_file_count"] == status["total_file_count"] == number
    check_bounds(gauge)
    figure(f"{number:,} files with names of 255 bytes: daemon {gauge.daemon}, worker {gauge.worker}")


@pytest.mark.row("A8")
@pytest.mark.fails_with("directories-unbounded")
def test_directories_that_all_wait_to_be_entered_are_bounded_and_what_is_left_out_is_said(
    daemon: RunningDaemon, alice: Person, amount: Amount, figure: Figure
) -> None:
    """Most of them in one directory, some beside each step of a way down."""
    number = amount(quick=60_000, long=600_000)
    with entered(alice) as home:
        wide = down(home, b"wide", 1)
        for place in range(number):
            os.mkdir(NAME + b"%08d" % place, dir_fd=wide)
        os.close(wide)
        here = down(home, b"a", 1)
        for _ in range(100):
            for place in range(number // 2_000):
                os.mkdir(NAME + b"%08d" % place, dir_fd=here)
            below = down(here, b"a", 1)
            os.close(here)
            here = below
        put(here, b"x", MARKER)
        os.close(here)
    with Gauge(daemon, alice) as gauge, daemon.client(alice.uid) as client:
        status = client.scan(timeout_s=ENDS_S)
    assert status["state"] == "done"
    assert balanced(status)
    assert status["infected_file_count"] == 1
    assert status["not_scanned"].keys() == {"limit"}
    check_bounds(gauge)
    left_out = status["not_scanned"]["limit"]
    figure(f"{number:,} directories ({left_out:,} left out): daemon {gauge.daemon}, worker {gauge.worker}")


@pytest.mark.row("A8")
@pytest.mark.fails_with("findings-by-number-alone")
def test_very_many_infected_files_with_the_longest_paths_are_kept_and_listed_in_bounded_memory(
    daemon: RunningDaemon, alice: Person, amount: Amount, figure: Figure
) -> None:
    number = amount(quick=5_000, long=50_000)
    with entered(alice) as home:
        here = down(home, b"n" * 255, 14)
        for place in range(number):
            put(here, NAME + b"%08d" % place, MARKER)
        os.close(here)
    with Gauge(daemon, alice) as gauge, daemon.client(alice.uid) as client:
        client.good("start_scan", {"scan_type": "home"})
        wait_for(lambda: latest_state(daemon) == "done", "the scan to end", ENDS_S)  # an answer has 4 MB of paths
        status = client.good("get_scan_status")
        listed = client.good("list_infected_files")
        warnings = client.uapi("get_scan_status")["warnings"] or ()
    assert (status["state"], status["infected_file_count"]) == ("done", number)
    assert len(listed) == number or any(f"only {len(listed)} are listed" in warning for warning in warnings)
    assert sum(len(one["file"]) for one in listed) < LISTED_BYTES
    check_bounds(gauge)
    figure(f"{number:,} infected, paths of 3,900 bytes ({len(listed):,} listed): daemon {gauge.daemon}")
