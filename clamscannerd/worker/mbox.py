r"""The mbox format, sans-IO: bytes of a mailbox in, ranges of its messages out. Runs in the [worker].

**What a message is.** It begins with a `From ` line that says when it came, and that stands at the beginning of the
file or after a blank line; it ends where the next one begins, or at the end of the file. So the blank line between two
messages belongs to the first one. Blank lines before the first message (and anything else there) belong to none; from
there on the ranges tile the file. A line is what ends with LF; blank is LF or CR LF. `>From ` is an ordinary line,
quoted once (mboxo) or as often as it takes (mboxrd).

**Content-Length** (mboxcl quotes as well, mboxcl2 does not) is believed only when it fits: when the bytes it counts end
right before a `From ` line, or before one line end and then a `From ` line, or at the end of the file, a last line
end counted or not. A `From ` line that it ends at needs no blank line. If it fits nothing, if it is there twice, if the
header has no blank line or more than HEADER_BYTES, the message ends like one without it. As the bytes stream by, the
`From ` lines met before the count is up are kept as candidates with their headers, and each one's own Content-Length
is watched too; more than MAX_CANDIDATES, and the first message of them does without its Content-Length. `From ` lines
inside a header are text.

What others do, so that a cleansed mailbox looks to them as it does to us:

- Dovecot (istream-raw-mbox.c) asks for a date in asctime's form and for no blank line; it believes a Content-Length
  that ends before a line end and a `From ` line, or the file's last line end.
- Postfix (mail_copy.c) quotes every line that begins with `From `, whatever stands before it, and ends each message
  with a blank line; its cleanup drops the sender's Content-Length. So what it delivers reads the same by every rule.
- Python's mailbox asks for `From ` at the beginning of a line and for nothing else, and knows no Content-Length.
- mbox(5) of qmail says the same of readers, and that deliverers quote and write the blank line.

With a blank line *and* a date asked for, a letter that quotes or says "From ..." is not torn into two: a message too
long is scanned as a whole and kept whole in the vault, half a message is neither. The price: two messages that
a broken deliverer left without a blank line between are one here.

Whatever the chunks, the same bytes give the same messages, and no more than the header at hand is kept. Nearly all the
time goes into bytes.find, at 1.1 to 1.5 GB/s with the reading. Rejected: mmap (1.5 GB resident), `re` over the contents
(8 times slower), the mailbox module (all of a message in memory), skipping what a Content-Length counts (if it turns
out wrong, all that was skipped has to be read again).
"""

import re
from collections import deque
from itertools import islice

from clamscannerd.errors import LocalProtocolError
from clamscannerd.worker.mailheader import Fields, content_length, fields

CHUNK_BYTES = 256 << 10
"""Reads of this size: larger ones gain nothing and leave the processor's cache."""

FROM_LINE_BYTES = 1_000
"""A `From ` line is judged by so much of it: an address of 320 bytes, a date, and what UUCP left behind."""

HEADER_BYTES = 64 << 10
"""So much of a header is kept; Postfix stops at 100 KiB (header_size_limit), most servers far below."""

MAX_CANDIDATES = 1_000
"""`From ` lines kept for a Content-Length that has not ended yet: with their texts about 1 MB, at worst 4."""

SNIFF_BYTES = 4 << 10
"""So much of a file's beginning tells looks_like_mbox whether it is a mailbox."""

_FROM = b"\nFrom "
_LF, _CR = b"\n\r"
_DATE = re.compile(
    rb"""\s (?: \d{1,2} ,? \s++ (?:%(month)b) | (?:%(month)b) \s++ \d{1,2} ,? ) \s++
    (?= (?:\S++\s++){0,3} \d{1,2} : \d\d (?: : \d\d )? (?:\s|\Z) )
    (?= (?:\S++\s++){0,3} (?:19|20) \d\d (?:\s|\Z) )"""
    % {b"month": b"jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec"},
    re.VERBOSE | re.IGNORECASE,
)
"""Day beside month, then time and year in either order, a zone before, between or after them."""
_BLANK_LINES = re.compile(rb"(?:\r?\n)*")
_HEADER_LINE = re.compile(rb"[!-9;-~]{1,100}[ \t]*:")  # RFC 5322, 3.6.8: printable ASCII without the colon


class Message(Fields, frozen=True, kw_only=True):
    """One message of a mailbox: bytes `start` to `end` of the file, its header up to `header_end`."""

    number: int
    start: int
    end: int
    header_end: int


