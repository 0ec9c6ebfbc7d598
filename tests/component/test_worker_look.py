"""What a worker says of a path that somebody wants to have scanned, and what a scan of such paths meets."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from clamscannerd.model import Place, Reason
from clamscannerd.worker.beneath import Kernel
from clamscannerd.worker.look import look
from clamscannerd.worker.lookwire import Look, Looked
from clamscannerd.worker.walk import sizes, walk
from tests.fakes.worker_peer import WorkerPeer

PLACES = {
    b".": Place.DIRECTORY,
    b"directory": Place.DIRECTORY,
    b"directory/\xff\n": Place.FILE,
    b"directory/gone": Place.MISSING,
    b"gone/gone": Place.MISSING,
    b"file/below": Place.MISSING,
    b"link": Place.LINK,
    b"link/\xff\n": Place.BEHIND_LINK,
    b"out": Place.LINK,
    b"out/passwd": Place.BEHIND_LINK,
    b"out/gone/gone": Place.BEHIND_LINK,
    b"fifo": Place.SPECIAL,
    b"n" * 256: Place.TOO_LONG,
}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    place = tmp_path / "home"
    (place / "directory").mkdir(parents=True)
    (place / "directory" / os.fsdecode(b"\xff\n")).write_bytes(b"12345")
    (place / "file").write_bytes(b"123")
    (place / "link").symlink_to("directory")
    (place / "out").symlink_to("/etc")
    os.mkfifo(place / "fifo")
    place.chmod(0o700)
    return place


@pytest.fixture
def home_fd(home: Path) -> Iterator[int]:
    fd = os.open(home, os.O_RDONLY)
    yield fd
    os.close(fd)


@pytest.mark.parametrize("openat2", [True, False])
@pytest.mark.parametrize("path", PLACES)
def test_what_stands_at_a_path_is_told_apart(home_fd: int, path: bytes, *, openat2: bool) -> None:
    kernel = Kernel()
    kernel.openat2 = openat2
    assert look(kernel, home_fd, path) is PLACES[path]


def test_a_worker_answers_for_each_path_and_leaves(home: Path) -> None:
    with WorkerPeer(home) as worker:
        worker.send(Look(paths=tuple(PLACES)))
        assert worker.expect(Looked).places == tuple(PLACES.values())
    assert worker.process.returncode == 0


def test_another_file_system_is_not_looked_into() -> None:
    fd = os.open("/", os.O_RDONLY)
    try:
        assert look(Kernel(), fd, b"proc/self") is Place.OTHER_FILESYSTEM
    finally:
        os.close(fd)


@pytest.mark.parametrize("openat2", [True, False])
def test_named_roots_are_met_each_as_what_it_is_by_then(home_fd: int, *, openat2: bool) -> None:
    """A file is one entry; what went, or became a link, has a reason, and is not passed over."""
    kernel = Kernel()
    kernel.openat2 = openat2
    roots = (b"file", b"directory", b"directory/\xff\n", b"gone", b"link", b"out/passwd", b"fifo")
    met = {entry.path: entry.reason for entry in walk(kernel, home_fd, 10, roots, (), named=True)}
    assert met == {
        b"file": None,
        b"directory/\xff\n": None,
        b"gone": Reason.VANISHED,
        b"link": Reason.NOT_REGULAR,
        b"out/passwd": Reason.NOT_REGULAR,
        b"fifo": Reason.NOT_REGULAR,
    }
    assert sorted(sizes(kernel, home_fd, 10, roots, (), named=True)) == [0, 0, 0, 0, 3, 5]


@pytest.mark.parametrize("roots", [(b"directory",), (b"directory/\xff\n",), (b".",)])
def test_what_is_left_out_is_left_out_however_it_is_named(home_fd: int, roots: tuple[bytes, ...]) -> None:
    met = {entry.path: entry.reason for entry in walk(Kernel(), home_fd, 10, roots, (b"directory",), named=True)}
    assert Reason.EXCLUDED in met.values()
    assert b"directory/\xff\n" not in met or met[b"directory/\xff\n"] is Reason.EXCLUDED


def times(home: Path) -> dict[bytes, int]:
    return {os.fsencode(path.relative_to(home)): path.lstat().st_ctime_ns for path in home.rglob("*") if path.is_file()}


@pytest.mark.fails_with("recent-by-mtime")
@pytest.mark.parametrize("roots", [(b".",), (b"file", b"directory/\xff\n")])
def test_a_recent_walk_leaves_out_by_ctime_whatever_the_mtime_says(
    home: Path, home_fd: int, roots: tuple[bytes, ...]
) -> None:
    changed = times(home)
    newest = max(changed.values())
    os.utime(home / "file", (0, 0))  # forged: as old as can be, and a change of the inode by that
    assert times(home)[b"file"] > newest

    def met(since_ns: int) -> dict[bytes, Reason | None]:
        walked = walk(Kernel(), home_fd, 10, roots, (), named=True, since_ns=since_ns)
        return {one.path: one.reason for one in walked if one.path in changed}

    assert met(newest + 1) == {b"file": None, b"directory/\xff\n": Reason.UNCHANGED}
    assert met(times(home)[b"file"]) == met(newest + 1), "changed at the border is changed"
    assert set(met(0).values()) == {None}, "what changed after the border is met, were the border long ago"
    assert set(met(2**62).values()) == {Reason.UNCHANGED}
    assert len(list(sizes(Kernel(), home_fd, 10, roots, (), named=True))) == len(
        list(walk(Kernel(), home_fd, 10, roots, (), named=True, since_ns=2**62))
    )


def test_a_recent_walk_enters_a_directory_that_did_not_change(home: Path, home_fd: int) -> None:
    inner = home / "directory" / os.fsdecode(b"\xff\n")
    before = (home / "directory").stat().st_ctime_ns
    inner.write_bytes(b"changed in place")
    after = inner.stat().st_ctime_ns
    assert (home / "directory").stat().st_ctime_ns == before < after
    met = {one.path: one.reason for one in walk(Kernel(), home_fd, 10, (b".",), (), since_ns=after)}
    assert met[b"directory/\xff\n"] is None
