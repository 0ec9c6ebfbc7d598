r"""Mailboxes of every variant, for all tiers: `render` makes one of letters, the strategies make the letters.

`mailboxes()` gives what deliverers write, with the ranges that must come out; `wild()` gives bytes that are almost
mailboxes, with Content-Lengths that are right, nearly right and absurd. A letter that is `infected` holds INFECTION on
a line of its own: put INFECTION_NDB into a signature file for a real clamd.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from hypothesis import strategies as st

INFECTION = b"CLAMSCANNERD-TEST-INFECTION-5f1c"
INFECTION_NDB = f"Test.Mailbox:0:*:{INFECTION.hex()}\n"
FROM_LINE = b"From alice@example.org Thu Nov 29 22:33:52 2001"


class Variant(StrEnum):
    """How a `From ` line in a body is kept from ending the message."""

    MBOXO = "mboxo"  # one `>` before `From `
    MBOXRD = "mboxrd"  # one more `>` before `From `, `>From ` and so on
    MBOXCL = "mboxcl"  # as mboxo, and Content-Length
    MBOXCL2 = "mboxcl2"  # Content-Length alone


@dataclass(frozen=True)
class Letter:
    """One message before it is delivered: lines without their ends."""

    headers: tuple[bytes, ...] = (b"Subject: hello",)
    body: tuple[bytes, ...] = (b"text",)
    from_line: bytes = FROM_LINE
    infected: bool = False


@dataclass(frozen=True)
class Mailbox:
    """`spans`: start and end of each message. Before the first one only blank lines."""

    data: bytes
    spans: tuple[tuple[int, int], ...]
    header_ends: tuple[int, ...]
    infected: tuple[bool, ...]
    variant: Variant
    crlf: bool
    letters: tuple[Letter, ...] = field(repr=False)


def render(
    letters: Sequence[Letter],
    variant: Variant = Variant.MBOXO,
    *,
    crlf: bool = False,
    leading_lines: int = 0,
    final_newline: bool = True,
    final_blank: bool = True,
) -> Mailbox:
    """The mailbox that holds these letters, with a blank line after each.

    `final_blank`: the last one has it too; `final_newline`: its last line ends at all.
    """
    eol = b"\r\n" if crlf else b"\n"
    data = bytearray(eol * leading_lines)
    spans, header_ends = [], []
    for at, letter in enumerate(letters):
        last = at == len(letters) - 1
        body = eol.join(_quoted(line, variant) for line in letter.body)
        if body and (final_newline or not last):
            body += eol
        headers = list(letter.headers)
        if variant in (Variant.MBOXCL, Variant.MBOXCL2):
            headers.insert(len(headers) // 2, b"Content-Length: %d" % len(body))
        start = len(data)
        data += b"".join(line + eol for line in (letter.from_line, *headers, b""))
        header_ends.append(len(data))
        data += body
        if not last or (final_blank and final_newline):
            data += eol
        spans.append((start, len(data)))
    return Mailbox(
        bytes(data),
        tuple(spans),
        tuple(header_ends),
        tuple(letter.infected for letter in letters),
        variant,
        crlf,
        tuple(letters),
    )


def _quoted(line: bytes, variant: Variant) -> bytes:
    told = line.lstrip(b">") if variant is Variant.MBOXRD else line
    return b">" + line if told.startswith(b"From ") and variant is not Variant.MBOXCL2 else line


HEADERS = st.sampled_from(
    [
        b"Subject: hello",
        b"Subject: =?utf-8?B?SGFsbMO2Y2hlbg==?=",
        b"subject:folded\n and\n\tfolded again",
        b"Message-ID: <1@example.org>",
        b"Date: Thu, 29 Nov 2001 22:33:52 +0000",
        b"From: Alice <alice@example.org>",
        b"To: bob@example.org,\n carol@example.org",
        b"Status: RO",
        b"X-Status: A",
        b"X-Keywords: NonJunk                 ",
        b"X-Keywords: one\n\ttwo",
        b"X-UID: 17",
        b"X-IMAP: 1006905232 0000000017",
        b"X-IMAPbase: 1006905232 17",
        b"Received: from a by b\n\twith ESMTP id 1; Thu, 29 Nov 2001 22:33:52 +0000",
        b"Content-Type: multipart/mixed; boundary=x",
        b"Content-Transfer-Encoding: base64",
        b"X-Odd: \x00\xff\x1b[2J",
        b"X-Empty:",
        b"no header at all",
    ]
)
LINES = st.one_of(
    st.sampled_from(
        [
            b"",
            b"text",
            b"From here on it is text",
            b">From here",
            b">>>From here",
            FROM_LINE,
            b">" + FROM_LINE,
            b"Content-Length: 10",
            b"Subject: not mine",
            b" ",
            b"\0\0\0",
            b"a\rb",
            b"x" * 300,
        ]
    ),
    st.binary(max_size=40).map(lambda line: line.replace(b"\n", b"").rstrip(b"\r")),
)
FROM_LINES = st.sampled_from(
    [
        FROM_LINE,
        b"From - Mon Jan  1 00:00:00 1965",
        b"From MAILER-DAEMON Fri Jul  8 12:08:34 2011",
        b'From "a b"@example.org  Fri Jul  8 12:08 2011',
        b"From 1234@xxx Thu Nov 29 22:33:52 +0000 2001",
        b"From a@b Thu Nov 29 22:33:52 CEST 2001 remote from c",
    ]
)


@st.composite
def letters(draw: st.DrawFn) -> Letter:
    """Any letter; header lines may be folded, a body may hold what looks like a message."""
    infected = draw(st.booleans())
    body = draw(st.lists(LINES, max_size=8))
    if infected:
        body.insert(draw(st.integers(0, len(body))), INFECTION)
    return Letter(
        headers=tuple(draw(st.lists(HEADERS, max_size=6))),
        body=tuple(body),
        from_line=draw(FROM_LINES),
        infected=infected,
    )


@st.composite
def mailboxes(
    draw: st.DrawFn,
    variants: st.SearchStrategy[Variant] = st.sampled_from(Variant),  # noqa: B008  strategies are constants
    *,
    max_letters: int = 6,
) -> Mailbox:
    """What deliverers write, and what may happen to a mailbox's first and last line."""
    crlf = draw(st.booleans())
    made = draw(st.lists(letters(), max_size=max_letters))
    if crlf:
        made = [_with_crlf(letter) for letter in made]
    return render(
        made,
        draw(variants),
        crlf=crlf,
        leading_lines=draw(st.integers(0, 2)),
        final_newline=draw(st.booleans()),
        final_blank=draw(st.booleans()),
    )


