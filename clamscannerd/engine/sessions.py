"""The list of engines: which ones there are, and sessions to hand out. [daemon, trio]

`open_engines` returns at once and looks for its engines in the background: READY never waits for an engine. What is
wanted is decided once, at start (contract: Starting it):

    sockets = [...]     those; somebody else starts and stops them
    sockets = "auto"    the system's clamd, if it answers, or is enabled, has signatures to start with and answers
                        within auto_wait_s; else private
    sockets = "private" our own on the system's signatures, or on the built-in test signature while there are none

The private engines' lives are privately.py's. `open_session` gives up a session whose engine was replaced while it was
opened: what `state().signatures` says right after `open_session` is true of that session.

Several engines are served in turn to whoever wants one session; a scan takes one with each (`usable`, `open_at`), and
its worker sends each file where the least waits. `state()` is what holds for whichever gives the next session. Nothing
here waits for a caller: `open_session` tries each engine once, `wait_ready` and `wait_changed` wait. Rejected: a pool
of idle sessions (clamd ends them, and counts them against MaxQueue), and counting open sessions (they live in the
workers).
"""

import socket
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Literal

import msgspec
import trio

from clamscannerd.engine import choice, clamdconf, control
from clamscannerd.engine.choice import combined
from clamscannerd.engine.clamproto import Reply
from clamscannerd.engine.health import (
    EngineState,
    Member,
    Timeouts,
    answers,
    limits_of,
    scan_content,
    shared_limits,
)
from clamscannerd.engine.privately import (
    FIRST_PAUSE_S,
    EngineSettings,
    PrivateEngines,
    PrivateLife,
    wanted_kind,
)
from clamscannerd.errors import EngineLost
from clamscannerd.model import EngineInfo
from clamscannerd.stop import Stop

