"""What clients cost: a command from its start, a status call on a connection that is open, and 500 who listen.

Each against something of the same run: an interpreter that imports what any client needs; a bare trio echo, asked in
turn with the daemon; the same scan with nobody listening. The listeners are one process that reads and forgets; what
it costs is in the scan's time too, as there is no third core for it. Scans alternate, after one that nobody measures,
so that the engine knows the files in each alike; each asks the engine of every file. Beside the wall time, which other
work on the machine moves by more than what is looked for, stands what the daemon took of the processor for them.
"""

import argparse
import contextlib
import os
import select
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from tests.bench import common, engines, trees
from tests.bench.common import Row, say
from tests.bench.status_latency import connected, echo_process
from tests.fakes.accounts import Person, have_service_users, throw_away
from tests.fakes.running import CLAMSCANNERD, RunningDaemon, wait_for

CTL = str(Path(CLAMSCANNERD).with_name("clamscannerctl"))
_BASE = ["/usr/bin/python3", "-I", "-c", "import json, socket"]
_LIMITS = "[server]\nmax_connections_per_uid = 2000\nmax_calls_per_uid = 2000\n"
_STATUS = b'{"jsonrpc":"2.0","id":1,"method":"ClamScanner.get_scan_status"}\n'
_SUBSCRIBE = b'{"jsonrpc":"2.0","id":1,"method":"Events.subscribe"}\n'
_BLOCK = 100  # calls of one side before the other has its turn
_BYTES_A_FILE = 20_000
_AT_ONCE = 16  # calls of a client that does not wait for each
COLD_BOUND, OPEN_BOUND, CALLS_BOUND, LISTENERS_BOUND, LISTENERS_CPU_BOUND = 3, 2, 0.75, 1.05, 0.05


def _wall_s(words: list[str], user: str | None = None) -> float:
    start = time.perf_counter()
    subprocess.run(words, user=user, stdout=subprocess.DEVNULL, check=True, cwd="/", env={"PATH": "/usr/bin:/bin"})
    return time.perf_counter() - start


def _cold(daemon: RunningDaemon, person: Person, runs: int) -> Iterator[Row]:
    words = [CTL, "--socket", daemon.socket_path, "status", "--json"]
    ours, theirs = [], []
    for _ in range(runs):
        ours.append(_wall_s(words, person.name))
        theirs.append(_wall_s(_BASE, person.name))
    say(
        f"  status --json: {statistics.median(ours) * 1000:.0f} ms, {' '.join(_BASE[1:])}: "
        f"{statistics.median(theirs) * 1000:.0f} ms"
    )
    note = f"median {statistics.median(ours) * 1000:.0f} ms; of the medians {_of_medians(ours, theirs):.2f}"
    yield Row(
        "clamscannerctl status --json, cold",
        "python3 -I -c 'import json, socket'",
        COLD_BOUND,
        common.ratios(ours, theirs),
        note=note,
    )


def _of_medians(ours: list[float], theirs: list[float]) -> float:
    return statistics.median(ours) / statistics.median(theirs)


def _asker(sock: socket.socket) -> Callable[[], float]:
    """One call, one line back: its seconds."""

    def ask() -> float:
        start = time.perf_counter()
        sock.sendall(_STATUS)
        data = b""
        while not data.endswith(b"\n"):
            data = sock.recv(1 << 16)
        return time.perf_counter() - start

    return ask


def _open(daemon: RunningDaemon, person: Person, directory: Path, blocks: int) -> Iterator[Row]:
    """On one core: where a second one sleeps, waking it is half of an echo, and has nothing to do with either."""
    ours, theirs = [], []
    with (
        echo_process(directory) as (path, pid),
        daemon.client(person.uid) as client,
        connected(path) as other,
        _on_one_core(daemon.pid, pid),
    ):
        ask, hear = _asker(client.sock), _asker(other)
        for _ in range(blocks + 1):
            ours.append(statistics.median(ask() for _ in range(_BLOCK)))
            theirs.append(statistics.median(hear() for _ in range(_BLOCK)))
    ours, theirs = ours[1:], theirs[1:]  # the first block warms both
    note = f"median {statistics.median(ours) * 1e6:.0f} against {statistics.median(theirs) * 1e6:.0f} us"
    say(f"  a status call: {note}")
    yield Row(
        "status call, open connection, all on 1 core: p50",
        "a bare trio echo",
        OPEN_BOUND,
        common.ratios(ours, theirs),
        note=note,
    )


def _calls_a_second(sock: socket.socket, at_once: int) -> float:
    start, asked, heard = time.perf_counter(), 0, 0
    while heard < _BLOCK:
        more = min(at_once - (asked - heard), _BLOCK - asked)
        if more:
            sock.sendall(_STATUS * more)
            asked += more
        heard += sock.recv(1 << 18).count(b"\n")
    return _BLOCK / (time.perf_counter() - start)


@contextlib.contextmanager
def _on_one_core(*pids: int) -> Iterator[None]:
    """These, and this process that asks them."""
    before = os.sched_getaffinity(0)
    one = {min(before)}
    for pid in (0, *pids):
        os.sched_setaffinity(pid, one)
    try:
        yield
    finally:
        for pid in (0, *pids):
            os.sched_setaffinity(pid, before)


