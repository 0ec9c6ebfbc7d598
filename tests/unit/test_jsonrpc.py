"""rpc/jsonrpc.py and strictjson.py: any bytes, cut anywhere, give the same events; nothing unlawful gets through."""

import itertools
import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from clamscannerd.errors import LocalProtocolError
from clamscannerd.rpc.jsonrpc import (
    Batch,
    Connection,
    ErrorResponse,
    Event,
    Invalid,
    Limits,
    Notification,
    Request,
    Response,
    TooLarge,
    encode_batch,
    encode_error,
    encode_notification,
    encode_request,
    encode_response,
)
from tests.fakes.jsonrpc_examples import EXAMPLES

SMALL = Limits(max_message_bytes=200, max_batch=3, max_depth=4, max_containers=8)
CALL = b'{"jsonrpc":"2.0","id":1,"method":"m"}'


def events_of(*chunks: bytes, limits: Limits = SMALL, eof: bool = True) -> list[Event]:
    connection = Connection(limits=limits)
    events = [event for chunk in chunks for event in connection.receive_data(chunk)]
    return events + (connection.receive_eof() if eof else [])


def one(line: bytes, limits: Limits = SMALL) -> Event:
    (event,) = events_of(line + b"\n", limits=limits)
    return event


def refused(line: bytes, code: int, cause: str, *, request_id: object = None, limits: Limits = SMALL) -> None:
    event = one(line, limits)
    assert isinstance(event, Invalid), event
    assert (event.id, event.error.code) == (request_id, code)
    assert cause in str(event.error.message)


def with_params(params: bytes) -> bytes:
    return b'{"jsonrpc":"2.0","id":7,"method":"m","params":' + params + b"}"


# The specification's examples. tests/component/test_server.py compares the answers.


def kinds(event: Event) -> str:
    return "".join(kinds(member) for member in event.members) if isinstance(event, Batch) else type(event).__name__[0]


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_of_the_specification_is_one_event_of_the_right_kind(name: str) -> None:
    sent, expected = EXAMPLES[name]
    wanted = {
        "a notification": "N",
        "a notification of nothing known": "N",
        "batch": "RNRIRR",
        "batch of notifications": "NN",
        "invalid batch": "III",
    }.get(name)
    if wanted is None:
        answer = expected[0] if isinstance(expected, list) else expected
        assert isinstance(answer, dict)
        wanted = "I" if answer["id"] is None else "R"
    assert kinds(one(sent.encode(), Limits())) == wanted


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_answer_of_the_specification_is_read_by_the_other_end(name: str) -> None:
    expected = EXAMPLES[name][1]
    if expected is None:
        return
    answers: list[Any] = expected if isinstance(expected, list) else [expected]
    event = one(json.dumps(expected).encode(), Limits())
    members = event.members if isinstance(event, Batch) else (event,)
    assert [type(member) for member in members] == [
        ErrorResponse if "error" in answer else Response for answer in answers
    ]


# Requests, notifications, ids


@pytest.mark.parametrize("request_id", [0, 1, -1, 2**63 - 1, -(2**63), "", "x", "ü€😀", None])
def test_ids_are_strings_integers_and_null(request_id: object) -> None:
    line = json.dumps({"jsonrpc": "2.0", "id": request_id, "method": "m"}).encode()
    assert one(line) == Request(id=request_id, method="m")  # type: ignore[arg-type]


@pytest.mark.parametrize("request_id", [b"1.5", b"1.0", b"true", b"[]", b"{}", b"1e2"])
def test_another_id_is_refused(request_id: bytes) -> None:
    refused(b'{"jsonrpc":"2.0","id":' + request_id + b',"method":"m"}', -32600, '"id" must be')


@pytest.mark.parametrize("params", [b"[]", b"{}", b'[1,"a",null]', b'{"a":{"b":[1.5,true]}}'])
def test_parameters_are_an_object_or_an_array(params: bytes) -> None:
    assert one(with_params(params)) == Request(id=7, method="m", params=json.loads(params))


