"""The life of the private engines: started, started again, changed over to real signatures. [daemon, trio]

There may be several, each with a life of its own: one that ended or hangs is started again, with growing pauses, while
the others work. A change-over ends the old process first, so no session of the old kind outlives it. How a process is
started is the monitor's or a unit's matter (PrivateEngines), and so is how many there are; under units that changes
while we run.
"""

import time
from collections.abc import Sequence
from typing import Literal, Protocol

import msgspec
import trio

from clamscannerd.engine import clamdconf, control
from clamscannerd.engine.health import Limits, Member, Timeouts, limits_in, limits_of
from clamscannerd.engine.private import PrivatePaths, clamd_conf, has_signatures
from clamscannerd.errors import SpawnRefused
from clamscannerd.stop import Stop

PrivateKind = Literal["signatures", "builtin"]

FIRST_PAUSE_S = 0.1  # before the second look at an engine that is not ready; doubles up to check_interval_s
FIRST_BACKOFF_S = 0.5  # before the private engine is started again; doubles
MAX_BACKOFF_S = 60.0
STABLE_S = 60.0  # ready for so long: the next end is not the same fault again
SOCKET_GRACE_S = 30.0  # from start to listening: 0.2 s with 150,000 signatures, which are read first
STOP_S = 5.0


class EngineSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Plain values; names, meanings and defaults are those of config.Engine."""

    sockets: str | tuple[str, ...] = "auto"
    confs: dict[str, str] = {}
    max_signature_lag_s: float = 0.0
    clamd_conf: str = "/etc/clamav/clamd.conf"
    database: str = "/var/lib/clamav"
    max_file_size: int = 100 << 20
    max_scan_time_s: float = 120.0
    max_threads: int = 10
    first_ping_timeout_s: float = 180.0
    ping_timeout_s: float = 20.0
    check_interval_s: float = 5.0
    auto_wait_s: float = 60.0


class PrivateEngine(Protocol):
    """One private engine's process, as the monitor or a unit provides it."""

    @property
    def address(self) -> str: ...
    @property
    def conf(self) -> str:
        """The file that it is configured by, which may change while we run."""

    async def start(self) -> None:
        """Returns when the process exists. Raises SpawnRefused."""

    async def stop(self) -> None:
        """Returns when there is none (any more), or when it may stay for the daemon that comes after this one."""

    async def dismiss(self) -> None:
        """Another kind takes its place: it is not to stay."""

    def running(self) -> bool: ...


class PrivateEngines(Protocol):
    def of(self, kind: PrivateKind) -> Sequence[PrivateEngine]:
        """Those that there are to be now; the same objects for the same ones, and at least one."""


class Home(Protocol):
    """What sessions.Engines is to the one in its care."""

    @property
    def settings(self) -> EngineSettings: ...
    @property
    def timeouts(self) -> Timeouts: ...
    @property
    def private_starts(self) -> int: ...
    @private_starts.setter
    def private_starts(self, value: int) -> None: ...
    def take_over(self, members: Sequence[Member]) -> None: ...
    def tell(self) -> None: ...
    async def pause(self, member: Member, pause_s: float) -> float: ...


async def wanted_kind(database: str) -> PrivateKind:
    names = await trio.to_thread.run_sync(control.database_names, database)
    return "signatures" if has_signatures(names) else "builtin"


class PrivateLife:
    """One per search for engines that ended with ours."""

    def __init__(self, home: Home, private: PrivateEngines, stop: Stop) -> None:
        self._home = home
        self._private = private
        self._stop = stop

    async def run(self) -> None:
        """For ever."""
        kind = await wanted_kind(self._home.settings.database)
        members: dict[PrivateEngine, Member] = {}
        while True:
            engines = self._private.of(kind)
            members = {engine: members.get(engine) or self._member(engine, kind) for engine in engines}
            self._home.take_over(list(members.values()))
            async with trio.open_nursery() as nursery:
                for engine, member in members.items():
                    nursery.start_soon(self._live, engine, member)
                changed = await self._wait_changed(kind, engines, list(members.values()))
                nursery.cancel_scope.cancel()
            if changed != kind:
                for engine in engines:
                    await engine.dismiss()
                kind, members = changed, {}

    async def _wait_changed(
        self, kind: PrivateKind, engines: Sequence[PrivateEngine], members: Sequence[Member]
    ) -> PrivateKind:
        """The kind that is wanted, when it is another, or when there are to be other engines of this one."""
        while True:
            await trio.sleep(self._home.settings.check_interval_s)
            wanted = await wanted_kind(self._home.settings.database)
            # Signatures that are gone are in memory still, where an engine is ready.
            if wanted != kind and (kind == "builtin" or all(member.state.kind != "ready" for member in members)):
                return wanted
            if list(self._private.of(kind)) != list(engines):
                return kind

    async def _live(self, engine: PrivateEngine, member: Member) -> None:
        """For ever."""
        backoff_s = FIRST_BACKOFF_S
        while True:
            try:
                self._home.private_starts += 1
                await engine.start()
                reason = await self._watch(engine, member)
            except SpawnRefused as error:
                reason = str(error)
            finally:
                with self._stop.shield(STOP_S):
                    await engine.stop()
            state = member.state
            if state.kind == "ready" and time.monotonic() - state.steady_since > STABLE_S:
                backoff_s = FIRST_BACKOFF_S
            member.lose(reason)
            await trio.sleep(backoff_s)
            backoff_s = min(backoff_s * 2, MAX_BACKOFF_S)

    async def _watch(self, engine: PrivateEngine, member: Member) -> str:
        """Returns why it is to be started again."""
        started, pause_s = trio.current_time(), FIRST_PAUSE_S
        while True:
            await member.check()
            if not engine.running():
                return "The private engine ended; its own messages, before this, say why."
            late = trio.current_time() - started > SOCKET_GRACE_S
            hangs = member.state.kind == "lost" and not member.gone
            if hangs or (member.gone and late):
                return member.state.reason
            pause_s = await self._home.pause(member, pause_s)

    def _member(self, engine: PrivateEngine, kind: PrivateKind) -> Member:
        settings, address, conf = self._home.settings, engine.address, engine.conf
        signatures = kind == "signatures"
        text = clamd_conf(
            PrivatePaths(socket=address, temporary="/", database=settings.database if signatures else "/nonexistent"),
            max_file_size=settings.max_file_size,
            max_threads=settings.max_threads,
            max_scan_time_s=settings.max_scan_time_s,
        )
        limits: Limits = limits_of(clamdconf.read(text))
        return Member(
            address,
            shared=False,
            signatures=signatures,
            timeouts=self._home.timeouts,
            load_limits=lambda: limits_in(conf, limits),
            changed=self._home.tell,
            limits=limits,
        )
