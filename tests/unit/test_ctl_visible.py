"""What of somebody else's text reaches a terminal, and how it fits there. Pure."""

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clamscannerd.ctl import text
from clamscannerd.ctl.visible import cells, folded, safe, tail
from clamscannerd.rpc.names import to_wire

WIDE = "漢字"


@given(st.text())
def test_nothing_that_is_not_printable_reaches_the_terminal(anything: str) -> None:
    shown = safe(anything)
    assert shown.isprintable()
    assert anything != shown or anything.isprintable()


@given(st.binary())
def test_what_is_shown_of_a_name_is_of_that_name_alone_and_of_no_other_normal_form(name: bytes) -> None:
    shown = safe(to_wire(name))
    bare = re.sub(r"\\(\\|x([0-9a-f]{2}))", lambda found: chr(int(found[2] or "5c", 16)), ascii_of(shown))
    assert bare.encode("latin-1") == name
    assert shown == unicodedata.normalize("NFC", shown)
    assert not shown.endswith(" ")


def ascii_of(shown: str) -> str:
    """Each character beyond ASCII as its bytes, one character each."""
    return shown.encode().decode("latin-1")


@pytest.mark.fails_with("unseen-shown")
@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("a\x1b]0;gone\x07b", "a\\x1b]0;gone\\x07b"),
        ("new\nline", "new\\x0aline"),
        ("exe.\u202etxt", "exe.\\xe2\\x80\\xaetxt"),
        ("\u2066\u200f\ufeff", "\\xe2\\x81\\xa6\\xe2\\x80\\x8f\\xef\\xbb\\xbf"),
        ("\x9b31m", "\\xc2\\x9b31m"),
        ("\x7f", "\\x7f"),
        ("a\ufe0fb\u3164", "a\\xef\\xb8\\x8fb\\xe3\\x85\\xa4"),
        ("trailing  ", "trailing\\x20\\x20"),
        ("e\u0301", "e\\xcc\\x81"),
        ("/\u0301x", "/\\xcc\\x81x"),
        ("x\u0323\u0323\u0323", "x\u0323\u0323\\xcc\\xa3"),
        ("\u212a", "\\xe2\\x84\\xaa"),
        ("Grüße 日本 😀", "Grüße 日本 😀"),
        ("नमस्ते กี่ שָׁלוֹם", "नमस्ते กี่ שָׁלוֹם"),
        ("back\\\\slash", "back\\\\slash"),
    ],
)
def test_what_acts_or_cannot_be_seen_or_told_apart_is_shown_as_its_bytes(raw: str, shown: str) -> None:
    assert safe(raw) == shown


@pytest.mark.fails_with("wide-as-narrow")
@pytest.mark.parametrize(
    ("words", "columns", "shown"),
    [
        ("/home/a", 7, "/home/a"),
        ("/home/a", 6, "…ome/a"),
        (WIDE, 4, WIDE),
        (WIDE, 3, "…字"),
        ("a" + WIDE, 4, "…字"),
        ("abc", 0, "…"),
    ],
)
def test_the_end_is_kept_in_so_many_columns(words: str, columns: int, shown: str) -> None:
    assert tail(words, columns) == shown
    assert cells(shown) <= max(columns, 1)


def test_prose_is_broken_at_blanks_where_a_terminal_is() -> None:
    line = "ok       One two three four."
    assert folded(line, None, 9) == folded(line, 80, 9) == [line]
    assert folded(line, 17, 9) == ["ok       One two", "         three", "         four."]
    assert folded(f"  a:  {WIDE} b", 11, 6) == [f"  a:  {WIDE}", "      b"]


@given(st.lists(st.sampled_from(["a", "bb", WIDE, "c" * 30])), st.integers(10, 40), st.integers(0, 5))
def test_no_word_is_lost_and_nothing_is_wider_than_it_must_be(words: list[str], columns: int, hang: int) -> None:
    lines = folded(" ".join(["x", *words]), columns, hang)
    assert " ".join(lines).split() == ["x", *words]
    assert all(cells(line) <= columns or len(line.split()) == 1 for line in lines)


ITEM = {
    "id": 7,
    "state": "quarantined",
    "expires_at": 1.8e9,
    "size": 68,
    "signature": "Eicar",
    "file": "/home/anna/x y",
}


def test_a_table_that_does_not_fit_has_two_lines_a_row_and_every_name_whole() -> None:
    (line,) = text.items_lines([ITEM])
    assert text.items_lines([ITEM], 80) == [line]
    file = f"/home/anna/{WIDE * 9}"
    long = {**ITEM, "id": 12, "file": file}
    head, name, *others = text.items_lines([ITEM, long], 80)
    assert (name, others[1]) == ("    Eicar  /home/anna/x y", f"    Eicar  {file}")
    assert all(cells(shown) <= 80 for shown in (head, *others))
    assert len(text.items_lines([ITEM, long])) == 2


def test_what_is_said_of_a_file_stands_below_it_where_both_do_not_fit() -> None:
    step = {"type": "step", "id": 1, "file": "/home/anna/x", "state": "restored", "message": "why " * 20}
    assert text.record_lines([step], None) == [text.record_line(step)]
    assert text.record_lines([step], 80)[0] == "restored: /home/anna/x"
