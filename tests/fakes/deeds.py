"""Everything that changes a home, as a thing to be disturbed: what is asked for, and what must be there afterwards.

    with open_scene() as scene:
        (unit,) = scene.take("cleanse", 1)       # something to do it to, found infected or in the vault
        before = scene.latest_task()
        asked = scene.ask(unit)                     # whether it was acknowledged
        wait_for(lambda: scene.is_over(before), "the end")
        scene.check(unit, before, asked=asked)      # all of the home and all of the vault

The scene keeps account of every content: it stands in the home, or it lies in the vault, each exactly once, whatever
was done before. A deed that ended as an error has to say so, and to leave its content where its record says.
"""

import os
import shutil
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

from clamscannerd.pipeline.group import GROUP_STEPS
from tests.fakes.accounts import Person, throw_away
from tests.fakes.aftermath import LOG_NAME, check_log, children, leftovers, rows, vault
from tests.fakes.mailboxes import Letter, render
from tests.fakes.manifest import names
from tests.fakes.realclamd import MARKER, RealClamd
from tests.fakes.running import RpcError, RunningDaemon, wait_for

GROUPED: Final = GROUP_STEPS + 2
"""Files of one task that go in two groups."""

ACTION: Final = {
    "ignore": "ignore",
    "quarantine": "quarantine",
    "delete": "delete",
    "group": "quarantine",
    "cleanse": "cleanse_mailbox",
    "restore": "quarantine",
    "give back": "cleanse_mailbox",
}
"""Deed -> the action asked for; for the last two, which take a file and messages out of the vault, beforehand."""

DEEDS: Final = tuple(ACTION)
BACK: Final = frozenset({"restore", "give back"})
BOXES: Final = frozenset({"cleanse", "give back"})
DONE: Final = {
    "ignore": "no-action",
    "quarantine": "quarantined",
    "delete": "deleted",
    "group": "quarantined",
    "cleanse": "mailbox-cleansed",
    "restore": "restored",
    "give back": "restored",
}
SETTINGS: Final = "[scans]\nretries = 5\n[accounts]\ngone_after_s = 600\n"
"""A second worker may meet the fault before strace has let go; and it may be passwd that cannot be read."""

NEUTRAL: Final = bytes(255 - value for value in range(256))


class Unit(NamedTuple):
    """What one task is about: everything beneath a directory of its own."""

    deed: str
    directory: str


