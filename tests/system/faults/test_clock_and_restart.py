"""Row R7: jumps of the clock, SIGTERM under load, an upgrade with work pending, and no storm of starts or lines.

The clock is that of the daemon alone (tests/fakes/clocked.py). The version before is the database as its program wrote
it: what an upgraded one finds at its first start, with jobs in their middle.
"""

import os
import pwd
import signal
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from clamscannerd.state.schema import APPLICATION_ID, MIGRATIONS, VERSION
from tests.fakes.accounts import Person, have_service_users, throw_away
from tests.fakes.aftermath import Processes, check_log, leftovers, rows, vault
from tests.fakes.clocked import Clock
from tests.fakes.manifest import contents
from tests.fakes.realclamd import MARKER
from tests.fakes.running import PeerClient, RpcError, RunningDaemon, wait_for
from tests.integration.people import clear, engine_socket, no_engine, put, started_by_monitor
from tests.rows import Amount, Figure

DAY_S = 86_400.0
STOP_S = 10.0
POLLERS = 40
ENDS_S = 600.0
MANY = '[vault]\nmin_free = "0%"\n'


@pytest.fixture(scope="module")
def _people() -> Iterator[list[Person]]:
    have_service_users()
    with ExitStack() as stack:
        yield [stack.enter_context(throw_away(f"r7_{letter}")) for letter in "abcd"]


@pytest.fixture
def people(_people: list[Person]) -> list[Person]:
    for person in _people:
        clear(person)
    return _people


@pytest.fixture
def alice(people: list[Person]) -> Person:
    return people[0]


def infect(person: Person, files: int) -> Counter[bytes]:
    """So many infected files, each with a content of its own; the contents."""
    bodies = [MARKER + b" %s %d" % (person.name.encode(), number) for number in range(files)]
    for number, body in enumerate(bodies):
        put(person, f"d{number // 100:03}/f{number:05}", body)
    return Counter(bodies)


def few_lines(text: str) -> int:
    """Of a log; but for those that say what was found and done, file by file, which are bounded elsewhere."""
    lines = [line for line in text.splitlines() if "Test.Marker" not in line and "quarantined" not in line]
    return len(lines)


@contextmanager
def jumping(clock: Clock) -> Iterator[None]:
    """The clock a day ahead, right, a day behind, right, and so on, ten times a second; right again afterwards."""
    over = threading.Event()

    def jump() -> None:
        while not over.wait(0.1):
            clock.set((DAY_S, 0.0, -DAY_S, 0.0)[clock.jumps % 4])

    thread = threading.Thread(target=jump)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        clock.set(0.0)


@pytest.mark.row("R7")
@pytest.mark.fails_with("expiry-by-a-jump")
def test_a_clock_that_jumps_a_day_disturbs_no_work_and_loses_nothing(
    alice: Person, amount: Amount, figure: Figure
) -> None:
    files = amount(quick=600, long=20_000)
    bodies = infect(alice, files)
    daemon = RunningDaemon()
    clock = Clock(daemon.directory / "clock")
    daemon.program = clock.program
    with daemon:
        details = under_jumps(daemon, alice, clock, bodies)
        for off_s in (DAY_S, -DAY_S, 0.0):
            clock.set(off_s)
            assert daemon.stop() == 0
            daemon.start()
            with daemon.client(alice.uid) as client:
                assert client.call("Quarantine.list", {"limit": 1})["total"] == files
                assert client.wait_disinfection() == details
                assert Counter(item.content for item in vault(daemon)) == bodies
        lines = few_lines(daemon.log())
    assert lines < 60, "a storm of lines"
    figure(f"{clock.jumps} jumps of a day, {lines} lines of log")


