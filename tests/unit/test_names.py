"""rpc/names.py: one name, one text, and back."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clamscannerd.rpc.names import from_wire, to_wire

PAIRS = [
    (b"", ""),
    (b"/home/bob/mail", "/home/bob/mail"),
    ("Grüße €.txt".encode(), "Grüße €.txt"),
    (b"a\\b", "a\\\\b"),
    (b"\\x41", "\\\\x41"),
    (b"\xff\xfe", "\\xff\\xfe"),
    (b"caf\xe9", "caf\\xe9"),
    (b"\xe2\x82a", "\\xe2\\x82a"),  # a character cut short
    (b"\xed\xa0\x80", "\\xed\\xa0\\x80"),  # a surrogate is not valid UTF-8
    (b"\xc0\xaf", "\\xc0\\xaf"),  # nor is an overlong slash
    (b"\xf4\x90\x80\x80", "\\xf4\\x90\\x80\\x80"),  # nor anything beyond U+10FFFF
    (b"\\udcff\xff\\ud800\\x", "\\\\udcff\\xff\\\\ud800\\\\x"),
    (b'line\nquote"\x7f\0', 'line\nquote"\x7f\0'),
]


@pytest.mark.parametrize(("name", "text"), PAIRS)
def test_examples_both_ways(name: bytes, text: str) -> None:
    assert to_wire(name) == text
    assert from_wire(text) == name


@given(st.binary())
def test_every_name_comes_back_through_json(name: bytes) -> None:
    assert from_wire(json.loads(json.dumps(to_wire(name)).encode("utf-8"))) == name


@given(st.lists(st.sampled_from([b"\\", b"x", b"4", b"f", b"\xc3", b"\xa9", b"\xe2", b"\xed", b"a", b"\xff"])))
def test_every_name_of_hard_pieces_comes_back(pieces: list[bytes]) -> None:
    name = b"".join(pieces)
    assert from_wire(to_wire(name)) == name


@given(st.text(st.characters() | st.sampled_from("\\xc3a9ed\udc80\ud800")))
def test_a_text_is_refused_or_is_the_one_form_of_its_name(text: str) -> None:
    try:
        name = from_wire(text)
    except ValueError:
        return
    assert to_wire(name) == text


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("a\\", "after a backslash"),
        ("\\n", "after a backslash"),
        ("\\xf", "after a backslash"),
        ("\\xFF", "after a backslash"),
        ("\\u00e9", "after a backslash"),
        ("\\\\\\", "after a backslash"),
        ("\\x41", "is written 'A'"),
        ("\\x00", "is written"),
        ("\\x5c", "is written"),
        ("\\xc3\\xa9", "not valid UTF-8"),
        ("a\\xff\\xe2\\x82\\xac", "not valid UTF-8"),
        ("\ud800", "lone surrogate"),
        ("a\udcffb", "lone surrogate"),
    ],
)
def test_another_form_is_refused_with_its_cause(text: str, cause: str) -> None:
    with pytest.raises(ValueError, match=r"cannot read the name .*" + cause):
        from_wire(text)
