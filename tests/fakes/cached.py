"""Scans of one home with what earlier ones left, the daemon's part by hand: real files, a real worker, a real clamd."""

import math
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from clamscannerd.cache.basis import Era, standing
from clamscannerd.cache.files import CacheLimits, Files, Table
from clamscannerd.model import Account, Reason
from clamscannerd.worker.beneath import filesystem_type
from clamscannerd.worker.cachewire import Known, Place, Verified
from clamscannerd.worker.messages import Cleared, Found, Recheck, ScanJob, Scanned, Skipped
from tests.fakes.worker_peer import WorkerPeer, clamd_session

LIMITS = CacheLimits(max_entries=100_000, keep_s=10**12)
NOW = 1_000.0


def era(basis: bytes = b"b", settings: bytes = b"s", at: float = 0.0, database: int = 1) -> Era:
    return Era(basis=basis * 16, settings=settings * 16, version="1", database=database, database_time=0.0, at=at)


class Ended:
    """What a scan said. `learned`: files that are remembered from now on."""

    def __init__(self) -> None:
        self.found: set[bytes] = set()
        self.skipped: dict[bytes, Reason] = {}
        self.learned = self.groups = self.contents = 0
        self.end: Scanned

    @property
    def known(self) -> int:
        return self.end.counts.cached_files

    @property
    def scanned(self) -> int:
        return self.end.counts.scanned_files


class CachedHome:
    """`settle_s` 0: what changed a moment ago is remembered as well, or no test could be quick."""

    def __init__(
        self, directory: Path, home: Path, socket_path: str, *, uid: int = 1001, settle_s: float = 0.0
    ) -> None:
        self.home = home
        self.files = Files(directory, LIMITS)
        self.account = Account(uid=uid, gid=uid, name=f"u{uid}", home=os.fsencode(home))
        self.socket_path = socket_path
        self.settle_s = settle_s
        self.by_content = False
        self.recheck_after_s = -math.inf
        self.share = self.young_s = 0.0
        self.turn = 0
        self.era = era()
        fd = os.open(home, os.O_RDONLY)
        self.filesystems: tuple[int, ...] = (filesystem_type(fd),)
        os.close(fd)

    def known(self) -> tuple[Known, int]:
        opened = self.files.open(self.account)
        header = opened.header
        known = Known(
            key=opened.key,
            settled_ns=int(self.settle_s * 1e9),
            filesystems=self.filesystems,
            standing=standing(header.eras, self.era, NOW, self.recheck_after_s),
            databases=tuple(one.database for one in header.eras),
            recheck=int(self.share * (1 << 32)),
            turn=self.turn,
            young_ns=int(self.young_s * 1e9),
            files=place(header.files),
            groups=place(header.groups),
            contents=place(header.contents),
            by_content=self.by_content,
            file=opened.fd >= 0,
        )
        return known, opened.fd

    def scan(self, **changes: object) -> Ended:
        with Running(self, **changes) as running:  # type: ignore[arg-type]
            return running.end()


class Running:
    """One scan under way."""

    def __init__(self, place: CachedHome, before: Callable[[], None] = lambda: None, **changes: object) -> None:
        """`before` runs when there is a session, and before the worker has it."""
        self._place = place
        self._before = before
        self.worker = WorkerPeer(place.home)
        self._changes = changes

    def __enter__(self) -> Self:
        self.worker.__enter__()
        place = self._place
        known, fd = place.known()
        values: dict[str, object] = {
            "roots": (b".",),
            "excludes": (),
            "window": 4,
            "max_file_size": 100 << 20,
            "clean_allowed": True,
            "file_deadline_s": 60.0,
            "max_skipped": 1_000,
            "known": known,
            "fds": 1,
        }
        with clamd_session(place.socket_path) as session:
            self._before()
            fds = [session.fileno(), *([fd] if fd >= 0 else [])]
            self.worker.send(ScanJob(**(values | self._changes)), fds)  # type: ignore[arg-type]
        if fd >= 0:
            os.close(fd)
        self.worker.send(Recheck(paths=(), last=True))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.worker.__exit__(kind, error, trace)

    def open_files(self) -> list[str]:
        """What the worker has open just now."""
        names = []
        for link in Path(f"/proc/{self.worker.process.pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # closed meanwhile
                names.append(os.readlink(link))
        return names

    def end(self) -> Ended:
        place, ended = self._place, Ended()
        replies, ended.end = self.worker.until(Scanned)
        spool = place.files.spool(place.account)
        spool.confirm(place.era)
        for reply in replies:
            match reply:
                case Found():
                    ended.found |= {file.path for file in reply.files}
                case Skipped():
                    ended.skipped |= {file.path: file.reason for file in reply.files}
                case Verified():
                    spool.add(reply.files, reply.groups, reply.contents)
                    ended.learned += len(reply.files) // 8
                    ended.groups += len(reply.groups) // 8
                    ended.contents += len(reply.contents) // 8
                case Cleared():
                    pass
                case _:
                    raise AssertionError(reply)
        spool.close()
        place.files.merge(place.account, place.era, time.time())
        return ended


def place(table: Table) -> Place:
    return Place(start=table.start, slots=table.slots)