class Scene:
    """A daemon with an engine, an account, and what is in its home and its part of the vault."""

    def __init__(self, daemon: RunningDaemon, account: Person) -> None:
        self.daemon = daemon
        self.account = account
        self.home = Path(account.home)
        for path in self.home.iterdir():  # what /etc/skel gave
            path.unlink()
        self.standing: dict[bytes, bytes] = {}
        self.kept: Counter[tuple[bytes, bytes]] = Counter()  # (path, content)
        self._original: dict[bytes, bytes] = {}
        self._stock: dict[str, list[Unit]] = {deed: [] for deed in DEEDS}
        self._made = 0
        self.is_disturbed = False
        self.monitor = children(daemon.pid)[0]

    # --- before

    def take(self, deed: str, number: int) -> list[Unit]:
        """So many units to do it to; made if there are not as many in stock."""
        if (lacking := number - len(self._stock[deed])) > 0:
            self.prepare({deed: lacking})
        return [self._stock[deed].pop(0) for _ in range(number)]

    def prepare(self, numbers: Mapping[str, int]) -> None:
        """Deed -> how many units to put in stock, found by a scan; what is to come back has been taken away."""
        units, first = list[Unit](), self._made
        for deed, number in numbers.items():
            made = [Unit(deed, f"{deed.replace(' ', '-')}-{first + at:04}") for at in range(number)]
            self._stock[deed] += made
            units += made
            self._made += number
        for unit in units:
            for path, content in contents_of(unit).items():
                self._write(self.home / os.fsdecode(path), content)
                self.standing[path] = self._original[path] = content
        back = [unit for unit in units if unit.deed in BACK]
        away = {os.fsdecode(path): ACTION[unit.deed] for unit in back for path in self.paths(unit)}
        with self.daemon.client(self.account.uid) as client:
            client.scan()
            assert not away or client.disinfect(away)[-1]["state"] == "success"
        now = self._present()
        for unit in back:
            self._take(unit, self.paths(unit), now)
        self._compare()

    def _write(self, path: Path, content: bytes) -> None:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        for owned in (path.parent, path):
            os.chown(owned, self.account.uid, self.account.gid)

    def paths(self, unit: Unit) -> list[bytes]:
        """In the order in which they were made and are asked for."""
        return [path for path in self._original if path.startswith(unit.directory.encode() + b"/")]

    def latest_task(self) -> str:
        with self.daemon.client(self.account.uid) as client:
            tasks = client.call("Task.list", {"limit": 1})["tasks"]
        return str(tasks[0]["task_id"]) if tasks else ""

    def said(self, before: str) -> str:
        """All the records of the latest task, if that is not `before`."""
        with self.daemon.client(self.account.uid) as client:
            latest = self.latest_task()
            return "" if latest == before else str(client.call("Task.get", {"task_id": latest})["details"])

    # --- the deed

    def ask(self, unit: Unit) -> bool:
        """Whether the task was acknowledged."""
        self.is_disturbed = True
        try:
            with self.daemon.client(self.account.uid) as client:
                if unit.deed in BACK:
                    client.call("Quarantine.restore", {"ids": self._items(unit), "force": True})
                    return True
                files = [path.decode() for path in self.paths(unit)]
                answer = client.uapi("disinfect_files", {"actions": dict.fromkeys(files, ACTION[unit.deed])})
                return bool(answer["status"])
        except (ConnectionError, AssertionError, RpcError):  # it died before it answered, or could not take it
            return False

    def _items(self, unit: Unit) -> list[int]:
        where = f"{unit.directory}/".encode()
        items = rows(self.daemon, "SELECT id, path FROM item ORDER BY id")
        return [number for number, path in items if path.startswith(where)]

    @property
    def is_dead(self) -> bool:
        assert self.daemon.process is not None
        return self.daemon.process.poll() is not None

    def is_over(self, before: str) -> bool:
        """The daemon has died, or it has nothing more to do for a task that is not `before`."""
        if self.is_dead:
            return True
        try:
            with self.daemon.client(self.account.uid) as client:
                tasks = client.call("Task.list", {"limit": 1})["tasks"]
        except (ConnectionError, AssertionError, RpcError):  # dying, which its parent hears from strace only later
            return False
        return bool(tasks and tasks[0]["task_id"] != before and tasks[0]["state"] == "done") and not children(
            self.monitor
        )

    def start_again(self) -> None:
        """After its death."""
        self.daemon.start(engine=False)
        self.monitor = children(self.daemon.pid)[0]

    # --- after

    def check_contents_are_there(self, unit: Unit) -> None:
        """Right after a kill: somewhere, whole, whatever the rows say."""
        lying, now = Counter(self._lying()), names(self.home)
        there = Counter(now.values())
        for path in self.paths(unit):
            for content in parts(unit, self._original[path]):
                whole = any(content in box for box in now.values()) if unit.deed in BOXES else there[content] == 1
                assert lying[content] or whole, path

    def _lying(self) -> Iterator[bytes]:
        """What lies in the vault. Of small contents a copy is read: opening would tidy up."""
        directory = self.daemon.state / "vault"
        for path in directory.rglob("*.item"):
            yield path.read_bytes().translate(NEUTRAL)
        with tempfile.TemporaryDirectory(prefix="csd-crash-") as copy:
            for path in directory.glob("small.db*"):
                shutil.copyfile(path, Path(copy, path.name))
            if Path(copy, "small.db").exists():
                with closing(sqlite3.connect(Path(copy, "small.db"))) as database:
                    for (content,) in database.execute("SELECT content FROM blob"):
                        yield content.translate(NEUTRAL)

    def check(self, unit: Unit, before: str, *, asked: bool, faulty: bool = False) -> bool:
        """At rest again: `unit` was dealt with exactly once, or was never asked for; nothing else has changed.

        `faulty`: files may have ended as errors, and are then where their records say. Whether all went well.
        """
        was_asked = self.latest_task() != before
        assert was_asked >= asked, "an acknowledged task is lost"
        if not was_asked:
            self._compare()
            self.is_disturbed = False
            return False
        wait_for(lambda: self.is_over(before), "the task to end")
        ends, closing_state = self._records(unit, faulty=faulty)
        now, well = self._present(), True
        for path in self.paths(unit):
            done = all(record["state"] == DONE[unit.deed] for record in ends[path])
            assert done or faulty, ends[path]
            well &= done
            if done:
                self._take(unit, [path], now)
            else:
                assert all(record["state"] in (DONE[unit.deed], "error") for record in ends[path]), ends[path]
                self._left(unit, path, str(ends[path]), now)
        assert closing_state == ("success" if well else "error")
        self._compare()
        self.is_disturbed = False
        return well

    def _records(self, unit: Unit, *, faulty: bool) -> tuple[dict[bytes, list[dict[str, Any]]], str]:
        """Path -> records of how its steps ended, and the task's own end."""
        with self.daemon.client(self.account.uid) as client:
            details = client.call("Task.get", {"task_id": self.latest_task()})["details"]
        issues = [record for record in details if record["type"] not in ("step", "done")]
        assert faulty or not issues, issues
        cut_short = faulty and "after its end: cannot write the log" in self.daemon.log()
        if unit.deed not in BACK and not issues and not cut_short:
            check_log(self.home, details)
        ends: dict[bytes, list[dict[str, Any]]] = {path: [] for path in self.paths(unit)}
        for record in details:
            if "file" in record:
                ends[os.fsencode(os.path.relpath(record["file"], self.home))].append(record)
        number = len(parts(unit, next(iter(contents_of(unit).values())))) if unit.deed == "give back" else 1
        assert all(len(records) == number for records in ends.values()), details
        return ends, str(details[-1]["state"])

    def _take(self, unit: Unit, paths: list[bytes], now: dict[bytes, bytes]) -> None:
        """Take account of what was done right: of a deed, or (not yet there and back) of its preparation."""
        back = unit.deed in BACK and any(item[0] in paths for item in self.kept)
        for path in paths:
            content = self._original[path]
            moved = Counter((path, part) for part in parts(unit, content))
            if unit.deed == "ignore":
                continue
            if back:
                self.standing[path] = content
                self.kept -= moved
                continue
            self.kept += moved
            if unit.deed in BOXES:
                check_cleansed(now[path], content)
                self.standing[path] = now[path]
            else:
                del self.standing[path]

    def _left(self, unit: Unit, path: bytes, said: str, now: dict[bytes, bytes]) -> None:
        """Take account of an error: nothing is lost, and what is there twice was said."""
        content = self._original[path]
        kept = {item for item in vault_of(self.daemon) if item[0] == path}
        if unit.deed in BOXES:
            check_box(now[path], content, [part for _, part in kept])
        elif unit.deed in BACK:
            assert kept == {(path, content)}
            assert now.get(path, content) == content
            assert path not in now or "it stands at its place" in said or "may stand at its place" in said, said
        else:
            assert now.get(path) == content, said
            assert not kept or "in the vault" in said, said
        self.kept = Counter({item: count for item, count in self.kept.items() if item[0] != path})
        self.kept += Counter(kept)
        if path in now:
            self.standing[path] = now[path]

    def _present(self) -> dict[bytes, bytes]:
        present = names(self.home)
        present.pop(LOG_NAME.encode(), None)
        return present

    def _compare(self) -> None:
        """All of the home, and all of the vault."""
        present = self._present()
        assert present.keys() == self.standing.keys()
        assert present == self.standing
        assert vault_of(self.daemon) == self.kept
        assert leftovers(self.home) == []


