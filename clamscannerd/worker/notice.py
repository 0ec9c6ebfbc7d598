"""What stands in a mailbox where an infected message was: a notice of exactly its length. Pure; runs in the [worker].

The message's whole range is written over, so no byte behind it moves and nothing that is delivered meanwhile is hurt.
What mail software keeps its books by stays byte for byte (KEPT); all else of the header, and the body, is replaced by a
short text and blanks in lines of lawful length. So does not the old Subject: it may be what the signature is about.

Where the room goes, best first:
1. There is no Content-Length, and room: Subject, Content-Type, the text.
2. Content-Length stays, so it must stay true (Splitter and Dovecot believe it), and so the header keeps its length too:
   it is filled up by a header X-Clamscannerd, in folded lines. The same where only the header has room.
3. A header without a blank line (the file ends in it, or it is longer than is read): no Content-Length is kept, since
   nobody could say what it counts; and if the kept lines leave no room, they are not kept either.
The text gets shorter, the Subject goes, in the end only blanks and line ends are left. The least message is a `From `
line alone, which stays as it is. The last line ends, up to two, stay as they were: the blank line before the next
message, CR LF or LF, or a last line without an end.

Splitting the mailbox again gives the same ranges: no line of a notice begins with `From `, the one before the next
message is as blank as it was, and each Content-Length still counts from and to where it did. (Known exception, never a
loss: a message that lost its true Content-Length to MAX_CANDIDATES, or to a `From ` line that stood in the header of
what looked like a message, may get it back when a notice took those away.)

Rejected: a shorter notice and moving the rest of the file (after a crash, what was appended meanwhile makes the repair
ambiguous); Content-Length made new (its digits may not fit; Status and the rest would move); NULs as filling (mail
readers stumble); a MIME part that says so (needs a boundary, more room and more trust in readers).
"""

import re
from collections.abc import Iterator

KEPT = frozenset(
    b"date from to message-id content-length status x-status x-keywords x-uid x-imap x-imapbase".split(),
)
"""Who, when and which, for people; the rest are IMAP servers' books: Dovecot and UW-IMAP find messages by them."""

LINE_CHARS = 76
"""RFC 5322, 2.1.1: no more than 78 are advised."""

FILL_CHARS = 72
SIGNATURE_CHARS = 56
WHEN_CHARS = 40

_BLOCK_BYTES = 64 << 10
_ENDING = re.compile(rb"(?:\r?\n){0,2}\Z")


def notice(header: bytes, length: int, *, tail: bytes, signature: str, item_id: int, when: str) -> bytes:
    """The notice as one piece: see notice_pieces."""
    return b"".join(notice_pieces(header, length, tail=tail, signature=signature, item_id=item_id, when=when))


def notice_pieces(
    header: bytes, length: int, *, tail: bytes, signature: str, item_id: int, when: str
) -> Iterator[bytes]:
    """`length` bytes that take the place of a message of `length` bytes; a piece has some 64 KiB, whatever the length.

    `header`: the message from its start to Message.header_end, `From ` line included; `tail`: its last four bytes (or
    more, or all of a shorter one). `signature`, `when`: any text; what is not printable ASCII becomes a question mark.
    """
    eol = b"\r\n" if header[: header.find(b"\n") + 1].endswith(b"\r\n") else b"\n"
    words = _Words(_tamed(signature, SIGNATURE_CHARS).replace(" ", "?") or "?", item_id, _tamed(when, WHEN_CHARS), eol)
    blank = header[-2:] if header.endswith(b"\n\r\n") else header[-1:] if header.endswith(b"\n\n") else b""
    if blank:
        front, ending = _with_whole_header(header, blank, length, _line_ends(tail), words)
    else:
        front, ending = _with_cut_header(header, length, _line_ends(tail), words)
    yield front
    yield from _blanks(length - len(front) - len(ending), eol)
    yield ending


class _Words:
    """What is to be said, each in several lengths, the longest first."""

    __slots__ = ("command", "eol", "heads", "texts")

    def __init__(self, signature: str, item_id: int, when: str, eol: bytes) -> None:
        self.eol = eol
        self.command = b"clamscannerctl quarantine restore %d" % item_id
        subject = self._lines(f"Subject: [removed: {signature}]", f" infected message, kept as item {item_id}")
        self.heads = (
            subject + self._lines("Content-Type: text/plain; charset=us-ascii"),
            subject,
            self._lines(f"Subject: [removed: item {item_id}]"),
        )
        command = self.command.decode()
        self.texts = (
            self._lines(
                "This message was infected and has been taken out of this mailbox.",
                "",
                f"Signature: {signature}",
                f"Date:      {when}",
                f"Item:      {item_id}",
                "",
                "It is kept for a while. To get it back:",
                "",
                f"    {command}",
                "",
            ),
            self._lines(f"Removed: {signature}", f"To get it back: {command}"),
            self._lines(command),
        )

    def _lines(self, *lines: str) -> bytes:
        return b"".join(line.encode("ascii") + self.eol for line in lines)


