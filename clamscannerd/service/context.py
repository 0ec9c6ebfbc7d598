"""What the handlers work with. [daemon] Built once by daemon.py; `settings` is replaced whole by a reload."""

import math
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Literal, Protocol

import msgspec
import trio

from clamscannerd.errors import Refused, UnknownAccount
from clamscannerd.model import Account, Check, EngineInfo, Frozen, IgnoreKind, Place, Scan
from clamscannerd.service.accounts import Accounts, Entry
from clamscannerd.service.ignoring import Ignores
from clamscannerd.service.polls import Polls
from clamscannerd.service.scan_types import ScanType
from clamscannerd.state.live import Live
from clamscannerd.state.store import Store
from clamscannerd.state.turns import asked_by, one_at_a_time
from clamscannerd.state.vault import Vault

_VERIFIES = 2  # checks of contents at once: each reads up to an account's part of the vault
_SEEN_S = 2.0  # so long a look into a home counts: a panel asks for the paths and starts a scan right after
_SEEN_KEPT = 4_096  # accounts whose look is remembered; then the memory starts over
_TESTS = 4  # self-tests under way, over all accounts; one at a time for each. Not of the probes: an engine may hang
_NOBODYS = -1  # self-tests that are for no account
_PROBES = 32  # workers that look into homes for calls, over all accounts; one at a time for each


class EngineState(Protocol):
    """What a call needs to know of the engines."""

    @property
    def kind(self) -> str: ...
    @property
    def steady_since(self) -> float: ...
    @property
    def reason(self) -> str: ...
    @property
    def signatures(self) -> bool: ...
    @property
    def max_file_size(self) -> int: ...
    @property
    def info(self) -> EngineInfo: ...


class Jobs(Protocol):
    """What a call needs of the runner."""

    def wake(self) -> None: ...
    async def position(self, uid: int, name: str) -> int: ...
    async def cancel_scan(self, scan: Scan) -> None: ...
    async def pause_scan(self, scan: Scan) -> None: ...
    async def resume_scan(self, scan: Scan) -> None: ...


class Settings(Frozen, frozen=True, kw_only=True):
    scan_types: Mapping[str, ScanType]
    lost_after_s: float
    min_free_bytes: int
    ignore_kinds: frozenset[IgnoreKind] = frozenset(IgnoreKind)
    max_ignore_entries: int = 100
    excludes: tuple[bytes, ...] = ()
    rapid: bool = False


