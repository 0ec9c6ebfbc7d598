"""Bad lines on the real socket: a clear error; the connection and everybody else go on. Needs no account, no root."""

import json
import os
import select
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from tests.fakes.running import PeerClient, RunningDaemon, wait_for
from tests.integration.people import no_engine

LIMIT = 1 << 20


@pytest.fixture(scope="module")
def daemon() -> Iterator[RunningDaemon]:
    # A line of a megabyte takes 20 ms to read, and then its uid has to wait as long (rpc/wire.py).
    with no_engine(config="[server]\nidle_timeout_s = 30\n", timed=False) as running:
        yield running


@pytest.fixture
def client(daemon: RunningDaemon) -> Iterator[PeerClient]:
    """After each test, it and others are still answered, and the daemon logged no fault."""
    with daemon.client() as one, daemon.client() as other:
        for client in (one, other):  # taken in, not just waiting: tests count the daemon's fds
            assert client.call("Daemon.version")["version"]
        yield one
        for client in (one, other):
            assert client.call("Daemon.version")["version"]
    assert "Traceback" not in daemon.log()


def request(method: str, params: str = "", number: str = "7") -> bytes:
    tail = f',"params":{params}' if params else ""
    return f'{{"jsonrpc":"2.0","id":{number},"method":"{method}"{tail}}}'.encode()


STATUS = "ClamScanner.get_scan_status"

PARSE, INVALID, NO_METHOD, PARAMS = -32700, -32600, -32601, -32602

LINES: dict[str, tuple[bytes, int, str, Any]] = {
    # name: line, code, a word of the message, id
    "broken UTF-8": (b'{"jsonrpc":"2.0","id":7,"method":"\xff\xfe"}', PARSE, "UTF-8", None),
    "UTF-8 cut short": (b'{"jsonrpc":"2.0","id":7,"method":"\xe2\x82"}', PARSE, "UTF-8", None),
    "an overlong UTF-8 form": (b'{"jsonrpc":"2.0","id":7,"method":"\xc0\xaf"}', PARSE, "UTF-8", None),
    "a surrogate in UTF-8": (b'{"jsonrpc":"2.0","id":7,"method":"\xed\xa0\x80"}', PARSE, "UTF-8", None),
    "a byte order mark": (b"\xef\xbb\xbf" + request("Daemon.version"), PARSE, "Parse error", None),
    "UTF-16": (request("Daemon.version").decode().encode("utf-16-le"), PARSE, "Parse error", None),
    "no JSON": (b"GET / HTTP/1.1", PARSE, "Parse error", None),
    "half a message": (b'{"jsonrpc":"2.0","id":7,', PARSE, "Parse error", None),
    "two messages on one line": (request("Daemon.version") * 2, PARSE, "more text", None),
    "a bare NUL": (b"\0", PARSE, "Parse error", None),
    "a control character in a text": (request("a\tb"), PARSE, "Parse error", None),
    "single quotes": (b"{'jsonrpc':'2.0'}", PARSE, "Parse error", None),
    "a trailing comma": (b'{"jsonrpc":"2.0","id":7,"method":"a",}', PARSE, "Parse error", None),
    "NaN": (request(STATUS, '{"a":NaN}'), PARSE, "NaN", None),
    "Infinity": (request(STATUS, '{"a":-Infinity}'), PARSE, "Infinity", None),
    "a number too large for a float": (request(STATUS, '{"a":1e999}'), INVALID, "", 7),
    "a huge integer": (request(STATUS, '{"a":' + "9" * 5000 + "}"), INVALID, "", 7),
    "a huge integer as id": (request(STATUS, "", "1" + "0" * 400), INVALID, "", None),
    "a fraction as id": (request(STATUS, "", "1.5"), INVALID, "id", None),
    "true as id": (request(STATUS, "", "true"), INVALID, "id", None),
    "an object as id": (request(STATUS, "", "{}"), INVALID, "id", None),
    "duplicate keys": (b'{"jsonrpc":"2.0","id":7,"method":"a","method":"b"}', INVALID, "method", 7),
    "duplicate ids": (b'{"jsonrpc":"2.0","id":7,"id":8,"method":"a"}', INVALID, "id", None),
    "duplicate keys deep inside": (
        request("ClamScanner.disinfect_files", '{"actions":{"a":"delete","a":"ignore"}}'),
        INVALID,
        "",
        7,
    ),
    "duplicate keys, one escaped": (
        request("ClamScanner.disinfect_files", '{"actions":{"a":"delete","\\u0061":"ignore"}}'),
        INVALID,
        "",
        7,
    ),
    "a lone surrogate": (request(STATUS, '{"a":"\\ud800"}'), INVALID, "surrogate", 7),
    "a lone surrogate as key": (request(STATUS, '{"\\udfff":1}'), INVALID, "surrogate", 7),
    "a lone surrogate as method": (request("\\ud800"), INVALID, "surrogate", 7),
    "a lone surrogate as id": (request(STATUS, "", '"\\udc00"'), INVALID, "surrogate", None),
    "arrays 33 deep": (request(STATUS, "[" * 33 + "]" * 33), INVALID, "nested", None),
    "arrays 10,000 deep": (b"[" * 10_000, INVALID, "nested", None),
    "objects 10,000 deep": (b'{"a":' * 10_000, INVALID, "nested", None),
    "half a million arrays": (b"[" + b"[]," * 300_000 + b"[]]", INVALID, "arrays", None),
    "a million brackets": (b"[" * 1_000_000, INVALID, "arrays", None),
    "deep in a batch": (b"[" + request(STATUS, "[" * 40 + "]" * 40) + b"]", INVALID, "nested", None),
    "an empty batch": (b"[]", INVALID, "empty batch", None),
    "101 in a batch": (b"[" + b",".join([request(STATUS)] * 101) + b"]", INVALID, "batch", None),
    "a number": (b"1", INVALID, "object", None),
    "null": (b"null", INVALID, "object", None),
    "another version": (b'{"jsonrpc":"1.0","id":7,"method":"a"}', INVALID, "jsonrpc", 7),
    "no version": (b'{"id":7,"method":"a"}', INVALID, "jsonrpc", 7),
    "no method": (b'{"jsonrpc":"2.0","id":7}', INVALID, "method", 7),
    "a method that is no text": (b'{"jsonrpc":"2.0","id":7,"method":5}', INVALID, "method", 7),
    "parameters that are a text": (request(STATUS, '"home"'), INVALID, "params", 7),
    "parameters that are null": (request(STATUS, "null"), INVALID, "params", 7),
    "a member too many": (b'{"jsonrpc":"2.0","id":7,"method":"a","extra":1}', INVALID, "extra", 7),
    "an answer": (b'{"jsonrpc":"2.0","id":7,"result":1}', INVALID, "nothing was asked", None),
    "an unknown method": (request("ClamScanner.burn"), NO_METHOD, "burn", 7),
    "a method of another module": (request("Email.list_pops"), NO_METHOD, "list_pops", 7),
    "a method's name in another case": (request("clamscanner.get_scan_status"), NO_METHOD, "", 7),
    "a private name": (request("__class__"), NO_METHOD, "", 7),
    "no name at all": (request(""), NO_METHOD, "", 7),
    "a name of a megabyte": (request("a" * (LIMIT - 100)), NO_METHOD, "Method not found", 7),
    "rpc. is reserved": (request("rpc.shutdown"), NO_METHOD, "", 7),
}


