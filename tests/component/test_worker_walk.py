"""The two walks over a tree meet the same entries: one to scan them, one to count them."""

import os
from pathlib import Path

import pytest

from clamscannerd.worker.beneath import Kernel
from clamscannerd.worker.walk import sizes, walk


def odd_tree(home: Path) -> None:
    """One of each kind that a walk has to tell apart."""
    (home / "below" / "deeper").mkdir(parents=True)
    (home / "below" / "five").write_bytes(b"12345")
    (home / "below" / "deeper" / ("long" * 40)).write_bytes(b"1")
    (home / "below" / ("d" * 200)).mkdir()
    (home / "empty").touch()
    (home / "link").symlink_to("empty")
    (home / "left-out").mkdir()
    (home / "left-out" / "file").write_bytes(b"123")
    (home / os.fsdecode(b"not-\xff-text")).write_bytes(b"12")
    os.mkfifo(home / "fifo")


@pytest.mark.parametrize("home_length", [10, 3_900, 4_060], ids=["all fit", "one is too long", "most are too long"])
@pytest.mark.parametrize("roots", [(b".",), (b"below", b"gone", b"empty")])
def test_counting_meets_what_scanning_meets(tmp_path: Path, home_length: int, roots: tuple[bytes, ...]) -> None:
    odd_tree(tmp_path)
    kernel, fd = Kernel(), os.open(tmp_path, os.O_RDONLY)
    try:
        met = [entry.size() for entry in walk(kernel, fd, home_length, roots, (b"left-out", b"not*", b"d*"))]
        counted = list(sizes(kernel, fd, home_length, roots, (b"left-out", b"not*", b"d*")))
    finally:
        os.close(fd)
    assert counted == met
    assert len(counted) > 1


def test_a_file_that_vanished_counts_nothing(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"1234")
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        counting = sizes(Kernel(), fd, 10, (b".",), ())
        first = next(counting)
        for entry in tmp_path.iterdir():
            entry.unlink()
        assert [first, *counting] == [4, 0]
    finally:
        os.close(fd)
