"""rpc/server.py and wire.py: limits and time limits. No client can hold more than its share, or the server."""

import logging
import os
import resource

import pytest
import trio
import trio.testing

from clamscannerd.rpc.server import ServerLimits
from clamscannerd.rpc.wire import LINES_AT_ONCE
from tests.fakes.gate import gated
from tests.fakes.rpc_peer import PLAIN_UID, RawClient, request

SHORT_S = 0.05
"""For time limits that a test wants to see pass."""


# Connections


async def test_a_connection_over_the_limit_of_its_uid_gets_one_line_and_is_closed() -> None:
    async with gated(ServerLimits(max_connections_per_uid=2)) as (place, _):
        kept = [place.connect(), place.connect()]
        for client in kept:
            assert await client.kind("echo") == ""
        (line,) = await place.connect().lines_to_end()
        assert (line["id"], line["error"]["code"]) == (None, -32007)
        assert line["error"]["data"] == {"kind": "too_many_connections"}
        await kept[0].end()
        assert await kept[0].lines_to_end() == []
        assert await place.connect().kind("echo") == ""
        assert place.server.statistics().connections_refused_total == 1


async def test_clients_that_read_nothing_are_refused_without_waiting() -> None:
    async with gated(ServerLimits(max_connections_per_uid=1)) as (place, _):
        first = place.connect()
        assert await first.kind("echo") == ""
        refused = [place.connect() for _ in range(50)]
        assert await first.kind("echo") == ""
        for client in refused:
            assert len(await client.lines_to_end()) == 1


async def test_administrators_have_no_limit_of_their_own_but_that_of_all() -> None:
    limits = ServerLimits(max_connections_per_uid=1, max_connections=3)
    async with gated(limits, frozenset({PLAIN_UID})) as (place, _):
        kept = [place.connect() for _ in range(3)]
        for client in kept:
            assert await client.kind("echo") == ""
        (line,) = await place.connect().lines_to_end()
        assert line["error"]["message"] == "cannot take the connection: 3 are open"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be two users")
async def test_a_uid_at_its_limits_takes_nothing_from_another() -> None:
    async with gated(ServerLimits(max_connections_per_uid=1, max_calls_per_uid=1)) as (place, gate):
        greedy, other = place.connect(uid=60_001), place.connect(uid=60_002)
        await greedy.send(request("slow"))
        await gate.wait_for(lambda: gate.begun == 1)
        assert await greedy.kind("echo") == "too_many_calls"
        assert await other.kind("echo") == ""
        assert len(await place.connect(uid=60_001).lines_to_end()) == 1


async def test_without_a_free_fd_the_server_waits_and_then_takes_the_client(caplog: pytest.LogCaptureFixture) -> None:
    warned = trio.Event()

    class Watch(logging.Handler):
        def emit(self, _record: logging.LogRecord) -> None:
            warned.set()

    watch = Watch()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with gated() as (place, _):
        before = place.connect()
        assert await before.kind("echo") == ""
        client = place.connect()
        logging.getLogger("clamscannerd.rpc.server").addHandler(watch)
        probe = os.dup(0)
        os.close(probe)
        resource.setrlimit(resource.RLIMIT_NOFILE, (probe, hard))  # no await since the connect: it is not accepted yet
        try:
            with trio.fail_after(20):
                await warned.wait()
            for _ in range(3):
                assert await before.kind("echo") == ""
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            logging.getLogger("clamscannerd.rpc.server").removeHandler(watch)
        assert await client.kind("echo") == ""
    assert len([record for record in caplog.records if "cannot accept" in record.message]) == 1


# Calls


async def test_calls_in_flight_have_a_limit_per_uid_over_all_its_connections() -> None:
    async with gated(ServerLimits(max_calls_per_uid=3)) as (place, gate):
        clients = [place.connect() for _ in range(3)]
        for client in clients:
            await client.send(request("slow"))
        await gate.wait_for(lambda: gate.begun == 3)
        assert await clients[0].kind("echo") == "too_many_calls"
        place.server.limits = ServerLimits(max_calls_per_uid=4)
        assert await clients[0].kind("echo") == ""
        gate.released.set()
        for client in clients:
            assert "result" in await client.line()


async def test_administrators_have_no_limit_of_calls() -> None:
    async with gated(ServerLimits(max_calls_per_uid=1), frozenset({PLAIN_UID})) as (place, gate):
        client = place.connect()
        await client.send(request("slow") * 3)
        await gate.wait_for(lambda: gate.begun == 3)


async def test_no_more_lines_of_a_connection_are_begun_than_the_limit() -> None:
    async with gated(ServerLimits(max_calls_per_uid=1000)) as (place, gate):
        client = place.connect()
        await client.send(b"".join(request("slow", [n], n) for n in range(40)))
        await gate.wait_for(lambda: gate.begun == LINES_AT_ONCE)
        assert await place.connect().kind("echo") == ""
        assert gate.begun == LINES_AT_ONCE
        gate.released.set()
        assert sorted([(await client.line())["id"] for _ in range(40)]) == list(range(40))


