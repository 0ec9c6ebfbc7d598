"""A large mailbox: its scan against its messages as files, its cleanse against copying it, the worker's memory.

The mailbox is over the engine's size limit, as such mailboxes are, and so is taken apart without being sent whole.
`clamdscan --multiscan --fdpass` gets the very same messages as files, on the same clamd, started before each run. The
cleanse is measured from the asking to its end, and the time for which mail waits by the mailbox's dotlock, against
`cp` of the mailbox and `sync`, with the page cache warm for both.
"""

import argparse
import os
import random
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from tests.bench import cold_scan, common, engines, trees
from tests.bench.common import Row, say
from tests.fakes.accounts import Person, have_service_users, throw_away
from tests.fakes.realclamd import MARKER, RealClamd
from tests.fakes.running import RunningDaemon, wait_for

SCAN_BOUND, CLEANSE_BOUND, WORKER_BOUND_MIB = 1.10, 1.5, 32
_LOOK_S = 0.002
_TIMEOUT_S = 1_800.0
_WORDS = 5_000
_SEED = 20_000


def _messages(count: int, size: int, infected: int) -> Iterator[tuple[bytes, bytes]]:
    """(`From ` line, message): text of few words, all different; every so many of them is infected."""
    chance = random.Random(_SEED)  # the same mailbox each time
    words = ["".join(chance.choices("etaoinshrdlu", k=chance.randint(2, 10))) for _ in range(_WORDS)]
    lines = [" ".join(chance.choices(words, k=12)) for _ in range(_WORDS)]
    every = max(1, count // infected)
    for number in range(count):
        head = f"From: a{number}@example.org\nTo: b@example.org\nSubject: number {number}\nMessage-ID: <{number}@x>\n\n"
        body = [head]
        length = len(head)
        while length < size:
            body.append(chance.choice(lines) + "\n")
            length += len(body[-1])
        text = "".join(body).encode()
        if number % every == every // 2:
            text += b"This is it: " + MARKER + b" and nothing more\n"
        yield b"From a@example.org Thu Nov 29 22:33:52 2001\n", text


def _make(mailbox: Path, files: Path, person: Person, arguments: argparse.Namespace) -> None:
    mailbox.parent.mkdir()
    files.mkdir()
    with mailbox.open("wb") as stream:
        for number, (line, text) in enumerate(_messages(arguments.messages, arguments.size, arguments.infected)):
            stream.write(line + text + b"\n")
            (files / f"{number:06}").write_bytes(text)
    os.chown(mailbox.parent, person.uid, person.gid)
    os.chown(mailbox, person.uid, person.gid)
    os.sync()
    say(f"mailbox: {mailbox.stat().st_size / 1e6:.0f} MB, {arguments.messages} messages")


class _Watch:
    """From a thread of its own: the longest time for which the dotlock stood, and the peak of every worker."""

    def __init__(self, lock: Path, monitor: int) -> None:
        self._lock = lock
        self._monitor = monitor
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self.locked_s = 0.0
        self.peak_mib = 0.0

    def __enter__(self) -> "_Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        since = 0.0
        while not self._stop.wait(_LOOK_S):
            now = time.monotonic()
            if not self._lock.exists():
                since = 0.0
            else:
                since = since or now
                self.locked_s = max(self.locked_s, now - since)
            for worker in common.children(self._monitor):
                try:
                    self.peak_mib = max(self.peak_mib, common.peak_mb(worker))
                except (FileNotFoundError, ProcessLookupError):
                    continue  # it has just ended


def _ours(clamd: RealClamd, directory: Path, person: Person, mailbox: Path, infected: int) -> tuple[float, ...]:
    """Seconds of the scan and of the cleanse, seconds under the lock, peak of the workers in MiB."""
    with RunningDaemon(directory / "daemon", sockets=f'["{clamd.socket_path}"]', timed=False) as daemon:  # noqa: SIM117  its pid
        with (
            daemon.client(person.uid) as client,
            _Watch(Path(f"{mailbox}.lock"), common.monitor_of(daemon.pid)) as watch,
        ):
            client.sock.settimeout(_TIMEOUT_S)
            start, before_s = time.monotonic(), common.cpu_s(clamd.pid)
            status = client.scan(timeout_s=_TIMEOUT_S)
            scan_s = time.monotonic() - start
            engine_s = common.cpu_s(clamd.pid) - before_s
            found = client.good("list_infected_files")
            if status["state"] != "done" or [len(one.get("messages", ())) for one in found] != [infected]:
                raise RuntimeError(f"cannot measure the mailbox: {status}")
            os.sync()
            start = time.monotonic()
            client.good("disinfect_files", {"actions": {}, "others": "cleanse_mailbox"})
            wait_for(
                lambda: client.good("check_disinfection_status", {"last_id": 1})["status"] == "done",
                "the cleanse to end",
                _TIMEOUT_S,
            )
            cleanse_s = time.monotonic() - start
            records = client.good("check_disinfection_status")["details"]
            if [one["state"] for one in records] != ["mailbox-cleansed", "success"]:
                raise RuntimeError(f"cannot measure the cleanse: {records}")
    shutil.rmtree(directory / "daemon")
    engine = f"CPU clamd {engine_s:.2f} s"
    say(f"  ours: scan {scan_s:.2f} s ({engine}), cleanse {cleanse_s:.2f} s ({watch.locked_s:.2f} s locked)")
    return scan_s, cleanse_s, watch.locked_s, watch.peak_mib


def _copied_s(mailbox: Path, copy: Path) -> float:
    os.sync()
    start = time.monotonic()
    subprocess.run(["cp", str(mailbox), str(copy)], check=True)
    os.sync()
    copied_s = time.monotonic() - start
    copy.unlink()
    os.sync()
    say(f"  cp and sync {copied_s:.2f} s")
    return copied_s


def measure(arguments: argparse.Namespace) -> Iterator[Row]:
    have_service_users()
    with tempfile.TemporaryDirectory(prefix="csd-bench-", dir="/var/tmp") as place, throw_away("bench_mail") as person:
        directory = Path(place)
        files, original = directory / "files", directory / "original" / "inbox"
        _make(original, files, person, arguments)
        mailbox = Path(person.home, "mail", "inbox")
        mailbox.parent.mkdir()
        os.chown(mailbox.parent, person.uid, person.gid)
        runs: list[tuple[float, ...]] = []
        theirs: list[float] = []
        copies: list[float] = []
        for number in range(arguments.pairs):
            say(f"pair {number + 1} of {arguments.pairs}")
            subprocess.run(["cp", "-p", str(original), str(mailbox)], check=True)
            for side in ("ours", "theirs") if number % 2 else ("theirs", "ours"):
                trees.warm(str(files if side == "theirs" else mailbox.parent))
                with engines.debian_clamd(directory) as clamd:
                    if side == "ours":
                        copies.append(_copied_s(mailbox, directory / "copy"))
                        runs.append(_ours(clamd, directory, person, mailbox, arguments.infected))
                    else:
                        theirs.append(cold_scan.clamdscan(clamd, str(files)).wall_s)
        scans, cleanses, locked, peaks = zip(*runs, strict=True)
        size = f"{original.stat().st_size / 1e6:.0f} MB, {arguments.messages} messages"
        against = f"clamdscan --multiscan --fdpass of its messages as files; {size}"
        yield Row("mailbox, scan", against, SCAN_BOUND, common.ratios(scans, theirs))
        note = f"{arguments.infected} messages replaced"
        yield Row("mailbox, cleanse", "cp and sync", CLEANSE_BOUND, common.ratios(cleanses, copies), note=note)
        yield Row("mailbox, locks held", "cp and sync", CLEANSE_BOUND, common.ratios(locked, copies))
        yield Row("mailbox, memory of the worker", size, WORKER_BOUND_MIB, peaks, unit="MiB")


if __name__ == "__main__":
    options = common.parser("A large mailbox: scan, cleanse, memory.")
    options.add_argument("--pairs", type=int, default=3)
    options.add_argument("--messages", type=int, default=20_000)
    options.add_argument("--size", type=int, default=100_000, help="bytes of a message")
    options.add_argument("--infected", type=int, default=50)
    common.main(measure, options.parse_args())