_RANK = {"ready": 0, "loading": 1, "starting": 2, "lost": 3}


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
        self.settings = settings
        self._stop = stop or Stop()
        self.timeouts = Timeouts(first_ping_s=settings.first_ping_timeout_s, ping_s=settings.ping_timeout_s)
        self._members: list[Member] = []
        self._changed = trio.Event()
        self._wake = trio.Event()
        self._search = trio.CancelScope()
        self._turn = 0
        self._sessions_opened = 0
        self.private_starts = 0
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
        if ready := self.usable():
            return combined(ready)
        states = [member.state for member in self._members]
        return min(states, key=lambda state: _RANK[state.kind], default=self._none)

    def states(self) -> tuple[EngineState, ...]:
        """Each engine by itself."""
        return tuple(member.state for member in self._members)

    def usable(self) -> tuple[EngineState, ...]:
        """Each that gives sessions now: ready, and its signatures new enough."""
        return choice.usable(self.states(), self.settings.max_signature_lag_s, time.time())

    def in_flight_budget(self, cores: int, configured: int) -> int:
        """Files at the engines at once, over all scans. `configured` is the operator's own number, 0 for ours."""
        return configured if configured > 0 else choice.budget(self.usable() or (self.state(),), cores)

    def threads(self, address: str, cores: int) -> int:
        """Of one engine: its part of that."""
        return choice.budget([state for state in self.states() if state.address == address], cores)

    async def open_session(self) -> socket.socket:
        """A session, proven responsive, from the next usable engine that gives one. Raises EngineLost.

        See Member.open_session.
        """
        addresses = [state.address for state in self.usable()]
        self._turn += 1
        error = EngineLost(f"cannot open a session: {self.state().reason}")
        for place in range(len(addresses)):
            try:
                sock, _ = await self.open_at(addresses[(self._turn + place) % len(addresses)])
            except EngineLost as cause:
                error = cause
            else:
                return sock
        raise error

    async def open_at(self, address: str) -> tuple[socket.socket, EngineState]:
        """A session of this engine, proven responsive, and what holds for it. Raises EngineLost."""
        member = next((member for member in self._members if member.state.address == address), None)
        if member is None or member.state.kind != "ready":
            raise EngineLost(f"cannot open a session: {self.state().reason if member is None else member.state.reason}")
        try:
            sock = await member.open_session()
        except EngineLost:
            self.look_now()
            raise
        # No await from here to the caller: the state must be true of this session.
        if member not in self._members:
            sock.close()
            raise EngineLost("cannot open a session: the engine was replaced meanwhile")
        self._sessions_opened += 1
        return sock, member.state

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

    def changed(self) -> trio.Event:
        """Set at the next change of any engine's state, also of one that changes nothing for all together."""
        return self._changed

    async def look(self) -> tuple[EngineState, ...]:
        """Each engine by itself, when all that are ready were asked anew."""
        async with trio.open_nursery() as nursery:
            for member in [one for one in self._members if one.state.kind == "ready"]:
                nursery.start_soon(member.check)
        return self.states()

    def statistics(self) -> EnginesStatistics:
        return EnginesStatistics(
            engines=len(self._members),
            ready=sum(member.state.kind == "ready" for member in self._members),
            sessions_opened=self._sessions_opened,
            checks=sum(member.checks for member in self._members),
            failures=sum(member.failures for member in self._members),
            private_starts=self.private_starts,
        )

    def reload(self, settings: EngineSettings) -> None:
        """Other time limits hold from the next look on; where other engines are wanted they are looked for anew.

        Sessions that were handed out stay with the engine that they are of.
        """
        old, self.settings = self.settings, settings
        self.timeouts = Timeouts(first_ping_s=settings.first_ping_timeout_s, ping_s=settings.ping_timeout_s)
        for member in self._members:
            member.timeouts = self.timeouts
        auto = settings.sockets == "auto"
        if settings.sockets != old.sockets or (auto and settings.clamd_conf != old.clamd_conf):
            self._search.cancel()
        self.look_now()

    async def run(self, private: PrivateEngines | None) -> None:
        """Find the engines and look after them, for ever."""
        while True:
            with trio.CancelScope() as self._search:
                await self._run(private)
                await trio.sleep_forever()
            if isinstance(self.settings.sockets, str):
                self._members = []
                self._say_none("starting", "An engine is being looked for.")

    async def _run(self, private: PrivateEngines | None) -> None:
        sockets = self.settings.sockets
        if sockets == "auto":
            sockets = "private" if (system := await self._find_system()) is None else (system,)
        if isinstance(sockets, str):
            if private is None:
                self._say_none("lost", "cannot use an engine: none answers, and a private one is not set up")
                return
            await PrivateLife(self, private, self._stop).run()
        kept = {member.state.address: member for member in self._members if member.state.shared}
        self.take_over([kept.get(address) or self._shared(address) for address in sockets])
        async with trio.open_nursery() as nursery:
            for member in self._members:
                nursery.start_soon(self._watch, member)

    async def _find_system(self) -> str | None:
        """The system's clamd, if there is one to wait for."""
        path = await trio.to_thread.run_sync(control.system_socket, self.settings.clamd_conf)
        if path is None:
            return None
        enabled = await trio.to_thread.run_sync(control.system_clamd_enabled)
        # Without signatures it does not start, however enabled it is: Debian's units wait for them.
        enabled = enabled and await wanted_kind(self.settings.database) == "signatures"
        self._say_none("starting", f"The system's clamd at {path} is waited for.")
        with trio.move_on_after(self.settings.auto_wait_s):
            while True:
                try:
                    await answers(path)
                except EngineLost:
                    if not enabled:
                        return None
                else:
                    return path
                await trio.sleep(min(1.0, self.settings.check_interval_s))
        return None

    def _shared(self, address: str) -> Member:
        return Member(
            address,
            shared=True,
            signatures=True,
            timeouts=self.timeouts,
            load_limits=lambda: shared_limits(address, self.settings.clamd_conf, self.settings.confs),
            changed=self.tell,
            limits=limits_of(clamdconf.ClamdConf(max_file_size=clamdconf.ASSUMED_MAX_FILE_BYTES)),
        )

    async def _watch(self, member: Member) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            await member.check()
            pause_s = await self.pause(member, pause_s)

    async def pause(self, member: Member, pause_s: float) -> float:
        """Until the next look; the pause after that."""
        interval_s = self.settings.check_interval_s
        pause_s = interval_s if member.state.kind == "ready" else min(pause_s, interval_s)
        wake = self._wake
        with trio.move_on_after(pause_s):
            await wake.wait()
        return pause_s * 2 if member.state.kind != "ready" else FIRST_PAUSE_S

    def take_over(self, members: Sequence[Member]) -> None:
        self._members = list(members)
        self.tell()

    def _say_none(self, kind: Literal["starting", "lost"], reason: str) -> None:
        if kind == "starting":
            self._none = msgspec.structs.replace(self._none, since=time.time(), steady_since=time.monotonic())
        self._none = msgspec.structs.replace(self._none, kind=kind, reason=reason)
        self.tell()

    def tell(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    def look_now(self) -> None:
        self._wake.set()
        self._wake = trio.Event()


@asynccontextmanager
async def open_engines(
    settings: EngineSettings, private: PrivateEngines | None, stop: Stop | None = None
) -> AsyncIterator[Engines]:
    """Engines being looked for and looked after while the block runs; private ones are stopped at its end."""
    engines = Engines(settings, stop)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(engines.run, private)
        try:
            yield engines
        finally:
            nursery.cancel_scope.cancel()
