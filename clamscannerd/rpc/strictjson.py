"""JSON text -> plain values, refusing what other readers silently accept or choke on. Sans-IO; in daemon and clients.

The standard library's C scanner with hooks: on its own it takes NaN, 1e999, lone surrogates and the last of duplicate
keys, and msgspec does the last in silence as well. Two kinds of fault: `NotJson` is raised for what is no JSON at all;
what is lawful JSON but not accepted (I-JSON, RFC 7493, forbids it) is noted in `trouble`, and the value still made, so
that an answer can carry the id of what it refuses.

Depth is judged on the bare brackets before anything recurses. Rejected: a check on the finished value (it must be built
first) and a loop over the characters (a megabyte takes 40 ms, this way 2 to 24).

Most lines are short, and written by a program without blanks. If msgspec's text of msgspec's value is the very line, it
can be read in one way only: of a key given twice, a surrogate or a number out of range another text would come back.
So `plain` judges a poll in a third of the time; whatever is not plain, faulty or not, is for the scanner above.
"""

import json
import math
import re
from collections.abc import Callable, Iterator
from typing import TypeVar

import msgspec

from clamscannerd.errors import LocalProtocolError

T = TypeVar("T")
_Scan = Callable[[str, int], tuple[object, int]]

PLAIN_BYTES = 4 << 10
"""Longer lines are rare, and would be gone over twice."""


class NotJson(ValueError):
    """Says what was expected, and where."""


class Decoder:
    """One value, or the elements of one array, at a time."""

    def __init__(self) -> None:
        self.has_odd_numbers = True
        """As the function below says of the text; to be set before. Half a million numbers take half a second where
        each is looked at."""
        self._made = _Made()
        self._scan: _Scan | None = None
        self._scan_all: _Scan | None = None

    @property
    def trouble(self) -> str:
        """Why the value made last is not accepted; "" if it is."""
        return self._made.trouble

    def _scanner(self) -> _Scan:
        """Made when it is wanted: most connections live without one."""
        made = self._made
        if self.has_odd_numbers:
            self._scan_all = self._scan_all or made.scanner(made.take_int, made.take_float)
            return self._scan_all
        self._scan = self._scan or made.scanner(int, float)
        return self._scan

    def whole(self, text: str) -> object:
        """The value that the text is. Raises NotJson, and RecursionError if `shape_problem` let it be too deep."""
        value, end = self._value(text, 0)
        if end != len(text):
            raise NotJson(f"more text after the value, at character {end}")
        return value

    def elements(self, text: str) -> Iterator[object]:
        """The elements of the array that `text` is, one by one: a caller may stop early. Raises as `whole`."""
        at = _after_blanks(text, _after_blanks(text, 0) + 1)
        if text[at : at + 1] != "]":
            while True:
                value, at = self._value(text, at)
                yield value
                if text[at : at + 1] != ",":
                    break
                at += 1
        if text[at : at + 1] != "]":
            raise NotJson(f"a comma or the end of the array expected at character {at}")
        if (end := _after_blanks(text, at + 1)) != len(text):
            raise NotJson(f"more text after the array, at character {end}")

    def _value(self, text: str, start: int) -> tuple[object, int]:
        """The value at `start`, and where the text after it begins."""
        self._made.trouble = ""
        begin = _after_blanks(text, start)
        value: object
        try:
            value, end = self._scanner()(text, begin)
        except json.JSONDecodeError as error:
            raise NotJson(f"{error.msg[:1].lower()}{error.msg[1:]} at character {error.pos}") from None
        if not self._made.trouble and _ESCAPED_SURROGATE.search(text, begin, end):
            try:
                msgspec.json.encode(value)
            except UnicodeEncodeError:
                self._made.trouble = "a lone surrogate is no text"
        return value, _after_blanks(text, end)


