"""JSON-RPC 2.0 on a byte stream, sans-IO: bytes in, events out; values in, bytes out. In the daemon and in clients.

One message a line. `Connection` serves both ends, cuts the stream into lines, and makes exactly one event of each line;
any chunking of the same bytes gives the same events. What is wrong with a line comes out as `Invalid`, ready to be
answered. Every limit on input is tested here, before bytes are kept or values are made (strictjson.py). Members of a
batch are decoded one by one, so that one bad member spoils neither the others nor, past the limit, the memory.

Rejected: pjrpc (fails the specification's own batch examples), msgspec.Raw first and json after (two passes over what
one does in 3 us for a poll), ignoring unknown members of a request ("Id" would turn a request into a notification).
Quotations are from https://www.jsonrpc.org/specification.
"""

import re
from collections.abc import Mapping, Sequence
from typing import TypeGuard

import msgspec

from clamscannerd.errors import LocalProtocolError, MessageTooLarge
from clamscannerd.rpc.strictjson import Decoder, NotJson, has_odd_numbers, plain, shape_problem, short

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603

Id = str | int | None
Params = dict[str, object] | list[object] | None
OutgoingParams = Mapping[str, object] | Sequence[object] | None


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Of what comes in. The defaults are the daemon's; a client, who trusts the daemon's answers, sets larger ones."""

    max_message_bytes: int = 1 << 20  # 10,000 actions of 100 bytes each
    max_batch: int = 100  # no user of the six calls needs more at once
    max_depth: int = 32  # the deepest lawful call has 4 levels, in a batch 5
    max_containers: int = 10_000  # a full batch of lawful calls has 500; a megabyte of `[],` costs 50 ms and 25 MB


class Error(msgspec.Struct, frozen=True, kw_only=True):
    """The `error` member of an answer. `data` of ours is an object with `kind`."""

    code: int
    message: str
    data: object = None


class Request(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    tag_field="jsonrpc",
    tag="2.0",
    forbid_unknown_fields=True,
    omit_defaults=True,
):
    """Somebody asks and waits. An id of null is lawful, if odd."""

    id: Id
    method: str
    params: Params = None

    def __post_init__(self) -> None:
        if type(self.id) is int and type(self.method) is str and self.params is None:
            return  # a poll
        if not _is_id(self.id):
            raise LocalProtocolError(f"cannot make a request: {_ID_RULE}")
        _check_call(self.method, self.params)


class Notification(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody tells and does not wait: never answered, not even with an error."""

    method: str
    params: Params = None

    def __post_init__(self) -> None:
        _check_call(self.method, self.params)


