"""As root: SIGKILL in the place of every call that changes something, of one quarantine, one delete, and two groups.

A run without a kill tells the points; then a lot of files (one, or so many that they go in two groups) and one kill for
each of them, in the daemon (which is started again) and in the worker (whose job the daemon gives to another). One scan
beforehand, one state directory, no engine: a task needs none. Of the frames of one commit in SQLite's log the first and
the last are points: none between them can be seen by a reader. So it is with the captures of a group, and its unlinks:
what a kill among them leaves, those before the first and the last leave as well. Beside each test stands the mutation
of the product that it was seen to fail with.
"""

import itertools
import os
import shutil
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from clamscannerd.pipeline.group import GROUP_STEPS
from tests.fakes.accounts import Person, throw_away
from tests.fakes.aftermath import LOG_NAME, Processes, check_log, children, leftovers, rows, vault
from tests.fakes.manifest import contents, names
from tests.fakes.realclamd import MARKER
from tests.fakes.running import RunningDaemon, wait_for
from tests.fakes.strace import Point, Strace

LOTS = 120
GROUPED = GROUP_STEPS + 2
ENOUGH = {"daemon": 32, "worker": 12}  # how calls fall to threads differs from run to run
DONE = {"quarantine": "quarantined", "delete": "deleted"}
RETRIES = "[scans]\nretries = 5\n"  # a second worker may meet the point before strace has let go
IN_ROWS = {"pwrite64", "renameat2", "unlink", "unlinkat"}
NEUTRAL = bytes(255 - value for value in range(256))


Lot = list[str]
"""Files that are dealt with by one task."""


class Scene:
    """A daemon, an account, and infected files that were found: a lot of `size` for each point."""

    def __init__(self, daemon: RunningDaemon, account: Person, action: str, size: int) -> None:
        self.daemon = daemon
        self.account = account
        self.action = action
        names_of_lots = [[f"l{lot:03}/f{file:02}" for file in range(size)] for lot in range(LOTS)]
        self._lots = iter(names_of_lots)
        home = Path(account.home)
        for path in home.iterdir():  # what /etc/skel gave
            path.unlink()
        for number, file in enumerate(itertools.chain.from_iterable(names_of_lots)):
            path = home / file
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(MARKER + b" %d" % number)
            for owned in (path.parent, path):
                os.chown(owned, account.uid, account.gid)
        self.standing = names(home)
        with daemon.client(account.uid) as client:
            assert client.scan()["infected_file_count"] == LOTS * size
        daemon.stop()
        daemon.write_config(RETRIES, '["/nonexistent"]')
        self.start()

    def start(self) -> None:
        self.daemon.start(engine=False)
        self.monitor = children(self.daemon.pid)[0]

    def next_lot(self) -> Lot:
        return next(self._lots)

    def ask(self, lot: Lot) -> bool:
        """Whether the task was acknowledged."""
        try:
            with self.daemon.client(self.account.uid) as client:
                client.good("disinfect_files", {"actions": dict.fromkeys(lot, self.action)})
        except (ConnectionError, AssertionError):  # it was killed before it answered, as will be seen
            return False
        return True

    def is_over(self, lot: Lot) -> bool:
        """The daemon has died, or it has nothing more to do for these files."""
        assert self.daemon.process is not None
        if self.daemon.process.poll() is not None:
            return True
        log = Path(self.account.home, LOG_NAME)
        text = log.read_text() if log.exists() else ""
        return f"/{lot[-1]}" in text and '"type":"done"' in text and not children(self.monitor) and self.answers()

    def answers(self) -> bool:
        """A daemon that was killed has not died for its parent before strace has taken note."""
        try:
            with self.daemon.client() as client:
                client.call("Daemon.version")
        except (ConnectionError, AssertionError):
            return False
        return True

    def check_contents_are_there(self, lot: Lot) -> None:
        """Right after a kill: somewhere, whole."""
        kept = Counter(self.lying())
        there = contents(self.account.home)
        for file in lot:
            content = self.standing[file.encode()]
            assert kept[content] or there[content] == 1, file

    def lying(self) -> Iterator[bytes]:
        """What lies in the vault, whatever its rows say. Of small contents a copy is read: opening would tidy up."""
        vault = self.daemon.state / "vault"
        for path in vault.rglob("*.item"):
            yield path.read_bytes().translate(NEUTRAL)
        with tempfile.TemporaryDirectory(prefix="csd-crash-") as copy:
            for path in vault.glob("small.db*"):
                shutil.copyfile(path, Path(copy, path.name))
            if Path(copy, "small.db").exists():
                with closing(sqlite3.connect(Path(copy, "small.db"))) as database:
                    for (content,) in database.execute("SELECT content FROM blob"):
                        yield content.translate(NEUTRAL)

    def check(self, lot: Lot, *, asked: bool) -> None:
        """At rest again: `lot` was dealt with exactly once, or was never asked for; nothing else has changed."""
        was_asked = bool(rows(self.daemon, "SELECT 1 FROM step WHERE path = ?", lot[-1].encode()))
        assert was_asked >= asked, "an acknowledged task is lost"
        if was_asked:
            with self.daemon.client(self.account.uid) as client:
                details = client.wait_disinfection()
            assert [record.get("file") for record in details] == [f"{self.account.home}/{file}" for file in lot] + [
                None
            ]
            assert [record["state"] for record in details] == [DONE[self.action]] * len(lot) + ["success"]
            check_log(self.account.home, details)
        kept = [(item.path, item.content) for item in vault(self.daemon) if item.path.decode() in lot]
        assert sorted(kept) == [(file.encode(), self.standing.pop(file.encode())) for file in lot if was_asked]
        present = names(self.account.home)
        present.pop(LOG_NAME.encode(), None)
        assert present == self.standing
        assert leftovers(self.account.home) == []