# Time


async def test_a_line_begun_must_end_in_time_however_it_drips() -> None:
    async with gated(ServerLimits(line_timeout_s=SHORT_S)) as (place, _):
        client, other = place.connect(), place.connect()
        assert await client.kind("echo") == ""
        answers = []

        async def read() -> None:
            answers.extend(await client.lines_to_end())
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            while True:
                try:
                    await client.send(b" ")
                except trio.BrokenResourceError:
                    await trio.sleep_forever()
                await trio.sleep(SHORT_S / 10)
        assert [(answer["id"], answer["error"]["data"]["kind"]) for answer in answers] == [(None, "timed_out")]
        assert await other.kind("echo") == ""


async def test_calls_in_flight_are_answered_after_the_line_that_took_too_long() -> None:
    async with gated(ServerLimits(line_timeout_s=SHORT_S)) as (place, gate):
        client = place.connect()
        await client.send(request("slow", ["late"]) + b"{")
        assert (await client.line())["error"]["data"] == {"kind": "timed_out"}
        gate.released.set()
        assert [answer["result"] for answer in await client.lines_to_end()] == ["late"]


async def test_an_idle_connection_is_closed_with_a_line() -> None:
    async with gated(ServerLimits(idle_timeout_s=SHORT_S)) as (place, _):
        client = place.connect()
        assert await client.kind("echo") == ""
        (line,) = await client.lines_to_end()
        assert line["error"]["data"] == {"kind": "timed_out"}
        assert "nothing was asked for 0.05 s" in line["error"]["message"]


async def test_a_client_that_asks_again_and_again_is_not_idle() -> None:
    async with gated(ServerLimits(idle_timeout_s=SHORT_S)) as (place, _):
        client, idler = place.connect(), place.connect()
        assert await idler.kind("echo") == ""
        for _ in range(3):
            begin = trio.current_time()
            while trio.current_time() < begin + SHORT_S:
                assert await client.kind("echo") == ""
        assert len(await idler.lines_to_end()) == 1
        assert len(await client.lines_to_end()) == 1


async def test_a_connection_with_a_call_in_flight_is_not_idle_until_it_is_answered() -> None:
    async with gated(ServerLimits(idle_timeout_s=SHORT_S)) as (place, gate):
        client, idler = place.connect(), place.connect()
        await client.send(request("slow", [1]))
        await gate.wait_for(lambda: gate.begun == 1)
        for _ in range(2):  # time enough for the other's limit, twice
            assert len(await idler.lines_to_end()) == 1
            idler = place.connect()
        gate.released.set()
        first, second = await client.lines_to_end()
        assert first["result"] == 1
        assert second["error"]["data"] == {"kind": "timed_out"}


async def test_a_client_that_does_not_read_is_let_go_and_delays_nobody() -> None:
    async with gated(ServerLimits(write_timeout_s=SHORT_S)) as (place, _):
        client, other = place.connect(), place.connect()
        await client.send(request("big") * 5)
        assert await other.kind("echo") == ""
        with trio.fail_after(20):
            while place.server.statistics().connections == 2:
                assert await other.kind("echo") == ""


async def test_an_answer_of_any_size_arrives_whole() -> None:
    async with gated() as (place, _):
        assert len((await place.connect().call("big"))["result"]) == 8_000_000


# Size


async def test_a_line_over_the_limit_is_answered_though_the_client_still_writes() -> None:
    async with gated() as (place, _):
        client = place.connect()
        answers = []

        async def read() -> None:
            answers.extend(await client.lines_to_end())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await client.send(request("echo", [1]) + b"x" * 8_000_000)
        assert sorted(answer.get("error", {}).get("code", 0) for answer in answers) == [-32008, 0]


async def test_a_line_of_the_longest_length_is_answered() -> None:
    async with gated(ServerLimits(max_message_bytes=1 << 20)) as (place, _):
        client = place.connect()
        text = "x" * ((1 << 20) + 1 - len(request("echo", [""])))  # the newline does not count
        line = request("echo", [text])
        await client.send(line)
        assert (await client.line())["result"] == text


@pytest.mark.parametrize(
    "line",
    [
        b"[" * 1_000_000,
        b"[" + b"[]," * 300_000 + b"[]]",
        b'{"a":["' + b'","' * 300_000 + b'"]}',
        b'{"a":[' + b"1," * 500_000 + b"1]}",
    ],
    ids=["deep", "many", "strings", "numbers"],
)
async def test_hostile_lines_of_many_connections_leave_others_served(line: bytes) -> None:
    async def attack(client: RawClient) -> None:
        await client.send(line + b"\n")
        assert (await client.line())["error"]["code"] == -32600

    async with gated() as (place, _):
        other = place.connect()
        async with trio.open_nursery() as nursery:
            for client in [place.connect() for _ in range(8)]:
                nursery.start_soon(attack, client)
            for _ in range(5):
                assert await other.kind("echo") == ""
        assert place.server.statistics().faults_total == 0
