"""The list of engines: which ones, sessions to hand out, and the life of the private one. [daemon, trio]

`open_engines` returns at once and looks for its engines in the background: READY never waits for an engine. What is
wanted is decided once, at start (contract: Starting it):

    sockets = [...]     those; somebody else starts and stops them
    sockets = "auto"    the system's clamd, if it answers, or is enabled, has signatures to start with and answers
                        within auto_wait_s; else private
    sockets = "private" our own on the system's signatures, or on the built-in test signature while there are none

The private engine is looked after: started, started again with growing pauses when it ended or hangs, and changed over
from the test signature as soon as real ones appear. A change-over ends the old process first, so no session of
the old kind outlives it, and `open_session` gives up a session whose engine was replaced while it was opened: what
`state().signatures` says right after `open_session` is true of that session.

Several engines are served in turn; `state()` is then what holds for whichever gives the next session. Nothing here
retries for a caller: `open_session` tries once, `wait_ready` and `wait_changed` wait. Rejected: a pool of idle
sessions (clamd ends them, and counts them against MaxQueue), and counting open sessions (they live in the workers).
"""

import socket
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Literal, Protocol

import msgspec
import trio

from clamscannerd.engine import clamdconf, control
from clamscannerd.engine.clamproto import Reply
from clamscannerd.engine.health import (
    EngineState,
    Limits,
    Member,
    Timeouts,
    answers,
    combined,
    limits_in,
    limits_of,
    scan_content,
    shared_limits,
)
from clamscannerd.engine.private import PrivatePaths, clamd_conf, has_signatures
from clamscannerd.errors import EngineLost, SpawnRefused
from clamscannerd.model import EngineInfo
from clamscannerd.stop import Stop

PrivateKind = Literal["signatures", "builtin"]

FIRST_PAUSE_S = 0.1  # before the second look at an engine that is not ready; doubles up to check_interval_s
FIRST_BACKOFF_S = 0.5  # before the private engine is started again; doubles
MAX_BACKOFF_S = 60.0
STABLE_S = 60.0  # ready for so long: the next end is not the same fault again
SOCKET_GRACE_S = 30.0  # from start to listening: 0.2 s with 150,000 signatures, which are read first
STOP_S = 5.0
_RANK = {"ready": 0, "loading": 1, "starting": 2, "lost": 3}


class EngineSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Plain values; names, meanings and defaults are those of config.Engine."""

    sockets: str | tuple[str, ...] = "auto"
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
    """The private engine's process, as the monitor or a unit provides it."""

    async def start(self, kind: PrivateKind) -> None:
        """Returns when the process exists. Raises SpawnRefused."""

    async def stop(self) -> None:
        """Returns when there is none (any more)."""

    def running(self) -> bool: ...
    def address(self, kind: PrivateKind) -> str: ...
    def conf(self, kind: PrivateKind) -> str | None:
        """The file that it is configured by, where that can change while we run; None: by our settings."""


class EnginesStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Since the start, but for `engines` and `ready`."""

    engines: int
    ready: int
    sessions_opened: int
    checks: int
    failures: int
    private_starts: int


class Engines:
    """What jobs see. Made by `open_engines`."""

    def __init__(self, settings: EngineSettings, stop: Stop | None = None) -> None:
        self._settings = settings
        self._stop = stop or Stop()
        self._timeouts = Timeouts(first_ping_s=settings.first_ping_timeout_s, ping_s=settings.ping_timeout_s)
        self._members: list[Member] = []
        self._changed = trio.Event()
        self._wake = trio.Event()
        self._search = trio.CancelScope()
        self._turn = 0
        self._sessions_opened = 0
        self._private_starts = 0
        self._none = EngineState(
            kind="starting",
            since=time.time(),
            steady_since=time.monotonic(),
            info=EngineInfo(),
            signatures=True,
            max_file_size=settings.max_file_size,
            max_threads=settings.max_threads,
            shared=False,
            address="",
            reason="An engine is being looked for.",
            generation="",
            read_timeout_s=0.0,
        )

    def state(self) -> EngineState:
        """What holds for whichever engine gives the next session; without a usable one, the most hopeful."""
        states = [member.state for member in self._members]
        ready = [state for state in states if state.kind == "ready"]
        if ready:
            return combined(ready)
        return min(states, key=lambda state: _RANK[state.kind], default=self._none)

    def states(self) -> tuple[EngineState, ...]:
        """Each engine by itself."""
        return tuple(member.state for member in self._members)

    def in_flight_budget(self, cores: int, configured: int) -> int:
        """Files at the engines at once, over all scans. `configured` is the operator's own number, 0 for ours.

        Ours: MaxThreads, or 4 a core where that is less; on a shared clamd two thirds of MaxThreads at most, so
        that mail is still scanned.
        """
        if configured > 0:
            return configured
        state = self.state()
        budget = min(state.max_threads, 4 * cores)
        if state.shared:
            budget = min(budget, state.max_threads * 2 // 3)
        return max(1, budget)

    async def open_session(self) -> socket.socket:
        """A session, proven responsive, from the next ready engine. Raises EngineLost. See Member.open_session."""
        ready = [member for member in self._members if member.state.kind == "ready"]
        if not ready:
            raise EngineLost(f"cannot open a session: {self.state().reason}")
        self._turn += 1
        member = ready[self._turn % len(ready)]
        try:
            sock = await member.open_session()
        except EngineLost:
            self._look_now()
            raise
        # No await from here to the caller: state() must be true of this session.
        if member not in self._members:
            sock.close()
            raise EngineLost("cannot open a session: the engine was replaced meanwhile")
        self._sessions_opened += 1
        return sock

    async def scan(self, content: bytes) -> Reply:
        """What the next ready engine says of some bytes. Raises EngineLost."""
        sock = await self.open_session()
        with sock:
            sock.setblocking(False)  # noqa: FBT003  its own name for it
            return await scan_content(sock, self.state().address, content)

    async def wait_ready(self, timeout_s: float) -> None:
        """Returns when an engine is ready. Raises EngineLost with the reason after `timeout_s`."""
        with trio.move_on_after(timeout_s):
            while self.state().kind != "ready":
                await self._changed.wait()
            return
        raise EngineLost(f"cannot use an engine: {self.state().reason}")

    async def wait_changed(self, seen: EngineState) -> EngineState:
        """The state as soon as it is another than `seen`."""
        while (state := self.state()) == seen:
            await self._changed.wait()
        return state

    async def look(self) -> EngineState:
        """The state, with all that are ready asked anew."""
        for member in [one for one in self._members if one.state.kind == "ready"]:
            await member.check()
        return self.state()

    def statistics(self) -> EnginesStatistics:
        return EnginesStatistics(
            engines=len(self._members),
            ready=sum(member.state.kind == "ready" for member in self._members),
            sessions_opened=self._sessions_opened,
            checks=sum(member.checks for member in self._members),
            failures=sum(member.failures for member in self._members),
            private_starts=self._private_starts,
        )

    def reload(self, settings: EngineSettings) -> None:
        """Other time limits hold from the next look on; where other engines are wanted they are looked for anew.

        Sessions that were handed out stay with the engine that they are of.
        """
        old, self._settings = self._settings, settings
        self._timeouts = Timeouts(first_ping_s=settings.first_ping_timeout_s, ping_s=settings.ping_timeout_s)
        for member in self._members:
            member.timeouts = self._timeouts
        auto = settings.sockets == "auto"
        if settings.sockets != old.sockets or (auto and settings.clamd_conf != old.clamd_conf):
            self._search.cancel()
        self._look_now()

    async def run(self, private: PrivateEngine | None) -> None:
        """Find the engines and look after them, for ever."""
        while True:
            with trio.CancelScope() as self._search:
                await self._run(private)
                await trio.sleep_forever()
            if isinstance(self._settings.sockets, str):
                self._members = []
                self._say_none("starting", "An engine is being looked for.")

    async def _run(self, private: PrivateEngine | None) -> None:
        sockets = self._settings.sockets
        if sockets == "auto":
            sockets = "private" if (system := await self._find_system()) is None else (system,)
        if isinstance(sockets, str):
            await self._run_private(private)
            return
        kept = {member.state.address: member for member in self._members if member.state.shared}
        self._replace([kept.get(address) or self._shared(address) for address in sockets])
        async with trio.open_nursery() as nursery:
            for member in self._members:
                if member.state.kind != "lost":
                    nursery.start_soon(self._watch, member)

    async def _find_system(self) -> str | None:
        """The system's clamd, if there is one to wait for."""
        if (path := await trio.to_thread.run_sync(control.system_socket, self._settings.clamd_conf)) is None:
            return None
        enabled = await trio.to_thread.run_sync(control.system_clamd_enabled)
        # Without signatures it does not start, however enabled it is: Debian's units wait for them.
        enabled = enabled and await self._wanted_kind() == "signatures"
        self._say_none("starting", f"The system's clamd at {path} is waited for.")
        with trio.move_on_after(self._settings.auto_wait_s):
            while True:
                try:
                    await answers(path)
                except EngineLost:
                    if not enabled:
                        return None
                else:
                    return path
                await trio.sleep(min(1.0, self._settings.check_interval_s))
        return None

    def _shared(self, address: str) -> Member:
        member = Member(
            address,
            shared=True,
            signatures=True,
            timeouts=self._timeouts,
            load_limits=lambda: shared_limits(address, self._settings.clamd_conf),
            changed=self._tell,
            limits=limits_of(clamdconf.ClamdConf(max_file_size=clamdconf.ASSUMED_MAX_FILE_BYTES)),
        )
        if not address.startswith("/"):
            member.lose(
                f"cannot use clamd at {address}: files pass through Unix sockets only, TCP is not supported yet"
            )
        return member

    async def _watch(self, member: Member) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            await member.check()
            pause_s = await self._pause(member, pause_s)

    async def _pause(self, member: Member, pause_s: float) -> float:
        """Until the next look; the pause after that."""
        interval_s = self._settings.check_interval_s
        pause_s = interval_s if member.state.kind == "ready" else min(pause_s, interval_s)
        wake = self._wake
        with trio.move_on_after(pause_s):
            await wake.wait()
        return pause_s * 2 if member.state.kind != "ready" else FIRST_PAUSE_S

    async def _run_private(self, private: PrivateEngine | None) -> None:
        if private is None:
            self._say_none("lost", "cannot use an engine: none answers, and a private one is not set up")
            return
        backoff_s = FIRST_BACKOFF_S
        kind: PrivateKind | None = None
        while True:
            wanted = await self._wanted_kind()
            if wanted != kind:
                kind, backoff_s = wanted, FIRST_BACKOFF_S
                self._replace([self._private(private, kind)])
            member = self._members[0]
            try:
                self._private_starts += 1
                await private.start(kind)
                reason = await self._watch_private(private, member, kind)
            except SpawnRefused as error:
                reason = str(error)
            finally:
                with self._stop.shield(STOP_S):
                    await private.stop()
            if not reason:
                continue
            state = member.state
            if state.kind == "ready" and time.monotonic() - state.steady_since > STABLE_S:
                backoff_s = FIRST_BACKOFF_S
            member.lose(reason)
            await trio.sleep(backoff_s)
            backoff_s = min(backoff_s * 2, MAX_BACKOFF_S)

    async def _watch_private(self, private: PrivateEngine, member: Member, kind: PrivateKind) -> str:
        """Returns why it is to be started again; "" when it is to be changed over."""
        started, pause_s = trio.current_time(), FIRST_PAUSE_S
        while True:
            await member.check()
            if not private.running():
                return "The private engine ended; its own messages, before this, say why."
            if kind == "builtin" and await self._wanted_kind() != kind:
                return ""
            late = trio.current_time() - started > SOCKET_GRACE_S
            hangs = member.state.kind == "lost" and not member.gone
            if hangs or (member.gone and late):
                return member.state.reason
            pause_s = await self._pause(member, pause_s)

    async def _wanted_kind(self) -> PrivateKind:
        names = await trio.to_thread.run_sync(control.database_names, self._settings.database)
        return "signatures" if has_signatures(names) else "builtin"

    def _private(self, private: PrivateEngine, kind: PrivateKind) -> Member:
        settings, address, conf = self._settings, private.address(kind), private.conf(kind)
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
            timeouts=self._timeouts,
            load_limits=lambda: limits if conf is None else limits_in(conf, limits),
            changed=self._tell,
            limits=limits,
        )

    def _replace(self, members: Sequence[Member]) -> None:
        self._members = list(members)
        self._tell()

    def _say_none(self, kind: Literal["starting", "lost"], reason: str) -> None:
        if kind == "starting":
            self._none = msgspec.structs.replace(self._none, since=time.time(), steady_since=time.monotonic())
        self._none = msgspec.structs.replace(self._none, kind=kind, reason=reason)
        self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    def _look_now(self) -> None:
        self._wake.set()
        self._wake = trio.Event()


@asynccontextmanager
async def open_engines(
    settings: EngineSettings, private: PrivateEngine | None, stop: Stop | None = None
) -> AsyncIterator[Engines]:
    """Engines being looked for and looked after while the block runs; the private one is stopped at its end."""
    engines = Engines(settings, stop)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(engines.run, private)
        try:
            yield engines
        finally:
            nursery.cancel_scope.cancel()
