"""get_scan_status while a scan takes all cores: from one client, and from 200 that ask once a second each.

Beside it, in the same run and by the same clients, a bare trio echo. Each round has a daemon and an engine of its own,
so that the engine remembers nothing; the scan is started again should it end too soon. With the private engine the
engine runs at nice 10 like the workers; a shared clamd cannot be reniced.
"""

import argparse
import contextlib
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.bench import common, engines, pollers, trees
from tests.bench.common import Row, say
from tests.fakes.accounts import Person, have_service_users, throw_away
from tests.fakes.running import PeerClient, RunningDaemon, wait_for

_MAX_BYTES = 1_000_000_000
PRIVATE_BOUND_MS, SHARED_BOUND_MS, ECHO_BOUND = 10, 20, 1.5
_LIMITS = "[server]\nmax_connections_per_uid = 1000\nmax_calls_per_uid = 1000\n"
_STATUS = b'{"jsonrpc":"2.0","id":1,"method":"ClamScanner.get_scan_status"}\n'
_CLIENTS = ((1, 0.02), (200, 1.0))  # how many, and how often each asks (s)


class Figures(NamedTuple):
    """Milliseconds, of one round."""

    p50: float
    p99: float
    echo_p50: float
    echo_p99: float


class _Again:
    """Starts the next scan when an answer says that the last one is complete; the first at once."""

    def __init__(self, client: PeerClient) -> None:
        self._client = client
        self.ended = 0
        self._start()

    def _start(self) -> None:
        self._client.good("start_scan", {"scan_type": "home"})

    def __call__(self, answer: bytes) -> None:
        if b'"scan_complete":1' in answer:
            status = self._client.call("ClamScanner.get_scan_status")["result"]["data"]
            if status["scan_complete"]:
                self.ended += 1
                self._start()


@contextlib.contextmanager
def echo(directory: Path, *options: str) -> Iterator[str]:
    with echo_process(directory, *options) as (path, _):
        yield path


@contextlib.contextmanager
def echo_process(directory: Path, *options: str) -> Iterator[tuple[str, int]]:
    """Its socket and its pid."""
    path = str(directory / "-".join(["echo", *options]))
    Path(path).unlink(missing_ok=True)
    process = subprocess.Popen([sys.executable, "-m", "tests.bench.echo", path, *options])
    try:
        wait_for(lambda: _answers(path), "the echo")
        yield path, process.pid
    finally:
        process.kill()
        process.wait()


def _answers(path: str) -> bool:
    try:
        connected(path).close()
    except OSError:
        return False
    return True


def connected(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.connect(path)
    except OSError:
        sock.close()
        raise
    return sock


@contextlib.contextmanager
def _running(directory: Path, kind: str) -> Iterator[RunningDaemon]:
    """A daemon with an engine that has seen nothing yet."""
    if kind == "private":
        engines.use_signatures(directory / "db")
        with RunningDaemon(directory, signatures=b"", config=_LIMITS, private_engines='"auto"', timed=False) as daemon:
            yield daemon
        return
    with engines.debian_clamd(directory) as clamd:
        config = f'{_LIMITS}[engine]\nclamd_conf = "{clamd.conf_path}"\n'
        with RunningDaemon(directory, config=config, sockets=f'["{clamd.socket_path}"]', timed=False) as daemon:
            yield daemon


def _round(kind: str, person: Person, seconds: float) -> list[Figures]:
    """The figures for each number of clients."""
    got = []
    trees.warm(person.home)
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="csd-bench-", dir="/var/tmp")))
        directory.chmod(0o755)
        daemon = stack.enter_context(_running(directory, kind))
        echo_path = stack.enter_context(echo(directory))
        again = _Again(stack.enter_context(daemon.client(person.uid)))
        for count, period_s in _CLIENTS:
            with contextlib.ExitStack() as clients:
                ours = [clients.enter_context(daemon.client(person.uid)).sock for _ in range(count)]
                theirs = [clients.enter_context(connected(echo_path)) for _ in range(count)]
                sides = pollers.Side(ours, _STATUS, again), pollers.Side(theirs, _STATUS, lambda _: None)
                status, echoed = pollers.poll(sides, period_s, seconds)
            values = (common.percentile(samples, share) for samples in (status, echoed) for share in (0.5, 0.99))
            got.append(figures := Figures(*values))
            say(
                f"  {kind}, {count} clients, {len(status)} answers: p50 {figures.p50:.2f} p99 {figures.p99:.2f} ms;"
                f" echo p50 {figures.echo_p50:.2f} p99 {figures.echo_p99:.2f} ms"
            )
        if again.ended:
            say(f"  the scan ended {again.ended} times meanwhile and was started again")
    return got


def measure(arguments: argparse.Namespace) -> Iterator[Row]:
    have_service_users()
    with throw_away("bench_status") as person:
        trees.mixed(person, arguments.files, _MAX_BYTES * arguments.files // 50_000)
        for kind, bound in (("private", PRIVATE_BOUND_MS), ("shared", SHARED_BOUND_MS)):
            rounds = [_round(kind, person, arguments.seconds) for _ in range(arguments.rounds)]
            for (count, _), figures in zip(_CLIENTS, zip(*rounds, strict=True), strict=True):
                what = f"status, {count} client{'s' * (count > 1)}, {kind} engine"
                p50 = sum(f.p50 for f in figures) / len(figures)
                yield Row(f"{what}: p99", "the clock", bound, [f.p99 for f in figures], "ms", f"p50 {p50:.2f} ms")
                ratios = common.ratios([f.p99 for f in figures], [f.echo_p99 for f in figures])
                yield Row(f"{what}: p99", "a bare trio echo", ECHO_BOUND if kind == "private" else None, ratios)


if __name__ == "__main__":
    options = common.parser("How long a poll of the status takes during a scan.")
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--files", type=int, default=50_000)
    options.add_argument("--seconds", type=float, default=15.0, help="of polling, for each number of clients")
    common.main(measure, options.parse_args())
