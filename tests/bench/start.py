"""From the start of the daemon to READY=1, and to the first answer on its socket. It waits for no engine.

NOTIFY_SOCKET is set as systemd would set it, so the price of saying READY is in it. Launcher, directories, the fork of
the monitor, giving up root and the import of everything are all in the time.
"""

import argparse
import os
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.bench import common
from tests.bench.common import Row
from tests.fakes.accounts import have_service_users
from tests.fakes.running import RunningDaemon

BOUND_S = 0.5
_TIMEOUT_S = 30.0


def _run(directory: Path, notified: socket.socket) -> tuple[float, float]:
    """Seconds to READY=1 and to the first answer."""
    daemon = RunningDaemon(directory / "daemon", timed=False)
    try:
        start = time.monotonic()
        daemon.start(wait=False)
        while b"READY=1" not in notified.recv(4096).split(b"\n"):
            pass
        ready = time.monotonic() - start
        with daemon.client() as client:
            client.call("Daemon.version")
        return ready, time.monotonic() - start
    finally:
        daemon.close()


def measure(arguments: argparse.Namespace) -> Iterator[Row]:
    have_service_users()
    got = []
    with (
        tempfile.TemporaryDirectory(prefix="csd-bench-", dir="/var/tmp") as place,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified,
    ):
        Path(place).chmod(0o755)
        path = os.path.join(place, "notify")
        notified.bind(path)
        Path(path).chmod(0o666)
        notified.settimeout(_TIMEOUT_S)
        os.environ["NOTIFY_SOCKET"] = path
        for _ in range(arguments.runs):
            got.append(_run(Path(place), notified))
            notified.setblocking(False)
            while _pending(notified):
                pass
            notified.settimeout(_TIMEOUT_S)
    yield Row("start to READY", "the clock", BOUND_S, [ready for ready, _ in got], "s")
    yield Row("start to the first answer", "the clock", BOUND_S, [answer for _, answer in got], "s")


def _pending(notified: socket.socket) -> bool:
    """Take one message of a daemon that has ended; False when there is none."""
    try:
        return bool(notified.recv(4096))
    except BlockingIOError:
        return False


if __name__ == "__main__":
    options = common.parser("How soon the daemon answers.")
    options.add_argument("--runs", type=int, default=10)
    common.main(measure, options.parse_args())
