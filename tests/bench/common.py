"""What the benches share: ratios, figures of processes, the machine's kind, and rows of a Markdown table.

A bench measures and prints; it never fails for being slow. Each is a program (tests/bench/NAME, root) whose standard
output is a table of `Row`s, with `--rows` only the rows; what it is doing meanwhile goes to standard error. Figures of
processes come from /proc, so that the measured programs know nothing of it.
"""

import argparse
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

HEADER = "| bench | against | bound | got: min / median / max |\n|---|---|---|---|"
_TICKS = os.sysconf("SC_CLK_TCK")
_UTIME, _CUTIME = 11, 13  # of /proc/PID/stat behind the name, each followed by its stime


class Row(NamedTuple):
    """One line of the table. `got`: the figures of all runs; `unit` stands behind each. `at_least`: more is better."""

    bench: str
    against: str
    bound: float | None
    got: Sequence[float]
    unit: str = ""
    note: str = ""
    at_least: bool = False

    def text(self) -> str:
        low, middle, high = min(self.got), statistics.median(self.got), max(self.got)
        unit = f" {self.unit}" if self.unit else ""
        runs = f" ({len(self.got)} runs)" if len(self.got) > 1 else ""
        figures = " / ".join(_figure(value) for value in (low, middle, high)) if len(self.got) > 1 else _figure(low)
        note = f"; {self.note}" if self.note else ""
        bound = "" if self.bound is None else f"{'>=' if self.at_least else '<='} {self.bound:g}{unit}"
        if self.bound is not None and (middle < self.bound if self.at_least else middle > self.bound):
            note += "; **not met**"
        return f"| {self.bench} | {self.against} | {bound} | {figures}{unit}{runs}{note} |"


def _figure(value: float) -> str:
    return f"{value:.3f}" if value < 3 else f"{value:.1f}"


class Pair(NamedTuple):
    """Seconds of one run of one side."""

    cpu_s: float
    wall_s: float


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Of each pair of runs, which stood beside each other in time."""
    return [our / their for our, their in zip(ours, theirs, strict=True)]


def percentile(values: Iterable[float], share: float) -> float:
    """The value that `share` of all do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def cpu_s(pid: int, *, reaped: bool = False) -> float:
    """User and system seconds of a process so far; `reaped`: of the children it has waited for instead."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    first = _CUTIME if reaped else _UTIME
    return (int(words[first]) + int(words[first + 1])) / _TICKS


def peak_mb(pid: int) -> float:
    """The resident peak (VmHWM) of a process so far, in MiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise ProcessLookupError(f"cannot read the memory of {pid}: it has none any more")


def children(pid: int) -> list[int]:
    """Of its main thread: our processes fork from no other."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def monitor_of(daemon: int) -> int:
    """The one child of a daemon: it is forked before everything else."""
    (monitor,) = children(daemon)
    return monitor


def machine() -> str:
    """The kind of machine the figures come from, in one line."""
    info = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in info if line.startswith("model name")), "unknown")
    clamd = subprocess.run(["clamd", "--version"], capture_output=True, text=True, check=False).stdout.strip()
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / (1 << 30)
    return (
        f"{model}, {os.cpu_count()} cores, {memory:.0f} GiB, Linux {platform.release()},"
        f" Python {platform.python_version()}, {clamd.partition('/')[0] or 'no clamd'}"
    )


def say(text: str) -> None:
    """What goes on, for whoever waits."""
    print(text, file=sys.stderr, flush=True)


def parser(description: str) -> argparse.ArgumentParser:
    """A bench's own options go beside these."""
    result = argparse.ArgumentParser(description=description)
    result.add_argument("--rows", action="store_true", help="print the rows of the table without its head")
    return result


def need(program: str) -> None:
    """Ends the bench in a line where the other side is not installed."""
    if shutil.which(program) is None:
        sys.exit(f"cannot measure: {program} is not installed")


def prepare() -> None:
    """Root, with a umask that lets others into what is made; SIGTERM ends a bench as Ctrl-C does: it tidies up."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    if os.geteuid() != 0:
        sys.exit("cannot run a bench: it needs root, for throw-away accounts")
    os.umask(0o022)


def main(measure: Callable[[argparse.Namespace], Iterable[Row]], arguments: argparse.Namespace) -> None:
    """Measure and print, row by row."""
    prepare()
    if not arguments.rows:
        print(f"{machine()}; load {os.getloadavg()[0]:.1f} at start\n\n{HEADER}", flush=True)
    for row in measure(arguments):
        print(row.text(), flush=True)
