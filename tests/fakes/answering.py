"""What the daemon must answer to any line: JSON-RPC 2.0 and the limits of the socket, written a second time.

A line is whatever stands between two newlines. Nothing of the product is in here: the test of the socket compares the
two. Of some answers the id may be one of two (the specification: null "if there was an error in detecting the id").
"""

import json
import math
import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

MAX_LINE_BYTES = 1 << 20
MAX_DEPTH = 32
MAX_CONTAINERS = 10_000
MAX_BATCH = 100

NULL = frozenset({"null"})
Want = frozenset[str]
"""The ids that one answer may have, as JSON."""

_STRINGS = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_KEYS = {"jsonrpc", "id", "method", "params"}


class _Object(dict[str, Any]):
    duplicate = False


class _TooLarge:
    """A number that does not fit."""


def wanted(line: bytes) -> list[Want] | None:
    """The answers of the one line that is answered, several for a batch; None: this is not answered."""
    if not line.strip(b" \t\r"):
        return None
    if len(line) > MAX_LINE_BYTES:
        return [NULL]
    try:
        text = line.decode()
        if not _has_lawful_shape(text):
            return [NULL]
        value = json.loads(
            text, object_pairs_hook=_object, parse_int=_int, parse_float=_float, parse_constant=_no_constant
        )
    except ValueError:  # UnicodeDecodeError and JSONDecodeError are such
        return [NULL]
    if not isinstance(value, list):
        answer = _member(value)
        return None if answer is None else [answer]
    if not 1 <= len(value) <= MAX_BATCH:
        return [NULL]
    return [answer for one in value if (answer := _member(one)) is not None] or None


def check(wants: Iterable[list[Want] | None], answers: Iterable[bytes]) -> None:
    """These lines, in any order, are the answers to those."""
    left = [want for line in wants if line is not None for want in line]
    got: Counter[str] = Counter()
    for answer in answers:
        value = json.loads(answer)
        for one in value if isinstance(value, list) else [value]:
            assert one["jsonrpc"] == "2.0"
            assert ("result" in one) != ("error" in one), one
            assert "error" not in one or one["error"]["code"] != -32603, f"a fault of the daemon: {one}"
            got[json.dumps(one["id"])] += 1
    assert got.total() == len(left), f"{got.total()} answers to {len(left)} messages"
    for want in sorted(left, key=len):  # those with one lawful id first
        found = next((name for name in sorted(want - NULL) if got[name]), "null")
        assert found in want, f"no answer to {sorted(want)}"
        assert got[found], f"no answer to {sorted(want)}"
        got[found] -= 1
    assert not got.total(), f"answers that nobody asked for: {+got}"


def _has_lawful_shape(text: str) -> bool:
    depth = deepest = containers = 0
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return True
    for sign in _STRINGS.sub("", text):
        if sign in "[{":
            depth += 1
            containers += 1
            deepest = max(deepest, depth)
        elif sign in "]}":
            depth -= 1
    return deepest <= MAX_DEPTH and containers <= MAX_CONTAINERS


def _object(pairs: list[tuple[str, Any]]) -> _Object:
    value = _Object(pairs)
    value.duplicate = len(value) != len(pairs)
    names = [name for name, _ in pairs]
    if names.count("id") > 1:
        value["id"] = None  # which of them, nobody knows
    return value


def _int(digits: str) -> int | _TooLarge:
    return int(digits) if len(digits) <= 20 and -(1 << 63) <= int(digits) < 1 << 63 else _TooLarge()


def _float(digits: str) -> float | _TooLarge:
    return _TooLarge() if math.isinf(float(digits)) else float(digits)


def _no_constant(name: str) -> None:
    raise ValueError(name)


def _is_faulty(value: object) -> bool:
    """JSON, and yet refused: I-JSON (RFC 7493) forbids it."""
    if isinstance(value, str):
        return any("\ud800" <= sign <= "\udfff" for sign in value)
    if isinstance(value, _Object):
        return value.duplicate or any(_is_faulty(name) or _is_faulty(one) for name, one in value.items())
    if isinstance(value, list):
        return any(_is_faulty(one) for one in value)
    return isinstance(value, _TooLarge)


def _member(value: object) -> Want | None:
    if not isinstance(value, _Object):
        return NULL
    number = value.get("id")
    is_id = number is None or isinstance(number, str) or (isinstance(number, int) and not isinstance(number, bool))
    if not is_id or _is_faulty(number):
        return NULL
    own = json.dumps(number)
    lawful = (
        not _is_faulty(value)
        and value.get("jsonrpc") == "2.0"
        and isinstance(value.get("method"), str)
        and ("params" not in value or isinstance(value["params"], dict | list))
        and value.keys() <= _KEYS
    )
    if lawful:
        return frozenset({own}) if "id" in value else None
    return frozenset({"null", own})
