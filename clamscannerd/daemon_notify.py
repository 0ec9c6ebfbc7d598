"""Digests for whoever is to be told, made beside scans and never in their way. [daemon]

At most one about an account in notify.interval, after a scan of it has ended, of what was not told before; and one for
administrators when there is no engine, or only an old idea of malware, for notify.engine_after. The database says what
is due (state/store_digests.py), so nothing is lost with this process; the outbox takes the files (notify/outbox.py).

A digest is in the outbox at least once, under one id: after a crash between the file and the row that goes with it, it
is written again, and who runs the hooks knows the ids of those that are done. A full disk, or an outbox that nobody
empties, holds up digests alone: what is not told stays due.

Rejected: notifying from the end of a scan (a crash just then, or a full disk, would lose it or fail the scan).
"""

import logging
import math
import os
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar, TypeVarTuple, Unpack

import trio

from clamscannerd.config import Config
from clamscannerd.config_notify import Notify
from clamscannerd.daemon_health import Engine, engine_checks
from clamscannerd.daemon_upkeep import said
from clamscannerd.errors import UnknownAccount
from clamscannerd.model import Account, Check, Grade
from clamscannerd.notify.outbox import Outbox
from clamscannerd.service import digest as texts
from clamscannerd.service.ignoring import Ignores
from clamscannerd.state.store import Store
from clamscannerd.state.store_digests import Digest, Due

P = TypeVarTuple("P")
T = TypeVar("T")
log = logging.getLogger(__name__)

_PAUSE_S = 1.0  # scans may end a hundred times in a second
_LATER_S = 60.0  # a full disk, a full outbox, a passwd that does not answer; and how often the engine is looked at
_AT_ONCE = 100  # accounts in one look
_TOPICS = frozenset({"engine", "signatures"})

Resolve = Callable[[int, str], Awaitable[Account]]


class Notifier:
    """One per daemon."""

    def __init__(
        self, store: Store, resolve: Resolve, engine: Callable[[], Engine], config: Config, ignores: Ignores
    ) -> None:
        self._store = store
        self._resolve = resolve
        self._engine = engine
        self._ignores = ignores
        self._woken = trio.Event()
        self.adopt(config)
        self._since: dict[str, float] = {}
        self._trouble = ""

    def adopt(self, config: Config) -> None:
        """Also at a reload."""
        self._settings: Notify = config.notify
        self._outbox = Outbox(
            config.notify.outbox, most=config.notify.max_waiting, most_bytes=config.notify.max_waiting_bytes
        )
        self._woken.set()

    def beside(self, moved: Callable[[int, str], None]) -> Callable[[int, str], None]:
        """`moved`, that a job of an account ended, and a look beside it."""

        def told(uid: int, name: str) -> None:
            moved(uid, name)
            self._woken.set()

        return told

    async def serve(self) -> None:
        """For ever."""
        while True:
            self._woken = trio.Event()
            wait_s = _LATER_S
            with said():
                wait_s = await self.look()
            await trio.sleep(_PAUSE_S)
            with trio.move_on_after(wait_s):
                await self._woken.wait()

    async def look(self) -> float:
        """Until when there is nothing to do, in seconds."""
        if not self._settings.kinds:
            return math.inf
        try:
            await self._send(await self._store.digests(_AT_ONCE))
            if not await _in_thread(self._outbox.has_room):
                return self._cannot(f"{self._outbox.path} is full: nobody takes what is in it")
            waits = [await self._look_at_accounts(), await self._look_at_engine()]
        except FileNotFoundError:
            log.debug("no digests, as there is no %s", self._outbox.path)
            return _LATER_S
        except OSError as error:
            return self._cannot(f"{self._outbox.path}: {error.strerror}")
        self._cannot("")
        return min(waits)

    def _cannot(self, why: str) -> float:
        """Said once."""
        if why and why != self._trouble:
            log.warning("cannot put digests into the outbox, which wait: %s", why)
        elif self._trouble and not why:
            log.info("digests go into the outbox again")
        self._trouble = why
        return _LATER_S

    async def _send(self, digests: Sequence[Digest]) -> None:
        for digest in digests:
            await _in_thread(self._outbox.put, digest.id, digest.body)
            await self._store.forget_digest(digest.id)

    async def _look_at_accounts(self) -> float:
        if "findings" not in self._settings.kinds:
            return math.inf
        wait_s = math.inf
        for due in await self._store.due_digests(_AT_ONCE):
            now = time.time()
            left = due.told_at + self._settings.interval - now
            if left > 0 and due.told_at <= now:  # after now: the clock was set back
                return min(wait_s, left)  # the rest is told later still
            if not await _in_thread(self._outbox.has_room):
                return 0.0  # the next look says so
            wait_s = 0.0 if await self._tell(due, now) else min(wait_s, _LATER_S)
        return wait_s

    async def _tell(self, due: Due, now: float) -> bool:
        """False: later."""
        try:
            account = await self._resolve(due.uid, due.name)
        except UnknownAccount:
            await self._store.skip_digest(due)
            return True
        except TimeoutError:
            return False
        digest_id, host = secrets.token_hex(16), _host()
        digest = await self._store.make_digest(
            due,
            digest_id,
            minimum=self._settings.minimum,
            named=self._settings.max_findings,
            make=lambda report: texts.findings(report, digest_id=digest_id, account=account, host=host, now=now),
            now=now,
            ignored=await self._ignored(account),
        )
        if digest is not None:
            log.info("digest %s about uid %d", digest.id, due.uid)
            await self._send([digest])
            if not await _in_thread(self._outbox.has_room):
                return False
        return True

    async def _ignored(self, account: Account) -> list[int]:
        """Findings on the account's ignore list; what there was no time to compare is told."""
        if not await self._store.ignores(account.uid, account.name):
            return []
        standing = await self._store.all_standing(account.uid, account.name)
        return list((await self._ignores.of(account, standing)).entries)

    async def _look_at_engine(self) -> float:
        if "engine" not in self._settings.kinds:
            return math.inf
        now, moment = time.time(), trio.current_time()
        wrong = {one.id: one for one in engine_checks(self._engine(), now) if _is_trouble(one)}
        self._since = {topic: self._since.get(topic, moment) for topic in wrong}
        told = {one.topic: one for one in await self._store.told()}
        if gone := [one.topic for one in told.values() if one.standing and one.topic not in wrong]:
            await self._store.passed(gone)
        lasting = [topic for topic, since in self._since.items() if moment - since >= self._settings.engine_after]
        news = [topic for topic in lasting if topic not in told or not told[topic].standing]
        if any(now - self._settings.interval < told[topic].told_at <= now for topic in news if topic in told):
            news = []  # it comes and goes
        if news:
            digest_id = secrets.token_hex(16)
            checks = [wrong[topic] for topic in news]
            body = texts.troubles(checks, digest_id=digest_id, host=_host(), now=now)
            digest = Digest(id=digest_id, body=body)
            await self._store.tell(news, digest, now)
            log.info("digest %s about the engine", digest.id)
            await self._send([digest])
        return _LATER_S


def _is_trouble(check: Check) -> bool:
    return check.id in _TOPICS and check.grade is not Grade.OK


def _host() -> str:
    return os.fsencode(os.uname().nodename).decode("utf-8", "replace")


async def _in_thread(work: Callable[[Unpack[P]], T], *args: *P) -> T:
    """A disk that hangs holds up digests, and no stop."""
    return await trio.to_thread.run_sync(work, *args, abandon_on_cancel=True)