@pytest.mark.parametrize("params", [b"null", b"1", b'"a"', b"true"])
def test_other_parameters_are_refused(params: bytes) -> None:
    refused(with_params(params), -32600, '"params" must be', request_id=7)


@pytest.mark.parametrize(
    ("line", "cause", "request_id"),
    [
        (b'{"id":7,"method":"m"}', '"jsonrpc"', 7),
        (b'{"jsonrpc":2.0,"id":7,"method":"m"}', '"jsonrpc"', 7),
        (b'{"jsonrpc":"1.0","id":7,"method":"m"}', '"jsonrpc"', 7),
        (b'{"jsonrpc":"2.0","id":7}', "there must be", 7),
        (b'{"jsonrpc":"2.0","id":7,"method":null}', '"method" must be', 7),
        (b'{"jsonrpc":"2.0","Id":7,"method":"m"}', "unknown member 'Id'", None),
        (b'{"jsonrpc":"2.0","id":7,"method":"m","result":1}', "unknown member 'result'", 7),
        (b'{"jsonrpc":"2.0","id":7,"result":1,"error":{}}', "there must be", 7),
        (b'{"jsonrpc":"2.0","result":1}', '"id" is missing', None),
        (b'{"jsonrpc":"2.0","id":7,"error":{"code":"x","message":""}}', '"error" is wrong', 7),
        (b'{"jsonrpc":"2.0","id":7,"error":5}', '"error" is wrong', 7),
        (b'"text"', "a message is an object", None),
        (b"0", "a message is an object", None),
    ],
)
def test_an_envelope_against_the_specification_is_refused(line: bytes, cause: str, request_id: object) -> None:
    refused(line, -32600, cause, request_id=request_id)


# JSON


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b"}",
        b"]",
        b"]" * 100,
        b"{]",
        b"[[1}",
        b"nul",
        b"01",
        b"+1",
        b".5",
        b"1.",
        b"'a'",
        b'"a',
        b'"\\',
        b'"\t"',
        b'"\\x41"',
        b'"\\u12g4"',
        b"[1,]",
        b"[1 2]",
        b"[1]]",
        b"[1] x",
        b"[,1]",
        b'{"a":1,}',
        b'{"a"}',
        b"{a:1}",
        b"// x",
        b"\xef\xbb\xbf{}",
        b"\0",
        b"{} {}",
        CALL + CALL,
    ],
)
def test_what_is_no_json_is_a_parse_error(line: bytes) -> None:
    refused(line, -32700, "Parse error: ")


@pytest.mark.parametrize("word", [b"NaN", b"Infinity", b"-Infinity"])
def test_numbers_that_are_none_are_a_parse_error(word: bytes) -> None:
    refused(with_params(b"[" + word + b"]"), -32700, "is no JSON value")


