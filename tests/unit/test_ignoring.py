"""What an ignore list covers, and that no list and no findings make it take long."""

import time

import pytest

from clamscannerd.globs import quoted
from clamscannerd.model import IgnoreEntry, IgnoreKind
from clamscannerd.service.ignoring import Budget, judge
from clamscannerd.state.store_values import FoundFile

HASH = b"h" * 32


def entry(kind: IgnoreKind, value: bytes, number: int = 1) -> IgnoreEntry:
    return IgnoreEntry(id=number, kind=kind, value=value, note="", added_by=0, added_at=0.0, expires_at=None)


def found(path: bytes, signature: str = "Eicar", sha256: bytes = HASH, *, is_box: bool = False) -> FoundFile:
    return FoundFile(1, path, signature, sha256, is_box)


def covers(one: IgnoreEntry, file: FoundFile) -> bool:
    return bool(judge([one], [file], Budget()).entries)


@pytest.mark.parametrize(
    ("pattern", "path", "fits"),
    [
        (b"/a/b.com", b"a/b.com", True),
        (b"/a/b.com", b"x/a/b.com", False),
        (b"/a", b"a/b.com", True),
        (b"/a", b"ab", False),
        (b"a", b"x/a/y", True),
        (b"a/", b"x/a", False),
        (b"*.com", b"x/b.com", True),
        (b"/*.com", b"x/b.com", False),
        (b"/x/**/b.com", b"x/b.com", True),
        (b"caf\xe9", b"caf\xe9", True),
        (quoted(b"a*\n[x] "), b"a*\n[x] ", True),
        (quoted(b"a*"), b"ab", False),
        (quoted(b"*" * 4_000), b"*" * 4_000, True),
    ],
)
def test_a_path_covers_what_fits_it_and_all_beneath(pattern: bytes, path: bytes, fits: bool) -> None:
    assert covers(entry(IgnoreKind.PATH, pattern), found(path)) == fits


def test_a_signature_is_the_whole_name_and_says_nothing_of_a_mailbox() -> None:
    one = entry(IgnoreKind.SIGNATURE, b"Eicar")
    assert covers(one, found(b"a"))
    assert not covers(one, found(b"a", "Eicar-Test"))
    assert not covers(one, found(b"a", is_box=True)), "other messages in it may have other signatures"


def test_a_hash_is_only_one_that_was_taken_of_what_was_found() -> None:
    assert covers(entry(IgnoreKind.SHA256, HASH), found(b"a"))
    assert not covers(entry(IgnoreKind.SHA256, HASH), found(b"a", sha256=b"i" * 32))
    nothing = bytes(32)
    assert not covers(entry(IgnoreKind.SHA256, nothing), found(b"a", sha256=nothing)), "the worker could not take it"


def test_what_takes_too_long_is_given_up_and_said() -> None:
    """The most entries that an account may have by default, each the worst that there is, and paths that fit them."""
    entries = [entry(IgnoreKind.PATH, b"**/*%d*a*a*a*b/**/" % n + b"**/a*a*b/" * 100 + b"c", n) for n in range(100)]
    paths = [found((b"a" * 255 + b"/") * 15 + b"%d" % n) for n in range(10_000)]
    budget = Budget(0.2)
    began = time.thread_time()
    judged = judge(entries, paths, budget)
    assert not judged.complete
    assert budget.left_s < 0
    assert time.thread_time() - began < 5.0
    assert not judge(entries, paths, budget).complete, "what belongs together has one budget"


def test_a_hundred_thousand_findings_by_plain_entries_are_no_trouble() -> None:
    entries = [entry(IgnoreKind.PATH, b"/public_html/%d" % n, n) for n in range(98)]
    entries += [entry(IgnoreKind.SIGNATURE, b"X", 99), entry(IgnoreKind.SHA256, b"x" * 32, 100)]
    paths = [FoundFile(n, b"public_html/%d/upload/file.php" % n, "Eicar", HASH, False) for n in range(100_000)]
    judged = judge(entries, paths, Budget())
    assert judged.complete
    assert len(judged.entries) == 98
