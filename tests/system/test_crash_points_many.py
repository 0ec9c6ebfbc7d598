"""As root: SIGKILL in the place of every call that changes something, of what takes or gives back several contents.

A group of small files quarantined together, a mailbox cleansed that did not change since its scan, and its messages put
back: each in the daemon (which is started again) and in the worker (whose job the daemon gives to another). As
test_crash_points.py, which does it for one file; with an engine, since a cleanse is proved by it.
"""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.accounts import Person, throw_away
from tests.fakes.aftermath import LOG_NAME, Processes, check_log, children, leftovers, vault
from tests.fakes.mailboxes import Letter, render
from tests.fakes.manifest import names
from tests.fakes.realclamd import MARKER, RealClamd
from tests.fakes.running import RunningDaemon, wait_for
from tests.fakes.strace import Point, Strace
from tests.system.test_crash_points import RETRIES, thinned

MOST = int(os.environ.get("CLAMSCANNERD_POINTS", "10"))
UNITS = min(MOST, 120) + 2
ENOUGH = 6  # how calls fall to threads differs from run to run


class Scene:
    """A daemon, an account, and things to act on that were found: one for each point."""

    def __init__(self, daemon: RunningDaemon, clamd: RealClamd, account: Person, deed: str) -> None:
        self.daemon = daemon
        self.account = account
        self.deed = deed
        self.home = Path(account.home)
        for path in self.home.iterdir():  # what /etc/skel gave
            path.unlink()
        self.kept: dict[bytes, Counter[bytes]] = {}  # by path: what is in the vault, and is not in the home
        for unit in range(UNITS):
            self._make(f"u{unit:03}")
        self.standing = names(self.home)
        daemon.stop()
        daemon.write_config(RETRIES, f'["{clamd.socket_path}"]')
        daemon.start()
        with daemon.client(account.uid) as client:
            assert client.scan()["infected_file_count"] == len(self.standing)
            if deed == "restore":
                details = client.disinfect({}, "cleanse_mailbox")
                assert details[-1]["state"] == "success"
        self.cleansed = names(self.home)
        self.cleansed.pop(LOG_NAME.encode(), None)
        self._units = iter(range(UNITS))
        self.start(fresh=False)

    def _make(self, unit: str) -> None:
        place = self.home / unit
        if self.deed == "group":
            place.mkdir()
            files = {place / f"f{number}": MARKER + b" %d of %s" % (number, unit.encode()) for number in range(4)}
        else:
            files = {place: mailbox(unit)}
        for path, content in files.items():
            path.write_bytes(content)
            os.chown(path, self.account.uid, self.account.gid)
        os.chown(place, self.account.uid, self.account.gid)

    def start(self, *, fresh: bool = True) -> None:
        if fresh:
            self.daemon.start(engine=False)
        self.monitor = children(self.daemon.pid)[0]

    def next_unit(self) -> str:
        return f"u{next(self._units):03}"

    def paths(self, unit: str) -> list[bytes]:
        return sorted(path for path in self.standing if path.startswith(unit.encode()))

    def latest_task(self) -> str:
        with self.daemon.client(self.account.uid) as client:
            (*_, task) = ["", *(one["task_id"] for one in client.call("Task.list", {"limit": 1})["tasks"])]
        return str(task)

    def ask(self, unit: str) -> bool:
        """Whether the task was acknowledged."""
        files = [path.decode() for path in self.paths(unit)]
        action = "quarantine" if self.deed == "group" else "cleanse_mailbox"
        try:
            with self.daemon.client(self.account.uid) as client:
                if self.deed == "restore":
                    client.call("Quarantine.restore", {"ids": self.items[unit], "force": True})
                else:
                    client.good("disinfect_files", {"actions": dict.fromkeys(files, action)})
        except (ConnectionError, AssertionError):  # it was killed before it answered, as will be seen
            return False
        return True

    @property
    def items(self) -> dict[str, list[int]]:
        with self.daemon.client(self.account.uid) as client:
            found: dict[str, list[int]] = {}
            for one in client.call("Quarantine.list", {"limit": 1000})["items"]:
                found.setdefault(Path(one["file"]).name, []).append(one["id"])
            return found

    def is_over(self, before: str) -> bool:
        """The daemon has died, or it has nothing more to do for a task that is not `before`."""
        assert self.daemon.process is not None
        if self.daemon.process.poll() is not None:
            return True
        try:
            with self.daemon.client(self.account.uid) as client:
                (task,) = client.call("Task.list", {"limit": 1})["tasks"]
        except (ConnectionError, AssertionError):
            return False
        return bool(task["task_id"] != before and task["state"] == "done" and not children(self.monitor))

    def check(self, unit: str, before: str, *, asked: bool) -> None:
        """At rest again: all of `unit` was dealt with exactly once, or it was never asked for; nothing else changed."""
        was_asked = self.latest_task() != before
        assert was_asked >= asked, "an acknowledged task is lost"
        home, kept = dict(self.cleansed), Counter[bytes]()
        if was_asked:
            wait_for(lambda: self.is_over(before), "the task to end")
            self._check_records(unit)
            for path in self.paths(unit):
                content = self.standing[path]
                if self.deed == "group":
                    del home[path]
                    kept[content] += 1
                elif self.deed == "cleanse":
                    home[path] = b""  # looked at below
                    kept.update(infected_letters(content))
                else:
                    home[path] = content
        now = names(self.home)
        now.pop(LOG_NAME.encode(), None)
        if was_asked and self.deed == "cleanse":
            (path,) = self.paths(unit)
            check_cleansed(now[path], self.standing[path])
            home[path] = now[path]
        assert now == home
        self.cleansed = home
        there = Counter(item.content for item in vault(self.daemon) if item.path in self.paths(unit))
        assert there == (Counter(infected_letters(mailbox(unit))) if self.deed == "restore" and not was_asked else kept)
        assert leftovers(self.home) == []
        assert not any(name.endswith(b".lock") for name in now)
        with self.daemon.client() as root:
            answer = root.call("Quarantine.verify")
        assert (answer["damaged_count"], answer["stray_count"]) == (0, 0)

    def _check_records(self, unit: str) -> None:
        with self.daemon.client(self.account.uid) as client:
            if self.deed == "restore":
                details = client.call("Task.get", {"task_id": self.latest_task()})["details"]
                assert [one["state"] for one in details] == ["restored", "restored", "success"]
                return
            details = client.wait_disinfection()
        check_log(self.account.home, details)
        state = "quarantined" if self.deed == "group" else "mailbox-cleansed"
        files = [f"{self.account.home}/{path.decode()}" for path in self.paths(unit)]
        assert sorted(str(one["file"]) for one in details[:-1]) == files
        assert [one["state"] for one in details] == [state] * len(files) + ["success"]


