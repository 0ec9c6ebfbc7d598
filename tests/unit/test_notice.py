"""worker/notice.py: exactly as long as what was there, a lawful message, and nothing else in the mailbox moves."""

import email
import itertools
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clamscannerd.worker.mbox import HEADER_BYTES, Message, Splitter
from clamscannerd.worker.notice import KEPT, notice, notice_pieces
from tests.fakes.mailboxes import FROM_LINE, INFECTION, Letter, Mailbox, Variant, mailboxes, render, wild

FROM = FROM_LINE + b"\n"
SIGNATURE = "Test.Mailbox.UNOFFICIAL"
WHEN = "2026-03-01 12:00:00 +0000"
ODD = st.one_of(
    st.text(max_size=200), st.sampled_from(["", "\nFrom a Thu Nov 29 22:33:52 2001\n", "a\r\nb: c\r\n\r\n"])
)


def split(data: bytes) -> list[Message]:
    splitter = Splitter()
    return splitter.receive_data(data) + splitter.receive_eof()


def notice_for(data: bytes, message: Message, signature: str = SIGNATURE, when: str = WHEN) -> bytes:
    return notice(
        data[message.start : message.header_end],
        message.end - message.start,
        tail=data[message.start : message.end][-4:],
        signature=signature,
        item_id=17,
        when=when,
    )


def replaced(data: bytes, which: list[Message], signature: str = SIGNATURE, when: str = WHEN) -> bytes:
    for message in which:
        data = data[: message.start] + notice_for(data, message, signature, when) + data[message.end :]
    return data


def chosen(messages: list[Message], choice: int) -> list[Message]:
    """The messages whose bits are set in `choice`."""
    return [message for at, message in enumerate(messages) if choice >> at & 1]


def kept_lines(header: bytes) -> list[bytes]:
    """The fields of KEPT with their folded lines, by another way than the product's."""
    found = re.findall(rb"(?m)^([A-Za-z-]+):((?:.|\n[ \t])*)\n", header[header.find(b"\n") + 1 :])
    return [name + value for name, value in found if name.lower() in KEPT]


@given(mailboxes(), st.integers(0, 63), ODD, ODD)
def test_any_notice_has_the_length_and_splits_the_same(box: Mailbox, choice: int, signature: str, when: str) -> None:
    messages = split(box.data)
    which = chosen(messages, choice)
    after = replaced(box.data, which, signature, when)
    assert len(after) == len(box.data)
    again = split(after)
    assert [(m.start, m.end) for m in again] == list(box.spans)
    for message in messages:
        if message not in which:
            assert after[message.start : message.end] == box.data[message.start : message.end]


@settings(derandomize=True)  # the module names what may split otherwise: rarer than any search finds, but not never
@given(wild(), st.integers(0, (1 << 20) - 1))
def test_messages_of_a_broken_mailbox_can_be_replaced(data: bytes, choice: int) -> None:
    messages = split(data)
    for message in messages:
        made = notice_for(data, message)
        assert len(made) == message.end - message.start
        first_line_end = data.find(b"\n", message.start, message.end) + 1 or message.end
        assert made.startswith(data[message.start : first_line_end])
        assert b"\nFrom " not in made
    after = replaced(data, chosen(messages, choice))
    assert len(after) == len(data)
    assert [(m.start, m.end) for m in split(after)] == [(m.start, m.end) for m in messages]


@given(mailboxes())
def test_a_notice_keeps_who_and_when_and_the_books_and_the_last_line_ends(box: Mailbox) -> None:
    for message in split(box.data):
        before = box.data[message.start : message.end]
        after = notice_for(box.data, message)
        ends = [re.search(rb"(?:\r?\n){0,2}\Z", data) for data in (before, after)]
        assert len({end and end[0] for end in ends}) == 1
        header = before[: message.header_end - message.start]
        end = re.search(rb"\n\r?\n", after)
        assert end is not None
        assert kept_lines(after[: end.end()]) == kept_lines(header)
        if box.crlf:
            assert re.search(rb"(?<!\r)\n", after) is None
        else:
            assert b"\r\n" not in after.replace(b"\n".join(kept_lines(header)), b"")


@given(mailboxes(), ODD)
def test_a_notice_is_a_plain_text_message_in_lines_of_lawful_length(box: Mailbox, signature: str) -> None:
    for message in split(box.data):
        made = notice_for(box.data, message, signature)
        parsed = email.message_from_bytes(made[made.find(b"\n") + 1 :])
        assert parsed.get_content_type() == "text/plain"
        assert not parsed.is_multipart()
        assert set(map(str.lower, parsed.keys())) <= {
            *(name.decode() for name in KEPT),
            *("subject", "content-type", "x-clamscannerd", "x"),
        }
        kept = b"\n".join(kept_lines(made))
        for line in made[made.find(b"\n") + 1 :].split(b"\n"):
            assert len(line.rstrip(b"\r")) <= 78 or line in kept
            assert not line.startswith(b"From ")


@pytest.mark.parametrize("crlf", [False, True])
@pytest.mark.parametrize("variant", Variant)
def test_a_message_of_ordinary_size_becomes_the_whole_text(variant: Variant, *, crlf: bool) -> None:
    headers = (b"Received: from a by b", b"Subject: buy", b"To: bob@example.org", b"X-Mailer: x" * 20, b"Status: RO")
    letter = Letter(headers=headers, body=(INFECTION,) * 20)
    box = render([letter, letter], variant, crlf=crlf)
    message = split(box.data)[0]
    made = notice_for(box.data, message)
    parsed = email.message_from_bytes(made[len(FROM_LINE) :].lstrip())
    assert parsed["Subject"].split() == f"[removed: {SIGNATURE}] infected message, kept as item 17".split()
    assert parsed["To"] == "bob@example.org"
    text = parsed.get_payload()
    assert isinstance(text, str)
    assert (
        text.split()
        == (
            f"This message was infected and has been taken out of this mailbox. Signature: {SIGNATURE} Date: {WHEN} "
            "Item: 17 It is kept for a while. To get it back: clamscannerctl quarantine restore 17"
        ).split()
    )
    assert INFECTION not in made
    assert b"buy" not in made


