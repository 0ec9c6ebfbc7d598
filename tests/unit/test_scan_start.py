"""Paths that somebody wants to have scanned, as text: what they mean beneath the home, and what is refused. Pure."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from clamscannerd.errors import Refused
from clamscannerd.model import PATH_MAX_BYTES, is_beneath
from clamscannerd.rpc.names import to_wire
from clamscannerd.service.scan_start import beneath
from clamscannerd.service.status import shown

HOME = b"/home/ann"
PARTS = st.binary(min_size=1, max_size=12).filter(lambda part: part not in (b".", b"..") and not {0, 47} & set(part))
PATHS = st.lists(PARTS, min_size=1, max_size=5).map(b"/".join)
NOISE = st.sampled_from([b"/", b"//", b"/./", b"/././/"])


@given(PATHS, NOISE)
@example(b"new\nline/\xff\xfe", b"/")
def test_a_path_beneath_the_home_means_itself_however_it_is_spelled(path: bytes, slashes: bytes) -> None:
    for spelled in (path, HOME + b"/" + path):
        loosely = spelled.replace(b"/", slashes)
        assert beneath(HOME, to_wire(loosely)) == path
        assert beneath(HOME, to_wire(loosely + slashes)) == path
    assert beneath(HOME, shown(HOME, path)) == path, "as it is shown, so it can be given"


@given(st.text() | st.binary().map(to_wire) | st.text("/.\\x0\0a", max_size=20))
@example("/home/ann")
@example("/home/ann/")
@example("/home")
@example("/home/annabel/x")
@example("..")
@example("a/../../b")
@example("/home/ann/../bob")
@example("a" * 5_000)
@example("\ud800")
def test_any_text_is_a_lawful_path_beneath_the_home_or_refused(text: str) -> None:
    said = ""
    path = b"."
    try:
        path = beneath(HOME, text)
    except Refused as refused:
        said = str(refused)
    assert said == "" or said.startswith("cannot scan ")
    assert path == b"." or is_beneath(path)
    assert len(HOME) + 1 + len(path) <= PATH_MAX_BYTES


@pytest.mark.parametrize("text", ["/home/ann", "/home/ann/", "//home/./ann/.", ".", "./", "./."])
def test_the_home_itself_can_be_named(text: str) -> None:
    assert beneath(HOME, text) == b"."


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "the name is empty"),
        ("/", "it is not in the home directory /home/ann"),
        ("/etc/passwd", "it is not in the home directory /home/ann"),
        ("/home/annabel", "it is not in the home directory /home/ann"),
        ("../bob", 'name it without ".."'),
        ("/home/ann/../bob/x", 'name it without ".."'),
        ("a\0b", "a name holds no NUL"),
        ("a\\b", "after a backslash"),
        ("/home/ann/" + "d/" * 2_040 + "abcdef", "the name is too long"),
    ],
)
def test_what_cannot_be_scanned_is_said_with_its_reason(text: str, why: str) -> None:
    with pytest.raises(Refused) as refused:
        beneath(HOME, text)
    assert why in str(refused.value)
