"""Bytes of a file name <-> its text on the wire (contract, "File names"). Sans-IO and pure; used by daemon and clients.

A name is UTF-8 text in which every backslash is doubled and each byte that is not part of valid UTF-8 is `\\xNN` in
lower-case hex. The form is one to one: `from_wire` takes exactly what `to_wire` gives and refuses all else, so that no
file ever has two names in a client's actions. Rejected: base64 (unreadable by hand), surrogate escapes (no valid JSON).

Whoever owns a home chooses the names in it, and the daemon says them on its loop: so both ways are a few calls of C,
0.25 and 1 ms for the longest path of no UTF-8. A function called for each escape took 2.4 and 8 ms.
"""

import re

_LAWFUL = re.compile(r"(?:[^\\]|\\\\|\\x[89a-f][0-9a-f])*+")
_BACKSLASH = "\ud800"  # which no byte is decoded to
_SURROGATE = re.compile("[\ud800-\udfff]")


def to_wire(name: bytes) -> str:
    """The text of any bytes; never fails."""
    try:
        return name.decode().replace("\\", "\\\\")
    except UnicodeDecodeError:
        text = name.decode("utf-8", "surrogateescape").replace("\\", _BACKSLASH)
    # Each backslash is now the encoder's: before the number of a surrogate.
    escaped = text.encode("utf-8", "backslashreplace").replace(b"\\udc", b"\\x")
    return escaped.replace(b"\\ud800", b"\\\\").decode()


def from_wire(text: str) -> bytes:
    """The bytes that `to_wire` made this text from. ValueError, fit for the client, on any other text.

    NUL is a byte like any other here; callers that want a path refuse it.
    """
    if _SURROGATE.search(text):
        raise ValueError(f"cannot read the name {text!r}: a lone surrogate is no text")
    if "\\" not in text:
        return text.encode()
    lawful = _LAWFUL.match(text)
    if lawful is None or lawful.end() < len(text):
        raise ValueError(f"cannot read the name {text!r}: {_trouble(text[lawful.end() if lawful else 0 :][:4])}")
    # Which reads bytes as Latin-1: the bytes of other characters come through it as they are.
    name = text.encode().decode("unicode_escape").encode("latin-1")
    if "\\x" in text and to_wire(name) != text:  # escapes that together are the UTF-8 of a character
        raise ValueError(f"cannot read the name {text!r}: \\xNN stands only for bytes that are not valid UTF-8")
    return name


def _trouble(escape: str) -> str:
    if re.fullmatch(r"\\x[0-7][0-9a-f]", escape):
        return f"{escape} is written {bytes.fromhex(escape[2:]).decode()!r}"
    return "after a backslash only a backslash or xNN (two lower-case hex digits) may follow"
