"""rpc/server.py: calls. Whatever a handler or a client does, the others are served. Limits: test_server_limits.py."""

import json
import logging
import os
import random
import socket
from typing import Any

import msgspec
import pytest
import trio

from clamscannerd.errors import InvalidParams, NotFound, Refused
from clamscannerd.rpc.access import Rule
from clamscannerd.rpc.table import Call, Method, table
from tests.fakes.jsonrpc_examples import EXAMPLES, as_printed
from tests.fakes.rpc_peer import PLAIN_UID, open_place, request


class Params(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    a: object = None
    b: object = None
    c: object = None
    d: object = None
    e: object = None


class Subtract(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    minuend: int
    subtrahend: int


async def subtract(_call: Call, params: Subtract) -> object:
    return params.minuend - params.subtrahend


async def total(_call: Call, params: Params) -> object:
    return sum(value for value in (params.a, params.b, params.c) if isinstance(value, int))


async def nothing(_call: Call, _params: Params) -> object:
    return None


async def get_data(_call: Call, _params: Params) -> object:
    return ["hello", 5]


async def whoami(call: Call, _params: Params) -> object:
    return {"uid": call.peer.uid, "user": call.user, "is_admin": call.is_admin, "connection": call.connection_id}


async def echo(_call: Call, params: Params) -> object:
    return params.a


async def fail(_call: Call, params: Params) -> object:
    match params.a:
        case "not found":
            raise NotFound("cannot find the scan: no such id", scan_id=5)
        case "refused":
            raise Refused("cannot start the scan: one is running")
        case "group":
            raise ExceptionGroup("several", [ValueError("secret")])
        case "bad text":
            raise InvalidParams("\ud800")
        case "unsendable":
            return object()
        case _:
            raise ValueError("secret")


def row(name: str, handler: Any, params: type[msgspec.Struct] = Params, rule: Rule = Rule.SELF) -> Method:
    return Method(name=name, params=params, rule=rule, handler=handler)


METHODS = table(
    row("subtract", subtract, Subtract),
    row("sum", total),
    row("update", nothing),
    row("notify_hello", nothing),
    row("notify_sum", nothing),
    row("get_data", get_data),
    row("echo", echo),
    row("fail", fail),
    row("ClamScanner.whoami", whoami),
    row("Daemon.reload", whoami, rule=Rule.ADMIN),
    row("Daemon.version", whoami, rule=Rule.ANYONE),
)


@pytest.mark.parametrize("name", EXAMPLES)
async def test_an_example_of_the_specification_is_answered_as_printed_there(name: str) -> None:
    sent, expected = EXAMPLES[name]
    async with open_place(METHODS) as place:
        client = place.connect()
        await client.send(sent.encode() + b"\n")
        await client.end()
        assert [as_printed(answer) for answer in await client.lines_to_end()] == (
            [] if expected is None else [expected]
        )


async def test_the_peer_is_the_uid_that_connected_and_each_connection_has_its_number() -> None:
    async with open_place(METHODS) as place:
        for number in (1, 2):
            answer = await place.connect().call("ClamScanner::whoami")
            assert answer["result"] == {"uid": PLAIN_UID, "user": None, "is_admin": False, "connection": number}


async def test_an_administrator_may_act_for_another_account_in_any_call() -> None:
    async with open_place(METHODS, admins=frozenset({PLAIN_UID})) as place:
        client = place.connect()
        for method in ("ClamScanner.whoami", "Daemon.reload", "Daemon.version"):
            result = (await client.call(method, {"user": "bob", "a": 1}))["result"]
            assert (result["user"], result["is_admin"]) == ("bob", True)
        assert await client.kind("ClamScanner.whoami", {"user": 5}) == "invalid_params"


async def test_others_get_one_and_the_same_answer_for_naming_any_user() -> None:
    async with open_place(METHODS) as place:
        client = place.connect()
        users: list[object] = ["root", "bob", "no-such-user", "", None, 5, {"a": []}]
        answers = [json.dumps(await client.call("ClamScanner.whoami", {"user": user, "zz": 1})) for user in users]
        assert len(set(answers)) == 1
        assert json.loads(answers[0])["error"]["data"] == {"kind": "denied"}
        assert await client.kind("Daemon.reload", {"wrong": 1}) == "denied"
        assert await client.kind("Daemon.version") == ""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
async def test_root_is_administrator() -> None:
    async with open_place(METHODS) as place:
        assert await place.connect(uid=0).kind("Daemon.reload", {"user": "bob"}) == ""


@pytest.mark.parametrize(
    ("what", "code", "data"),
    [
        ("not found", -32005, {"kind": "not_found", "scan_id": 5}),
        ("refused", -32011, {"kind": "refused"}),
    ],
)
async def test_an_error_on_purpose_is_answered_with_its_code_text_and_data(what: str, code: int, data: object) -> None:
    async with open_place(METHODS) as place:
        error = (await place.connect().call("fail", [what]))["error"]
        assert (error["code"], error["data"]) == (code, data)
        assert error["message"].startswith("cannot ")
        assert place.server.statistics().calls_refused_total == 1


@pytest.mark.parametrize("what", ["fault", "group", "bad text", "unsendable"])
async def test_a_fault_in_a_handler_is_logged_and_ends_neither_server_nor_connection(
    what: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_place(METHODS) as place:
        client = place.connect()
        answer = await client.call("fail", [what], "id")
        assert (answer["id"], answer["error"]["code"], answer["error"]["data"]) == ("id", -32603, {"kind": "internal"})
        assert "secret" not in json.dumps(answer)
        await client.send(request("fail", [what]).replace(b'"id": 1, ', b""))  # as a notification: no answer
        assert (await client.call("echo", [1]))["result"] == 1
        assert place.server.statistics().faults_total == 2
    assert [record.levelno for record in caplog.records if record.exc_info] == [logging.ERROR] * 2


async def test_one_bad_member_spoils_no_batch() -> None:
    members = [
        request("echo", ["\ud800"], 1),
        request("fail", ["fault"], 2),
        request("echo", [{"k": 1}], 3).replace(b'{"k": 1}', b'{"k":1,"k":2}'),
        request("echo", ["fine"], 4),
        b'{"jsonrpc":"2.0","id":5,"result":1}',
    ]
    async with open_place(METHODS) as place:
        client = place.connect()
        await client.send(b"[" + b",".join(member.strip() for member in members) + b"]\n")
        answers = await client.line()
        assert [answer["id"] for answer in answers] == [1, 2, 3, 4, None]
        assert [answer.get("error", {}).get("code") for answer in answers] == [-32600, -32603, -32600, None, -32600]


async def test_members_of_a_batch_are_called_one_after_the_other() -> None:
    trace: list[str] = []

    async def slow(_call: Call, params: Params) -> object:
        trace.append(f"begin {params.a}")
        await trio.lowlevel.checkpoint()
        trace.append(f"end {params.a}")
        return params.a

    async with open_place(table(row("slow", slow))) as place:
        client = place.connect()
        await client.send(b"[" + b",".join(request("slow", [n], n).strip() for n in (1, 2)) + b"]\n")
        assert [answer["result"] for answer in await client.line()] == [1, 2]
    assert trace == ["begin 1", "end 1", "begin 2", "end 2"]


async def test_a_slow_call_delays_no_other_line() -> None:
    released = trio.Event()

    async def slow(_call: Call, _params: Params) -> object:
        await released.wait()
        return "slow"

    async with open_place(table(row("slow", slow), row("echo", echo))) as place:
        client = place.connect()
        await client.send(request("slow", None, 1) + request("echo", ["quick"], 2))
        assert (await client.line())["result"] == "quick"
        released.set()
        assert (await client.line())["result"] == "slow"


async def test_what_was_asked_before_the_half_close_is_answered() -> None:
    released = trio.Event()
    begun = trio.Event()

    async def slow(_call: Call, _params: Params) -> object:
        begun.set()
        await released.wait()
        return "slow"

    async with open_place(table(row("slow", slow), row("echo", echo))) as place:
        client = place.connect()
        await client.send(request("slow") + request("echo", [2]).strip())  # the last line has no newline
        await client.end()
        await begun.wait()
        assert (await client.line())["result"] == 2
        released.set()
        assert [answer["result"] for answer in await client.lines_to_end()] == ["slow"]


async def test_a_client_that_vanishes_ends_its_own_connection_and_its_call_runs_to_its_end() -> None:
    begun, released, ended = trio.Event(), trio.Event(), trio.Event()

    async def slow(_call: Call, _params: Params) -> object:
        begun.set()
        await released.wait()
        ended.set()
        return "x" * 1_000_000

    async with open_place(table(row("slow", slow), row("echo", echo))) as place:
        client, other = place.connect(), place.connect()
        await client.send(request("slow") + b'{"half a line')
        await begun.wait()
        await client.stream.aclose()
        assert (await other.call("echo", [1]))["result"] == 1
        released.set()
        with trio.fail_after(20):
            await ended.wait()
        assert (await other.call("echo", [2]))["result"] == 2


async def test_fds_that_a_client_sends_are_closed() -> None:
    async with open_place(METHODS) as place:
        client = place.connect()
        assert (await client.call("echo", [1]))["result"] == 1
        reading, writing = os.pipe()
        before = len(os.listdir("/proc/self/fd"))
        with socket.socket(fileno=os.dup(client.stream.socket.fileno())) as raw:
            socket.send_fds(raw, [request("echo", [2])], [writing] * 50)
        os.close(writing)
        assert (await client.line())["result"] == 2
        assert len(os.listdir("/proc/self/fd")) == before - 1
        os.set_blocking(reading, False)
        assert os.read(reading, 1) == b""  # no copy of the writing end is left anywhere
        os.close(reading)


async def test_methods_can_be_replaced_under_an_open_connection() -> None:
    async with open_place(METHODS) as place:
        client = place.connect()
        assert await client.kind("new") == "unknown_method"
        place.server.methods = table(row("new", echo))
        assert await client.kind("new") == ""
        assert await client.kind("echo") == "unknown_method"


@pytest.mark.parametrize("seed", range(20))
async def test_no_rubbish_ends_the_server(seed: int) -> None:
    dice = random.Random(seed)
    pieces = [request("echo", [1]), b"\n", b"[", b"]", b"{", b'"', b"\\ud800", b",", b"\xff", b"\0", b"NaN", b"1" * 30]
    async with open_place(METHODS) as place:
        for _ in range(10):
            client = place.connect()
            await client.send(b"".join(dice.choice(pieces) for _ in range(dice.randrange(60))))
            if dice.random() < 0.5:
                await client.end()
                for answer in await client.lines_to_end():
                    assert isinstance(answer, list) or answer["jsonrpc"] == "2.0"
            await client.stream.aclose()
        assert (await place.connect().call("echo", [1]))["result"] == 1
        assert place.server.statistics().faults_total == 0
