"""What a daemon costs that nobody asks for anything: wake-ups a second and memory, of all our processes together.

A wake-up is a context switch of any of our threads, wanted or not, as the kernel counts them. Threads that ended in
between are missed; trio keeps one for 10 s after its work, and the engine is looked at every 5 s, so the usual ones are
there. The manager is a fake that has the watchdog on, as the unit has. The engine is not counted.
"""

import argparse
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.bench import common
from tests.bench.common import Row
from tests.fakes.accounts import have_service_users
from tests.fakes.manager import Manager
from tests.fakes.running import RunningDaemon

WAKE_UPS_BOUND, MEMORY_BOUND = 5, 60
_SETTLE_S = 15.0  # trio's threads leave after 10 s without work
_WATCHDOG_S = 30.0


def _switches(pids: Iterable[int]) -> Counter[str]:
    """Of each thread that is there, by its id."""
    count: Counter[str] = Counter()
    for task in (task for pid in pids for task in Path(f"/proc/{pid}/task").iterdir()):
        for line in (task / "status").read_text().splitlines():
            if "voluntary_ctxt_switches" in line:
                count[task.name] += int(line.split()[1])
    return count


def _resident_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise ProcessLookupError(f"cannot read the memory of {pid}")


def measure(arguments: argparse.Namespace) -> Iterator[Row]:
    have_service_users()
    with tempfile.TemporaryDirectory(prefix="csd-bench-", dir="/var/tmp") as place:
        directory = Path(place)
        directory.chmod(0o755)
        daemon = RunningDaemon(directory, timed=False)
        daemon.config_path.write_text(daemon.config_path.read_text().replace("check_interval_s = 0.5\n", ""))
        with Manager(daemon.socket_path, watchdog_s=_WATCHDOG_S) as manager:
            daemon.manager = manager
            try:
                daemon.start()
                ours = [daemon.pid, common.monitor_of(daemon.pid)]
                time.sleep(_SETTLE_S)
                rates = []
                for _ in range(arguments.runs):
                    began, before = time.monotonic(), _switches(ours)
                    time.sleep(arguments.seconds)
                    more = _switches(ours) - before  # without the threads that ended: they would count against it
                    rates.append(more.total() / (time.monotonic() - began))
                memory = sum(map(_resident_mb, ours))
            finally:
                daemon.close()
    against = f"{arguments.seconds:g} s without a client, private engine"
    yield Row("idle wake-ups of all processes", against, WAKE_UPS_BOUND, rates, "/s")
    yield Row("idle memory of all processes", against, MEMORY_BOUND, [memory], "MiB")


if __name__ == "__main__":
    options = common.parser("Wake-ups and memory of an idle daemon.")
    options.add_argument("--runs", type=int, default=3)
    options.add_argument("--seconds", type=float, default=60.0, help="of each run")
    common.main(measure, options.parse_args())