def mailbox(unit: str) -> bytes:
    """Five letters, the middle ones infected and side by side."""
    letters = []
    for number in range(5):
        body = [b"line %d of %d of %s" % (line, number, unit.encode()) for line in range(20)]
        letters.append(Letter(body=(*body, MARKER) if number in (2, 3) else tuple(body)))
    return render(letters).data


def spans(data: bytes) -> list[tuple[int, int]]:
    """The two infected letters of mailbox()."""
    starts = [at for at in range(len(data)) if data.startswith(b"From ", at) and data[:at].endswith((b"\n", b""))]
    return [(starts[2], starts[3]), (starts[3], starts[4])]


def infected_letters(data: bytes) -> list[bytes]:
    return [data[start:end] for start, end in spans(data)]


def check_cleansed(now: bytes, before: bytes) -> None:
    (first, _), (_, last) = spans(before)
    assert (len(now), now[:first], now[last:]) == (len(before), before[:first], before[last:])
    assert MARKER not in now
    assert now.count(b"[removed: ") == 2


@pytest.fixture(params=["group", "cleanse", "restore"])
def scene(request: pytest.FixtureRequest) -> Iterator[Scene]:
    with (
        throw_away("crash_m") as account,
        RunningDaemon() as daemon,
        RealClamd(f"{daemon.directory}/clamd") as clamd,
    ):
        yield Scene(daemon, clamd, account, request.param)


def count(scene: Scene, process: str) -> list[Point]:
    """The points of one deed, and a first look whether it is done right under strace."""
    unit, before = scene.next_unit(), scene.latest_task()
    with Strace(scene.daemon.pid if process == "daemon" else scene.monitor) as trace:
        assert scene.ask(unit)
        wait_for(lambda: scene.is_over(before), "a deed without a kill")
        points = list(trace.points())
    scene.check(unit, before, asked=True)
    points = thinned(points)
    few = min(MOST, len(points))
    return [points[at * (len(points) - 1) // (few - 1)] for at in range(few)]


def test_the_daemon_killed_at_any_point_does_everything_once(scene: Scene) -> None:
    reached = 0
    for point in count(scene, "daemon"):
        unit, before = scene.next_unit(), scene.latest_task()
        processes = Processes(scene.daemon)
        with Strace(scene.daemon.pid, point) as trace:
            asked = scene.ask(unit)
            wait_for(lambda before=before: scene.is_over(before), f"the end of {point}")  # type: ignore[misc]
            reached += trace.killed()
        try:
            if scene.daemon.process is not None and scene.daemon.process.poll() is not None:
                processes.wait_gone()
                scene.start()
            scene.check(unit, before, asked=asked)
        except BaseException as error:
            error.add_note(f"killed before {point}")
            raise
    assert reached >= ENOUGH


def test_a_worker_killed_at_any_point_does_everything_once(scene: Scene) -> None:
    reached = 0
    for point in count(scene, "worker"):
        unit, before = scene.next_unit(), scene.latest_task()
        with Strace(scene.monitor, point) as trace:
            assert scene.ask(unit)
            wait_for(lambda before=before, trace=trace: trace.killed() or scene.is_over(before), f"{point}")  # type: ignore[misc]
            trace.detach()
            reached += trace.killed()
        try:
            scene.check(unit, before, asked=True)
        except BaseException as error:
            error.add_note(f"killed before {point}")
            raise
    assert reached >= ENOUGH
