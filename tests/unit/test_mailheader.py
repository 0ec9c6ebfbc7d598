"""worker/mailheader.py: fields of any header are short text on one line, decoded as email.header would."""

import email.errors
import email.header
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clamscannerd.worker.mailheader import TEXT_CHARS, VALUE_BYTES, Fields, content_length, fields

LETTERS = st.text(
    st.characters(whitelist_categories=["Lu", "Ll", "Lo", "Nd"], max_codepoint=0x2FFF), min_size=1, max_size=40
)


def subject(value: bytes) -> str:
    return fields(b"From a b\nSubject:" + value + b"\nX: y\n\n").subject


@given(st.binary(max_size=600))
def test_any_bytes_give_short_printable_text(data: bytes) -> None:
    for header in (data, b"Subject: " + data, b"Subject: =?utf-8?Q?" + data, b"From:" + data.replace(b"a", b"=?x?B?")):
        told = fields(header)
        for text in (told.message_id, told.subject, told.sender, told.date):
            assert len(text) <= TEXT_CHARS
            assert text.isprintable()
            assert text == text.strip()


@given(LETTERS, st.sampled_from(["utf-8", "iso-8859-1", "koi8-r", "gb18030", "shift_jis", "iso-2022-jp", "euc-kr"]))
def test_what_email_header_encodes_is_decoded(text: str, charset: str) -> None:
    try:
        encoded = email.header.Header(text, charset, header_name="Subject").encode()
    except (UnicodeError, email.errors.HeaderParseError):
        return  # not in this charset
    if unicodedata.normalize("NFC", text) == text:
        assert subject(b" " + encoded.encode()) == text


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b" plain", "plain"),
        (b"", ""),
        (b" \t ", ""),
        (b" folded\n and\r\n\tagain", "folded and again"),
        (b" J\xc3\xb6rg", "J\xf6rg"),
        (b" \xff\xfe", "\ufffd\ufffd"),
        (b" =?utf-8?Q?J=C3=B6rg?= X", "J\xf6rg X"),
        (b" =?UTF-8*de?q?J=C3=B6rg?=", "J\xf6rg"),
        (b" =?utf-8?Q?a_b=20c?=", "a b c"),
        (b" =?utf-8?Q?J=C3?=\n =?utf-8?Q?=B6rg?=", "J\xf6rg"),
        (b" =?utf-8?Q?a?= =?iso-8859-1?Q?=E4?=", "a\xe4"),
        (b" =?utf-8?Q?a?= and =?utf-8?Q?b?=", "a and b"),
        (b" Re: =?utf-8?B?SsO2cmc?= x", "Re: J\xf6rg x"),
        (b" =?utf-8?B?SsO2cmc====?=", "J\xf6rg"),
        (b" =?utf-8?B?A?=", "A"),
        (b" =?windows_1252?Q?=80?=", "\u20ac"),
        (b" =?x-unknown?Q?a=ff?=", "a\ufffd"),
        (b" =?rot13?Q?uryyb?=", "uryyb"),
        (b" =?unicode_escape?Q?=5Cx?=", "\\x"),
        (b" =?utf-8?Q?bell=07=1B[2J=0Aline=00?=", "bell[2J line"),
        (b" =?utf-8?Q?=E2=80=AEevil?=", "evil"),
        (b" =?utf-8?Q?", "=?utf-8?Q?"),
        (b" =?utf-8?X?a?=", "=?utf-8?X?a?="),
        (b" \xc3\xb6 =?utf-8?Q?\xc3\xb6?=", "\xf6 ?"),
        (b" one\0two\x7f", "onetwo"),
    ],
)
def test_text_is_decoded_and_tamed(value: bytes, expected: str) -> None:
    assert subject(value) == expected


def test_a_long_value_is_cut_between_encoded_words() -> None:
    told = subject(b"\n =?utf-8?B?w6TDpA==?=" * 200)
    assert told == "\xe4" * len(told)
    assert 50 < len(told) <= TEXT_CHARS
    assert subject(b" " + b"x" * 5_000) == "x" * TEXT_CHARS
    assert subject(b" =?utf-8?Q?" + b"a" * VALUE_BYTES * 2 + b"?=").startswith("=?utf-8?Q?aaa")


def test_names_are_whole_and_in_any_case_and_the_first_wins() -> None:
    header = b"From x y\nX-Subject: no\nSUBJECT: one\nSubject: two\nmessage-id: <a@b>\nFROM: c\nDate: d\n\n"
    assert fields(header) == Fields(message_id="<a@b>", subject="one", sender="c", date="d")
    assert fields(b"Subject: first line of a file\n").subject == "first line of a file"
    assert fields(b"Subject: no line end").subject == "no line end"
    assert fields(b"") == Fields()


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (b"Content-Length: 5\n\n", 5),
        (b"From x\ncontent-length:0\r\n\r\n", 0),
        (b"Content-Length:\n 12\n\n", 12),
        (b"Content-Length: 999999999999999999\n\n", 10**18 - 1),
        (b"Content-Length: 1000000000000000000\n\n", None),
        (b"Content-Length: 5\nContent-Length: 5\n\n", None),
        (b"Content-Length: -5\n\n", None),
        (b"Content-Length: +5\n\n", None),
        (b"Content-Length: 5 6\n\n", None),
        (b"Content-Length: 0x5\n\n", None),
        (b"Content-Length: 1_0\n\n", None),
        (b"Content-Length: \xb2\n\n", None),
        (b"Content-Length:\n\n", None),
        (b"X-Content-Length: 5\n\n", None),
        (b"", None),
    ],
)
def test_content_length_is_one_number_or_none(header: bytes, expected: int | None) -> None:
    assert content_length(header) == expected
