"""What polls ask for, in memory while it does not change: the latest scan of each account with what it found, unless
it runs (state/live.py), and the jobs that wait. [daemon]

An ended scan's row never changes, nor which of its findings it found itself, whatever becomes of those. One that is
queued or paused changes when it is moved: begun, paused, resumed, ended. What the latest scan is changes with the next
one that is asked for. All of these are writes of the store, which says so here once they are done, before anybody is
told of them: what was put here meanwhile goes, and what was looked up across that moment is not put down.
"""

from collections.abc import Sequence

from clamscannerd.model import Scan, ScanState
from clamscannerd.state.store_values import Job
from clamscannerd.state.store_views import Found

KEPT = 4_096
"""Accounts; then the memory starts over."""

KEPT_PATH_BYTES = 4 << 20
"""Of all paths in it; likewise."""


class Latest:
    """None stands for an account of which no scan is known."""

    def __init__(self) -> None:
        self._found: dict[tuple[int, str], Found | None] = {}
        self._will_move: dict[int, Scan] = {}  # of those in it, by id
        self._path_bytes = 0
        self._changes = 0

    @property
    def changes(self) -> int:
        """Counts what was asked for and what was moved."""
        return self._changes

    def get(self, uid: int, name: str) -> tuple[Found | None] | None:
        """What is known, in a tuple; or None: look."""
        return (self._found[uid, name],) if (uid, name) in self._found else None

    def put(self, uid: int, name: str, found: Found | None, changes: int) -> None:
        """`changes`: as it was before the look."""
        runs = found is not None and found.scan.state is ScanState.RUNNING
        if changes != self._changes or runs or (uid, name) in self._found:
            return
        path_bytes = sum(map(len, found.first)) if found is not None else 0
        if len(self._found) >= KEPT or self._path_bytes + path_bytes > KEPT_PATH_BYTES:
            self._found.clear()
            self._will_move.clear()
            self._path_bytes = 0
        self._found[uid, name] = found
        self._path_bytes += path_bytes
        if found is not None and found.scan.state in (ScanState.QUEUED, ScanState.PAUSED):
            self._will_move[found.scan.id] = found.scan

    def forget(self, uid: int, name: str) -> None:
        """A scan of the account was asked for."""
        self._changes += 1
        found = self._found.pop((uid, name), None)
        if found is not None:
            self._will_move.pop(found.scan.id, None)
            self._path_bytes -= sum(map(len, found.first))

    def moved(self, scan_id: int) -> None:
        """A scan was moved from one state to another."""
        self._changes += 1
        if (scan := self._will_move.get(scan_id)) is not None:
            self.forget(scan.uid, scan.name)


class Waiting:
    """Scans and tasks in the order in which they are to start."""

    def __init__(self) -> None:
        self._jobs: Sequence[Job] | None = None
        self._changes = 0

    @property
    def changes(self) -> int:
        """As in Latest."""
        return self._changes

    def get(self) -> Sequence[Job] | None:
        """None: look."""
        return self._jobs

    def put(self, jobs: Sequence[Job], changes: int) -> None:
        """`changes`: as it was before the look."""
        if changes == self._changes:
            self._jobs = jobs

    def changed(self) -> None:
        """A job was queued, or moved from one state to another."""
        self._changes += 1
        self._jobs = None
