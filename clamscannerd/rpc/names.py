"""Bytes of a file name <-> its text on the wire (contract, "File names"). Sans-IO and pure; used by daemon and clients.

A name is UTF-8 text in which every backslash is doubled and each byte that is not part of valid UTF-8 is `\\xNN` in
lower-case hex. The form is one to one: `from_wire` takes exactly what `to_wire` gives and refuses all else, so that no
file ever has two names in a client's actions. Rejected: base64 (unreadable by hand), surrogate escapes (no valid JSON).
"""

import re

_ESCAPE = re.compile(r"\\(\\|x[0-9a-f]{2})?")
_SURROGATE = re.compile("[\ud800-\udfff]")


def to_wire(name: bytes) -> str:
    """The text of any bytes; never fails."""
    text = name.decode("utf-8", "surrogateescape").replace("\\", "\\\\")
    return _SURROGATE.sub(lambda match: f"\\x{ord(match[0]) - 0xDC00:02x}", text)


def from_wire(text: str) -> bytes:
    """The bytes that `to_wire` made this text from. ValueError, fit for the client, on any other text.

    NUL is a byte like any other here; callers that want a path refuse it.
    """
    if _SURROGATE.search(text):
        raise ValueError(f"cannot read the name {text!r}: a lone surrogate is no text")
    name = _ESCAPE.sub(_unescape, text).encode("utf-8", "surrogateescape")
    if "\\x" in text and to_wire(name) != text:  # escapes that together are the UTF-8 of a character
        raise ValueError(f"cannot read the name {text!r}: \\xNN stands only for bytes that are not valid UTF-8")
    return name


def _unescape(match: re.Match[str]) -> str:
    escape = match[1]
    if escape is None:
        problem = "after a backslash only a backslash or xNN (two lower-case hex digits) may follow"
        raise ValueError(f"cannot read the name {match.string!r}: {problem}")
    if escape == "\\":
        return "\\"
    byte = int(escape[1:], 16)
    if byte < 0x80:
        raise ValueError(f"cannot read the name {match.string!r}: \\{escape} is written {chr(byte)!r}")
    return chr(0xDC00 + byte)