class _Made:
    """What the scanner calls while it makes a value. A place of its own: the scanner keeps it, and whoever keeps the
    scanner must not be in that ring, or each connection that goes leaves it to the collector."""

    def __init__(self) -> None:
        self.trouble = ""

    def scanner(self, parse_int: Callable[[str], int | None], parse_float: Callable[[str], float | None]) -> _Scan:
        return json.JSONDecoder(
            object_pairs_hook=self.take_object,
            parse_int=parse_int,
            parse_float=parse_float,
            parse_constant=self.take_constant,
        ).raw_decode

    def take_object(self, pairs: list[tuple[str, object]]) -> dict[str, object]:
        result = dict(pairs)
        if len(result) != len(pairs):
            seen: set[str] = set()
            for key, _ in pairs:
                if key in seen:
                    self.trouble = f"duplicate key {short(key)}"
                    result[key] = None  # which of the two was meant, nobody knows
                seen.add(key)
        return result

    def take_int(self, digits: str) -> int | None:
        # Length first: int() takes quadratic time, and refuses more than 4,300 digits with an error of its own.
        if len(digits) <= 20 and -(1 << 63) <= (number := int(digits)) < 1 << 63:
            return number
        self.trouble = f"the integer {short(digits)} does not fit into 64 bits"
        return None

    def take_float(self, digits: str) -> float | None:
        number = float(digits)
        if math.isinf(number):
            self.trouble = f"the number {short(digits)} is out of range"
            return None
        return number

    def take_constant(self, name: str) -> object:
        raise NotJson(f"{name} is no JSON value")


def plain(line: bytes, decoder: msgspec.json.Decoder[T], *, max_depth: int, max_containers: int) -> T | None:
    """What `decoder` makes of a line that is short and in msgspec's own spelling; None: it has to be looked at."""
    if len(line) > PLAIN_BYTES or line.count(b"[") + line.count(b"{") > min(max_depth, max_containers):
        return None
    try:
        value = decoder.decode(line)
    except (ValueError, LocalProtocolError):  # no JSON, no text, or not of this type: the scanner finds the words
        return None
    # What needs 64 bits and no sign msgspec takes, and gives.
    return value if _encoder.encode(value) == line and not has_odd_numbers(line) else None


def has_odd_numbers(line: bytes) -> bool:
    """It may have some that are out of range: long ones, or ones with an exponent."""
    digits = line.translate(_DIGITS)
    return _LONGEST_DIGITS in digits or b"0e" in digits


def shape_problem(line: bytes, *, max_depth: int, max_containers: int) -> str:
    """Too deep, or too many objects and arrays; "" if neither. What is not balanced is left to the decoder."""
    if line.count(b"[") + line.count(b"{") <= min(max_depth, max_containers):
        return ""
    outside_strings = line.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')[::2]
    brackets = b"".join(outside_strings).translate(_ALL_SQUARE, _NOT_BRACKETS)
    if brackets.count(b"[") > max_containers:
        return f"more than {max_containers} objects and arrays"
    for _ in range(max_depth):  # each turn takes the innermost level away
        brackets = brackets.replace(b"[]", b"")
        if not brackets:
            return ""
    opened = brackets.count(b"[")
    if opened > max_depth or opened == brackets.count(b"]"):
        return f"nested deeper than {max_depth} levels"
    return ""


def short(text: str) -> str:
    """Untrusted text, quoted and cut, for a message."""
    return repr(text if len(text) <= 40 else text[:40] + "...")


_encoder = msgspec.json.Encoder()
_DIGITS = bytes.maketrans(b"123456789E", b"000000000e")
_LONGEST_DIGITS = b"0" * 19  # 18 of them fit into 64 bits, and before and behind a point into a float
_BLANKS = re.compile(r"[ \t\r\n]*")
_ESCAPED_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_ALL_SQUARE = bytes.maketrans(b"{}", b"[]")


def _after_blanks(text: str, start: int) -> int:
    match = _BLANKS.match(text, start)
    return match.end() if match else start
