r"""The few fields of a mail header that are told to people, and Content-Length. Pure; runs in the [worker].

A header is bytes of somebody unknown: any length, any charset, anything in them. What comes out is short, one line, and
safe on a terminal. It serves messages of a mailbox (with their `From ` line) and files that are one message alike.

Rejected: email.header. It looks up any codec that a sender names, and a sealed process can import none; where encoded
and other text mix it gives back escapes; its pattern is quadratic. Rejected: email.parser, which wants the whole
message, and takes a lone CR for a line end.
"""

import binascii
import codecs
import re

from clamscannerd.model import Frozen

VALUE_BYTES = 1_000
TEXT_CHARS = 200
"""Of a field so many bytes are read and so many characters told: enough to know a message again."""


class Fields(Frozen, frozen=True, kw_only=True):
    """What of a header tells a person which message it is: decoded, on one line, at most TEXT_CHARS each."""

    message_id: str = ""
    subject: str = ""
    sender: str = ""
    date: str = ""


def fields(header: bytes) -> Fields:
    """The texts of a header, with or without a `From ` line before it; of a field that is there twice the first."""
    lower = b"\n" + header.lower()
    return Fields(
        message_id=_text(_value(header, lower, b"message-id")),
        subject=_text(_value(header, lower, b"subject")),
        sender=_text(_value(header, lower, b"from")),
        date=_text(_value(header, lower, b"date")),
    )


def _value(header: bytes, lower: bytes, name: bytes) -> bytes:
    """The value of the first field `name`, its folded lines included. `lower`: the header in lower case after a LF."""
    at = lower.find(b"\n%b:" % name)
    if at < 0:
        return b""
    begin = at + len(name) + 1
    end = begin
    while True:
        end = header.find(b"\n", end)
        if end < 0:
            end = len(header)
        elif end - begin < VALUE_BYTES and header[end + 1 : end + 2] in (b" ", b"\t"):
            end += 1
            continue
        value = header[begin : min(end, begin + VALUE_BYTES)]
        if end - begin > VALUE_BYTES and b" " in value.strip():
            value = value.rpartition(b" ")[0]  # half an encoded word is noise
        return value


def content_length(header: bytes) -> int | None:
    """What the only Content-Length of a header says; None: there is none, or several, or no number."""
    lower = b"\n" + header.lower()
    if lower.count(b"\ncontent-length:") != 1:
        return None
    value = _value(header, lower, b"content-length").strip()
    return int(value) if value.isdigit() and len(value) <= 18 else None


_CODECS = {
    name: codecs.lookup(codec).decode
    for codec, names in {
        "ascii": "us-ascii ascii",
        "utf-8": "utf-8 utf8",
        **{f"iso8859-{n}": f"iso-8859-{n} latin{n}" for n in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 13, 14, 15, 16)},
        **{f"cp{n}": f"windows-{n} cp{n}" for n in range(1250, 1259)},
        "koi8-r": "koi8-r",
        "koi8-u": "koi8-u",
        "gb18030": "gb2312 gbk gb18030",
        "big5hkscs": "big5 big5-hkscs",
        "euc-jp": "euc-jp",
        "shift-jis": "shift-jis",
        "iso2022-jp": "iso-2022-jp",
        "cp949": "euc-kr ks-c-5601-1987",
    }.items()
    for name in names.split()
}
"""The charsets of mail that are decoded: looked up here, because a sealed process cannot import one later."""

_ENCODED_WORD = re.compile(r"=\?([^?*\s]{1,40})(?:\*[^?\s]{0,20})?\?([bBqQ])\?([^?]*)\?=")
"""RFC 2047, and 2231's language; blanks within are forgiven. No part can hold the next part's beginning: linear."""


def _text(value: bytes) -> str:
    """A header field's value as text fit for a terminal and a table: decoded, one line, no control characters."""
    text = value.decode("utf-8", "replace")
    if "=?" in text:
        text = _decoded(text)
    if not text.isprintable():
        text = "".join(c if c.isprintable() else " " if c.isspace() else "" for c in text)
    return " ".join(text.split())[:TEXT_CHARS].rstrip()


def _decoded(text: str) -> str:
    """RFC 2047: encoded words decoded; neighbours of one charset as one, since a character may be cut in two."""
    parts: list[str] = []
    charset, raw, done = "", b"", 0

    def flush() -> None:
        nonlocal raw
        if raw:
            decode = _CODECS.get(charset, _CODECS["ascii"])
            parts.append(decode(raw, "replace")[0])
            raw = b""

    for word in _ENCODED_WORD.finditer(text):
        between = text[done : word.start()]
        if between.strip() or not done:
            flush()
            parts.append(between)
        done = word.end()
        name = word[1].lower().replace("_", "-")
        if name != charset:
            flush()
            charset = name
        raw += _unwrapped(word[2], word[3].encode("ascii", "replace"))
    flush()
    parts.append(text[done:])
    return "".join(parts)


def _unwrapped(encoding: str, text: bytes) -> bytes:
    """The bytes of an encoded word; what is no base64 stays as it is."""
    if encoding in "qQ":
        return binascii.a2b_qp(text, header=True)
    try:
        return binascii.a2b_base64(text + b"===")  # padding is often missing, and too much of it is ignored
    except binascii.Error:
        return text