class Response(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a request that went through."""

    id: Id
    result: object


class ErrorResponse(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a request that did not. An id of None: the other side could not make out which."""

    id: Id
    error: Error


class Invalid(msgspec.Struct, frozen=True, kw_only=True):
    """Against the protocol, and to be answered with just this. `id` is None where none could be made out."""

    id: Id
    error: Error


Member = Request | Notification | Response | ErrorResponse | Invalid


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """One line with several messages: answered with one line."""

    members: tuple[Member, ...]


class TooLarge(msgspec.Struct, frozen=True, kw_only=True):
    """A line over the limit: to be answered with `error`, then the connection ends. No event comes after it."""

    error: Error


Event = Member | Batch | TooLarge


class Connection:
    """The receiving half of one stream; the sending half needs no state (`encode_...`)."""

    def __init__(self, *, limits: Limits) -> None:
        self._limits = limits
        self._line = bytearray()  # what has come of a line that has not ended
        self._at_eof = False
        self._too_large = False
        self._decoder = Decoder()

    @property
    def pending_bytes(self) -> int:
        """How long the line that has not ended is by now; whoever reads gives it a time limit."""
        return len(self._line)

    def receive_data(self, data: bytes) -> list[Event]:
        """What the lines that end in `data` say, in order. Never raises on account of the data."""
        if self._at_eof:
            raise LocalProtocolError("cannot receive data: the stream has ended")
        events: list[Event] = []
        start = 0
        while not self._too_large:
            end = data.find(b"\n", start)
            stop = len(data) if end < 0 else end
            if len(self._line) + stop - start > self._limits.max_message_bytes:
                self._too_large = True
                self._line.clear()
                events.append(self._refuse_line())
                break
            if end < 0:
                self._line += data[start:]
                break
            if self._line:
                self._line += data[start:stop]
                events += self._end_line()
            else:
                line = data[start:stop]
                if line.strip(b" \t\r"):
                    events.append(self._event(line))
            start = end + 1
        return events

    def receive_eof(self) -> list[Event]:
        """The stream ended; a last line need not have its newline (`printf '{...}' | nc -UN`)."""
        if self._at_eof:
            raise LocalProtocolError("cannot receive the end: the stream has ended")
        self._at_eof = True
        return self._end_line()

    def _end_line(self) -> list[Event]:
        line = bytes(self._line)
        self._line.clear()
        return [self._event(line)] if line.strip(b" \t\r") else []

    def _refuse_line(self) -> TooLarge:
        problem = f"cannot take the message: it is longer than {self._limits.max_message_bytes} bytes"
        return TooLarge(error=Error(code=MessageTooLarge.code, message=problem, data={"kind": MessageTooLarge.kind}))

    def _event(self, line: bytes) -> Event:
        limits = self._limits
        request = plain(line, _requests, max_depth=limits.max_depth, max_containers=limits.max_containers)
        if request is not None:
            return request
        try:
            text = line.decode("utf-8")
            if problem := shape_problem(line, max_depth=limits.max_depth, max_containers=limits.max_containers):
                return _invalid(None, problem)
            self._decoder.has_odd_numbers = has_odd_numbers(line)
            if text.lstrip(" \t\r").startswith("["):
                return self._batch(text)
            value = self._decoder.whole(text)
        except UnicodeDecodeError as error:
            return _not_json(f"no UTF-8 at byte {error.start}")
        except NotJson as error:
            return _not_json(str(error))
        except RecursionError:  # a max_depth beyond the interpreter's own
            return _invalid(None, "nested too deep")
        return _member(value, self._decoder.trouble)

    def _batch(self, text: str) -> Batch | Invalid:
        members: list[Member] = []
        for value in self._decoder.elements(text):
            if len(members) == self._limits.max_batch:
                return _invalid(None, f"more than {self._limits.max_batch} messages in a batch")
            members.append(_member(value, self._decoder.trouble))
        return Batch(members=tuple(members)) if members else _invalid(None, "an empty batch")


def encode_request(request_id: str | int, method: str, params: OutgoingParams = None) -> bytes:
    """One line, newline included, as from every encoder here. LocalProtocolError for what may not be sent."""
    request = Request(id=request_id, method=method, params=_outgoing(params))
    return _line({"jsonrpc": "2.0", "id": request.id, "method": request.method}, request.params)


def encode_notification(method: str, params: OutgoingParams = None) -> bytes:
    notification = Notification(method=method, params=_outgoing(params))
    return _line({"jsonrpc": "2.0", "method": notification.method}, notification.params)


def encode_response(request_id: Id, result: object) -> bytes:
    """`result`: anything msgspec encodes; its TypeError or UnicodeEncodeError goes to the caller."""
    return _line({"jsonrpc": "2.0", "id": request_id, "result": result})


def encode_error(request_id: Id, code: int, message: str, data: object = None) -> bytes:
    error = {"code": code, "message": message} if data is None else {"code": code, "message": message, "data": data}
    return _line({"jsonrpc": "2.0", "id": request_id, "error": error})


def encode_batch(lines: Sequence[bytes]) -> bytes:
    """Lines of the other encoders as one batch."""
    if not lines:
        raise LocalProtocolError("cannot make a batch: it would be empty")
    return b"[" + b",".join(line.removesuffix(b"\n") for line in lines) + b"]\n"


_encoder = msgspec.json.Encoder()
_requests = msgspec.json.Decoder(Request)


def _line(message: dict[str, object], params: Params = None) -> bytes:
    if params is not None:
        message["params"] = params
    return _encoder.encode_lines((message,))  # JSON's strings hold no bare newline


def _outgoing(params: OutgoingParams) -> Params:
    if params is None:
        return None
    if isinstance(params, str | bytes):
        raise LocalProtocolError(f"cannot make a message: {_PARAMS_RULE}")
    return dict(params) if isinstance(params, Mapping) else list(params)


_ID_RULE = '"id" must be a string, an integer or null'
_METHOD_RULE = '"method" must be a string'
_PARAMS_RULE = '"params" must be an object or an array'
_SURROGATE = re.compile("[\ud800-\udfff]")
_REQUEST_KEYS = frozenset(("jsonrpc", "id", "method", "params"))


def _is_id(value: object) -> TypeGuard[Id]:
    """ "... a String, Number, or NULL value"; "Numbers SHOULD NOT contain fractional parts": here they must not."""
    return value is None or isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool))