def under_jumps(daemon: RunningDaemon, person: Person, clock: Clock, bodies: Counter[bytes]) -> list[dict[str, Any]]:
    """A scan and a disinfection; the records of that."""
    engine = started_by_monitor(daemon, "clamd")
    with daemon.client(person.uid) as client, jumping(clock):
        status = client.scan(timeout_s=180)
        assert (status["state"], status["infected_file_count"]) == ("done", bodies.total())
        assert status["not_scanned"] == {}
        client.good("disinfect_files", {"actions": {f"{person.home}/d000/f00000": "quarantine"}, "others": "delete"})
        details = client.wait_disinfection(ENDS_S)
    assert Counter(record["state"] for record in details[:-1]) == {"quarantined": 1, "deleted": bodies.total() - 1}
    check_log(person.home, details)
    assert started_by_monitor(daemon, "clamd") == engine, "no new engine for a new time"
    return details


@pytest.mark.row("R7")
@pytest.mark.fails_with("wall-clock-patience")
def test_a_jump_makes_no_engine_lost_for_a_day(alice: Person) -> None:
    """One that was lost a moment ago is waited for, whatever the clock says; and lost for too long is lost."""
    put(alice, "bad", MARKER)
    daemon = RunningDaemon()
    clock = Clock(daemon.directory / "clock")
    daemon.program = clock.program
    daemon.write_config("[engine]\nlost_after_s = 30\ncheck_interval_s = 0.2\n", f'["{engine_socket(daemon)}"]')
    try:
        daemon.start(engine=False)
        with daemon.client(alice.uid) as client:
            wait_for(lambda: "engine lost" in daemon.log(), "the engine to be lost")
            for off_s in (DAY_S, -DAY_S):
                clock.set(off_s)
                assert client.uapi("start_scan", {"scan_type": "home"})["status"] == 1
                assert client.call("Scan.cancel")["state"] == "cancelled"
    finally:
        daemon.close()


class Pollers:
    """Clients that ask without end, until they are told or the connection ends."""

    def __init__(self, daemon: RunningDaemon, people: list[Person]) -> None:
        self.answers = 0
        self.last: Counter[str] = Counter()
        places = [people[number % len(people)] for number in range(POLLERS)]
        self._clients = [daemon.client(person.uid) for person in places]
        self._threads = [threading.Thread(target=self._ask, args=(client,)) for client in self._clients]
        for thread in self._threads:
            thread.start()

    def _ask(self, client: PeerClient) -> None:
        try:
            while True:
                client.good("get_scan_status")
                self.answers += 1
        except RpcError as error:
            self.last[error.kind] += 1
        except (AssertionError, OSError):
            self.last["closed"] += 1

    def are_busy(self) -> bool:
        return self.answers > POLLERS

    def join(self) -> None:
        for thread, client in zip(self._threads, self._clients, strict=True):
            thread.join(30)
            assert not thread.is_alive()
            client.close()


