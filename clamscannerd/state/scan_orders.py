"""What is ordered about a scan while it waits, runs or is paused: cancel, pause, resume. [daemon]

One order at a time for each scan, and none starts meanwhile. An order that came is carried out, whether or not the one
who gave it waits for its end; what is said to be so is on disk.

A pause ends the worker as a stop of the daemon does: what was found is on disk, and the scan starts over under its id
when it goes on. Rejected: a worker that is stopped and kept (it would hold memory, its sessions and the account's lock
for as long as somebody likes, and not outlive the daemon), and going on where it was (the tree is another by then, and
where it was is a path that may be gone).
"""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Protocol

import trio

from clamscannerd.model import SCAN_ENDED, Scan, ScanState
from clamscannerd.state.store import Store
from clamscannerd.state.turns import one_at_a_time


class RunningScan(Protocol):
    """What the runner knows of a scan that runs."""

    cancelled: trio.Event
    ended: trio.Event
    scope: trio.CancelScope
    paused: bool


class ScanOrders:
    """One per runner. `running`: the scan's job, if it runs; `moved` is called after each order."""

    def __init__(
        self, store: Store, running: Callable[[Scan], RunningScan | None], moved: Callable[[Scan], None]
    ) -> None:
        self._store = store
        self._running = running
        self._moved = moved
        self._busy: dict[int, trio.Lock] = {}

    def __contains__(self, scan_id: int) -> bool:
        """Whether there is an order about this scan."""
        return scan_id in self._busy

    async def cancel(self, scan: Scan) -> None:
        """Returns when the scan has ended: a running one is told and waited for, any other is ended here."""
        async with self._alone(scan):
            if (running := self._running(scan)) is not None:
                running.cancelled.set()
                await running.ended.wait()
            # Not by what we were given: it may have ended meanwhile, or been put back before it began.
            now = await self._store.get_scan(scan.id)
            if now is not None and now.state not in SCAN_ENDED:
                when = "while it was paused" if now.state is ScanState.PAUSED else "before it started"
                message = f"the scan was cancelled {when}"
                await self._store.end_scan(scan.id, ScanState.CANCELLED, now.counts, message, time.time())

    async def pause(self, scan: Scan) -> None:
        """Returns when the scan is paused, or has ended before it could be."""
        async with self._alone(scan):
            if (running := self._running(scan)) is not None:
                running.paused = True  # the runner pauses it, also if nobody waits here any more
                running.scope.cancel()
                await running.ended.wait()
            await self.hold(scan.id)

    async def hold(self, scan_id: int) -> None:
        """Pause a scan that does not run, unless it has ended or is paused already."""
        now = await self._store.get_scan(scan_id)
        if now is not None and now.state is ScanState.QUEUED:
            await self._store.pause_scan(scan_id)

    async def resume(self, scan: Scan) -> None:
        """Back to its place in the queue."""
        async with self._alone(scan):
            now = await self._store.get_scan(scan.id)
            if now is not None and now.state is ScanState.PAUSED:
                await self._store.resume_scan(scan.id)

    @asynccontextmanager
    async def _alone(self, scan: Scan) -> AsyncIterator[None]:
        try:
            async with one_at_a_time(self._busy, scan.id):
                yield
        finally:
            self._moved(scan)
