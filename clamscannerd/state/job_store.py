"""The part of Store (store.py) that is about which jobs wait. [daemon]

The lowest of its bases: each of the others queues jobs, or moves them. What is said in store.py holds here.
"""

import sqlite3
from collections.abc import Callable, Sequence
from typing import Concatenate, ParamSpec, TypeVar

from clamscannerd.state import store_queue
from clamscannerd.state.latest import Waiting
from clamscannerd.state.store_open import Database
from clamscannerd.state.store_values import Job, Recovered, StoreLimits

P = ParamSpec("P")
T = TypeVar("T")


class JobStore:
    """Store's base."""

    def __init__(self, database: Database, limits: StoreLimits) -> None:
        self._db = database
        self.limits = limits  # replaced by a reload
        self._waiting = Waiting()

    async def waiting_jobs(self) -> Sequence[Job]:
        """Queued scans and tasks in the order asked for: the same object until they are others."""
        if (known := self._waiting.get()) is not None:
            return known
        changes = self._waiting.changes
        jobs = await self._db.read(store_queue.waiting_jobs)
        self._waiting.put(jobs, changes)
        return jobs

    def doubt_waiting_jobs(self) -> None:
        """One of them does not wait: somebody else has written in the file."""
        self._waiting.changed()

    async def recover(self) -> Recovered:
        """Once, at start, before anything runs."""
        return await self._move(store_queue.recover)

    async def _move(self, fn: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """A write after which other jobs may wait than before."""
        try:
            return await self._db.write(fn, *args, **kwargs)
        finally:
            self._waiting.changed()
