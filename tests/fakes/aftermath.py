"""What must hold when a fault is over: in the home, in the vault, in the log, and among the processes.

Reads the state of a *running* daemon (RunningDaemon) as root, with nothing of the product in it: the database
read-only, the vault's files as they lie on the disk. (Opened without a daemon, the database would get auxiliary files
that belong to root.)
"""

import hashlib
import json
import os
import select
import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from tests.fakes.running import END_TIMEOUT_S, RunningDaemon, wait_for

LOG_NAME = ".clamavconnector.disinfection.log"
_NEUTRAL = bytes(255 - value for value in range(256))


class Item(NamedTuple):
    """One content in the vault."""

    path: bytes
    action: str
    content: bytes
    task: int
    seq: int


def rows(daemon: RunningDaemon, question: str, *values: object) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(f"file:{daemon.state}/state.db?mode=ro", uri=True)) as database:
        return database.execute(question, values).fetchall()


def vault(daemon: RunningDaemon, after: int = 0) -> list[Item]:
    """What the vault holds of tasks later than `after` (database id), oldest first.

    Checked on the way: each row has its file, each file its row, and each file its row's content.
    """
    wait_for(lambda: not rows(daemon, "SELECT 1 FROM item WHERE state <> 'kept'"), "the vault to be tidied up")
    index = rows(daemon, "SELECT file, path, action, sha256, size, task, seq FROM item ORDER BY id")
    lying = {path.stem: path.read_bytes() for path in (daemon.state / "vault").rglob("*.item")}
    small = daemon.state / "vault" / "small.db"
    if small.exists():
        with closing(sqlite3.connect(f"file:{small}?mode=ro", uri=True)) as database:
            lying |= dict(database.execute("SELECT file, content FROM blob"))
    assert lying.keys() == {row[0] for row in index}, "files and rows of the vault differ"
    items = []
    for file, path, action, sha256, size, task, seq in index:
        if task <= after:
            continue
        content = lying[file].translate(_NEUTRAL)
        assert (len(content), hashlib.sha256(content).digest()) == (size, sha256)
        items.append(Item(path, action, content, task, seq))
    return items


def leftovers(home: Path | str) -> list[str]:
    """Names that only this program gives, anywhere beneath the home."""
    return [name for _, below, files in os.walk(home) for name in (*below, *files) if name.startswith(".clamscannerd-")]


def check_log(home: Path | str, details: Sequence[dict[str, Any]]) -> None:
    """The log in the home is whole as soon as the task is done, and is exactly the details of call 6."""
    text = Path(home, LOG_NAME).read_text()
    assert text.endswith("\n")
    assert [json.loads(line) for line in text.splitlines()] == list(details)
    assert [record["id"] for record in details] == list(range(1, len(details) + 1))


def children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


class Processes:
    """The monitor, the workers and the engine of a daemon, held by pidfd: none may outlive it."""

    def __init__(self, daemon: RunningDaemon) -> None:
        self.monitor = children(daemon.daemon_pid())[0]
        below = {pid: _name(pid) for pid in children(self.monitor)}
        self.workers = [pid for pid, name in below.items() if name == "csd-worker"]
        self._pidfds = []
        for pid in (self.monitor, *below):
            try:
                self._pidfds.append(os.pidfd_open(pid))
            except ProcessLookupError:  # a worker that was just leaving
                continue

    def close(self) -> None:
        for pidfd in self._pidfds:
            os.close(pidfd)

    def wait_gone(self) -> None:
        wait_ended(self._pidfds)


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def wait_ended(pidfds: Iterable[int]) -> None:
    """Until all of these processes have ended; closes the pidfds."""
    for pidfd in pidfds:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        ended = poll.poll(END_TIMEOUT_S * 1000)
        os.close(pidfd)
        assert ended, "a process outlived its daemon"
