"""All benches, one after the other, and one table, which goes into the README: in place of the old one, or of the
rows of the same names where some benches were named.

Each is a process of its own, so that none starts warm. A bench that cannot measure leaves its rows out, says why on
standard error, and makes the exit code 1; being slow does not. One that takes longer than it may is ended, and has not
measured. All of it takes about two hours on two quiet cores, --quick a quarter of one; the README is left alone then.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from tests.bench import common, readme

README = Path(__file__).parents[2] / "README.md"
LIMIT_S = 3_600.0
QUICK_LIMIT_S = 400.0
_TIDY_S = 60.0  # accounts and trees to remove
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
    "private_engines": ["--pairs", "1", "--files", "3000", "--bodies", "10000", "--hashes", "200000"],
    "rescan": ["--pairs", "2", "--files", "5000"],
    "small_files": ["--files", "20000", "--runs", "2"],
    "accounts": ["--pairs", "1", "--accounts", "6", "--files", "300", "--rounds", "1", "--seconds", "3"],
    "several_engines": ["--runs", "1", "--files", "3000"],
    "bystander": ["--pairs", "1", "--files", "3000"],
}
"""Each bench, in the order of the table, and what makes it small."""


def _rows(name: str, *, quick: bool) -> tuple[list[str], bool]:
    """The lines of the table that it came to, and whether it came to its end."""
    words = [sys.executable, "-m", f"tests.bench.{name}", "--rows", *(QUICK[name] if quick else [])]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as bench:
        try:
            out, _ = bench.communicate(timeout=QUICK_LIMIT_S if quick else LIMIT_S)
        except subprocess.TimeoutExpired:
            common.say(f"{name}: ended after {QUICK_LIMIT_S if quick else LIMIT_S:.0f} s")
            out = _end(bench)
        except BaseException:
            _end(bench)
            raise
    print(out, end="", flush=True)
    return out.splitlines(), bench.returncode == 0


def _end(bench: "subprocess.Popen[str]") -> str:
    """It has things to tidy up."""
    bench.terminate()
    try:
        return bench.communicate(timeout=_TIDY_S)[0]
    except subprocess.TimeoutExpired:
        bench.kill()
        return bench.communicate()[0]


def main(arguments: argparse.Namespace) -> int:
    common.prepare()
    if unknown := set(arguments.benches) - set(QUICK):
        sys.exit(f"cannot run {', '.join(unknown)}: the benches are {', '.join(QUICK)}")
    failed = []
    rows: list[str] = []
    print(f"{common.machine()}; load {os.getloadavg()[0]:.1f} at start\n\n{common.HEADER}", flush=True)
    for name in arguments.benches or QUICK:
        common.say(f"== {name}")
        start = time.monotonic()
        got, well = _rows(name, quick=arguments.quick)
        rows += got
        if not well:
            failed.append(name)
        common.say(f"== {name}: {time.monotonic() - start:.0f} s")
    if not arguments.quick and not arguments.keep_readme:
        keep = bool(arguments.benches or failed)
        README.write_text(readme.with_rows(README.read_text(), rows, common.machine(), keep=keep))
    if failed:
        common.say(f"cannot measure: {', '.join(failed)}")
    return int(bool(failed))


if __name__ == "__main__":
    options = argparse.ArgumentParser(description="All benches, as one Markdown table, which goes into the README.")
    options.add_argument("benches", nargs="*", metavar="BENCH", help=f"of {', '.join(QUICK)}; all by default")
    options.add_argument("--quick", action="store_true", help="small trees and few runs, to see that all of it works")
    options.add_argument("--keep-readme", action="store_true", help="print the table, and leave the README as it is")
    sys.exit(main(options.parse_args()))