def _with_crlf(letter: Letter) -> Letter:
    headers = tuple(line.replace(b"\n", b"\r\n") for line in letter.headers)
    return Letter(headers=headers, body=letter.body, from_line=letter.from_line, infected=letter.infected)


PLACE = b"Content-Length: 000000"
"""In wild mailboxes six digits are put in once it is known where everything is."""

PIECES = st.sampled_from(
    [
        b"\n",
        b"\n\n",
        b"\r\n",
        b"\r\n\r\n",
        b"\r",
        b" ",
        b"F",
        b"From ",
        b"text",
        b"\nFrom nobody\n",
        b"\0",
        b"\n>" + FROM_LINE + b"\n",
        b"\n" + FROM_LINE,
        b"\n" + FROM_LINE + b"\n",
        b"\n\n" + FROM_LINE + b"\n",
        b"\r\n\r\n" + FROM_LINE + b"\r\n",
        b"\n\n" + FROM_LINE + b"\n" + PLACE + b"\n\n",
        b"\n\n" + FROM_LINE + b"\n" + PLACE + b"\n\n",
        b"\r\n\r\n" + FROM_LINE + b"\r\n" + PLACE + b"\r\n\r\n",
        b"\n" + FROM_LINE + b"\n" + PLACE + b"\n\nbody\n",
        PLACE + b"\n",
        PLACE + b"\n\n",
        b"Content-Length: 99999999999999999999\n\n",
        b"Subject: x\n",
        b"X-UID: 5\n",
        INFECTION + b"\n",
    ]
)


@st.composite
def wild(draw: st.DrawFn, *, max_pieces: int = 30) -> bytes:
    """Bytes made of what matters to a splitter; Content-Lengths end at a `From ` line, beside one, or anywhere."""
    data = FROM_LINE + b"\n" if draw(st.booleans()) else b""
    data += b"".join(draw(st.lists(PIECES, max_size=max_pieces)))
    ends = [len(data), len(data) - 1]
    at = -1
    while (at := data.find(b"\nFrom ", at + 1)) >= 0:
        ends += [at - 1, at, at + 1]
    at = -1
    while (at := data.find(PLACE, at + 1)) >= 0:
        blank = data.find(b"\n", at) + (2 if data[data.find(b"\n", at) + 1 :].startswith(b"\r") else 1) + 1
        later = [end - blank for end in ends if end >= blank]
        fitting = draw(st.booleans()) and later
        length = draw(st.sampled_from(later)) if fitting else draw(st.integers(0, 600))
        data = data[:at] + PLACE[:-6] + b"%06d" % length + data[at + len(PLACE) :]
    return data


def in_chunks(data: bytes, sizes: Sequence[int]) -> list[bytes]:
    """`data` cut into pieces of these sizes, over and over."""
    chunks, at, turn = [], 0, 0
    while at < len(data):
        size = sizes[turn % len(sizes)]
        chunks.append(data[at : at + size])
        at, turn = at + size, turn + 1
    return chunks
