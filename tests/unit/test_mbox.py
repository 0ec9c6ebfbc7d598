"""worker/mbox.py: messages tile the file, whatever the chunks; Content-Length is believed where it fits, only there."""

import io
import itertools
import mailbox
import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from clamscannerd.errors import LocalProtocolError
from clamscannerd.worker import mbox
from clamscannerd.worker.mbox import HEADER_BYTES, MAX_CANDIDATES, Message, Splitter, is_from_line, looks_like_mbox
from tests.fakes.mailboxes import FROM_LINE, Letter, Mailbox, Variant, in_chunks, mailboxes, render, wild

FROM = FROM_LINE + b"\n"
LENGTH = re.compile(rb"^content-length:[ \t]*(\d{1,18})\r?$", re.MULTILINE | re.IGNORECASE)


def split(data: bytes, sizes: tuple[int, ...] = (1 << 20,), start: int = 0, chunk_bytes: int = 4096) -> list[Message]:
    splitter = Splitter(start=start, chunk_bytes=chunk_bytes)
    messages = list(itertools.chain.from_iterable(splitter.receive_data(chunk) for chunk in in_chunks(data, sizes)))
    return messages + splitter.receive_eof()


def spans(data: bytes) -> list[tuple[int, int]]:
    return [(message.start, message.end) for message in split(data)]


def first_line(data: bytes) -> int:
    """Where the first line that is not blank begins."""
    blank = re.match(rb"(?:\r?\n)*", data)
    return blank.end() if blank else 0


@given(mailboxes())
def test_what_deliverers_write_comes_apart_as_it_was_put_together(box: Mailbox) -> None:
    messages = split(box.data)
    assert tuple((message.start, message.end) for message in messages) == box.spans
    assert tuple(message.header_end for message in messages) == box.header_ends
    assert [message.number for message in messages] == list(range(1, len(messages) + 1))


@settings(deadline=None)  # byte by byte
@given(
    st.one_of(wild(), mailboxes().map(lambda box: box.data)),
    st.lists(st.integers(1, 400), min_size=1, max_size=5).map(tuple),
)
def test_any_chunking_gives_the_same_messages(data: bytes, sizes: tuple[int, ...]) -> None:
    assert split(data, sizes) == split(data)
    assert split(data, (1,)) == split(data)
    assert split(data, sizes, chunk_bytes=1) == split(data)


@given(wild())
def test_the_messages_tile_the_file(data: bytes) -> None:
    messages = split(data)
    if data[first_line(data) :].startswith(FROM):
        assert messages[0].start == first_line(data)
    for one, two in itertools.pairwise(messages):
        assert one.end == two.start
    for message in messages:
        assert message.start < message.header_end <= message.end
        assert is_from_line(data[message.start : message.end].split(b"\n")[0])
    if messages:
        assert messages[-1].end == len(data)


def beginnings(data: bytes) -> list[tuple[int, bool]]:
    """Every line that can begin a message, and whether a blank line is before it."""
    found, at, blank = [], 0, True
    for line in data.split(b"\n"):
        if is_from_line(line):
            found.append((at, blank))
        blank = line in (b"", b"\r")
        at += len(line) + 1
    return found


@given(wild())
@example(FROM + b"Content-Length: 5\n\nbody\n" + FROM + b"\n")
def test_each_message_ends_by_its_content_length_or_else_at_the_next_from_line(data: bytes) -> None:
    lines = beginnings(data)
    for message in split(data):
        header = data[message.start : message.header_end]
        next_line = next((at for at, blank in lines if blank and at >= message.header_end), len(data))
        lengths = LENGTH.findall(header)
        names = header.lower().count(b"\ncontent-length:")
        if not header.endswith((b"\n\n", b"\n\r\n")) or len(lengths) != 1 or names != 1:
            assert message.end == next_line
            continue
        target = message.header_end + int(lengths[0])
        fits = [(len(data), True)] if data[target:] in (b"", b"\n", b"\r\n") and target <= len(data) else []
        fits += [(at, blank) for at, blank in lines if at >= target and data[target:at] in (b"", b"\n", b"\r\n")]
        if fits and fits[0][1]:
            assert message.end == fits[0][0]
        else:
            # A `From ` line without a blank line before may belong to the header of what looks like a message.
            assert message.end in {next_line, *(at for at, _ in fits)}


