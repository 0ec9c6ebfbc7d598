"""rpc/server.py and wire.py: the end, for who asked, who did not, and who does not read; and refusing everything."""

import os
import socket
from typing import Any

import pytest
import trio
import trio.testing

from clamscannerd.errors import ConfigError
from clamscannerd.rpc.access import Rule
from clamscannerd.rpc.server import Server, ServerLimits
from clamscannerd.rpc.table import Method, table
from tests.fakes.gate import Params, echo, gated
from tests.fakes.rpc_peer import ANSWER_TIMEOUT_S, RawClient, request

SHORT_S = 0.05
"""For time limits that a test wants to see pass."""


@pytest.mark.parametrize("how", ["stop", "cancel"])
async def test_at_the_end_calls_in_flight_are_answered_and_new_ones_refused(how: str) -> None:
    async with gated() as (place, gate):
        client, idle = place.connect(), place.connect()
        await client.send(request("slow", ["in flight"], 1))
        await gate.wait_for(lambda: gate.begun == 1)
        assert await idle.kind("echo") == ""
        if how == "stop":
            place.server.stop()
        else:
            place.nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            with trio.fail_after(ANSWER_TIMEOUT_S):
                while await idle.kind("echo") != "shutting_down":  # the server hears of a cancellation a moment later
                    assert how == "cancel"
            gate.released.set()
            answer, *farewell = await client.lines_to_end()
            assert answer["result"] == "in flight"
            assert kinds(farewell) == kinds(await idle.lines_to_end()) == ["shutting_down"]


def kinds(answers: list[Any]) -> list[str]:
    return [answer["error"]["data"]["kind"] for answer in answers if answer["id"] is None]


async def test_a_call_that_outlasts_the_grace_is_cancelled() -> None:
    async with gated(grace_s=SHORT_S) as (place, gate):
        client = place.connect()
        await client.send(request("slow"))
        await gate.wait_for(lambda: gate.begun == 1)
        place.server.stop()
        assert kinds(await client.lines_to_end()) == ["shutting_down"]
        assert (gate.cancelled, gate.ended) == (1, 0)


async def test_without_calls_in_flight_the_end_is_at_once() -> None:
    async with gated(grace_s=1000) as (place, _):
        clients = [place.connect() for _ in range(3)]
        for client in clients:
            assert await client.kind("echo") == ""
        await clients[0].send(b"{")
        place.server.stop()
        for client in clients:
            assert kinds(await client.lines_to_end()) == ["shutting_down"], "also who asked nothing, or half of it"


async def test_a_client_that_reads_nothing_does_not_hold_up_the_end_and_gets_no_line_into_its_answer() -> None:
    async with gated(grace_s=SHORT_S) as (place, _):
        client = place.connect()
        await client.send(request("big"))
        await trio.testing.wait_all_tasks_blocked(SHORT_S)
        place.server.stop()
        with trio.fail_after(20):
            while place.server.statistics().connections:
                await trio.lowlevel.checkpoint()
        received = b"".join([chunk async for chunk in client.stream])
        assert b"shutting_down" not in received
        assert 0 < len(received) < 8_000_000


async def test_what_is_refused_altogether_is_refused_whatever_is_asked() -> None:
    """But for what stands in the table."""
    async with gated() as (place, _):
        client = place.connect()
        place.server.refusal = ConfigError("cannot take the call: c.toml: scans.nice: expected 0 to 19")
        place.server.methods = {"echo": place.server.methods["echo"]}
        for name in ("slow", "ClamScanner.start_scan", "ClamScanner::start_scan", "no such method"):
            assert await client.kind(name) == "misconfigured"
        assert await client.kind("echo") == ""


async def test_a_socket_that_does_not_listen_ends_the_server_with_its_error() -> None:
    server = Server({}, limits=ServerLimits(), admins=frozenset)
    with trio.socket.socket(socket.AF_UNIX) as sock, pytest.raises(ExceptionGroup) as caught:
        await server.serve([sock])
    assert caught.group_contains(OSError, match="Invalid argument")


async def test_a_listener_of_trio_is_served_like_a_bare_socket() -> None:
    path = "\0clamscannerd-test-" + os.urandom(8).hex()
    methods = table(Method(name="echo", params=Params, rule=Rule.SELF, handler=echo))
    server = Server(methods, limits=ServerLimits(), admins=frozenset)
    with trio.socket.socket(socket.AF_UNIX) as sock:
        await sock.bind(path)
        sock.listen()
        async with trio.open_nursery() as nursery:
            await nursery.start(server.serve, [trio.SocketListener(sock)])
            raw = socket.socket(socket.AF_UNIX)
            raw.connect(path)
            client = RawClient(raw)
            assert await client.kind("echo") == ""
            await client.stream.aclose()
            server.stop()


async def test_a_cancellation_before_the_start_ends_the_server() -> None:
    with trio.move_on_after(20) as limit, trio.CancelScope() as scope:
        scope.cancel()
        async with gated():
            pass
    assert not limit.cancelled_caught