@pytest.mark.parametrize("name", LINES)
def test_a_bad_line_gets_its_error(client: PeerClient, name: str) -> None:
    line, code, word, number = LINES[name]
    answer = client.raw(line)
    assert answer["error"]["code"] == code, answer
    assert word in answer["error"]["message"]
    assert answer["error"]["data"]["kind"]
    assert answer["id"] == number
    assert len(json.dumps(answer)) < 2_000, "what a client sends is not sent back at length"


CALLS: dict[str, tuple[str, str, str]] = {
    # name: method, params, a word of the message
    "an unknown parameter": ("start_scan", '{"scan_type":"home","force":true}', "'force'"),
    "a missing parameter": ("start_scan", "{}", '"scan_type" is missing'),
    "no parameters at all": ("start_scan", "", '"scan_type" is missing'),
    "a number for a text": ("start_scan", '{"scan_type":5}', "scan_type"),
    "null for a text": ("start_scan", '{"scan_type":null}', "scan_type"),
    "one too many by position": ("start_scan", '["home","mail"]', "1 parameters at most"),
    "any where there are none": ("get_scan_status", '["x"]', "0 parameters at most"),
    "a list of actions": ("disinfect_files", '{"actions":["a"]}', "actions"),
    "an action that is no text": ("disinfect_files", '{"actions":{"a":1}}', "actions"),
    "an action that is an object": ("disinfect_files", '{"actions":{"a":{"b":"delete"}}}', "actions"),
    "others that is no text": ("disinfect_files", '{"actions":{},"others":true}', "others"),
    "last_id -1": ("check_disinfection_status", '{"last_id":-1}', "last_id"),
    "last_id as text": ("check_disinfection_status", '{"last_id":"1"}', "last_id"),
    "last_id as fraction": ("check_disinfection_status", '{"last_id":1.5}', "last_id"),
    "last_id true": ("check_disinfection_status", "[true]", "last_id"),
    "user that is no text": ("get_scan_status", '{"user":0}', "user"),
}