@given(mailboxes(st.sampled_from([Variant.MBOXO, Variant.MBOXRD])))
def test_ordinary_mailboxes_come_apart_as_in_pythons_mailbox(box: Mailbox) -> None:
    data = box.data.replace(b"\r\n", b"\n")
    theirs = mailbox.mbox.__new__(mailbox.mbox)
    theirs._file = io.BytesIO(data)  # type: ignore[attr-defined]  # without a file
    theirs._generate_toc()  # type: ignore[attr-defined]
    toc = list(theirs._toc.values())  # type: ignore[attr-defined]
    ours = split(data)
    assert [start for start, _ in toc] == [message.start for message in ours]
    # There the blank line belongs to nobody.
    assert all(message.end - stop in (0, 1) for (_, stop), message in zip(toc, ours, strict=True))


@pytest.mark.parametrize("crlf", [False, True])
@pytest.mark.parametrize("variant", Variant)
def test_every_variant_keeps_a_from_line_in_a_body(variant: Variant, *, crlf: bool) -> None:
    tricky = (b"", FROM_LINE, b"Subject: forged", b"Content-Length: 3", b"", b"x", b"", FROM_LINE, b"", b"y")
    box = render([Letter(body=tricky), Letter(), Letter(body=tricky), Letter(body=())], variant, crlf=crlf)
    assert tuple(spans(box.data)) == box.spans


@pytest.mark.parametrize(
    ("data", "starts"),
    [
        (b"", []),
        (b"\n", []),
        (b"\n\n\r\n", []),
        (b"junk\n", []),
        (FROM_LINE, [0]),
        (FROM, [0]),
        (b"\n\r\n" + FROM, [3]),
        (b"\n\n" + FROM + b"\n" + FROM, [2, 51]),
        (b"junk\n\n" + FROM, [6]),
        (b"junk\n" + FROM, []),
        (FROM + FROM + b"\n", [0]),
        (FROM + b"\n" + FROM, [0, 49]),
        (FROM + b"A: b\n\nbody\n" + FROM + b"\n", [0]),
        (FROM + b"A: b\n\nbody\n\n" + FROM + b"\n", [0, 60]),
        (FROM + b"A: b\n\nbody\n \n" + FROM + b"\n", [0]),
        (FROM + b"A: b\n\nbody\r\n" + FROM + b"\n", [0]),
        (FROM + b"A: b\n\nbody\r\n\r\n" + FROM + b"\n", [0, 62]),
        (FROM + b"A: b\n\nbody\n\r" + FROM + b"\n", [0]),
        (FROM + b"A: b\n\nbody\n\nFrom here on\n", [0]),
        (FROM + b"A: b\n\nbody\n\n>" + FROM, [0]),
        (FROM + b"A: b\n\n\0\0\n\n" + FROM, [0, 58]),
    ],
)
def test_a_message_begins_after_a_blank_line_with_sender_and_date(data: bytes, starts: list[int]) -> None:
    assert [message.start for message in split(data)] == starts