def _with_whole_header(header: bytes, blank: bytes, length: int, ending: bytes, words: _Words) -> tuple[bytes, bytes]:
    """What comes before and after the blanks, for a header that ends in a blank line."""
    fixed, counted = _kept(header, with_length=True)
    body = length - len(header)
    if body and not counted and (front := _first_fit(fixed, length - len(ending), words)):
        return front, ending
    front = fixed + _filled_header(len(header) - len(fixed) - len(blank), words) + blank
    # Of the line ends some may belong to the header: they are there already.
    ending = ending[max(len(ending) - body, 0) :]
    room = body - len(ending)
    return front + next((text for text in words.texts if len(text) < room), b""), ending


def _with_cut_header(header: bytes, length: int, ending: bytes, words: _Words) -> tuple[bytes, bytes]:
    """What comes before and after the blanks, for a header of which the end is not there."""
    start = header[: header.find(b"\n") + 1] or header
    ending = ending[max(len(ending) - (length - len(start)), 0) :]
    room = length - len(ending)
    if not start.endswith(b"\n") and room > len(start) + len(words.eol):
        start += words.eol
    fixed, _ = _kept(header, with_length=False)
    for front in (_first_fit(fixed, room, words), _first_fit(start, room, words)):
        if front:
            return front, ending
    return start + (words.eol if room > len(start) + len(words.eol) else b""), ending


def _first_fit(fixed: bytes, room: int, words: _Words) -> bytes:
    """Header, blank line and text, as much of them as `room` bytes hold; b"": not even the shortest text.

    At least one blank has to follow, else the end of the text's last line would be one more at the message's end.
    """
    if not fixed.endswith(b"\n"):
        return b""
    for text in words.texts:
        for head in words.heads:
            front = fixed + head + words.eol + text
            if len(front) < room:
                return front
    return b""


def _kept(header: bytes, *, with_length: bool) -> tuple[bytes, bool]:
    """`From ` line and KEPT fields, folded lines included, as they are; and whether a Content-Length is among them.

    A last line without an end is no line: nobody knows how it goes on.
    """
    first, *lines = _lf_lines(header)
    kept, keep, counted = [first], False, False
    for line in lines:
        if line[:1] not in (b" ", b"\t"):
            name = line.partition(b":")[0].lower() if b":" in line else b""
            is_length = name == b"content-length"
            keep = name in KEPT and (with_length or not is_length)
            counted = counted or (keep and is_length)
        if keep and line.endswith(b"\n"):
            kept.append(line)
    return b"".join(kept), counted


def _lf_lines(data: bytes) -> list[bytes]:
    """Lines with their ends; LF alone ends one, as it does for the splitter."""
    lines = [line + b"\n" for line in data.split(b"\n")]
    lines[-1] = lines[-1][:-1]
    return [line for line in lines if line]


def _filled_header(room: int, words: _Words) -> bytes:
    """Header lines of exactly `room` bytes: the longest Subject that leaves nothing, or enough for filling."""
    eol = words.eol
    for head in (*words.heads, b""):
        rest = room - len(head)
        if rest == 0:
            return head
        if rest >= len(b"X:" + eol):
            return head + _filling(rest, words)
    # Less than the shortest header: a line that goes on with nothing.
    return b" " * (room - 1) + b"\n" * (room > 0)


def _filling(room: int, words: _Words) -> bytes:
    """One header of exactly `room` bytes, at least four, folded."""
    eol = words.eol
    name = b"X-Clamscannerd: "
    least = len(eol) + 2
    prefix = next((p for p in (name + words.command + b" ", name) if len(p) + least <= room), b"X:")
    lines = []
    while room > LINE_CHARS + len(eol):
        # What is left must be a line: a blank, a dot and the line's end.
        chars = min(LINE_CHARS, room - least - len(eol))
        lines.append(prefix.ljust(chars, b".") + eol)
        room -= chars + len(eol)
        prefix = b" "
    lines.append(prefix.ljust(room - len(eol), b".") + eol)
    return b"".join(lines)


def _blanks(count: int, eol: bytes) -> Iterator[bytes]:
    """`count` bytes of blank lines with blanks in them; the last one has no end, since what follows gives it."""
    if count <= 0:
        return
    line = b" " * FILL_CHARS + eol
    block = line * (_BLOCK_BYTES // len(line))
    left = count
    while left > len(block):
        yield block
        left -= len(block)
    lines, rest = divmod(left - 1, len(line))
    yield line * lines + b" " * (rest + 1)


def _line_ends(tail: bytes) -> bytes:
    """The line ends at the end of `tail`, at most two."""
    found = _ENDING.search(tail)
    return found[0] if found else b""


def _tamed(text: str, limit: int) -> str:
    """Printable ASCII on one line, at most `limit` characters, whatever it was."""
    short = text if len(text) <= limit else text[: limit - 3] + "..."
    return "".join(c if " " <= c <= "~" else "?" for c in short).strip()
