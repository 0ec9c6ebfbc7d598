"""What a row of the method table is, and how a call's parameters become one typed value. Pure; [daemon].

The table itself is methods.py: data, read by server.py. A row without an access rule, or with parameters that would let
unknown names pass, does not import. `user` is no parameter of any row: administrators may add it to every call, so it
is taken out here, once, and handed on in `Call`.

Rejected: reading parameters from handlers' signatures (a renamed argument would change the wire), and decorators that
register on import (the table would be nowhere to be read).
"""

import re
from collections.abc import Awaitable, Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec

from clamscannerd.errors import CallError, InvalidParams
from clamscannerd.model import Peer
from clamscannerd.rpc.access import Rule
from clamscannerd.rpc.jsonrpc import METHOD_NOT_FOUND, Params, encode_notification
from clamscannerd.rpc.strictjson import short

USER = "user"
"""The parameter by which an administrator names the account to act for."""


class UnknownMethod(CallError):
    """No row of that name."""

    code = METHOD_NOT_FOUND
    kind = "unknown_method"


class Notice:
    """A notification to clients that asked for them: one for all who are told the same, written once."""

    __slots__ = ("_line", "method", "params")

    def __init__(self, method: str, params: dict[str, object]) -> None:
        self.method = method
        self.params = params
        self._line: bytes | None = None

    @property
    def line(self) -> bytes:
        """As it is sent."""
        if self._line is None:
            self._line = encode_notification(self.method, self.params)
        return self._line


class Hearer(Protocol):
    """The connection of a stream, to be written to."""

    def tell(self, lines: bytes) -> bool:
        """At once. False: not all of it left; the rest goes before anything else is written, and `say` waits for it."""

    async def say(self, lines: bytes) -> None:
        """Returns when all is written, and raises when nobody reads any more."""


Stream = Callable[[Hearer], Awaitable[None]]
"""Writes to one connection for as long as it lasts. A CallError that it raises is the last thing the client hears."""


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """Who calls, and for whom: handlers get this and the typed parameters."""

    peer: Peer
    connection_id: int
    """Counts from 1; for logs, and for what belongs to one connection."""
    user: str | None
    """The account that an administrator named; None: the peer's own."""
    is_admin: bool
    push: Callable[[Stream], None]
    """Begin a stream on this connection, once this call is answered."""
    confirm: Callable[[], Awaitable[object]]
    """For what goes on after the answer: raises the CallError that this call would be refused with by now."""
    alike: Hashable
    """Calls of one method for which this is the same are confirmed alike."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """One row. `params`: a frozen Struct whose field order is the order of parameters by position."""

    name: str
    params: type[msgspec.Struct]
    rule: Rule
    handler: Callable[[Call, Any], Awaitable[object]]
    """Its result is what msgspec encodes. It raises CallError or Refused to be answered with that error."""
    nothing: msgspec.Struct | None = field(init=False)
    """The parameters of a call that gives none; None: it must give some."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*(\.[a-z][a-z0-9_]*)?", self.name):
            raise TypeError(f"cannot make method {self.name!r}: a name is Noun.verb")
        if not isinstance(self.rule, Rule):
            raise TypeError(f"cannot make method {self.name}: {self.rule!r} is no access rule")
        if not (isinstance(self.params, type) and issubclass(self.params, msgspec.Struct)):
            raise TypeError(f"cannot make method {self.name}: its parameters are no Struct")
        if not self.params.__struct_config__.forbid_unknown_fields:
            raise TypeError(f"cannot make method {self.name}: its parameters must forbid unknown fields")
        if USER in self.params.__struct_encode_fields__:
            raise TypeError(f'cannot make method {self.name}: "{USER}" is taken out of every call')
        nothing = None if any(one.required for one in msgspec.structs.fields(self.params)) else self.params()
        object.__setattr__(self, "nothing", nothing)


Methods = Mapping[str, Method]


def table(*rows: Method) -> Methods:
    """The rows by name; each name once."""
    methods = {row.name: row for row in rows}
    if len(methods) != len(rows):
        raise TypeError("cannot make the table of methods: a name occurs twice")
    return methods


def find(methods: Methods, name: str) -> Method:
    """The row, or UnknownMethod. `ClamScanner::x` is cPanel's own way to write `ClamScanner.x`."""
    method = methods.get(name)
    if method is None and name.startswith("ClamScanner::"):
        method = methods.get(name.replace("::", ".", 1))
    if method is None:
        raise UnknownMethod(f"Method not found: {short(name)}")
    return method


def names_user(params: Params) -> bool:
    """`user` is given, whatever its value: access is decided on this alone, before parameters are judged."""
    return isinstance(params, dict) and USER in params


def bind(method: Method, params: Params) -> tuple[str | None, msgspec.Struct]:
    """`user` if it is given, and the typed parameters. InvalidParams says which parameter is wrong and how."""
    named = _by_name(method, params)
    user: str | None = None
    if USER in named:
        given = named.pop(USER)
        if not isinstance(given, str):
            raise _wrong(method, f'parameter "{USER}": expected str')
        user = given
    if unknown := named.keys() - set(method.params.__struct_encode_fields__):
        raise _wrong(method, f"there is no parameter {short(min(unknown))}")
    try:
        return user, msgspec.convert(named, method.params, strict=True)
    except msgspec.ValidationError as error:
        raise _wrong(method, _sentence(str(error))) from None


def _by_name(method: Method, params: Params) -> dict[str, object]:
    if params is None:
        return {}
    if isinstance(params, dict):
        return dict(params)
    fields = method.params.__struct_encode_fields__
    if len(params) > len(fields):
        raise _wrong(method, f"it takes {len(fields)} parameters at most, not {len(params)}")
    return dict(zip(fields, params, strict=False))


_LONGEST_QUOTE = 300  # characters; a wrong enum value could be a megabyte


def _sentence(error: str) -> str:
    """msgspec's text in terms of parameters: `$.actions[...]` is `actions[...]`. It may quote the client: cut."""
    match = re.fullmatch(r"(.*?)(?: - at `\$\.?([^`]*)`)?", error, re.DOTALL)
    what, place = (match[1], match[2]) if match else (error, None)
    if not place and (missing := re.fullmatch(r"Object missing required field `(.*)`", what)):
        return f'parameter "{missing[1]}" is missing'
    what = what[:1].lower() + what[1:_LONGEST_QUOTE].replace("`", "")
    return f'parameter "{place}": {what}' if place else what


def _wrong(method: Method, problem: str) -> InvalidParams:
    return InvalidParams(f"cannot call {method.name}: {problem}")