def _check_call(method: object, params: object) -> None:
    if not isinstance(method, str):
        raise LocalProtocolError(f"cannot make a message: {_METHOD_RULE}")
    if not (params is None or isinstance(params, dict | list)):
        raise LocalProtocolError(f"cannot make a message: {_PARAMS_RULE}")


def _member(value: object, trouble: str) -> Member:
    """The event of one message. `trouble`: what the decoder has noted about it."""
    if not isinstance(value, dict):
        return _invalid(None, trouble or "a message is an object")
    found = value.get("id")
    request_id = found if _is_id(found) else None
    if trouble:
        # An id that is no text itself cannot be sent back.
        return _invalid(None if isinstance(found, str) and _SURROGATE.search(found) else request_id, trouble)
    if value.get("jsonrpc") != "2.0":
        return _invalid(request_id, '"jsonrpc" must be "2.0"')
    if not _is_id(found):
        return _invalid(None, _ID_RULE)
    return _call(value, request_id) if "method" in value else _answer(value, request_id)


def _call(value: dict[str, object], request_id: Id) -> Member:
    method, params = value["method"], value.get("params")
    if not isinstance(method, str):
        return _invalid(request_id, _METHOD_RULE)
    if not isinstance(params, dict | list) and "params" in value:
        return _invalid(request_id, _PARAMS_RULE)  # "If present ... MUST be provided as a Structured value"
    if unknown := value.keys() - _REQUEST_KEYS:
        return _invalid(request_id, f"unknown member {short(min(unknown))}")
    given = params if isinstance(params, dict | list) else None
    if "id" in value:
        return Request(id=request_id, method=method, params=given)
    return Notification(method=method, params=given)  # "A Notification is a Request object without an "id" member"


def _answer(value: dict[str, object], request_id: Id) -> Member:
    if ("result" in value) == ("error" in value):
        return _invalid(request_id, 'there must be "method", or else one of "result" and "error"')
    if "id" not in value:
        return _invalid(None, '"id" is missing')
    if "result" in value:
        return Response(id=request_id, result=value["result"])
    try:
        return ErrorResponse(id=request_id, error=msgspec.convert(value["error"], Error, strict=True))
    except msgspec.ValidationError as error:
        return _invalid(request_id, f'"error" is wrong: {error}')


def _not_json(problem: str) -> Invalid:
    data = {"kind": "parse_error"}
    return Invalid(id=None, error=Error(code=PARSE_ERROR, message=f"Parse error: {problem}", data=data))


def _invalid(request_id: Id, problem: str) -> Invalid:
    data = {"kind": "invalid_request"}
    return Invalid(id=request_id, error=Error(code=INVALID_REQUEST, message=f"Invalid Request: {problem}", data=data))