@pytest.fixture(
    params=[("quarantine", 1), ("delete", 1), ("quarantine", GROUPED)], ids=lambda one: f"{one[0]}-{one[1]}"
)
def scene(request: pytest.FixtureRequest) -> Iterator[Scene]:
    with throw_away("crash_a") as account, RunningDaemon() as daemon:
        yield Scene(daemon, account, *request.param)


def thinned(points: Iterable[Point]) -> list[Point]:
    """Of each row of writes to SQLite's log the first and the last; of captures and of unlinks alike."""
    kept: list[Point] = []
    for call, run in itertools.groupby(points, lambda point: point.call):
        row = list(run)
        kept += [row[0], row[-1]] if call in IN_ROWS and len(row) > 2 else row
    return kept


def count(scene: Scene, process: str) -> list[Point]:
    """The points of one action, and a first look whether it is done right under strace."""
    lot = scene.next_lot()
    with Strace(scene.daemon.pid if process == "daemon" else scene.monitor) as trace:
        assert scene.ask(lot)
        wait_for(lambda: scene.is_over(lot), "an action without a kill")
        points = list(trace.points())
    scene.check(lot, asked=True)
    kept = thinned(points)
    # Two threads that write by turns have no rows: then as many as there are lots for, spread over all.
    return kept if len(kept) < LOTS else [kept[place * len(kept) // (LOTS - 1)] for place in range(LOTS - 1)]


# Fails when begin_step does not commit the intent, when the row of an item is kept before its file has its name, when
# Vault.check is not run at start, and when the task is done before its log has the last line.
def test_the_daemon_killed_at_any_point_does_every_file_once(scene: Scene) -> None:
    reached = 0
    for point in count(scene, "daemon"):
        lot = scene.next_lot()
        processes = Processes(scene.daemon)
        with Strace(scene.daemon.pid, point) as trace:
            asked = scene.ask(lot)
            wait_for(lambda lot=lot: scene.is_over(lot), f"the end of {point}")  # type: ignore[misc]
            reached += trace.killed()
        try:
            if scene.daemon.process is not None and scene.daemon.process.poll() is not None:
                processes.wait_gone()
                scene.check_contents_are_there(lot)
                scene.start()
            scene.check(lot, asked=asked)
        except BaseException as error:
            error.add_note(f"killed before {point}")
            raise
    assert reached >= ENOUGH["daemon"]


# Fails when begin_step does not commit the intent, when it gives a step that was begun before a new capture name, and
# when the new log is written under a name of its own each time (it stays).
def test_a_worker_killed_at_any_point_does_every_file_once(scene: Scene) -> None:
    reached = 0
    for point in count(scene, "worker"):
        lot = scene.next_lot()
        with Strace(scene.monitor, point) as trace:
            assert scene.ask(lot)
            wait_for(lambda lot=lot, trace=trace: trace.killed() or scene.is_over(lot), f"{point}")  # type: ignore[misc]
            trace.detach()
            reached += trace.killed()
        try:
            scene.check_contents_are_there(lot)
            scene.check(lot, asked=True)
        except BaseException as error:
            error.add_note(f"killed before {point}")
            raise
    assert reached >= ENOUGH["worker"]
