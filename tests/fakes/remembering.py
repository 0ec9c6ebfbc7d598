"""Watches every store of a test: what it has in memory of jobs is what its file has, whatever was written.

Before each write, and before the end, all that is remembered is compared with a fresh look, and then looked up anew, so
that each write finds a full memory that it has to empty. Its own reads are not counted.
"""

import weakref
from collections.abc import Awaitable, Callable, Sequence

import pytest

from clamscannerd.errors import StateError
from clamscannerd.state import store_queue, store_views
from clamscannerd.state.history_store import HistoryStore
from clamscannerd.state.live import LISTED
from clamscannerd.state.store import Store
from clamscannerd.state.store_open import Database
from clamscannerd.state.store_values import Job
from clamscannerd.state.store_views import Found


class Watch:
    """Of one database. `writing`: transactions under way, whose time the memory may be before or after."""

    def __init__(self, store: Store, database: Database) -> None:
        self._store = weakref.ref(store)
        self._database = database
        self.writing = 0

    async def look(self) -> None:
        """Compare all that is remembered, then remember all. Not while something is written, which would be a race."""
        store, reads, writes = self._store(), self._database.reads, self._database.writes
        if store is None or self.writing or self._database.broken:
            return
        try:
            waiting, latest = await self._fresh()
            if (self.writing, self._database.writes) == (0, writes):
                self._compare(store, waiting, latest)
            await store.waiting_jobs()
            for uid, name in latest:
                await store.latest_found(uid, name)
        except StateError:  # what a test has made of the file is its own affair
            pass
        finally:
            self._database.reads = reads

    async def _fresh(self) -> tuple[Sequence[Job], dict[tuple[int, str], Found | None]]:
        waiting = await self._database.read(store_queue.waiting_jobs)
        accounts = await self._database.read(lambda c: c.execute("SELECT uid, name FROM account").fetchall())
        latest = {
            (uid, name): await self._database.read(store_views.found, uid, name, LISTED) for uid, name in accounts
        }
        return waiting, latest

    def _compare(self, store: Store, waiting: Sequence[Job], latest: dict[tuple[int, str], Found | None]) -> None:
        known = store._waiting.get()
        assert known is None or known == waiting, "what waits, in memory and in the file"
        for who, found in latest.items():
            remembered = store._latest.get(*who)
            assert remembered is None or remembered == (found,), "the latest scan, in memory and in the file"


def watch(monkeypatch: pytest.MonkeyPatch) -> "weakref.WeakKeyDictionary[Database, Watch]":
    """Every store that is opened from now on."""
    watches: weakref.WeakKeyDictionary[Database, Watch] = weakref.WeakKeyDictionary()
    made, write, close = HistoryStore.__init__, Database.write, Database.close

    def make(store: Store, database: Database, *rest: object) -> None:
        made(store, database, *rest)  # type: ignore[arg-type]
        watches[database] = Watch(store, database)

    async def watched_write(database: Database, *args: object, **kwargs: object) -> object:
        one = watches.get(database)
        if one is None:
            return await _as_it_was(write)(database, *args, **kwargs)
        await one.look()
        one.writing += 1
        try:
            return await _as_it_was(write)(database, *args, **kwargs)
        finally:
            one.writing -= 1

    async def watched_close(database: Database) -> None:
        if (one := watches.get(database)) is not None:
            await one.look()
        await close(database)

    monkeypatch.setattr(HistoryStore, "__init__", make)
    monkeypatch.setattr(Database, "write", watched_write)
    monkeypatch.setattr(Database, "close", watched_close)
    return watches


def _as_it_was(method: object) -> Callable[..., Awaitable[object]]:
    return method  # type: ignore[return-value]
