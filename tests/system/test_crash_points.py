"""As root: SIGKILL in the place of every call that changes something, of one quarantine and of one delete.

A run without a kill tells the points; then one file and one kill for each of them, in the daemon (which is started
again) and in the worker (whose job the daemon gives to another). One scan beforehand, one state directory, no engine:
a task needs none. Of the frames of one commit in SQLite's log the first and the last are points: none between them
can be seen by a reader. Beside each test stands the mutation of the product that it was seen to fail with.
"""

import itertools
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tests.fakes.accounts import Person, throw_away
from tests.fakes.aftermath import LOG_NAME, Processes, check_log, children, leftovers, rows, vault
from tests.fakes.manifest import contents, names
from tests.fakes.realclamd import MARKER
from tests.fakes.running import RunningDaemon, wait_for
from tests.fakes.strace import Point, Strace

FILES = 120
ENOUGH = {"daemon": 32, "worker": 12}  # how calls fall to threads differs from run to run
DONE = {"quarantine": "quarantined", "delete": "deleted"}
RETRIES = "[scans]\nretries = 5\n"  # a second worker may meet the point before strace has let go
COMMIT = "pwrite64"
NEUTRAL = bytes(255 - value for value in range(256))


class Scene:
    """A daemon, an account, and infected files that were found: one for each point."""

    def __init__(self, daemon: RunningDaemon, account: Person, action: str) -> None:
        self.daemon = daemon
        self.account = account
        self.action = action
        self._files = iter(range(FILES))
        home = Path(account.home)
        for path in home.iterdir():  # what /etc/skel gave
            path.unlink()
        for file in range(FILES):
            path = home / f"f{file:03}"
            path.write_bytes(MARKER + b" %d" % file)
            os.chown(path, account.uid, account.gid)
        self.standing = names(home)
        with daemon.client(account.uid) as client:
            assert client.scan()["infected_file_count"] == FILES
        daemon.stop()
        daemon.write_config(RETRIES, '["/nonexistent"]')
        self.start()

    def start(self) -> None:
        self.daemon.start(engine=False)
        self.monitor = children(self.daemon.pid)[0]

    def next_file(self) -> str:
        return f"f{next(self._files):03}"

    def ask(self, file: str) -> bool:
        """Whether the task was acknowledged."""
        try:
            with self.daemon.client(self.account.uid) as client:
                client.good("disinfect_files", {"actions": {file: self.action}})
        except (ConnectionError, AssertionError):  # it was killed before it answered, as will be seen
            return False
        return True

    def is_over(self, file: str) -> bool:
        """The daemon has died, or it has nothing more to do for this file."""
        assert self.daemon.process is not None
        if self.daemon.process.poll() is not None:
            return True
        log = Path(self.account.home, LOG_NAME)
        text = log.read_text() if log.exists() else ""
        return f"/{file}" in text and '"type":"done"' in text and not children(self.monitor) and self.answers()

    def answers(self) -> bool:
        """A daemon that was killed has not died for its parent before strace has taken note."""
        try:
            with self.daemon.client() as client:
                client.call("Daemon.version")
        except (ConnectionError, AssertionError):
            return False
        return True

    def check_content_is_there(self, file: str) -> None:
        """Right after a kill: somewhere, whole."""
        content = self.standing[file.encode()]
        kept = {path.read_bytes().translate(NEUTRAL) for path in (self.daemon.state / "vault").rglob("*.item")}
        assert content in kept or contents(self.account.home)[content] == 1

    def check(self, file: str, *, asked: bool) -> None:
        """At rest again: `file` was dealt with exactly once, or was never asked for; nothing else has changed."""
        path = file.encode()
        was_asked = bool(rows(self.daemon, "SELECT 1 FROM step WHERE path = ?", path))
        assert was_asked >= asked, "an acknowledged task is lost"
        kept = Counter(item.path for item in vault(self.daemon) if item.path == path)
        if was_asked:
            with self.daemon.client(self.account.uid) as client:
                details = client.wait_disinfection()
            assert [record.get("file") for record in details] == [f"{self.account.home}/{file}", None]
            assert [record["state"] for record in details] == [DONE[self.action], "success"]
            check_log(self.account.home, details)
            content = self.standing.pop(path)
            assert [item.content for item in vault(self.daemon) if item.path == path] == [content]
        else:
            assert not kept
        present = names(self.account.home)
        present.pop(LOG_NAME.encode(), None)
        assert present == self.standing
        assert leftovers(self.account.home) == []


@pytest.fixture(params=["quarantine", "delete"])
def scene(request: pytest.FixtureRequest) -> Iterator[Scene]:
    with throw_away("crash_a") as account, RunningDaemon() as daemon:
        yield Scene(daemon, account, request.param)


def thinned(points: Iterable[Point]) -> list[Point]:
    """Of each row of writes to SQLite's log the first and the last."""
    kept: list[Point] = []
    for is_commit, run in itertools.groupby(points, lambda point: point.call == COMMIT):
        row = list(run)
        kept += [row[0], row[-1]] if is_commit and len(row) > 2 else row
    return kept


def count(scene: Scene, process: str) -> list[Point]:
    """The points of one action, and a first look whether it is done right under strace."""
    file = scene.next_file()
    with Strace(scene.daemon.pid if process == "daemon" else scene.monitor) as trace:
        assert scene.ask(file)
        wait_for(lambda: scene.is_over(file), "an action without a kill")
        points = list(trace.points())
    scene.check(file, asked=True)
    return thinned(points)


# Fails when begin_step does not commit the intent, when the row of an item is kept before its file has its name, when
# Vault.check is not run at start, and when the task is done before its log has the last line.
def test_the_daemon_killed_at_any_point_does_every_file_once(scene: Scene) -> None:
    reached = 0
    for point in count(scene, "daemon"):
        file = scene.next_file()
        processes = Processes(scene.daemon)
        with Strace(scene.daemon.pid, point) as trace:
            asked = scene.ask(file)
            wait_for(lambda file=file: scene.is_over(file), f"the end of {point}")  # type: ignore[misc]
            reached += trace.killed()
        try:
            if scene.daemon.process is not None and scene.daemon.process.poll() is not None:
                processes.wait_gone()
                scene.check_content_is_there(file)
                scene.start()
            scene.check(file, asked=asked)
        except BaseException as error:
            error.add_note(f"killed before {point}")
            raise
    assert reached >= ENOUGH["daemon"]


# Fails when begin_step does not commit the intent, when it gives a step that was begun before a new capture name, and
# when the new log is written under a name of its own each time (it stays).
def test_a_worker_killed_at_any_point_does_every_file_once(scene: Scene) -> None:
    reached = 0
    for point in count(scene, "worker"):
        file = scene.next_file()
        with Strace(scene.monitor, point) as trace:
            assert scene.ask(file)
            wait_for(lambda file=file, trace=trace: trace.killed() or scene.is_over(file), f"{point}")  # type: ignore[misc]
            trace.detach()
            reached += trace.killed()
        try:
            scene.check_content_is_there(file)
            scene.check(file, asked=True)
        except BaseException as error:
            error.add_note(f"killed before {point}")
            raise
    assert reached >= ENOUGH["worker"]