@pytest.mark.parametrize(
    ("length", "rest", "end"),
    [
        (b"5", b"body\n\n" + FROM, 6),
        (b"6", b"body\n\n" + FROM, 6),
        (b"4", b"body\n\n" + FROM, 6),  # fits nothing, and the next `From ` line is there
        (b"5", b"body\n" + FROM, 5),
        (b"4", b"body\n" + FROM, 5),
        (b"3", b"body\n" + FROM, None),
        (b"6", b"body\n" + FROM, None),
        (b"10", b"body\r\n\r\n" + FROM + b"A: b\n\n", 8),
        (b"6", b"body\r\n" + FROM, 6),
        (b"4", b"body\r\n" + FROM, 6),
        (b"0", FROM + b"A: b\n", 0),
        (b"0", b"\n" + FROM + b"A: b\n", 1),
        (b"60", b"body\n\n" + FROM + b"more\n\n" + FROM, 60),
        (b"59", b"body\n\n" + FROM + b"more\n\n" + FROM, 60),
        (b"58", b"body\n\n" + FROM + b"more\n\n" + FROM, 6),
        (b"999", b"body\n\n" + FROM + b"more\n\n" + FROM, 6),
        (b"99999999999999999999", b"body\n\n" + FROM + b"more\n\n" + FROM, 6),
        (b"-60", b"body\n\n" + FROM + b"more\n\n" + FROM, 6),
        (b"60 bytes", b"body\n\n" + FROM + b"more\n\n" + FROM, 6),
        (b"60\nContent-Length: 60", b"body\n\n" + FROM + b"more\n\n" + FROM, 6),
        (b"59", b"body\n\n" + FROM + b"more\n", None),
        (b"58", b"body\n\n" + FROM + b"more\n", None),
        (b"57", b"body\n\n" + FROM + b"more\n", 6),
        (b"58", b"body\n\n" + FROM + b"more", None),
        (b"57", b"body\n\n" + FROM + b"more", 6),
        (b"58", b"body\n\n" + FROM + b"more\r", 6),
        (b"60", b"body\n\n" + FROM + b"more\r\n", None),
        (b"58", b"body\n\n" + FROM + b"more\r\n", None),
        (b"1", b"\n\n" + FROM, 2),
    ],
)
def test_content_length_is_believed_where_it_fits(length: bytes, rest: bytes, end: int | None) -> None:
    header = FROM + b"Content-Length: " + length + b"\n\n"
    messages = split(header + rest)
    assert messages[0].end - len(header) == (len(rest) if end is None else end)
    assert messages[0].header_end == len(header)


def test_a_true_content_length_wins_over_the_ones_within() -> None:
    inner = FROM + b"Content-Length: 5\n\nbody\n\n" + FROM + b"Content-Length: 999\n\n\n"
    data = FROM + b"Content-Length: %d\n\n" % len(inner) + inner + b"\n" + FROM + b"A: b\n\n"
    assert [message.start for message in split(data)] == [0, len(data) - len(FROM) - 6]


def test_a_content_length_within_counts_once_the_outer_one_fails() -> None:
    outer = FROM + b"Content-Length: 400\n\nx\n\n"
    inner = FROM + b"A: b\n\ny\n\n"
    middle = FROM + b"Content-Length: %d\n\n" % len(inner) + inner + b"\n"
    assert spans(outer + middle + FROM) == [
        (0, len(outer)),
        (len(outer), len(outer + middle)),
        (len(outer + middle), len(outer + middle + FROM)),
    ]


def test_a_content_length_within_what_is_jumped_over_begins_nothing() -> None:
    wrong = FROM + b"Content-Length: 900\n\n\n"  # until it fails, nothing after it is sure
    within = FROM + b"Content-Length: 92\n\nx\n\n"  # ends at the last but one `From ` line, in the body of `after`
    jumping = FROM + b"Content-Length: %d\n\n" % len(within) + within
    after = FROM + b"A: b\n\n" + b"y" * 34 + b"\n" + FROM + b"\n"
    begin = len(wrong + jumping)
    assert jumping.find(b"x\n\n") + 92 == len(jumping + after) - len(FROM) - 1
    assert spans(wrong + jumping + after + FROM) == [
        (0, len(wrong)),
        (len(wrong), begin),
        (begin, begin + len(after)),
        (begin + len(after), begin + len(after + FROM)),
    ]


def test_too_many_candidates_and_a_content_length_is_given_up() -> None:
    many = (b"\n" + FROM) * (MAX_CANDIDATES + 5)
    data = FROM + b"Content-Length: %d\n\n" % len(many) + many
    splitter = Splitter()
    assert len(splitter.receive_data(data)) == MAX_CANDIDATES + 5
    assert len(splitter.receive_eof()) == 1
    few = (b"\n" + FROM) * (MAX_CANDIDATES - 5)
    assert spans(FROM + b"Content-Length: %d\n\n" % len(few) + few) == [(0, len(few) + 71)]


