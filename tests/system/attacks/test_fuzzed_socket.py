"""A10: whatever comes over the socket, each request with an id is answered once, and the daemon stays what it was.

Two kinds of input. Hypothesis makes messages up: of the right words in any order, of any JSON, of any bytes, alone and
in batches. And what real clients sent is recorded and changed at random. Many go over one connection, one behind the
other, without waiting; then the client shuts down its side and reads to the end. What must have come is worked out by
a second reading of the specification (tests/fakes/answering.py).
"""

import json
import os
import select
import socket
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from threading import Lock
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.fakes import answering
from tests.fakes.accounts import Person, throw_away
from tests.fakes.aftermath import Processes
from tests.fakes.crowd import memory_kb
from tests.fakes.recordings import Changer, record, words
from tests.fakes.restoring import put
from tests.fakes.running import RunningDaemon
from tests.rows import Amount, Figure

MOST_KB = 200 << 10
TALK_S = 120.0
LINES_A_TALK = 250
MADE_UP_A_TALK = 25
AT_ONCE = 4
"""Three connections of the account and one of root: sixteen lines of each are under way, which is within the limit."""

_CONNECTING = Lock()
"""Threads of one process share its ids."""


@pytest.fixture(scope="module")
def anna() -> Iterator[Person]:
    with throw_away("fuzz_a") as person:
        yield person


@pytest.fixture(scope="module")
def daemon() -> Iterator[RunningDaemon]:
    # Lines of a megabyte take up to 30 ms to read, and then their uid has to wait as long (rpc/wire.py).
    with RunningDaemon(config="[server]\nline_timeout_s = 60\n", timed=False) as running:
        yield running


def talk(daemon: RunningDaemon, uid: int, data: bytes) -> bytes:
    """All of it, and all that comes back."""
    heard, rest = bytearray(), memoryview(data)
    with _CONNECTING:
        client = daemon.client(uid)
    with client:
        sock = client.sock
        sock.setblocking(False)
        while True:
            readable, writable, _ = select.select([sock], [sock] if rest else [], [], TALK_S)
            assert readable or writable, f"nothing for {TALK_S:g} s, after {len(heard)} bytes"
            if readable:
                chunk = sock.recv(1 << 18)
                if not chunk:
                    return bytes(heard)
                heard += chunk
            if writable and rest:
                rest = rest[sock.send(rest) :]
                if not rest:
                    sock.shutdown(socket.SHUT_WR)


def check(daemon: RunningDaemon, uid: int, inputs: Sequence[bytes]) -> None:
    lines = b"\n".join(inputs).split(b"\n")
    # A line over the limit is answered, and then the connection is closed: so it is the last.
    too_long = next((at for at, line in enumerate(lines) if len(line) > answering.MAX_LINE_BYTES), len(lines))
    data = b"\n".join(lines[: too_long + 1])
    wants = [answering.wanted(line) for line in lines[: too_long + 1]]
    *answers, end = talk(daemon, uid, data).split(b"\n")
    assert end == b"", "the last answer was cut off"
    assert len(answers) == sum(want is not None for want in wants), "not one line of answer for each that asks"
    answering.check(wants, answers)


def json_values() -> st.SearchStrategy[Any]:
    plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
    return st.recursive(
        plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner), max_leaves=5
    )


def inputs_of(known: list[str]) -> st.SearchStrategy[bytes]:
    """Lines: nearly lawful ones mostly."""
    names = st.sampled_from(known) | st.text(max_size=10)
    values = json_values()
    ids = st.integers(-(2**64), 2**64) | st.text(max_size=5) | st.none() | values
    params = st.dictionaries(names, values, max_size=3) | st.lists(values, max_size=3) | values
    must = {"jsonrpc": st.just("2.0"), "method": names}
    lawful = st.fixed_dictionaries(must, optional={"id": ids, "params": params})
    odd = st.fixed_dictionaries({}, optional={**must, "id": ids, "params": params, "result": values, "error": values})
    message = lawful | lawful | odd | values
    text = st.builds(
        lambda value, escaped: json.dumps(value, ensure_ascii=escaped),
        message | st.lists(message, max_size=4),
        st.booleans(),
    )
    return text.map(lambda said: said.encode("utf-8", "surrogatepass")) | st.binary(max_size=40)


def make_up(daemon: RunningDaemon, uids: Sequence[int], known: list[str], talks: int) -> int:
    """How many inputs it were."""
    count = 0

    @settings(
        max_examples=talks,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    @given(
        inputs=st.lists(inputs_of(known), min_size=MADE_UP_A_TALK, max_size=MADE_UP_A_TALK), uid=st.sampled_from(uids)
    )
    def one(inputs: list[bytes], uid: int) -> None:
        nonlocal count
        check(daemon, uid, inputs)
        count += len(inputs)

    one()
    return count


def change(daemon: RunningDaemon, uid: int, lines: Sequence[bytes], seed: int, talks: int) -> int:
    """How many inputs it were."""
    changer = Changer(lines, seed)
    for number in range(talks):
        inputs = list(islice(iter(changer.next, None), LINES_A_TALK))
        try:
            check(daemon, uid, inputs)
        except AssertionError as error:
            raise AssertionError(f"talk {number} of seed {seed}, uid {uid}: {error}") from error
    return talks * LINES_A_TALK


@pytest.mark.row("A10")
@pytest.mark.fails_with("id-of-null-taken-for-none", "bad-text-ends-the-connection", "answers-of-a-batch-lost")
def test_each_request_with_an_id_is_answered_once_whatever_comes(
    daemon: RunningDaemon, anna: Person, amount: Amount, figure: Figure
) -> None:
    before = Processes(daemon)
    lines = record(daemon, anna)
    examples = amount(quick=25, long=2_000)
    made_up = make_up(daemon, [anna.uid, 0], words(lines), examples)
    wanted = amount(quick=8_000, long=1_000_000) - made_up
    talks = -(-wanted // LINES_A_TALK)
    shares = {anna.uid: [talks * 3 // 10 + 1] * 3, 0: [talks // 10 + 1]}
    with ThreadPoolExecutor(AT_ONCE) as pool:
        runs = [
            pool.submit(change, daemon, uid, lines, int.from_bytes(os.urandom(4)), share)
            for uid, own in shares.items()
            for share in own
        ]
        changed = sum(run.result() for run in runs)
    assert made_up >= examples * MADE_UP_A_TALK
    assert changed >= wanted
    peak = memory_kb(daemon.pid, "VmHWM")
    assert peak < MOST_KB
    assert daemon.process is not None
    assert daemon.process.poll() is None
    assert Processes(daemon).monitor == before.monitor
    assert "Traceback" not in daemon.log()
    assert_works(daemon, anna)
    figure(f"{made_up + changed:,} inputs, {made_up:,} of them made up; memory {peak >> 10} MB at most")


def assert_works(daemon: RunningDaemon, person: Person) -> None:
    """A scan and a disinfection as before."""
    with daemon.client(person.uid) as client:
        client.wait_scan()
        client.wait_disinfection()
        bad = put(person, "at the end")
        client.scan()
        assert client.disinfect({str(bad): "quarantine"})[-1]["state"] == "success"
        assert not bad.exists()
