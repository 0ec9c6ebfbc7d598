"""What a scan is told of files that are known to be clean, and what becomes of what it says of others. [daemon]

Kept is only what one engine said that is known to be what it seemed: what its files say is seen at a check every few
seconds, and a clamd may have been started anew with other settings since. So what a worker says waits here until a
check that began after its session was opened has seen the same; likewise after each new session. From then on it goes
to the disk, where it outlives an interruption. When the database or anything else that a verdict rests on changes under
a scan, the rest of what that says is not kept: what is at the engine just then is of the one or of the other.

A scan may use several engines. What is known, and kept, is what those say that rest on the same: of all that the scan
begins with, the ones with the newest signatures. The worker is told which these are (Terms.kept), and of the others'
verdicts nothing is learned. An engine on another machine is never one of them: what it rests on cannot be seen.

Nothing here fails a scan: without a directory that can be written to, files are scanned as if never seen.
"""

import logging
import math
import os
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol

import trio

from clamscannerd.cache.basis import Era, era_of, standing
from clamscannerd.cache.files import CacheLimits, Files, Opened, Spool, Table
from clamscannerd.model import Account, Depth, Frozen
from clamscannerd.pipeline.engineview import EngineState
from clamscannerd.worker.cachewire import Known, Place, Verified

log = logging.getLogger(__name__)

FILESYSTEMS: Final[Mapping[str, int]] = {
    "ext4": 0xEF53,
    "xfs": 0x58465342,
    "btrfs": 0x9123683E,
    "f2fs": 0xF2F52010,
    "nfs": 0x6969,
    "zfs": 0x2FC12FC1,
}
"""What statfs says of them: linux/magic.h. ext2 and ext3 have ext4's."""

_WAITING_BYTES: Final = 1 << 20
"""What may wait for a check: 100,000 files. More is not kept."""

_CHECK_S: Final = 30.0


class CacheSettings(Frozen, frozen=True, kw_only=True):
    """Meanings and defaults: config.Cache."""

    enabled: bool
    filesystems: tuple[int, ...]
    settle_s: float
    by_content: bool
    recheck_after_s: float = -math.inf  # -inf: rapid scans are not permitted
    recheck_share: float = 1.0
    young_s: float = 0.0
    limits: CacheLimits


class Engines(Protocol):
    """What is needed of pipeline/engineview.EngineView."""

    def states(self) -> Sequence[EngineState]: ...
    async def look(self) -> Sequence[EngineState]: ...


class VerdictCache:
    """All accounts' verdicts."""

    def __init__(self, directory: Path, settings: CacheSettings, engines: Engines) -> None:
        self.files = Files(directory, settings.limits)
        self.settings = settings
        self.engines = engines

    @property
    def enabled(self) -> bool:
        return self.settings.enabled

    def reload(self, settings: CacheSettings) -> None:
        self.settings = settings
        self.files.limits = settings.limits


