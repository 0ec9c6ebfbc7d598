"""The engines as a job sees them: a session when there is one to be had, waiting while there is none. [daemon]"""

import socket
from collections.abc import Sequence
from typing import Protocol

import trio

from clamscannerd.cache import basis
from clamscannerd.errors import EngineLost
from clamscannerd.pipeline.courtesy import Courtesy

_PAUSE_S = 0.5  # between two tries while the engine answers pings and yet gives no session


class EngineState(basis.EngineState, Protocol):
    """What jobs need of engine/sessions.EngineState: what a verdict rests on, and these."""

    @property
    def shared(self) -> bool: ...
    @property
    def address(self) -> str: ...
    @property
    def max_threads(self) -> int: ...


class Engines(Protocol):
    """What engine/sessions.py gives to jobs."""

    def state(self) -> EngineState: ...
    def states(self) -> Sequence[EngineState]: ...
    def usable(self) -> Sequence[EngineState]: ...
    def changed(self) -> trio.Event: ...
    def in_flight_budget(self, cores: int, configured: int) -> int: ...
    def threads(self, address: str, cores: int) -> int: ...
    async def open_session(self) -> socket.socket: ...
    async def scan(self, content: bytes) -> object: ...
    async def open_at(self, address: str) -> tuple[socket.socket, EngineState]: ...
    async def wait_ready(self, timeout_s: float) -> None: ...
    async def look(self) -> Sequence[EngineState]: ...


class EngineView:
    """Sessions for jobs; waits up to `wait_s` for an engine that went away."""

    def __init__(
        self, engines: Engines, *, cores: int, in_flight: int, wait_s: float, courtesy: Courtesy | None = None
    ) -> None:
        self._engines = engines
        self.courtesy = courtesy or Courtesy(0.0)
        self._cores = cores
        self.in_flight = in_flight  # replaced by a reload, as is wait_s
        self.wait_s = wait_s

    def budget(self) -> int:
        """Files at the engine over all scans, as things stand."""
        return self.courtesy.of(self._engines.in_flight_budget(self._cores, self.in_flight))

    def least(self) -> int:
        """Files at the engines of any one scan, whatever its share: one at each of ours, so that none of them that is
        busy with a huge file keeps the others from it. One, where others use them or the operator has said a number."""
        usable = self._engines.usable()
        return 1 if self.in_flight or any(state.shared for state in usable) else max(1, len(usable))

    def others_wait(self) -> bool:
        """Whether others use the engine as well, and how many files are at it is left to us."""
        return self.in_flight == 0 and self._engines.state().shared

    async def scan(self, content: bytes) -> object:
        """What the engine says of some bytes. Raises EngineLost."""
        return await self._engines.scan(content)

    def view(self) -> EngineState:
        return self._engines.state()

    def states(self) -> Sequence[EngineState]:
        """Of each engine, usable or not."""
        return self._engines.states()

    async def look(self) -> Sequence[EngineState]:
        """The same, seen afresh."""
        return await self._engines.look()

    async def session(self) -> tuple[socket.socket, EngineState]:
        """A session, now or when the engine is back, and what holds for it. Raises EngineLost after `wait_s`."""
        reason, wait_s = "no engine answered", self.wait_s
        with trio.move_on_after(wait_s):
            while True:
                try:
                    await self._engines.wait_ready(wait_s)
                    sock = await self._engines.open_session()
                    return sock, self._engines.state()  # no await between: it is this session's
                except EngineLost as error:
                    reason = str(error)
                await trio.sleep(_PAUSE_S)
        raise EngineLost(f"no engine for {wait_s:g} s: {reason}")

    def usable(self) -> Sequence[EngineState]:
        """Each engine that gives sessions now."""
        return self._engines.usable()

    def changed(self) -> trio.Event:
        """Set at the next change of any engine."""
        return self._engines.changed()

    def threads(self, state: EngineState) -> int:
        """Files that one engine works on at once for us."""
        return self._engines.threads(state.address, self._cores)

    async def open_at(self, address: str) -> tuple[socket.socket, EngineState]:
        """A session of this engine. Raises EngineLost."""
        return await self._engines.open_at(address)

    async def sessions(self, most: int, grace_s: float) -> list[tuple[socket.socket, EngineState]]:
        """One with each engine that answers within `grace_s` of the first; waits as session() does. Raises EngineLost.

        They are the caller's to close.
        """
        reason, wait_s = "no engine answered", self.wait_s
        with trio.move_on_after(wait_s):
            while True:
                try:
                    await self._engines.wait_ready(wait_s)
                except EngineLost as error:
                    reason = str(error)
                found, refused = await self._open_all(most, grace_s)
                if found:
                    return found
                reason = refused or reason
                await trio.sleep(_PAUSE_S)
        raise EngineLost(f"no engine for {wait_s:g} s: {reason}")

    async def _open_all(self, most: int, grace_s: float) -> tuple[list[tuple[socket.socket, EngineState]], str]:
        found: list[tuple[socket.socket, EngineState]] = []
        refused: list[str] = []
        try:
            async with trio.open_nursery() as nursery:

                async def open_one(address: str) -> None:
                    try:
                        found.append(await self._engines.open_at(address))
                    except EngineLost as error:
                        refused.append(str(error))
                    else:
                        nursery.cancel_scope.deadline = min(
                            nursery.cancel_scope.deadline, trio.current_time() + grace_s
                        )

                for state in self._engines.usable()[:most]:
                    nursery.start_soon(open_one, state.address)
        except BaseException:
            for sock, _ in found:
                sock.close()
            raise
        return found, "; ".join(refused)