def _calls(daemon: RunningDaemon, person: Person, directory: Path, blocks: int) -> Iterator[Row]:
    with (
        echo_process(directory, "--json") as (path, pid),
        daemon.client(person.uid) as client,
        connected(path) as other,
        _on_one_core(daemon.pid, pid),
    ):
        for at_once, how in ((1, "one by one"), (_AT_ONCE, f"{_AT_ONCE} at once")):
            ours, theirs = [], []
            for _ in range(blocks + 1):
                ours.append(_calls_a_second(client.sock, at_once))
                theirs.append(_calls_a_second(other, at_once))
            ours, theirs = ours[1:], theirs[1:]  # the first block warms both
            note = f"median {statistics.median(ours):,.0f} against {statistics.median(theirs):,.0f} a second"
            say(f"  calls, {how}: {note}")
            what = f"status calls a second on one connection, {how}, all on 1 core"
            yield Row(what, "a bare trio JSON echo", CALLS_BOUND, common.ratios(ours, theirs), note=note, at_least=True)


@contextlib.contextmanager
def _listeners(daemon: RunningDaemon, person: Person, number: int) -> Iterator[None]:
    """So many subscribers of the account's events in one process of that user; after it the daemon has let them go."""
    before = _fds(daemon.pid)
    words = [sys.executable, "-m", "tests.bench.clients", "--listen", daemon.socket_path, str(number)]
    with subprocess.Popen(words, user=person.uid, group=person.gid, extra_groups=[], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            if process.stdout.readline() != b"listening\n":
                raise RuntimeError("cannot listen: the subscribers did not come so far")
            yield
            if process.poll() is not None:
                raise RuntimeError("cannot measure: the subscribers ended before the scan")
        finally:
            process.kill()
    wait_for(lambda: _fds(daemon.pid) <= before, "the connections to be closed")


def _fds(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def _listen(path: str, number: int) -> None:
    """In a process of its own: subscribe, read for ever, keep nothing. One that is closed is a fault."""
    epoll, socks = select.epoll(), {}
    for _ in range(number):
        sock = connected(path)
        sock.sendall(_SUBSCRIBE)
        if not sock.recv(1 << 16):
            sys.exit("cannot listen: the daemon closed a connection")
        socks[sock.fileno()] = sock
        epoll.register(sock.fileno(), select.EPOLLIN)
    print("listening", flush=True)
    while True:
        for fd, _ in epoll.poll():
            if not socks[fd].recv(1 << 18):
                sys.exit("cannot listen: the daemon closed a connection")


class _Scan(NamedTuple):
    wall_s: float
    daemon_cpu_s: float


def _scan(daemon: RunningDaemon, person: Person) -> _Scan:
    """Asked for once in 50 ms: the client that waits costs both sides the same."""
    with daemon.client(person.uid) as client:
        before, start = common.cpu_s(daemon.pid), time.perf_counter()
        client.call("Scan.start", {"scan_type": "home", "depth": "nocache"})
        while not client.good("get_scan_status")["scan_complete"]:
            time.sleep(0.05)
        return _Scan(time.perf_counter() - start, common.cpu_s(daemon.pid) - before)


def _heard(daemon: RunningDaemon, person: Person, number: int, pairs: int) -> Iterator[Row]:
    _scan(daemon, person)
    alone, heard = [], []
    for _ in range(pairs):
        alone.append(_scan(daemon, person))
        with _listeners(daemon, person, number):
            heard.append(_scan(daemon, person))
        say(
            f"  a scan: {alone[-1].wall_s:.2f} s alone, {heard[-1].wall_s:.2f} s with {number} subscribers; CPU of the"
            f" daemon {alone[-1].daemon_cpu_s:.2f} and {heard[-1].daemon_cpu_s:.2f} s"
        )
    ratios = common.ratios([one.wall_s for one in heard], [one.wall_s for one in alone])
    note = f"all runs together {sum(one.wall_s for one in heard) / sum(one.wall_s for one in alone):.2f}"
    yield Row(f"scan with {number} subscribers, wall time", "the same without", LISTENERS_BOUND, ratios, note=note)
    shares = [(two.daemon_cpu_s - one.daemon_cpu_s) / one.wall_s for one, two in zip(alone, heard, strict=True)]
    what = f"scan with {number} subscribers, CPU of the daemon for them"
    yield Row(what, "the scan's wall time without", LISTENERS_CPU_BOUND, shares)


def measure(arguments: argparse.Namespace) -> Iterator[Row]:
    have_service_users()
    with contextlib.ExitStack() as stack:
        person = stack.enter_context(throw_away("bench_clients"))
        trees.mixed(person, arguments.files, _BYTES_A_FILE * arguments.files)
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="csd-bench-", dir="/var/tmp")))
        directory.chmod(0o755)
        engines.use_signatures(directory / "db")
        daemon = stack.enter_context(RunningDaemon(directory, signatures=b"", config=_LIMITS, timed=False))
        _scan(daemon, person)
        yield from _cold(daemon, person, arguments.runs)
        yield from _open(daemon, person, directory, arguments.blocks)
        yield from _calls(daemon, person, directory, arguments.blocks)
        yield from _heard(daemon, person, arguments.subscribers, arguments.pairs)


if __name__ == "__main__":
    options = common.parser("What clients cost: cold, on an open connection, and listening.")
    options.add_argument("--listen", nargs=2, metavar=("SOCKET", "NUMBER"), help=argparse.SUPPRESS)
    options.add_argument("--runs", type=int, default=30, help="of the command")
    options.add_argument("--blocks", type=int, default=30, help=f"of {_BLOCK} calls")
    options.add_argument("--pairs", type=int, default=5, help="of scans")
    options.add_argument("--files", type=int, default=20_000)
    options.add_argument("--subscribers", type=int, default=500)
    given = options.parse_args()
    if given.listen:
        _listen(given.listen[0], int(given.listen[1]))
    common.main(measure, given)
