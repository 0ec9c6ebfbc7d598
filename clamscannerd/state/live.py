"""What runs now, in memory: the answers of get_scan_status while a scan runs. [daemon]

Written by pipeline/scan.py, read by service/; the database holds the same a few seconds later. Answering
from here keeps a poll free of SQL and of waiting for somebody's fsync.
"""

import msgspec
import trio

from clamscannerd.model import Counts, EngineInfo, Scan

LISTED = 1_000
"""Paths in `infected_files` of get_scan_status; list_infected_files has them all."""

_RATE_SPAN_S = 10.0
"""The rate is that of about the last ten seconds: steady enough to read, quick enough to believe."""


class LiveScan:
    """One scan under way. `scan` is replaced, never changed in place."""

    def __init__(self, scan: Scan, cancelled: trio.Event) -> None:
        self.scan = scan
        self.cancelled = cancelled
        self.begun = False  # `running` in the database
        self.current = b""
        self.infected: dict[bytes, None] = {}  # an ordered set, at most the findings kept per scan
        self.found = 0  # findings that were committed under it, again and again those of a scan that started over
        self._samples: list[tuple[float, int]] = []

    @property
    def counts(self) -> Counts:
        return self.scan.counts

    def parked(self, scan: Scan) -> None:
        """Interrupted; what was counted until now is not all in the row."""
        self.begun = False
        self.scan = msgspec.structs.replace(scan, counts=self.counts)

    def restart(self, scan: Scan, earlier: list[bytes]) -> None:
        """A worker begins at the beginning; `earlier` was found before an interruption, as were the totals."""
        old = self.scan.counts
        counts = Counts(total_files=old.total_files, total_bytes=old.total_bytes)
        self.scan = msgspec.structs.replace(scan, counts=counts)
        self.infected = dict.fromkeys(earlier)
        self._samples.clear()

    def engine(self, info: EngineInfo) -> None:
        """The engine that answers from now on. Its limit is the least that this scan had: over that were all that were
        left out for it."""
        sizes = [size for size in (self.scan.engine.max_file_size, info.max_file_size) if size]
        info = msgspec.structs.replace(info, max_file_size=min(sizes, default=0))
        self.scan = msgspec.structs.replace(self.scan, engine=info)

    def progress(self, counts: Counts, current: bytes, *, final: bool = False) -> None:
        """Totals never shrink while the tree is still being counted, be it anew. `final`: it was walked to its end, and
        the sum must hold: what an earlier count had and this walk did not meet is no part of it."""
        old = self.scan.counts
        if not final:
            counts = msgspec.structs.replace(
                counts,
                total_files=max(old.total_files, counts.total_files),
                total_bytes=max(old.total_bytes, counts.total_bytes),
            )
        self.scan = msgspec.structs.replace(self.scan, counts=counts)
        self.current = current
        done = counts.scanned_files + sum(counts.not_scanned.values())
        now = trio.current_time()
        self._samples.append((now, done))
        while len(self._samples) > 2 and now - self._samples[0][0] > _RATE_SPAN_S:
            self._samples.pop(0)

    def files_per_second(self) -> float:
        """Over the last seconds; 0.0 when there is nothing to tell yet."""
        if len(self._samples) < 2:
            return 0.0
        (t0, n0), (t1, n1) = self._samples[0], self._samples[-1]
        return max(0.0, (n1 - n0) / (t1 - t0)) if t1 > t0 else 0.0

    def eta_seconds(self) -> int | None:
        """None when it cannot be told."""
        rate = self.files_per_second()
        if rate <= 0:
            return None
        counts = self.scan.counts
        left = counts.total_files - counts.scanned_files - sum(counts.not_scanned.values())
        return max(0, round(left / rate))


class Live:
    """All scans under way, by account."""

    def __init__(self) -> None:
        self._scans: dict[tuple[int, str], LiveScan] = {}
        self._changed: dict[tuple[int, str], trio.Event] = {}  # of accounts that somebody listens to

    def scan_of(self, uid: int, name: str) -> LiveScan | None:
        return self._scans.get((uid, name))

    def add(self, live: LiveScan) -> None:
        self._scans[live.scan.uid, live.scan.name] = live
        self.note(live.scan.uid, live.scan.name)

    def remove(self, live: LiveScan) -> None:
        self._scans.pop((live.scan.uid, live.scan.name), None)
        self.note(live.scan.uid, live.scan.name)

    def changed(self, uid: int, name: str) -> trio.Event:
        """Set when a job of the account is queued, starts or ends next, or an engine comes or goes."""
        return self._changed.setdefault((uid, name), trio.Event())

    def note(self, uid: int, name: str) -> None:
        if (changed := self._changed.pop((uid, name), None)) is not None:
            changed.set()

    def note_all(self) -> None:
        for key in list(self._changed):
            self.note(*key)

    def __len__(self) -> int:
        return len(self._scans)