class Context:
    """One per daemon."""

    def __init__(
        self,
        *,
        store: Store,
        vault: Vault,
        live: Live,
        jobs: Jobs,
        accounts: Accounts,
        engine: Callable[[], EngineState],
        probe: Callable[[Account, tuple[bytes, ...]], Awaitable[tuple[bool, ...]]],
        look: Callable[[Account, tuple[bytes, ...]], Awaitable[tuple[Place, ...]]],
        settings: Settings,
        reload: Callable[[], Awaitable[list[str]]],
        health: Callable[[Account | Literal["all"] | None], Awaitable[list[Check]]],
        self_test: Callable[[Account | None], Awaitable[Check]],
        suspended: Callable[[int], str] = lambda _: "",
        statistics: Callable[[], Mapping[str, msgspec.Struct]],
    ) -> None:
        self.store = store
        self.vault = vault
        self.live = live
        self.jobs = jobs
        self.accounts = accounts
        self.engine = engine
        self.settings = settings
        self.ignores = Ignores(store, lambda: self.settings.ignore_kinds)
        self.polls = Polls()
        self.suspended = suspended  # uid -> why nothing can be started for it now, or ""
        self.reload = reload
        """Read the configuration again; the keys whose change waits for a new start. Raises ConfigError."""
        self.health = health
        """What is right and what is not, the worst first; of homes: an account's, everybody's, nobody's."""
        self._self_test = self_test
        self.statistics = statistics
        """What each part of the daemon counts: the parts of service/metrics.py."""
        self.verifying: set[tuple[int, str] | None] = set()  # accounts whose contents are being read; None: all
        self.verify_slots = trio.CapacityLimiter(_VERIFIES)
        self.database_slot = trio.CapacityLimiter(1)  # to read the whole database
        self._probe = probe
        self._look = look
        self._probes = trio.CapacityLimiter(_PROBES)
        self._probing: dict[int, trio.Lock] = {}
        self._tests = trio.CapacityLimiter(_TESTS)
        self._testing: dict[int, trio.Lock] = {}
        self._seen: dict[int, tuple[float, Account | None, dict[bytes, bool]]] = {}
        self._heavy: dict[int, trio.Lock] = {}

    def queued(self, account: Account) -> None:
        """A job of the account waits for its turn."""
        self.jobs.wake()
        self.live.note(account.uid, account.name)

    async def entry(self, peer_uid: int, user: str | None) -> Entry:
        """The account that a call is for: the peer's own, or the one an administrator named."""
        asked_by(peer_uid)
        return await self.accounts.by_name(user) if user is not None else await self.accounts.by_uid(peer_uid)

    async def remembered(self, peer_uid: int, user: str | None) -> Entry:
        """The same for calls that show what is known and touch no home: an administrator may also name an account that
        passwd does not have any more. Of several of that name the last; its paths are shown as if its home were `/`."""
        if user is None:
            asked_by(peer_uid)
            return await self.accounts.by_uid(peer_uid)
        try:
            return await self.entry(peer_uid, user)
        except UnknownAccount:
            if "\0" in user or await self.accounts.uid_of(user) is not None:
                raise
            account = await self.store.account_named(user)
            if account is None:
                raise
            return Entry(account=account, groups=frozenset())

    async def exists(self, account: Account, paths: tuple[bytes, ...], *, need_one: bool) -> tuple[bool, ...]:
        """Which of these directories are there, seen by a worker that is the account.

        `need_one`: where none is, that must not be an old answer: the directory may just have been made.
        """
        async with one_at_a_time(self._probing, account.uid):
            seen = self._lately_seen(account)
            if not seen.keys() >= set(paths) or (need_one and not any(seen[path] for path in paths)):
                async with self._probes:
                    seen = dict(zip(paths, await self._probe(account, paths), strict=True))
                if len(self._seen) >= _SEEN_KEPT:
                    self._seen.clear()
                self._seen[account.uid] = trio.current_time(), account, seen
            return tuple(seen[path] for path in paths)

    async def look(self, account: Account, paths: tuple[bytes, ...]) -> tuple[Place, ...]:
        """What stands at these paths just now, seen by a worker that is the account."""
        async with one_at_a_time(self._probing, account.uid), self._probes:
            return await self._look(account, paths)

    async def self_test(self, account: Account | None) -> Check:
        """Whether the EICAR test file is found, in a file of the account, or by the engine alone."""
        uid = account.uid if account is not None else _NOBODYS
        async with one_at_a_time(self._testing, uid), self._tests:
            return await self._self_test(account)

    def _lately_seen(self, account: Account) -> dict[bytes, bool]:
        when, whose, seen = self._seen.get(account.uid, (-math.inf, None, {}))
        return seen if whose == account and trio.current_time() - when < _SEEN_S else {}

    async def need_room(self, verb: str) -> None:
        """Before a job is made durable. Refused: it would find a full disk in its middle, and come to a stand there."""
        free, least = await self.store.free_bytes(), self.settings.min_free_bytes
        if free < least:
            raise Refused(
                f"cannot {verb}: the file system of the daemon's state is full: {free >> 20} MiB are free,"
                f" and {least >> 20} MiB are needed"
            )

    def heavy(self, uid: int) -> AbstractAsyncContextManager[None]:
        """Around what reads all findings of an account: the database's readers stand in one line, and so an account
        has one such read in it at most, however often it asks. The others wait behind one."""
        return one_at_a_time(self._heavy, uid)