@pytest.mark.row("R7")
@pytest.mark.fails_with("stop-without-end")
@pytest.mark.parametrize("engine", ["works", "hangs"])
def test_a_stop_under_load_is_over_in_time_and_all_goes_on_afterwards(
    people: list[Person], engine: str, amount: Amount, figure: Figure
) -> None:
    """Three scans, a disinfection and 40 clients that ask all the time."""
    files, stops = amount(quick=700, long=20_000), amount(quick=1, long=8)
    acting, *scanning = people
    bodies = infect(acting, files)
    for person in scanning:
        infect(person, files // 2)
    worst, asked = 0.0, 0
    with RunningDaemon(config=MANY) as daemon:
        with daemon.client(acting.uid) as client:
            client.scan(timeout_s=180)
            client.good("disinfect_files", {"actions": {}, "others": "quarantine"})
        for person in scanning:
            with daemon.client(person.uid) as client:
                client.good("start_scan", {"scan_type": "home"})
        for _ in range(stops):
            pollers = Pollers(daemon, scanning)
            wait_for(pollers.are_busy, "load")
            processes = Processes(daemon)
            if engine == "hangs":
                os.kill(started_by_monitor(daemon, "clamd")[0], signal.SIGSTOP)
            began = time.monotonic()
            assert daemon.stop() == 0
            worst = max(worst, time.monotonic() - began)
            assert worst <= STOP_S
            pollers.join()
            assert pollers.last.keys() <= {"shutting_down", "closed"}, pollers.last
            processes.wait_gone()
            asked += pollers.answers
            daemon.start()
        for person in scanning:
            with daemon.client(person.uid) as client:
                status = client.wait_scan(180)
                assert (status["state"], status["infected_file_count"]) == ("done", files // 2)
        with daemon.client(acting.uid) as client:
            details = client.wait_disinfection(ENDS_S)
        assert [record["state"] for record in details] == ["quarantined"] * files + ["success"]
        assert Counter(item.content for item in vault(daemon)) == bodies
        assert leftovers(acting.home) == []
        assert "Traceback" not in daemon.log()
    figure(f"engine {engine}: {stops} stops, {worst:.1f} s at most, {asked:,} calls beside them")


def as_version_before(state: Path) -> None:
    """state.db as the program of one version earlier wrote it: its tables, and of each row what they hold."""
    path, old = state / "state.db", state / "old.db"
    with closing(sqlite3.connect(old, isolation_level=None)) as database:
        database.execute("PRAGMA journal_mode = WAL")
        for script in MIGRATIONS[: VERSION - 1]:
            database.executescript(script)
        database.execute("DELETE FROM sequence")
        database.execute("ATTACH ? AS now", (str(path),))
        tables = [row[0] for row in database.execute("SELECT name FROM main.sqlite_schema WHERE type = 'table'")]
        database.execute("PRAGMA foreign_keys = OFF")
        for table in sorted(tables, key=lambda name: name != "sqlite_sequence"):
            columns = ", ".join(row[1] for row in database.execute(f"PRAGMA main.table_info({table})"))
            database.execute(f"DELETE FROM main.{table}")  # noqa: S608  names of our own schema
            database.execute(f"INSERT INTO main.{table} ({columns}) SELECT {columns} FROM now.{table}")  # noqa: S608
        database.execute(f"PRAGMA main.application_id = {APPLICATION_ID}")
        database.execute(f"PRAGMA main.user_version = {VERSION - 1}")
        database.execute("DETACH now")
    for end in ("", "-wal", "-shm"):
        path.with_name(path.name + end).unlink(missing_ok=True)
    old.rename(path)
    entry = pwd.getpwnam("clamscannerd")
    os.chown(path, entry.pw_uid, entry.pw_gid)
    path.chmod(0o600)


@pytest.mark.row("R7")
@pytest.mark.fails_with("upgrade-loses-jobs")
def test_an_upgrade_goes_on_with_what_was_pending(people: list[Person], amount: Amount, figure: Figure) -> None:
    """A disinfection and a scan in their middle, a scan that was queued, contents in the vault."""
    files = amount(quick=700, long=20_000)
    acting, scanning, waiting, _ = people
    bodies = infect(acting, files)
    infect(scanning, files // 2)
    infect(waiting, 10)
    with RunningDaemon(config="[scans]\nmax_active = 1\n") as daemon:
        with daemon.client(acting.uid) as client:
            client.scan(timeout_s=180)
            client.good("disinfect_files", {"actions": {}, "others": "quarantine"})
        for person in (scanning, waiting):
            with daemon.client(person.uid) as client:
                client.good("start_scan", {"scan_type": "home"})
        wait_for(lambda: rows(daemon, "SELECT count(*) FROM step WHERE state = 'ended'")[0][0] > 50, "steps")
        processes = Processes(daemon)
        daemon.kill()
        processes.wait_gone()
        as_version_before(daemon.state)
        with closing(sqlite3.connect(f"file:{daemon.state}/state.db?mode=ro", uri=True)) as database:
            jobs = database.execute("SELECT count(*) FROM scan WHERE ended_at IS NULL").fetchone()[0]
            jobs += database.execute("SELECT count(*) FROM task WHERE ended_at IS NULL").fetchone()[0]
            assert jobs >= 2, "too late"
        daemon.start()
        for person, found in ((scanning, files // 2), (waiting, 10)):
            with daemon.client(person.uid) as client:
                status = client.wait_scan(180)
                assert (status["state"], status["infected_file_count"]) == ("done", found)
        with daemon.client(acting.uid) as client:
            details = client.wait_disinfection(ENDS_S)
        assert [record["state"] for record in details] == ["quarantined"] * files + ["success"]
        check_log(acting.home, details)
        assert Counter(item.content for item in vault(daemon)) == bodies
        assert not any(content.startswith(MARKER) for content in contents(acting.home))
        assert rows(daemon, "PRAGMA user_version") == [(VERSION,)]
        assert "Traceback" not in daemon.log()
    figure(f"database version {VERSION - 1} to {VERSION} with {jobs} jobs pending")


@pytest.mark.row("R7")
@pytest.mark.fails_with("no-backoff")
def test_an_engine_that_never_starts_makes_no_storm(alice: Person, amount: Amount, figure: Figure) -> None:
    """Pauses grow: as many starts as the logarithm of the time, a few lines of log for each."""
    for_s = amount(quick=3, long=120)
    daemon = RunningDaemon()
    starts = daemon.directory / "starts"
    starts.touch(0o666)
    starts.chmod(0o666)
    program = daemon.directory / "clamd"
    program.write_text(f'#!/bin/sh\necho >>"{starts}"\nexit 1\n')
    program.chmod(0o755)
    daemon.write_config(f'[engine]\nclamd = "{program}"\n')
    began = time.monotonic()
    try:
        daemon.start(engine=False)
        with daemon.client(alice.uid) as client:
            client.good("start_scan", {"scan_type": "home"})
            wait_for(lambda: time.monotonic() - began > for_s, "time to pass", for_s + 10)
            assert client.good("get_scan_status")["state"] == "queued"
        count, lines = len(starts.read_text()), few_lines(daemon.log())
    finally:
        daemon.close()
    most = 2 + (time.monotonic() - began).__ceil__().bit_length()
    assert 2 <= count <= most, f"{count} starts"
    assert lines <= 20 + 5 * most, daemon.log()
    figure(f"an engine that never starts: {count} starts and {lines} lines in {for_s} s")


@pytest.mark.row("R7")
@pytest.mark.fails_with("start-speaks-of-each")
def test_restart_after_restart_makes_no_storm(people: list[Person], amount: Amount, figure: Figure) -> None:
    """With jobs that wait all the time: each start says as much as the first, however long it then looks for an
    engine, and starts no worker for them."""
    restarts, look_s = amount(quick=2, long=30), 3.0
    config = "[engine]\ncheck_interval_s = 0.2\n"
    with no_engine(config=config) as daemon:
        for person in people:
            with daemon.client(person.uid) as client:
                client.good("start_scan", {"scan_type": "home"})
        sizes = []
        for _ in range(restarts):
            assert daemon.stop() == 0
            before = len(daemon.log())
            daemon.start(engine=False)
            wait_for(lambda at=before: "engine lost" in daemon.log()[at:], "the engine to be missed")  # type: ignore[misc]
            began = time.monotonic()
            wait_for(lambda since=began: time.monotonic() - since > look_s, "more looks")  # type: ignore[misc]
            assert started_by_monitor(daemon, "csd-worker") == []
            sizes.append(few_lines(daemon.log()[before:]))
        assert rows(daemon, "SELECT count(*) FROM scan WHERE state = 'queued'") == [(len(people),)]
    assert max(sizes) <= 8, daemon.log()
    figure(f"{restarts} restarts with {len(people)} jobs waiting: {max(sizes)} lines each")