@pytest.mark.parametrize("raw", [b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xc0\xaf"])
def test_broken_utf8_is_a_parse_error(raw: bytes) -> None:
    refused(with_params(b'["' + raw + b'"]'), -32700, "no UTF-8 at byte")


@pytest.mark.parametrize(
    ("params", "cause"),
    [
        (b'{"a":1,"a":1}', "duplicate key 'a'"),
        (b'[{"b":{"a":1,"\\u0061":2}}]', "duplicate key 'a'"),
        (b"[9223372036854775808]", "the integer '9223372036854775808' does not fit"),
        (b"[-9223372036854775809]", "does not fit"),
        (b"[" + b"9" * 100 + b"]", "does not fit"),
        (b"[1e999]", "the number '1e999' is out of range"),
        (b"[-1e999]", "out of range"),
        (b'["\\ud800"]', "a lone surrogate"),
        (b'["\\udc00\\ud800"]', "a lone surrogate"),
        (b'{"\\uD800x":1}', "a lone surrogate"),
    ],
)
def test_json_that_readers_disagree_on_is_refused_and_the_id_still_told(params: bytes, cause: str) -> None:
    refused(with_params(params), -32600, cause, request_id=7)


@pytest.mark.parametrize(
    "line",
    [
        b'{"jsonrpc":"2.0","id":1,"id":1,"method":"m"}',
        b'{"jsonrpc":"2.0","id":99999999999999999999,"method":"m"}',
        b'{"jsonrpc":"2.0","id":"\\ud800","method":"m"}',
    ],
)
def test_an_id_that_is_in_doubt_is_not_told(line: bytes) -> None:
    refused(line, -32600, "Invalid Request: ")


def test_surrogate_pairs_and_every_other_escape_are_text() -> None:
    event = one(with_params(rb'["\ud83d\ude00\u0000\n\"\\ud800\/"]'))
    assert event == Request(id=7, method="m", params=['😀\0\n"\\ud800/'])


# Limits


@pytest.mark.parametrize("brackets", [(b"[", b"]"), (b'{"a":', b"}")])
def test_depth_has_a_limit(brackets: tuple[bytes, bytes]) -> None:
    opening, closing = brackets
    inner = (opening * 3).removesuffix(b'"a":') + closing * 3
    assert isinstance(one(with_params(inner)), Request)
    refused(with_params(opening + inner + closing), -32600, "nested deeper than 4 levels")


def test_brackets_in_strings_are_no_depth() -> None:
    text = b'["' + b'[{\\"\\\\' * 9 + b'"]'
    assert isinstance(one(with_params(text)), Request)


@pytest.mark.parametrize("line", [b"[" * 100_000, b'{"a":' * 100_000, b"[" * 50_000 + b"]" * 50_000])
def test_the_deepest_nesting_kills_nothing(line: bytes) -> None:
    refused(line, -32600, "", limits=Limits())
    refused(line, -32600, "", limits=Limits(max_depth=10**9, max_containers=10**9))


def test_containers_have_a_limit() -> None:
    assert isinstance(one(with_params(b"[[],[],[],[],[],[]]")), Request)
    refused(with_params(b"[[],[],[],[],[],[],[],{}]"), -32600, "more than 8 objects and arrays")


def test_a_batch_has_a_limit() -> None:
    assert isinstance(one(b"[1,1,1]"), Batch)
    refused(b"[1,1,1,1]", -32600, "more than 3 messages")


def test_a_line_of_the_longest_length_is_taken_and_a_byte_more_ends_it_all() -> None:
    longest = CALL + b" " * (200 - len(CALL))
    assert one(longest) == Request(id=1, method="m")
    for line in (longest + b" \n" + CALL + b"\n", longest + b" ", longest + b"\r\n"):
        (event,) = events_of(line)
        assert isinstance(event, TooLarge)
        assert (event.error.code, event.error.data) == (-32008, {"kind": "message_too_large"})


def test_nothing_is_kept_of_a_line_over_the_limit() -> None:
    connection = Connection(limits=SMALL)
    assert len(connection.receive_data(b"x" * 10_000)) == 1
    assert connection.pending_bytes == 0
    assert connection.receive_data(b"y" * 10_000 + b"\n" + CALL + b"\n") == []
    assert connection.receive_eof() == []


# Lines


def test_carriage_returns_and_blank_lines_are_let_pass() -> None:
    assert events_of(b"\n\r\n  \t\r\n" + CALL + b"\r\n\n") == [Request(id=1, method="m")]


def test_the_end_of_the_stream_ends_the_last_line() -> None:
    assert events_of(CALL) == [Request(id=1, method="m")]
    assert kinds(events_of(CALL[:-1])[0]) == "I"


def test_a_line_begun_is_told() -> None:
    connection = Connection(limits=SMALL)
    assert not connection.pending_bytes
    connection.receive_data(b"{")
    assert connection.pending_bytes
    connection.receive_data(b"}\n")
    assert not connection.pending_bytes


def test_using_a_connection_after_its_end_is_our_own_fault() -> None:
    connection = Connection(limits=SMALL)
    connection.receive_eof()
    with pytest.raises(LocalProtocolError):
        connection.receive_data(b"x")
    with pytest.raises(LocalProtocolError):
        connection.receive_eof()


PIECES = [
    CALL,
    b"\n",
    b"\r",
    b" ",
    b"[",
    b"]",
    b"{",
    b"}",
    b",",
    b'"',
    b"\\",
    b"\\ud800",
    b"NaN",
    b"1",
    b"\xff",
    b"a" * 90,
]
LINES = st.lists(st.sampled_from(PIECES) | st.binary(max_size=4), max_size=30).map(b"".join)


@given(LINES, st.lists(st.integers(0, 400), max_size=8))
@example(CALL + b"\n" + CALL, [len(CALL)])
def test_any_bytes_in_any_chunks_give_the_same_events(data: bytes, cuts: list[int]) -> None:
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    chunks = [data[begin:end] for begin, end in itertools.pairwise(edges)]
    whole = events_of(data)
    assert events_of(*chunks) == whole
    assert events_of(*(data[at : at + 1] for at in range(len(data)))) == whole
    for event in whole:  # whatever is to be answered can be encoded
        for member in event.members if isinstance(event, Batch) else (event,):
            if isinstance(member, Invalid):
                encode_error(member.id, member.error.code, member.error.message, member.error.data)


# Encoders

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)
PARAMS = st.none() | st.lists(JSON, max_size=4) | st.dictionaries(st.text(), JSON, max_size=4)
IDS = st.text() | st.integers(-(2**63), 2**63 - 1)
LARGE = Limits(max_message_bytes=1 << 24, max_depth=100)


@given(IDS, st.text(), PARAMS, JSON)
def test_what_is_sent_is_what_arrives(request_id: Any, method: str, params: Any, result: Any) -> None:
    lines = [
        encode_request(request_id, method, params),
        encode_notification(method, params),
        encode_response(request_id, result),
        encode_error(request_id, -32000, method, result),
    ]
    request, notification, response, error = expected = events_of(*lines, limits=LARGE)
    assert request == Request(id=request_id, method=method, params=params)
    assert notification == Notification(method=method, params=params)
    assert response == Response(id=request_id, result=result)
    assert isinstance(error, ErrorResponse)
    assert (error.id, error.error.code, error.error.message, error.error.data) == (request_id, -32000, method, result)
    assert events_of(encode_batch(lines), limits=LARGE) == [Batch(members=tuple(expected))]  # type: ignore[arg-type]
    assert all(line.endswith(b"\n") and line.count(b"\n") == 1 for line in lines)


@given(
    st.dictionaries(
        st.sampled_from(["jsonrpc", "id", "method", "params", "x"]), st.sampled_from(["2.0", "m"]) | IDS | JSON
    )
    | st.builds(lambda i, m, p: {"jsonrpc": "2.0", "id": i, "method": m, "params": p}, IDS, st.text(), PARAMS)
)
@example({"jsonrpc": "2.0", "id": 2**63 - 1, "method": "m"})
@example({"jsonrpc": "2.0", "id": 1, "method": "m", "params": [1.5e300]})
def test_the_short_way_gives_what_the_long_way_gives(message: dict[str, Any]) -> None:
    line = msgspec.json.encode(message)
    assert one(line, LARGE) == one(line + b" ", LARGE), "a blank is not msgspec's spelling"


@pytest.mark.parametrize(
    "params",
    [
        rb'{"a":1,"a":1}',
        rb'{"a":{"b":1,"b":2}}',
        b"[18446744073709551615]",
        b"[9223372036854775808]",
        b"[1e400]",
        b'["\xed\xa0\x80"]',
        b'["\xff"]',
        rb'["\ud800"]',
        b"[NaN]",
        b"[" * 5 + b"]" * 5,
        b"[" + b"[]," * 8 + b"[]]",
    ],
)
def test_no_short_way_leads_around_a_rule(params: bytes) -> None:
    line = with_params(params)
    assert isinstance(one(line), Invalid)
    assert one(line) == one(line + b" ")


def test_what_may_not_be_sent_is_our_own_fault() -> None:
    wrong_uses: list[Callable[[], bytes]] = [
        lambda: encode_request(1.5, "m"),  # type: ignore[arg-type]
        lambda: encode_request(1, 2),  # type: ignore[arg-type]
        lambda: encode_request(1, "m", "params"),
        lambda: encode_notification("m", b"params"),
        lambda: encode_batch([]),
    ]
    for wrong in wrong_uses:
        with pytest.raises(LocalProtocolError):
            wrong()
