"""All benches, one after the other, and one table: the machine above it, ready for the README.

Each is a process of its own, so that none starts warm. A bench that cannot measure leaves its rows out, says why on
standard error, and makes the exit code 1; being slow does not. All of it takes about 25 minutes on two quiet cores.
"""

import argparse
import os
import subprocess
import sys
import time

from tests.bench import common

BENCHES = (
    "start",
    "idle",
    "spawn",
    "status_latency",
    "clients",
    "memory",
    "quarantine",
    "mailbox",
    "cold_scan",
    "bystander",
)
QUICK = {
    "start": ["--runs", "3"],
    "idle": ["--runs", "1", "--seconds", "20"],
    "spawn": ["--runs", "5"],
    "status_latency": ["--rounds", "1", "--files", "5000", "--seconds", "5"],
    "clients": ["--runs", "5", "--blocks", "5", "--pairs", "1", "--files", "3000"],
    "memory": ["--mixed", "2000", "--files", "20000"],
    "quarantine": ["--pairs", "1", "--files", "500"],
    "mailbox": ["--pairs", "1", "--messages", "500", "--infected", "5"],
    "cold_scan": ["--pairs", "2", "--files", "5000"],
    "bystander": ["--pairs", "1", "--files", "3000"],
}


def main(arguments: argparse.Namespace) -> int:
    common.prepare()
    if unknown := set(arguments.benches) - set(BENCHES):
        sys.exit(f"cannot run {', '.join(unknown)}: the benches are {', '.join(BENCHES)}")
    failed = []
    print(f"{common.machine()}; load {os.getloadavg()[0]:.1f} at start\n\n{common.HEADER}", flush=True)
    for name in arguments.benches or BENCHES:
        common.say(f"== {name}")
        start = time.monotonic()
        words = [sys.executable, "-m", f"tests.bench.{name}", "--rows", *(QUICK[name] if arguments.quick else [])]
        with subprocess.Popen(words) as bench:
            try:
                bench.wait()
            finally:
                bench.terminate()  # if it is still there, we were told to end: it has things to tidy up
        if bench.returncode != 0:
            failed.append(name)
        common.say(f"== {name}: {time.monotonic() - start:.0f} s")
    if failed:
        common.say(f"cannot measure: {', '.join(failed)}")
    return int(bool(failed))


if __name__ == "__main__":
    options = argparse.ArgumentParser(description="All benches, as one Markdown table.")
    options.add_argument("benches", nargs="*", metavar="BENCH", help=f"of {', '.join(BENCHES)}; all by default")
    options.add_argument("--quick", action="store_true", help="small trees and few runs, to see that all of it works")
    sys.exit(main(options.parse_args()))