def test_absurd_content_lengths_in_every_message_hold_back_a_bounded_number() -> None:
    message = FROM + b"Content-Length: 123456789012345\nSubject: s\n\nbody\n\n"
    splitter = Splitter()
    got, most = 0, 0
    for sent in range(3 * MAX_CANDIDATES):
        got += len(splitter.receive_data(message))
        most = max(most, sent + 1 - got)
    assert most <= MAX_CANDIDATES + 1
    assert got + len(splitter.receive_eof()) == 3 * MAX_CANDIDATES


def test_a_message_is_told_as_soon_as_the_next_begins() -> None:
    splitter = Splitter()
    assert splitter.receive_data(FROM + b"A: b\n\nbody\n\n") == []
    assert splitter.receive_data(FROM_LINE) == []
    assert [message.end for message in splitter.receive_data(b"\n")] == [60]
    # A Content-Length that turned out wrong holds nothing back.
    splitter = Splitter()
    assert len(splitter.receive_data((FROM + b"Content-Length: 3\n\nbody\n\n") * 5)) == 4


def test_a_line_of_any_length_does_not_pile_up() -> None:
    splitter = Splitter()
    splitter.receive_data(FROM + b"A: b\n\n")
    free = len(splitter.space()) - len(FROM_LINE)  # the beginning of one may have to be kept
    for _ in range(64):
        assert splitter.receive_data(b"x" * (256 << 10)) == []
    assert len(splitter.space()) >= free
    header = FROM + b"A: " + b"x" * (16 << 20)
    assert [(message.start, message.header_end) for message in split(header)] == [(0, HEADER_BYTES)]


def test_a_header_without_end_is_cut_and_its_content_length_not_believed() -> None:
    head = FROM + b"Content-Length: 5\nSubject: s\nX-Long: "
    for size, header_end in ((HEADER_BYTES - 2, HEADER_BYTES), (HEADER_BYTES - 1, HEADER_BYTES)):
        data = head + b"x" * (size - len(head)) + b"\n\nbody\n" + FROM + b"\n"
        messages = split(data)
        assert messages == split(data, (4093,))
        assert messages[0].header_end == header_end
        assert messages[0].subject == "s"
        assert len(messages) == (2 if size == HEADER_BYTES - 2 else 1)


@pytest.mark.parametrize(
    ("rest", "header"),
    [
        (b"A: b\n\nx\n\n", 6),
        (b"A: b\r\n\r\nx\n\n", 8),
        (b"A: b\n\r\n\n", 7),
        (b"A: b\n\nx\r\n\r\n", 6),
        (b"A: b\n \nx\n", 9),
    ],
)
def test_a_header_ends_with_the_first_blank_line_of_either_kind(rest: bytes, header: int) -> None:
    for sizes in ((1,), (1 << 20,)):
        (message,) = split(FROM + rest, sizes)
        assert message.header_end == len(FROM) + header


def test_a_from_line_of_any_length_is_judged_by_its_beginning() -> None:
    long = FROM_LINE + b" " + b"x" * 100_000 + b"\n"
    late = b"From " + b"x" * 100_000 + b" Thu Nov 29 22:33:52 2001\n"
    data = long + b"A: b\n\n" + late + b"\n" + long
    assert [message.start for message in split(data)] == [0, len(data) - len(long)]
    assert split(data) == split(data, (999, 1))
    assert split(data) == split(data, chunk_bytes=1)


def test_offsets_are_not_bounded_by_four_gigabytes() -> None:
    start = (1 << 32) - 30
    messages = split(FROM + b"Content-Length: 5\n\nbody\n\n" + FROM, start=start)
    assert [message.start - start for message in messages] == [0, 73]
    assert messages[-1].end == start + 121
    huge = FROM + b"Content-Length: %d\n\n" % (1 << 33) + b"body\n\n" + FROM
    assert len(split(huge)) == 2


def test_bytes_read_into_the_space_are_split_like_others() -> None:
    data = FROM + b"A: b\n\nbody\n\n" + FROM + b"A: b\n\nbody\n"
    splitter = Splitter(chunk_bytes=16)
    messages, at = [], 0
    while at < len(data):
        space = splitter.space()
        assert len(space) >= 16
        count = min(16, len(data) - at)
        space[:count] = data[at : at + count]
        messages += splitter.receive(count)
        at += count
    assert messages + splitter.receive_eof() == split(data)


