"""rpc/server.py and unsent.py: clients that do not read their answers cannot make the daemon hold more and more."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import trio
import trio.testing

from clamscannerd.rpc.access import Rule
from clamscannerd.rpc.table import Call, Method, table
from clamscannerd.rpc.unsent import MAX_BATCH_BYTES, MAX_BYTES, SMALL_BYTES
from tests.fakes.rpc_peer import PLAIN_UID, Place, RawClient, open_place, request

BIG = 9_000_000
"""Bytes of an answer: about 100,000 infected files."""


class Params(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    size: int


class Texts:
    """`text` answers with so many bytes; `made` are those it was asked for."""

    def __init__(self) -> None:
        self.made: list[int] = []

    async def text(self, _call: Call, params: Params) -> object:
        self.made.append(params.size)
        return "x" * params.size


@asynccontextmanager
async def texts(admins: frozenset[int] = frozenset()) -> AsyncIterator[tuple[Place, Texts]]:
    made = Texts()
    async with open_place(
        table(Method(name="text", params=Params, rule=Rule.SELF, handler=made.text)), None, admins
    ) as (place):
        yield place, made


def batch(*sizes: int) -> bytes:
    members = [{"jsonrpc": "2.0", "id": n, "method": "text", "params": [size]} for n, size in enumerate(sizes)]
    return json.dumps(members).encode() + b"\n"


def kinds(answers: list[dict[str, Any]]) -> list[str]:
    return [answer["error"]["data"]["kind"] if "error" in answer else "" for answer in answers]


def held(place: Place) -> int:
    (usage,) = place.server._usage.values()
    return usage.unsent.held_bytes


async def hoard(place: Place, number: int) -> list[RawClient]:
    """Clients that asked for a big answer each and read none."""
    hoarders = [place.connect() for _ in range(number)]
    for client in hoarders:
        await client.send(request("text", [BIG]))
    await trio.testing.wait_all_tasks_blocked(0.1)
    return hoarders


async def test_answers_that_nobody_reads_are_bounded_over_all_connections_of_a_uid() -> None:
    async with texts() as (place, _):
        hoarders = await hoard(place, 20)
        assert 3 * BIG < held(place) < MAX_BYTES
        sizes = [len((await client.line()).get("result", "")) for client in hoarders]
        assert sorted(sizes) == [0] * 17 + [BIG] * 3
        await trio.testing.wait_all_tasks_blocked(0.1)
        assert held(place) == 0
        assert await hoarders[0].kind("text", [BIG]) == ""


async def test_a_uid_with_too_much_unread_is_refused_before_anything_is_done() -> None:
    async with texts() as (place, made):
        hoarder, client = place.connect(), place.connect()
        await hoarder.send(request("text", [MAX_BYTES]))  # alone, an answer of any size passes
        await trio.testing.wait_all_tasks_blocked(0.1)
        assert await client.kind("text", [1]) == "too_many_calls"
        assert made.made == [MAX_BYTES]
        assert len((await hoarder.line())["result"]) == MAX_BYTES
        assert await client.kind("text", [1]) == ""


async def test_a_small_answer_of_a_call_that_ran_is_always_given() -> None:
    async with texts() as (place, made):
        await hoard(place, 3)
        client = place.connect()
        assert await client.kind("text", [BIG]) == "too_many_calls"
        assert await client.kind("text", [SMALL_BYTES // 2]) == ""
        assert made.made == [BIG] * 4 + [SMALL_BYTES // 2]


async def test_what_a_vanished_client_did_not_read_counts_no_more() -> None:
    async with texts() as (place, _):
        hoarders = await hoard(place, 3)
        client = place.connect()
        assert await client.kind("text", [BIG]) == "too_many_calls"
        for hoarder in hoarders:
            hoarder.stream.socket.close()
        await trio.testing.wait_all_tasks_blocked(0.1)
        assert await client.kind("text", [BIG]) == ""


async def test_a_batch_is_answered_up_to_its_limit_and_the_rest_is_not_done() -> None:
    async with texts() as (place, made):
        client = place.connect()
        small = SMALL_BYTES - 100  # with what stands around it
        await client.send(batch(BIG, *[BIG] * 9, 5, MAX_BATCH_BYTES - BIG - SMALL_BYTES, *[small] * 3))
        answers = await client.line()
        assert kinds(answers) == ["", *["too_many_calls"] * 9, "", "", "", "too_many_calls", "too_many_calls"]
        assert made.made.count(small) == 1
        assert sum(len(answer.get("result", "")) for answer in answers) <= MAX_BATCH_BYTES + SMALL_BYTES


async def test_an_administrator_is_limited_in_a_batch_only() -> None:
    async with texts(frozenset({PLAIN_UID})) as (place, _):
        hoarders = await hoard(place, 5)
        assert [len((await client.line())["result"]) for client in hoarders] == [BIG] * 5
        await hoarders[0].send(batch(BIG, BIG))
        assert kinds(await hoarders[0].line()) == ["", "too_many_calls"]