class _Record:
    """A `From ` line that is, or may turn out to be, the beginning of a message."""

    __slots__ = ("blank", "end", "fields", "header_end", "start", "target")

    def __init__(self, start: int, *, blank: bool) -> None:
        self.start = start
        self.blank = blank  # after a blank line: a beginning by itself, not only by somebody's Content-Length
        self.header_end = start
        self.fields = Fields()
        self.target: int | None = None  # where its Content-Length says that it ends, while that may still fit
        self.end: int | None = None  # where it ends by its Content-Length, which fitted


class Splitter:
    """Bytes of one mailbox in, its messages out, as soon as each one's end is sure.

    `start`: where in the file the bytes begin; anything else than 0 must be the beginning of a message.
    `texts`: False leaves the messages' Fields empty: half of what a message costs, where only its range matters.
    """

    __slots__ = (
        "_base",
        "_buffer",
        "_ended",
        "_filled",
        "_number",
        "_open",
        "_records",
        "_scanned",
        "_targets",
        "_texts",
        "_view",
    )

    def __init__(self, *, start: int = 0, chunk_bytes: int = CHUNK_BYTES, texts: bool = True) -> None:
        self._texts = texts
        # What is kept between two calls is shorter than a header that is read, so a chunk always fits behind it.
        self._buffer = bytearray(HEADER_BYTES + chunk_bytes)
        self._view = memoryview(self._buffer)
        # As if two line ends came before the first byte: then the beginning of the file needs no rule of its own.
        self._buffer[:2] = b"\n\n"
        self._filled = 2
        self._base = start - 2  # the file's offset of the buffer's first byte
        self._scanned = start - 1  # everything before this offset has been looked at
        self._records: deque[_Record] = deque()
        self._targets: dict[int, list[_Record]] = {}
        self._open: _Record | None = None  # the record whose header is being read
        self._number = 0
        self._ended = False

    def space(self) -> memoryview:
        """Where the next bytes of the file may be read to, at least `chunk_bytes`; `receive` tells how many came."""
        return self._view[self._filled :]

    def receive(self, count: int) -> list[Message]:
        """`count` bytes were put into `space()`: the messages that end for sure within what came so far, in order."""
        if self._ended:
            raise LocalProtocolError("cannot split a mailbox: bytes after its end")
        if not 0 <= count <= len(self._buffer) - self._filled:
            raise LocalProtocolError(f"cannot split a mailbox: {count} bytes were not asked for")
        self._filled += count
        messages = self._examine(final=False)
        self._trim()
        return messages

    def receive_data(self, data: bytes | bytearray | memoryview) -> list[Message]:
        """The same for bytes that are elsewhere, as many as you like; costs a copy, which is a third of all it does."""
        messages: list[Message] = []
        at = 0
        with memoryview(data) as source:
            while at < len(source):
                space = self.space()
                count = min(len(source) - at, len(space))
                space[:count] = source[at : at + count]
                messages += self.receive(count)
                at += count
        return messages

    def receive_eof(self) -> list[Message]:
        """The mailbox ends here: all messages that are left."""
        if self._ended:
            raise LocalProtocolError("cannot split a mailbox: it ended before")
        self._ended = True
        messages = self._examine(final=True)
        size = self._base + self._filled
        last = self._buffer[self._filled - 2 : self._filled]
        self._fit(size, crlf=last == b"\r\n", line_end=last.endswith(b"\n"))
        messages += self._settle(size, size)
        return messages

    def _examine(self, *, final: bool) -> list[Message]:
        messages: list[Message] = []
        while True:
            if self._open is not None and not self._read_header(self._open, final=final):
                return messages
            found = self._find_start(final=final)
            if found is None:
                return messages
            messages += self._settle(found, None)

    def _find_start(self, *, final: bool) -> int | None:
        """The next `From ` line that may begin a message becomes a record: its offset. None: none in the buffer."""
        buffer, base, filled = self._buffer, self._base, self._filled
        at = self._scanned - base
        while (at := buffer.find(_FROM, at, filled)) >= 0:
            begin = at + 1
            crlf = buffer[at - 1] == _CR
            blank = buffer[at - 1] == _LF or (crlf and buffer[at - 2] == _LF)
            if blank or self._is_target(base + begin, crlf=crlf):
                limit = min(begin + FROM_LINE_BYTES, filled)
                end = buffer.find(b"\n", begin, limit)
                if end < 0 and limit == filled and not final:
                    self._scanned = base + at
                    return None
                if is_from_line(bytes(buffer[begin : end if end >= 0 else limit])):
                    self._begin(base + begin, blank=blank, crlf=crlf)
                    return base + begin
            at = begin
        # The buffer's last five bytes may be the beginning of _FROM.
        self._scanned = max(self._scanned, base + filled - len(_FROM) + 1)
        return None

    def _is_target(self, start: int, *, crlf: bool) -> bool:
        targets = self._targets
        return bool(targets) and (start in targets or start - 1 in targets or (crlf and start - 2 in targets))

    def _begin(self, start: int, *, blank: bool, crlf: bool) -> None:
        self._fit(start, crlf=crlf, line_end=True)
        self._open = _Record(start, blank=blank)
        self._records.append(self._open)
        self._scanned = start

    def _fit(self, end: int, *, crlf: bool, line_end: bool) -> None:
        """Those whose Content-Length counts up to `end`, with or without the last line end, end at `end`."""
        for target in (end, end - 1, end - 2)[: 3 if crlf else 1 + line_end]:
            for record in self._targets.pop(target, ()):
                record.end = end

    def _read_header(self, record: _Record, *, final: bool) -> bool:
        """Looks for the end of the header of `record`. False: more bytes are needed."""
        buffer, base = self._buffer, self._base
        begin, at = record.start - base, self._scanned - base
        limit = min(begin + HEADER_BYTES, self._filled)
        bare = buffer.find(b"\n\n", at, limit)
        end = bare + 2 if bare >= 0 else 0
        # CR LF counts if it comes first; it may share its last LF with the bare one.
        with_cr = buffer.find(b"\n\r\n", at, bare + 1 if bare >= 0 else limit)
        end = with_cr + 3 if with_cr >= 0 else end
        if not end and limit < begin + HEADER_BYTES and not final:
            self._scanned = base + max(at, limit - 2)
            return False
        header = bytes(buffer[begin : end or limit])
        self._open = None
        record.header_end = record.start + len(header)
        if self._texts:
            record.fields = fields(header)
        if end and (length := content_length(header)) is not None:
            record.target = record.header_end + length
            self._targets.setdefault(record.target, []).append(record)
        # The line end before the body may be the one before a `From ` line.
        self._scanned = record.header_end - 1
        return True

    def _settle(self, passed: int, size: int | None) -> list[Message]:
        """The messages whose end is sure, when all before `passed` was seen; `size`: and nothing follows."""
        messages: list[Message] = []
        records = self._records
        while records:
            head = records[0]
            end = head.end
            hopeful = end is None and head.target is not None and head.target > passed
            if hopeful and size is None and len(records) <= MAX_CANDIDATES:
                break
            if end is None:
                end = next((record.start for record in islice(records, 1, None) if record.blank), size)
            if end is None:
                break
            messages.append(self._message(head, end))
            while records and records[0].start < end:
                self._forget(records.popleft())
        return messages

    def _message(self, record: _Record, end: int) -> Message:
        self._number += 1
        told = record.fields
        return Message(
            number=self._number,
            start=record.start,
            end=end,
            header_end=record.header_end,
            message_id=told.message_id,
            subject=told.subject,
            sender=told.sender,
            date=told.date,
        )

    def _forget(self, record: _Record) -> None:
        """Its Content-Length is of no interest any more."""
        if record.target is not None and (same := self._targets.get(record.target)) is not None and record in same:
            same.remove(record)
            if not same:
                del self._targets[record.target]
        record.target = None

    def _trim(self) -> None:
        """Lets go of what was looked at, but for an open header and two bytes: a blank line is seen from behind."""
        keep = self._open.start if self._open is not None else self._scanned - 2
        if keep > self._base:
            begin, left = keep - self._base, self._base + self._filled - keep
            self._view[:left] = self._view[begin : self._filled]
            self._base, self._filled = keep, left


def looks_like_mbox(beginning: bytes) -> bool:
    """Whether a file that begins like this (SNIFF_BYTES will do) is a mailbox: a `From ` line, then a header line."""
    blank = _BLANK_LINES.match(beginning)
    lines = beginning[blank.end() if blank else 0 :].split(b"\n", 8)
    if not is_from_line(lines[0]):
        return False
    # UUCP leaves older `From ` lines behind, quoted.
    following = (line for line in lines[1:] if not line.startswith(b">From "))
    return _HEADER_LINE.match(next(following, b"")) is not None


def is_from_line(line: bytes) -> bool:
    """Whether this line can begin a message: `From `, a sender, and a date with month, day, time and year.

    Weekday, seconds and zone may be missing or elsewhere, the sender may have blanks, more words may follow.
    """
    return line.startswith(b"From ") and _DATE.search(line, len(b"From "), FROM_LINE_BYTES) is not None
