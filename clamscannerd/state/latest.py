"""What the latest scan of each account found, in memory once that scan has ended: most polls ask for nothing else.
[daemon]

An ended scan's row never changes, nor which of its findings it found itself, whatever becomes of those; what the latest
scan is changes with the next one that is asked for, and with nothing else. So that is the one moment to forget.
"""

from clamscannerd.model import SCAN_ENDED
from clamscannerd.state.store_views import Found

KEPT = 4_096
"""Accounts; then the memory starts over."""

KEPT_PATH_BYTES = 4 << 20
"""Of all paths in it; likewise."""


class Latest:
    """None stands for an account of which no scan is known."""

    def __init__(self) -> None:
        self._found: dict[tuple[int, str], Found | None] = {}
        self._path_bytes = 0
        self._asked = 0

    @property
    def asked(self) -> int:
        """Counts the scans that were asked for: what was read while one was is not put down."""
        return self._asked

    def get(self, uid: int, name: str) -> tuple[Found | None] | None:
        """What is known, in a tuple; or None: look."""
        return (self._found[uid, name],) if (uid, name) in self._found else None

    def put(self, uid: int, name: str, found: Found | None, asked: int) -> None:
        """`asked`: as it was before the look."""
        if asked != self._asked or (found is not None and found.scan.state not in SCAN_ENDED):
            return
        path_bytes = sum(map(len, found.first)) if found is not None else 0
        if len(self._found) >= KEPT or self._path_bytes + path_bytes > KEPT_PATH_BYTES:
            self._found.clear()
            self._path_bytes = 0
        self._found[uid, name] = found
        self._path_bytes += path_bytes

    def forget(self, uid: int, name: str) -> None:
        """Before and after a scan of the account is asked for."""
        self._asked += 1
        found = self._found.pop((uid, name), None)
        if found is not None:
            self._path_bytes -= sum(map(len, found.first))
