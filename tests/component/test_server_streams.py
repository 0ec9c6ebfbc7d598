"""rpc/wire.py: what is told on a connection that does not take it at once arrives whole, before anything else."""

import msgspec
import trio

from clamscannerd.rpc.access import Rule
from clamscannerd.rpc.jsonrpc import encode_notification
from clamscannerd.rpc.table import Call, Hearer, Method, table
from tests.fakes.rpc_peer import open_place, request


class _Nothing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """No parameters."""


PAGE = 100


class _Talker:
    """Tells pages of numbered lines until one does not leave at once; then two more lines, when it is let."""

    def __init__(self) -> None:
        self.told = 0
        self.stuck = trio.Event()
        self.go_on = trio.Event()

    def _lines(self) -> bytes:
        first = self.told
        self.told += PAGE
        return b"".join(encode_notification("n", {"at": n, "pad": "x" * 100}) for n in range(first, self.told))

    async def listen(self, call: Call, _: _Nothing) -> str:
        async def run(hearer: Hearer) -> None:
            while hearer.tell(self._lines()):
                pass
            assert not hearer.tell(self._lines())
            self.stuck.set()
            await self.go_on.wait()
            await hearer.say(b"")
            await hearer.say(self._lines())
            assert hearer.tell(self._lines())
            await trio.sleep_forever()

        call.push(run)
        return "listening"

    async def ask(self, _call: Call, _: _Nothing) -> int:
        return self.told


async def test_what_was_told_in_part_goes_on_before_any_answer_and_nothing_is_lost() -> None:
    talker = _Talker()
    methods = table(
        Method(name="Talk.listen", params=_Nothing, rule=Rule.ANYONE, handler=talker.listen),
        Method(name="Talk.ask", params=_Nothing, rule=Rule.ANYONE, handler=talker.ask),
    )
    async with open_place(methods) as place:
        client = place.connect()
        assert (await client.call("Talk.listen"))["result"] == "listening"
        with trio.fail_after(20):
            await talker.stuck.wait()
        stuck_at = talker.told
        await client.send(request("Talk.ask", None, 2))
        lines = [await client.line() for _ in range(stuck_at + 1)]
        assert [one["params"]["at"] for one in lines[:-1]] == list(range(stuck_at))
        assert lines[-1] == {"jsonrpc": "2.0", "id": 2, "result": stuck_at}
        talker.go_on.set()
        rest = [(await client.line())["params"]["at"] for _ in range(2 * PAGE)]
        assert rest == list(range(stuck_at, talker.told))