@pytest.mark.parametrize("size", range(300))
@pytest.mark.parametrize("counted", [False, True])
def test_every_size_of_header_and_body_is_filled_to_the_byte(size: int, *, counted: bool) -> None:
    length = b"Content-Length: %d\n"
    for eol, (header_size, body_size) in itertools.product(
        (b"\n", b"\r\n"), ((size, 0), (size, 1), (0, size), (9, size))
    ):
        junk = b"x" * (header_size - len(eol)) + eol if header_size > len(eol) else b""
        header = FROM_LINE + eol + (length.replace(b"\n", eol) % body_size if counted else b"") + junk + eol
        body = (b"y" * body_size + eol + eol)[2 * len(eol) :] if body_size > 2 * len(eol) else b"z" * body_size
        data = header + body
        (message,) = split(data)
        made = notice_for(data, message)
        assert len(made) == len(data)
        (again,) = split(made)
        if counted:
            assert again.header_end == message.header_end
        assert email.message_from_bytes(made[len(FROM_LINE) :].lstrip(b"\r\n")).get_content_type() == "text/plain"


@pytest.mark.parametrize("header", [b"A: b\n", b"Content-Length: 5\n"])
def test_a_last_line_without_an_end_stays_without(header: bytes) -> None:
    for size in range(1, 600):
        (message,) = split(FROM + header + b"\n" + b"x" * size)
        assert notice_for(FROM + header + b"\n" + b"x" * size, message).endswith(b" ")


@pytest.mark.parametrize(
    "data",
    [
        FROM_LINE,
        FROM,
        FROM + b"x",
        FROM + b"\n",
        FROM + b"xy",
        FROM + b"Subject: x",
        FROM + b"Subject: x\n",
        FROM + b"To: x\n",
        FROM + b"To: x",
        FROM + b"To: x\nContent-Length: 5\nSubject: x",
        FROM_LINE + b"\r\nx\r\n",
        FROM_LINE + b" " + b"x" * HEADER_BYTES + b"yyy",
        FROM_LINE + b" " + b"x" * HEADER_BYTES,
    ],
)
def test_the_shortest_messages_have_a_notice_too(data: bytes) -> None:
    (message,) = split(data)
    made = notice_for(data, message)
    assert len(made) == len(data)
    assert made[: len(FROM)] == data[: len(FROM)]
    assert made.endswith(b"\n") == data.endswith(b"\n")
    assert b"Subject: x" not in made
    assert b"Content-Length" not in made
    assert [(m.start, m.end) for m in split(made)] == [(0, len(data))]


@pytest.mark.parametrize("long", [b"To: " + b"x" * (2 * HEADER_BYTES), b"X: y\n" * HEADER_BYTES])
def test_a_header_that_was_cut_keeps_what_is_whole_but_no_content_length(long: bytes) -> None:
    first = FROM + b"Content-Length: 5\nStatus: RO\n" + long.rstrip(b"\n") + b"\n\nbody\n\n"
    data = first + FROM + b"\n"
    messages = split(data)
    assert messages[0].header_end == HEADER_BYTES
    after = replaced(data, messages[:1])
    assert [(m.start, m.end) for m in split(after)] == [(m.start, m.end) for m in messages]
    assert after.startswith(FROM + b"Status: RO\nSubject: [removed")
    assert after.endswith(b"\n\n" + FROM + b"\n")


def test_kept_fields_that_fill_a_cut_header_give_way() -> None:
    first = FROM + b"To: " + b"x" * (HEADER_BYTES - 60) + b"\nX: " + b"y" * 10 + b"\n\n"
    data = first + FROM
    messages = split(data)
    assert messages[0].header_end < messages[0].end
    after = replaced(data, messages[:1])
    assert [(m.start, m.end) for m in split(after)] == [(m.start, m.end) for m in messages]
    assert after.startswith(FROM + b"Subject: [removed")


def test_a_large_message_is_replaced_piece_by_piece() -> None:
    header = FROM + b"Subject: x\n\n"
    size = 50 << 20
    pieces = notice_pieces(header, size, tail=b"x\n\n\n", signature=SIGNATURE, item_id=1, when=WHEN)
    sizes = [len(piece) for piece in pieces]
    assert sum(sizes) == size
    assert max(sizes) <= 128 << 10


def test_the_same_message_has_the_same_notice() -> None:
    data = FROM + b"Subject: x\n\n" + b"y" * 1000
    (message,) = split(data)
    assert notice_for(data, message) == notice_for(data, message)


@settings(max_examples=30)
@given(st.sampled_from(["\n", "\r", "\0", "\x1b", "\x85", "\u2028", "\xe9", "\udcff"]))
def test_no_character_of_a_signature_makes_a_line(odd: str) -> None:
    data = FROM + b"Subject: x\n\n" + b"y" * 1000
    (message,) = split(data)
    made = notice_for(data, message, f"A{odd}From x", f"now{odd}From y")
    assert b"[removed: A?From?x]" in made
    assert b"now?From y\n" in made
