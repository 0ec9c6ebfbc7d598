"""Accounts of their own for this tier, and files in their homes.

Not the two accounts of tests/system: both tiers may run at once on a machine where people develop. Files are made under
the account's own ids, as it would make them itself.
"""

import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.fakes.accounts import Person
from tests.fakes.realclamd import EICAR, RealClamd
from tests.fakes.running import PeerClient, RunningDaemon, acting_as, wait_for

MINE = f"int{os.getpid()}"
"""Part of the names of our accounts: two runs on one machine do not meet."""


def home(person: Person) -> Path:
    return Path(person.home)


def put(person: Person, name: str, content: bytes = EICAR) -> Path:
    """One file beneath the home, with the directories above it."""
    path = home(person) / name
    with acting_as(person.uid):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return path


def fill(person: Person, number: int, *, infected: Sequence[int] = ()) -> None:
    """`number` small files, a hundred to a directory; those of these numbers are infected."""
    with acting_as(person.uid):
        for start in range(0, number, 100):
            directory = home(person) / f"d{start:06d}"
            directory.mkdir()
            for place in range(start, min(start + 100, number)):
                content = EICAR if place in infected else b"file %d\n" % place
                (directory / f"f{place:06d}").write_bytes(content)


def clear(person: Person) -> None:
    """An empty 0700 home."""
    place = home(person)
    subprocess.run(["rm", "-rf", str(place)], check=True)
    place.mkdir(mode=0o700)
    os.chown(place, person.uid, person.gid)
    place.chmod(0o700)


@contextmanager
def no_engine(*, config: str = "", user: str | None = None, timed: bool = True) -> Iterator[RunningDaemon]:
    """A daemon whose start waits for no engine: it looks for one at `engine_socket`, where the test may start one."""
    daemon = RunningDaemon(user=user, timed=timed)
    try:
        daemon.write_config(config, f'["{engine_socket(daemon)}"]')
        daemon.start(engine=False)
        yield daemon
    finally:
        daemon.close()


def engine_socket(daemon: RunningDaemon) -> str:
    return f"{daemon.directory}/clamd.ctl"


@contextmanager
def engine_later() -> Iterator[tuple[RunningDaemon, RealClamd]]:
    """A daemon whose engine, a real one, the test starts when it wants to."""
    daemon = RunningDaemon()
    try:
        clamd = RealClamd(f"{daemon.directory}/clamd")
        daemon.write_config(sockets=f'["{clamd.socket_path}"]')
        daemon.start(engine=False)
        try:
            yield daemon, clamd
        finally:
            clamd.close()
    finally:
        daemon.close()


def rows(daemon: RunningDaemon, sql: str, *values: object) -> list[tuple[object, ...]]:
    """What the database holds, past every rule of who may see it."""
    connection = sqlite3.connect(f"file:{daemon.state}/state.db?mode=ro", uri=True)
    try:
        return connection.execute(sql, values).fetchall()
    finally:
        connection.close()


def children(pid: int) -> list[int]:
    """Processes that this process started and that are not reaped."""
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def program(pid: int) -> str:
    """The process's name as ps shows it; "" when it is gone."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def alive(pid: int) -> bool:
    """A zombie is not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def monitor(daemon: RunningDaemon) -> int:
    (pid,) = children(daemon.pid)
    return pid


def started_by_monitor(daemon: RunningDaemon, name: str) -> list[int]:
    """Workers ("csd-worker") or the private engine ("clamd")."""
    return [pid for pid in children(monitor(daemon)) if program(pid) == name and alive(pid)]


def worker_of(daemon: RunningDaemon, person: Person) -> int:
    """The worker that runs as this account by now: before, it is the service's still."""

    return wait_for(lambda: _running_as(daemon, person), f"a worker of {person.name}")


def _running_as(daemon: RunningDaemon, person: Person) -> int | None:
    workers = started_by_monitor(daemon, "csd-worker")
    return next((pid for pid in workers if uid_of(pid) == person.uid), None)


HELD_TRIES = 5
"""Starts of a scan until its worker is caught: it works for tenths of a second, and the machine may have other work."""


@contextmanager
def held_in_mid_scan(daemon: RunningDaemon, client: PeerClient, person: Person) -> Iterator[int]:
    """A scan of what `fill` made, its worker stopped between two verdicts; it goes on after the block. Its pid."""
    with _urgent():
        for _ in range(HELD_TRIES):
            client.good("start_scan", {"scan_type": "home"})
            worker = _stopped_between_verdicts(daemon, client, person)
            if worker is not None:
                break
        else:
            raise AssertionError(f"{HELD_TRIES} scans ended before one could be stopped")
    try:
        assert client.good("get_scan_status")["scan_complete"] == 0
        yield worker
    finally:
        with suppress(ProcessLookupError):
            os.kill(worker, signal.SIGCONT)


def _stopped_between_verdicts(daemon: RunningDaemon, client: PeerClient, person: Person) -> int | None:
    """The pid of a worker that has begun on a second directory; None: the scan had ended before that was seen."""

    def begun_or_ended() -> tuple[int | None] | None:
        worker = _running_as(daemon, person)
        return (worker,) if worker or client.good("get_scan_status")["scan_complete"] else None

    directories: set[bytes] = set()
    until = time.monotonic() + 30
    while True:  # the worker that looked at the paths before comes first, or none of it is seen
        assert time.monotonic() < until, "the scan does not begin"
        (worker,) = wait_for(begun_or_ended, f"a worker of {person.name}")
        if worker is None:
            return None
        while alive(worker) and time.monotonic() < until:
            directories.update(os.path.dirname(file) for file in _open_files(worker, person))
            if len(directories) > 1:
                with suppress(ProcessLookupError):
                    os.kill(worker, signal.SIGSTOP)
                    return worker
        time.sleep(0.001)  # the monitor has to reap it


@contextmanager
def _urgent() -> Iterator[None]:
    """Ahead of all that the machine has to do meanwhile: a scan takes tenths of a second."""
    before, how = os.sched_getscheduler(0), os.sched_getparam(0)
    os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(1))
    try:
        yield
    finally:
        os.sched_setscheduler(0, before, how)


def _open_files(pid: int, person: Person) -> list[bytes]:
    found = []
    with suppress(FileNotFoundError):
        for fd in os.listdir(f"/proc/{pid}/fd"):
            with suppress(FileNotFoundError):
                file = os.readlink(os.fsencode(f"/proc/{pid}/fd/{fd}"))
                if file.startswith(os.fsencode(person.home) + b"/d") and file.count(b"/") == 4:
                    found.append(file)
    return found


def uid_of(pid: int) -> int:
    """Its real uid; -1 when it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return -1
    return int(status.partition("\nUid:")[2].split()[0])


def wait_state(client: PeerClient, *states: str, timeout_s: float = 30.0) -> dict[str, object]:
    """The scan's status as soon as it is in one of these states."""

    def look() -> dict[str, object] | None:
        status: dict[str, object] = client.good("get_scan_status")
        return status if status["state"] in states else None

    return wait_for(look, f"the scan to be {' or '.join(states)}", timeout_s)


def balanced(status: dict[str, object]) -> bool:
    """At the end of a scan that is done, every entry has its verdict or its reason."""
    not_scanned, scanned, total = status["not_scanned"], status["scanned_file_count"], status["total_file_count"]
    assert isinstance(not_scanned, dict)
    assert isinstance(scanned, int)
    return scanned + sum(not_scanned.values()) == total
