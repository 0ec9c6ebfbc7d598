"""As root: a home full of what blocks whoever opens it, and the scan and the disinfection of it.

A FIFO waits for its writer, a socket refuses, and a file with a write lease holds an open for as long as
fs.lease-break-time says, 45 s: one of each is enough to stop a scanner that opens what it finds.
"""

import os
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.fakes.accounts import Person, throw_away
from tests.fakes.aftermath import check_log, leftovers, rows, vault
from tests.fakes.realclamd import MARKER
from tests.fakes.running import RunningDaemon, acting_as
from tests.integration.people import clear
from tests.rows import Amount, Figure

ENDS_WITHIN_S = 60.0
KINDS = {"fifo": "not_regular", "socket": "not_regular", "leased": "unreadable"}
ORDINARY = 100

# Signal 23 is SIGURG, which nobody minds: the kernel tells a holder by it that somebody wants the file.
_HOLD = """
import fcntl, os, resource, signal, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
for name in sys.stdin.read().split("\\0"):
    fd = os.open(name, os.O_RDWR)
    fcntl.fcntl(fd, fcntl.F_SETSIG, 23)
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
print("held", flush=True)
while True:
    signal.pause()
"""


@pytest.fixture(scope="module")
def daemon() -> Iterator[RunningDaemon]:
    with RunningDaemon() as running:
        yield running


@pytest.fixture
def alice() -> Iterator[Person]:
    with throw_away("special") as account:
        clear(account)
        yield account


@contextmanager
def leased(account: Person, paths: list[Path]) -> Iterator[None]:
    """A process of the account's holds a write lease on each of these, and never lets go by itself."""
    with subprocess.Popen(
        [sys.executable, "-I", "-c", _HOLD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        user=account.uid,
        group=account.gid,
        extra_groups=[],
    ) as holder:
        try:
            assert holder.stdin is not None
            assert holder.stdout is not None
            holder.stdin.write("\0".join(map(str, paths)).encode())
            holder.stdin.close()
            assert holder.stdout.readline() == b"held\n"
            yield
            assert holder.poll() is None
        finally:
            holder.kill()


def make(kind: str, path: Path) -> None:
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(path))
    else:
        path.write_bytes(MARKER + path.name.encode())


@pytest.mark.row("A7")
@pytest.mark.fails_with("opens-wait", "special-files-uncounted")
def test_a_scan_of_special_files_ends_in_time_and_counts_each(
    daemon: RunningDaemon, alice: Person, amount: Amount, figure: Figure
) -> None:
    number = amount(quick=200, long=1_000)
    directory = Path(alice.home, "d")
    with acting_as(alice.uid):
        directory.mkdir()
        for kind in KINDS:
            for place in range(number):
                make(kind, directory / f"{kind}{place}")
        for place in range(ORDINARY):
            (directory / f"ordinary{place}").write_bytes(b"fine")
    with (
        leased(alice, [directory / f"leased{place}" for place in range(number)]),
        daemon.client(alice.uid) as client,
    ):
        begun = time.monotonic()
        status = client.scan(timeout_s=ENDS_WITHIN_S)
        took_s = time.monotonic() - begun
    assert status["state"] == "done"
    assert status["not_scanned"] == {"not_regular": 2 * number, "unreadable": number}
    assert (status["scanned_file_count"], status["infected_file_count"]) == (ORDINARY, 0)
    assert status["total_file_count"] == 3 * number + ORDINARY
    told = dict(rows(daemon, "SELECT path, reason FROM not_scanned WHERE scan = ?", status["scan_id"]))
    assert told == {f"d/{kind}{place}".encode(): KINDS[kind] for kind in KINDS for place in range(number)}
    figure(f"scan of {number:,} FIFOs, {number:,} sockets, {number:,} leased files: {took_s:.1f} s")


@pytest.mark.row("A7")
@pytest.mark.fails_with("opens-wait")
def test_a_disinfection_of_what_became_special_ends_in_time_and_takes_nothing(
    daemon: RunningDaemon, alice: Person, amount: Amount, figure: Figure
) -> None:
    # Each such step is done alone, with two commits of its own: that is its disk's speed, and no stall.
    number = amount(quick=50, long=300)
    directory = Path(alice.home, "d")
    paths = {kind: [directory / f"{kind}{place}" for place in range(number)] for kind in KINDS}
    with acting_as(alice.uid):
        directory.mkdir()
        for path in (path for kind in KINDS for path in paths[kind]):
            make("file", path)
    with daemon.client(alice.uid) as client:
        assert client.scan()["infected_file_count"] == 3 * number
        with acting_as(alice.uid):
            for kind in ("fifo", "socket"):
                for path in paths[kind]:
                    path.unlink()
                    make(kind, path)
        before = {path: path.lstat() for kind in KINDS for path in paths[kind]}
        with leased(alice, paths["leased"]):
            begun = time.monotonic()
            client.good("disinfect_files", {"actions": {}, "others": "delete"})
            details = client.wait_disinfection(ENDS_WITHIN_S)
            took_s = time.monotonic() - begun
            assert {path: path.lstat() for path in before} == before
    *steps, _ = details
    check_log(alice.home, details)
    told = Counter((Path(step["file"]).name.rstrip("0123456789"), step["state"]) for step in steps)
    assert {kind for kind, _ in told} == set(KINDS)
    assert all(state in ("error", "no-action") for _, state in told), told
    assert len(steps) == 3 * number
    assert all(step["message"] for step in steps)
    assert vault(daemon) == []
    assert leftovers(alice.home) == []
    figure(f"disinfection of {number:,} of each that became so: {took_s:.1f} s")
