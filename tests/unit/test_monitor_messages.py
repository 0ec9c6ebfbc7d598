"""orders.py: what the monitor reads is exactly what was written, and everything else is MalformedMessage."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clamscannerd import orders
from clamscannerd.orders import Engine, MalformedMessage, Message, Setup, decode, decode_setup, refusal

U64 = st.integers(0, 2**64 - 1)
I64 = st.integers(-(2**63), 2**63 - 1)
U32 = st.integers(0, 2**32 - 1)
TEXT = st.binary(min_size=1, max_size=orders.MAX_TEXT_BYTES).filter(lambda text: b"\0" not in text)
WORDS = st.lists(st.binary(max_size=200), min_size=1, max_size=6).map(tuple)
EMPTY = st.just(b"")
ALL_VERBS = orders.TO_MONITOR + orders.TO_DAEMON

messages = st.one_of(
    st.builds(Message, st.just(orders.SPAWN), st.integers(len(orders.ENGINE_JOBS), 2**64 - 1), I64, TEXT),
    st.builds(Message, st.just(orders.REFUSED), U64, I64, TEXT),
    st.builds(Message, st.sampled_from([orders.KILL, orders.PING, orders.STARTED, orders.EXITED]), U64, I64, EMPTY),
    st.builds(
        Message,
        st.sampled_from([orders.ENGINE_START, orders.ENGINE_STOP]),
        st.sampled_from(orders.ENGINE_JOBS),
        I64,
        EMPTY,
    ),
)
PLACES = st.lists(st.tuples(st.binary(max_size=100), WORDS), min_size=1, max_size=len(orders.ENGINE_JOBS))
engines = st.builds(
    lambda uid, gid, nice, places: Engine(uid, gid, nice, *(tuple(column) for column in zip(*places, strict=True))),
    *(U32, U32, st.integers(0, 19), PLACES),
)
NICE, IO_PRIORITY, POLICY = st.integers(0, 19), st.integers(0, 2**15), st.integers(0, 5)
NUMBERS = U32, U32, U32, NICE, IO_PRIORITY, POLICY, U32
setups = st.builds(Setup, st.booleans(), *NUMBERS, WORDS, st.one_of(st.none(), engines))
PYTHON = (b"/usr/bin/python3", b"-I")
SETUP = Setup(
    True, 990, 990, 1000, 10, 3 << 13, 3, 3600, PYTHON, Engine(991, 991, 10, (b"/t/0", b""), ((b"a",), (b"b",)))
)
OWN = SETUP._replace(system=False, uid=1001)


@given(messages)
def test_a_message_is_read_as_it_was_written(message: Message) -> None:
    assert decode(message.encode(), ALL_VERBS) == message


@given(setups)
def test_setup_is_read_as_it_was_written(setup: Setup) -> None:
    assert decode_setup(setup.encode()) == setup


@given(st.binary(max_size=400))
def test_any_bytes_are_a_message_or_malformed(data: bytes) -> None:
    try:
        message = decode(data, orders.TO_MONITOR)
    except MalformedMessage:
        return
    assert message.encode() == data


@given(st.binary(max_size=400), st.booleans())
def test_any_bytes_are_a_setup_or_malformed(data: bytes, headed: bool) -> None:
    if headed:
        data = SETUP.encode()[:30] + data
    try:
        setup = decode_setup(data)
    except MalformedMessage:
        return
    assert setup.worker


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\2",
        Message(orders.SPAWN, 9, 1000, b"alice").encode()[:-6],
        Message(orders.SPAWN, 9, 1000).encode(),
        Message(orders.SPAWN, 9, 1000, b"al\0ice").encode(),
        Message(orders.SPAWN, 9, 1000, b"a" * 256).encode(),
        Message(orders.SPAWN, orders.MAX_ENGINES, 1000, b"alice").encode(),
        Message(orders.KILL, 1, 0, b"more").encode(),
        Message(orders.ENGINE_START, 9).encode(),
        Message(orders.ENGINE_STOP, 9).encode(),
        Message(orders.STARTED, 1, 2).encode(),
        Message(orders.SETUP, 1, 2).encode(),
        Message(99, 1, 2).encode(),
        Message(0, 0).encode(),
    ],
)
def test_what_a_correct_daemon_never_sends_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedMessage):
        decode(data, orders.TO_MONITOR)


def test_a_setup_cut_at_any_byte_is_malformed() -> None:
    whole = SETUP.encode()
    for end in range(len(whole)):
        with pytest.raises(MalformedMessage):
            decode_setup(whole[:end])


@pytest.mark.parametrize(
    "engine",
    [
        Engine(991, 991, 10, (), ()),
        Engine(991, 991, 10, (b"/t",), ((b"a",), (b"b",))),
        Engine(991, 991, 10, (b"/t",) * 10, ((b"a",),) * 10),
    ],
)
def test_a_setup_with_other_engines_than_places_or_too_many_is_malformed(engine: Engine) -> None:
    with pytest.raises(MalformedMessage):
        decode_setup(SETUP._replace(engine=engine).encode())


@pytest.mark.parametrize("uid", [0, 65534, 2**32 - 1, -1, 2**32, 2**32 + 1000, 999])
def test_the_monitor_refuses_on_its_own(uid: int) -> None:
    assert refusal(SETUP, uid)


@pytest.mark.parametrize("uid", [0, 65534, 2**32 - 1, -1, 1000, 1002])
def test_a_users_monitor_serves_that_user_alone(uid: int) -> None:
    assert refusal(OWN, uid)


def test_accounts_are_not_refused() -> None:
    assert refusal(SETUP, 1000) == ""
    assert refusal(SETUP, 65533) == ""
    assert refusal(OWN, 1001) == ""


def test_nobody_is_refused_even_where_the_lowest_uid_is_one() -> None:
    assert refusal(SETUP._replace(min_uid=0), 0)
    assert refusal(SETUP._replace(min_uid=0), 65534)