@given(mailboxes())
def test_ranges_do_not_depend_on_texts(box: Mailbox) -> None:
    splitter = Splitter(texts=False)
    messages = splitter.receive_data(box.data) + splitter.receive_eof()
    assert tuple((message.start, message.end) for message in messages) == box.spans
    assert {(m.message_id, m.subject, m.sender, m.date) for m in messages} <= {("", "", "", "")}


def test_misuse_is_our_bug() -> None:
    splitter = Splitter(chunk_bytes=16)
    with pytest.raises(LocalProtocolError):
        splitter.receive(len(splitter.space()) + 1)
    with pytest.raises(LocalProtocolError):
        splitter.receive(-1)
    splitter.receive_eof()
    with pytest.raises(LocalProtocolError):
        splitter.receive_data(b"x")
    with pytest.raises(LocalProtocolError):
        splitter.receive_eof()


def test_a_message_says_what_it_is() -> None:
    header = b"Message-ID: <1@b>\nSubject: =?utf-8?Q?J=C3=B6rg?=\nFrom: a <a@b>\nDate: Thu, 29 Nov 2001\n\n"
    (message,) = split(FROM + header)
    assert (message.message_id, message.subject, message.sender, message.date) == (
        "<1@b>",
        "J\N{LATIN SMALL LETTER O WITH DIAERESIS}rg",
        "a <a@b>",
        "Thu, 29 Nov 2001",
    )


@pytest.mark.parametrize(
    "line",
    [
        FROM_LINE,
        FROM_LINE + b"\r",
        b"From - Mon Jan  1 00:00:00 1965",
        b"From a b@c  Thu Nov 29 22:33:52 EEST 2001",
        b"From 12@xxx Thu Nov 29 22:33:52 +0000 2001",
        b"From a Thu Nov 29 22:33:52 2001 +0300",
        b"From a Thu Nov 29 22:33 2001",
        b"From a 29 Nov 2001 22:33:52",
        b"From a Thu, 29 Nov 2001 22:33:52 +0100",
        b"From a Thu Nov 29 22:33:52 2001 remote from b",
        b"From a thu nov 29 22:33:52 2001",
    ],
)
def test_dates_as_they_are_met_are_dates(line: bytes) -> None:
    assert is_from_line(line)
    assert looks_like_mbox(line + b"\nSubject: x\n")


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"From ",
        b"From here on, we",
        b"From Nov 29 22:33:52 2001",
        b"From a Thu Nov 29 2001",
        b"From a Thu Nov 29 22:33:52",
        b"From a Thu Nov 22:33:52 2001",
        b"From a Thu Nov 29 22:33:52 1066",
        b"From: a Thu Nov 29 22:33:52 2001",
        b"from a Thu Nov 29 22:33:52 2001",
        b" " + FROM_LINE,
        b">" + FROM_LINE,
    ],
)
def test_other_lines_begin_no_message(line: bytes) -> None:
    assert not is_from_line(line)
    assert not looks_like_mbox(line + b"\nSubject: x\n")


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (FROM + b"Subject: x\n", True),
        (FROM + b"Subject", False),
        (FROM + b"Subject : x", True),
        (FROM + b">" + FROM + b"Subject: x\n", True),
        (b"\r\n\n" + FROM + b"Subject: x\n", True),
        (FROM_LINE + b"\r\nSubject: x\r\n", True),
        (FROM, False),
        (FROM + b"\nSubject: x\n", False),
        (FROM + b"just text\n", False),
        (FROM + b"\0: x\n", False),
        (b"Subject: x\n\n" + FROM + b"Subject: x\n", False),
        (b"", False),
    ],
)
def test_a_mailbox_is_known_by_its_beginning(data: bytes, expected: bool) -> None:
    assert looks_like_mbox(data) is expected


@given(st.binary(max_size=300))
def test_any_beginning_has_an_answer(data: bytes) -> None:
    assert looks_like_mbox(data) in (True, False)
    assert mbox.SNIFF_BYTES >= 1024