@pytest.mark.parametrize("name", CALLS)
def test_bad_parameters_are_named(client: PeerClient, name: str) -> None:
    """By root, who may add `user`: others are refused for that alone (test_bad_requests.py)."""
    method, params, word = CALLS[name]
    if "user" in params and os.geteuid() != 0:
        word = "administrators"
    answer = client.raw(request(f"ClamScanner.{method}", params))
    assert answer["error"]["code"] == (PARAMS if word != "administrators" else -32003), answer
    assert word in answer["error"]["message"]


@pytest.mark.parametrize("last_id", ["18446744073709551616", "9223372036854775808", "1" + "0" * 30])
def test_an_integer_beyond_64_bits_is_refused_or_means_what_it_says(client: PeerClient, last_id: str) -> None:
    answer = client.raw(request("ClamScanner.check_disinfection_status", f'{{"last_id":{last_id}}}'))
    assert answer["error"]["code"] in (INVALID, PARAMS, -32004), answer


def test_notifications_are_never_answered_however_bad(client: PeerClient) -> None:
    lines = [
        b'{"jsonrpc":"2.0","method":"ClamScanner.burn"}',
        b'{"jsonrpc":"2.0","method":"ClamScanner.start_scan","params":{"a":1}}',
        b'[{"jsonrpc":"2.0","method":"a"},{"jsonrpc":"2.0","method":"b"}]',
    ]
    answer = client.raw(b"\n".join([*lines, request("Daemon.version", "", '"last"')]))
    assert answer["id"] == "last"


def test_blank_lines_and_carriage_returns_are_accepted(client: PeerClient) -> None:
    assert client.raw(b"\n\r\n  \n" + request("Daemon.version") + b"\r")["result"]["version"]


@pytest.mark.parametrize("newline", [b"", b"\n"], ids=["endless", "ended"])
def test_a_line_over_the_limit_is_answered_and_the_connection_closed(
    daemon: RunningDaemon, client: PeerClient, newline: bytes
) -> None:
    with daemon.client() as other:
        other.sock.sendall(b'"' + b"a" * LIMIT + newline)
        error = other.answer()["error"]
        assert (error["data"]["kind"], error["code"]) == ("message_too_large", -32008)
        assert other.sock.recv(1) == b""


def test_the_longest_lawful_line_is_answered(client: PeerClient) -> None:
    line = request("Daemon.version")
    assert client.raw(line + b" " * (LIMIT - len(line)))["result"]


def test_what_a_client_asked_before_it_half_closed_is_answered(daemon: RunningDaemon, client: PeerClient) -> None:
    """printf '...' | nc -NU: the last line may lack its newline."""
    with daemon.client() as other:
        other.sock.sendall(request("Daemon.version", "", "1") + b"\n" + request("Daemon.version", "", "2"))
        other.sock.shutdown(socket.SHUT_WR)
        assert {other.answer()["id"], other.answer()["id"]} == {1, 2}
        assert other.sock.recv(1) == b""


def test_clients_that_vanish_leave_nothing_behind(daemon: RunningDaemon, client: PeerClient) -> None:
    """At once, in the middle of a line, with answers unread, with fds under way."""
    before = len(os.listdir(f"/proc/{daemon.pid}/fd"))
    for data in (b"", b'{"jsonrpc":', request("Daemon.version") + b"\n", b"\xff" * 100_000):
        for _ in range(10):
            with daemon.client() as other:
                other.sock.sendall(data)
    with daemon.client() as other, open("/dev/null") as null:
        socket.send_fds(other.sock, [request("Daemon.version") + b"\n"], [null.fileno()] * 50)
        assert other.answer()["result"]
    wait_for(lambda: len(os.listdir(f"/proc/{daemon.pid}/fd")) <= before, "the daemon to close what vanished")


def test_a_client_that_writes_and_never_reads_is_stopped_by_its_own_buffer(
    daemon: RunningDaemon, client: PeerClient
) -> None:
    """Its lines are no longer taken; nobody else waits, and the daemon's memory stays what it was."""
    line = request("ClamScanner." + "x" * 500) + b"\n"
    with daemon.client() as other:
        other.sock.setblocking(False)
        sent = 0
        while sent < 64 << 20:
            if not select.select([], [other.sock], [], 0.5)[1]:
                break
            sent += other.sock.send(line * 64)
        assert sent < 16 << 20
        assert client.call("Daemon.version")