class KeptVerdicts:
    """One account's, during one scan, however often it starts over. `cache` None: nothing is known, nothing kept."""

    def __init__(self, cache: VerdictCache | None, account: Account) -> None:
        self._cache = cache
        self._account = account
        self._era: Era | None = None  # None: nothing is kept, from here on
        self._present: Era | None = None
        self._spool: Spool | None = None
        self._relied: set[str] = set()  # addresses of the engines whose verdicts count
        self._checked = False
        self._waiting: list[Verified] = []
        self._waiting_bytes = 0

    async def begin(self, engines: Sequence[EngineState], depth: Depth = Depth.FULL) -> tuple[Known | None, int]:
        """Before each attempt: what the worker is told, and the fd of its file (-1: none), the caller's to close."""
        self._close()
        now, cache = time.time(), self._cache
        era = _newest(engines, now) if cache is not None and cache.settings.enabled else None
        self._relied = {engine.address for engine in engines if era is not None and _rests_on(engine, era)}
        self._present, self._era, self._checked = era, None, False
        self._waiting, self._waiting_bytes = [], 0
        if cache is None or era is None:
            return None, -1
        opened: list[Opened] = []

        def prepare() -> None:
            cache.files.merge(self._account, era, now)
            self._spool = cache.files.spool(self._account)
            opened.append(cache.files.open(self._account))

        if not await self._try(prepare):
            return None, -1
        self._era = era
        (known,), settings = opened, cache.settings
        header = known.header
        recheck_after_s = settings.recheck_after_s if depth is Depth.RAPID else -math.inf
        counts = depth is not Depth.NOCACHE and header.made_at <= now
        told = Known(
            key=known.key,
            settled_ns=int(settings.settle_s * 1e9),
            filesystems=settings.filesystems,
            standing=standing(header.eras, era, now, recheck_after_s) if counts else bytes(256),
            databases=tuple(one.database for one in header.eras),
            recheck=int(settings.recheck_share * (1 << 32)),
            turn=secrets.randbelow(1 << 32),
            young_ns=int(settings.young_s * 1e9),
            files=_place(header.files),
            groups=_place(header.groups),
            contents=_place(header.contents),
            by_content=settings.by_content,
            file=known.fd >= 0,
        )
        return told, known.fd

    async def take(self, said: Verified) -> None:
        """What the worker says is clean."""
        if self._cache is None or self._era is None:
            return
        if not self._is_same(self._cache.engines.states()):
            self._forget()
        elif self._checked:
            await self._add([said])
        elif self._waiting_bytes < _WAITING_BYTES:
            self._waiting.append(said)
            self._waiting_bytes += len(said.files) + len(said.groups) + len(said.contents)

    async def check(self) -> None:
        """See whether the engine is what it seems; until then nothing is kept for good."""
        if self._cache is None or self._era is None or self._checked:
            return
        with trio.move_on_after(_CHECK_S):
            if not self._is_same(await self._cache.engines.look()):
                self._forget()
            else:
                self._checked = True
                waiting, self._waiting = self._waiting, []
                await self._add(waiting)

    def replaced(self, engine: EngineState) -> bool:
        """The worker gets a new session. Whether what it was told of this engine still holds; `check` is due then."""
        relied, same = engine.address in self._relied, self._present is not None and _rests_on(engine, self._present)
        if relied and not same:
            self._forget()
        elif same:
            self._relied.add(engine.address)
        self._checked = False
        return same or not relied

    def counts(self, engine: EngineState) -> bool:
        """Whether verdicts of this engine are learned."""
        return self._era is not None and engine.address in self._relied

    async def end(self) -> None:
        """After the scan, when it ended by itself."""
        if self._waiting:
            await self.check()
        self._close()
        cache, present = self._cache, self._present
        if cache is None or present is None:
            return

        def merge() -> None:
            cache.files.merge(self._account, present, time.time())
            cache.files.keep(self._account)

        await self._try(merge)

    def _is_same(self, engines: Sequence[EngineState]) -> bool:
        era, now = self._era, {engine.address: engine for engine in engines}
        return era is not None and all(at in now and _rests_on(now[at], era) for at in self._relied)

    def _forget(self) -> None:
        self._era, self._waiting = None, []

    async def _add(self, said: list[Verified]) -> None:
        spool, era = self._spool, self._era
        if spool is None or era is None:
            return

        def add() -> None:
            if not spool.confirmed:
                spool.confirm(era)
            for one in said:
                spool.add(one.files, one.groups, one.contents)

        if said and not await self._try(add):
            self._forget()

    async def _try(self, work: Callable[[], None]) -> bool:
        try:
            # Never abandoned: it has a file half written, and the next job of the account would meet it.
            await trio.to_thread.run_sync(work)
        except OSError as error:
            log.warning("cannot keep verdicts: %s", error)
            return False
        return True

    def _close(self) -> None:
        if self._spool is not None:
            self._spool.close()
            self._spool = None


def _newest(engines: Sequence[EngineState], now: float) -> Era | None:
    """Of those that give one."""
    eras = [era for engine in engines if (era := era_of(engine, now)) is not None]
    return max(eras, key=lambda era: (era.database_time, era.database), default=None)


def _rests_on(engine: EngineState, era: Era) -> bool:
    now = era_of(engine, 0.0)
    return now is not None and now.basis == era.basis


def _place(table: Table) -> Place:
    return Place(start=table.start, slots=table.slots)


def close(fd: int) -> None:
    """An fd of `begin`."""
    if fd >= 0:
        os.close(fd)
