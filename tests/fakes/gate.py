"""A server whose calls wait for the test's word: rpc/server.py with handlers that can be held."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import msgspec
import trio

from clamscannerd.rpc.access import Rule
from clamscannerd.rpc.server import ServerLimits
from clamscannerd.rpc.table import Call, Method, table
from tests.fakes.rpc_peer import Place, open_place


class Params(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    a: object = None


class Gate:
    """Handlers that wait until the test lets them go."""

    def __init__(self) -> None:
        self.begun = 0
        self.ended = 0
        self.cancelled = 0
        self.released = trio.Event()
        self._changed = trio.Event()

    async def slow(self, _call: Call, params: Params) -> object:
        self.begun += 1
        self._changed.set()
        try:
            await self.released.wait()
        except trio.Cancelled:
            self.cancelled += 1
            raise
        self.ended += 1
        self._changed.set()
        return params.a

    async def wait_for(self, condition: Callable[[], bool]) -> None:
        with trio.fail_after(20):
            while not condition():
                await self._changed.wait()
                self._changed = trio.Event()


async def echo(_call: Call, params: Params) -> object:
    return params.a


async def big(_call: Call, params: Params) -> object:
    return "x" * 8_000_000 if params.a is None else None


@asynccontextmanager
async def gated(
    limits: ServerLimits | None = None, admins: frozenset[int] = frozenset(), *, grace_s: float = 5.0
) -> AsyncIterator[tuple[Place, Gate]]:
    gate = Gate()
    rows = {"slow": gate.slow, "echo": echo, "big": big}
    methods = table(*(Method(name=n, params=Params, rule=Rule.SELF, handler=h) for n, h in rows.items()))
    async with open_place(methods, limits, admins, grace_s=grace_s) as place:
        try:
            yield place, gate
        finally:
            gate.released.set()