class Scenes:
    """One scene for several tests; a new one after a test that left it disturbed."""

    def __init__(self, name: str, stock: int) -> None:
        self._name = name
        self._stock = stock
        self._open = ExitStack()
        self._scene: Scene | None = None

    def scene(self) -> Scene:
        """With so many units of each deed in stock."""
        if self._scene is None or self._scene.is_disturbed:
            self._open.close()
            self._scene = self._open.enter_context(open_scene(self._name))
            self._scene.prepare(dict.fromkeys(DEEDS, self._stock))
        return self._scene

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()


@contextmanager
def open_scene(name: str) -> Iterator[Scene]:
    """`name`: of the account."""
    daemon = RunningDaemon(timed=False)
    with throw_away(name) as account, RealClamd(f"{daemon.directory}/clamd") as clamd:
        daemon.write_config(SETTINGS, f'["{clamd.socket_path}"]')
        with daemon:
            yield Scene(daemon, account)


def vault_of(daemon: RunningDaemon) -> Counter[tuple[bytes, bytes]]:
    return Counter((item.path, item.content) for item in vault(daemon))


# --- what the units are made of


def contents_of(unit: Unit) -> dict[bytes, bytes]:
    where = unit.directory.encode()
    if unit.deed in BOXES:
        return {where + b"/box": mailbox(where)}
    number = GROUPED if unit.deed == "group" else 1
    return {b"%s/f%02d" % (where, at): MARKER + b" %d of %s" % (at, where) for at in range(number)}


def parts(unit: Unit, content: bytes) -> list[bytes]:
    """What of a content goes into the vault, each by itself."""
    if unit.deed == "ignore":
        return []
    return infected_letters(content) if unit.deed in BOXES else [content]


def mailbox(unit: bytes) -> bytes:
    """Five letters, the middle ones infected and side by side."""
    letters = []
    for number in range(5):
        body = [b"line %d of %d of %s" % (line, number, unit) for line in range(20)]
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


def check_box(now: bytes, before: bytes, kept: list[bytes]) -> None:
    """Of a mailbox that was left on the way: all that is not infected is there, and each message is there or kept."""
    (first, _), (_, last) = spans(before)
    assert (now[:first], now[last : len(before)]) == (before[:first], before[last:])
    for start, end in spans(before):
        assert before[start:end] in (now[start:end], *kept)
