"""Globs as .gitignore has them: the rules of gitignore(5) by name, refusals, and what hostile ones cost."""

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clamscannerd.globs import MAX_BYTES, BadGlob, Glob, Globs, literal, quoted


def fits(pattern: bytes, path: bytes, *, directory: bool = False) -> bool:
    return Globs([pattern]).excludes(path, directory=directory)


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        (b"*.iso", b"a/b/c.iso"),
        (b"*.iso", b".iso"),
        (b"/c.iso", b"c.iso"),
        (b"a/*.iso", b"a/c.iso"),
        (b"**/b/c", b"b/c"),
        (b"**/b/c", b"a/x/b/c"),
        (b"a/**", b"a/b/c"),
        (b"a/**/c", b"a/c"),
        (b"a/**/c", b"a/x/y/c"),
        (b"a/**/b/**/c", b"a/b/b/x/c"),
        (b"**/x*y*z", b"q/xyyz"),
        (b"[!a]?[0-9]", b"xy7"),
        (b"[]-]", b"]"),
        (b"[[:digit:]x]", b"x"),
        (b"\\!a\\*\\ ", b"!a* "),
        (b"caf\xe9", b"dir/caf\xe9"),
        (b"a\nb", b"a\nb"),
        (b"**", b"a/b"),
        (b"/**", b"a/b"),
        (b"a**/c", b"axy/c"),
    ],
)
def test_what_fits(pattern: bytes, path: bytes) -> None:
    assert fits(pattern, path)


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        (b"*.iso", b"a.iso/b"),
        (b"/c.iso", b"a/c.iso"),
        (b"a/*", b"a/b/c"),
        (b"a/c", b"x/a/c"),
        (b"a/**", b"a"),
        (b"a/**/c", b"ac"),
        (b"ab*b", b"ab"),
        (b"a?c", b"a/c"),
        (b"a[!x]c", b"a/c"),
        (b"cache/", b"cache"),
        (b"A", b"a"),
        (b"a**/c", b"a/x/c"),
    ],
)
def test_what_does_not_fit(pattern: bytes, path: bytes) -> None:
    assert not fits(pattern, path)


def test_the_last_that_fits_decides_and_some_are_for_directories() -> None:
    globs = Globs([b"*.iso", b"!important.iso", b"cache/", b"/x/important.iso"])
    assert globs.excludes(b"a.iso", directory=False)
    assert not globs.excludes(b"y/important.iso", directory=False)
    assert globs.excludes(b"x/important.iso", directory=False)
    assert globs.excludes(b"y/cache", directory=True)
    assert globs.why(b"y/cache/z/w", directory=False) == (b"cache/", b"y/cache")
    assert globs.why(b"a/b.iso", directory=False) == (b"*.iso", b"a/b.iso")
    assert globs.why(b"a/b", directory=False) is None
    assert not Globs([]).excludes(b"a", directory=False)


def test_what_is_beneath_is_covered() -> None:
    assert Glob(b"/a/b").covering().fullmatch(b"a/b/c/d")
    assert Glob(b"b").covering().fullmatch(b"x/b/c")
    assert Glob(b"b").covering().fullmatch(b"x/b")
    assert Glob(b"b/").covering().fullmatch(b"x/b/c")
    assert not Glob(b"b/").covering().fullmatch(b"x/b")
    assert not Glob(b"/b").covering().fullmatch(b"bb/c")


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        (b"", "names nothing"),
        (b"/", "names nothing"),
        (b"!", "names nothing"),
        (b"a//b", "empty name"),
        (b"../a", "empty name"),
        (b"./a", "empty name"),
        (b"a\0b", "NUL"),
        (b"#a", "comment"),
        (b"a ", "blank"),
        (b"a\\", "backslash"),
        (b"[a", "not closed"),
        (b"[", "not closed"),
        (b"[]", "not closed"),
        (b"[a\\", "not closed"),
        (b"[[:no:]]", "class"),
        (b"*" * (MAX_BYTES + 1), "1,000 bytes"),
        (b"*" * 10_000, "1,000 bytes"),
        (b"/" + b"a" * 10_000, "1,000 bytes"),
    ],
)
def test_what_is_no_pattern_is_refused_with_the_reason(pattern: bytes, why: str) -> None:
    with pytest.raises(BadGlob, match=re.escape(why)):
        Glob(pattern)


@given(st.binary(min_size=1, max_size=40))
def test_a_quoted_path_fits_itself_alone(name: bytes) -> None:
    path = name.replace(b"\0", b"0").replace(b"/", b"_")
    if path not in (b".", b".."):
        assert literal(quoted(path)) == path
        assert Glob(quoted(path)).covering().fullmatch(path)
        assert not Glob(quoted(path)).covering().fullmatch(path + b"x")


@pytest.mark.parametrize("pattern", [b"a", b"/a*", b"/a/", b"/[a]", b"/a?"])
def test_what_is_for_more_than_one_path_is_not_literal(pattern: bytes) -> None:
    assert literal(pattern) is None


@given(st.binary(max_size=30), st.binary(max_size=30))
def test_any_bytes_are_a_pattern_or_refused(pattern: bytes, path: bytes) -> None:
    try:
        glob = Glob(pattern)
    except BadGlob:
        return
    glob.covering().fullmatch(path)


HOSTILE = {
    "stars": b"*" * MAX_BYTES,
    "stars and letters": b"*a" * 120 + b"*b",
    "directories": b"**/" * 300 + b"b",
    "directories and names": b"**/a/" * 190 + b"b",
    "stars in directories": b"**/*a*a*a*b/" * 80 + b"c",
    "one long name": b"*" + b"a" * 900 + b"b",
    "any byte": b"*" + b"?" * 900 + b"b",
    "brackets": b"*" + b"[ab]" * 200 + b"c",
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("path", [b"a/" * 2_000 + b"a", (b"a" * 255 + b"/") * 15 + b"a" * 255, b"a" * 4_095])
def test_no_pattern_takes_long(name: str, path: bytes) -> None:
    compiled = Glob(HOSTILE[name]).covering()
    began = time.thread_time()
    compiled.fullmatch(path)
    assert time.thread_time() - began < 0.5  # a pattern that backtracks takes longer than the sun shines


def test_a_path_of_many_directories_is_no_trouble_for_many_patterns() -> None:
    globs = Globs([b"*.o%d" % number for number in range(50)] + [b"/cache/", b"**/build/x", b"!kept.o1"])
    began = time.thread_time()
    for _ in range(20):
        assert globs.why(b"a/" * 2_000 + b"kept.o1", directory=False) is None
    assert time.thread_time() - began < 5.0
