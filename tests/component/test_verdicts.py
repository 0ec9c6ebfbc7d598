"""What is known to be clean is not sent again, and nothing else is: a real worker and a real clamd, attacked.

settle_s is 0 in most of it: what is attacked here is all that remains when the rule of 60 s is not there.
"""

import os
import shutil
import signal
import time
from collections.abc import Iterator
from mmap import mmap
from pathlib import Path

import pytest

from clamscannerd.model import Reason
from tests.fakes.cached import CachedHome, Running, era
from tests.fakes.realclamd import EICAR, RealClamd

CLEAN = b"c" * len(EICAR)


@pytest.fixture
def place(tmp_path: Path, clamd: RealClamd) -> CachedHome:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    return CachedHome(tmp_path / "cache", home, clamd.socket_path)


def tick() -> None:
    """Until a change gets another ctime than the last one."""
    time.sleep(0.02)


def fill(place: CachedHome, number: int, directory: str = "d") -> list[Path]:
    (place.home / directory).mkdir(exist_ok=True)
    paths = [place.home / directory / f"f{n}" for n in range(number)]
    for n, path in enumerate(paths):
        path.write_bytes(b"%d\n" % n)
    return paths


# What is known


def test_what_did_not_change_is_known_and_counted(place: CachedHome) -> None:
    fill(place, 20)
    first = place.scan()
    assert (first.scanned, first.known, first.learned, first.groups) == (20, 0, 20, 1)
    second = place.scan()
    assert (second.scanned, second.known, second.learned) == (20, 20, 0)
    assert second.end.counts.total_files == 20
    assert second.end.counts.scanned_bytes == first.end.counts.scanned_bytes


def test_one_change_costs_one_file(place: CachedHome) -> None:
    paths = fill(place, 20)
    place.scan()
    paths[3].write_bytes(EICAR)
    (place.home / "d" / "new").write_bytes(b"new")
    again = place.scan()
    assert (again.found, again.known, again.learned) == ({b"d/f3"}, 19, 1)
    paths[3].unlink()
    assert place.scan().known == 20
    assert place.scan().known == 20


def test_a_directory_of_many_files_is_known_in_groups(place: CachedHome) -> None:
    paths = fill(place, 1_100)
    first = place.scan(window=32)
    assert (first.learned, first.groups) == (1_100, 2)
    assert place.scan().known == 1_100
    paths[1].write_bytes(EICAR)
    assert place.scan().known == 1_099


@pytest.mark.fails_with("infected-remembered")
def test_infected_and_unscanned_files_are_never_known(place: CachedHome) -> None:
    fill(place, 5)
    (place.home / "d" / "bad").write_bytes(EICAR)
    with (place.home / "d" / "big").open("wb") as stream:
        stream.truncate(200 << 20)
    for _ in range(2):
        ended = place.scan()
        assert (ended.found, ended.skipped) == ({b"d/bad"}, {b"d/big": Reason.TOO_BIG})
    assert ended.known == 5
    assert ended.groups == 0


def test_what_is_left_out_is_not_looked_up(place: CachedHome) -> None:
    fill(place, 6)
    place.scan()
    ended = place.scan(excludes=(b"f3",))
    assert (ended.known, ended.skipped) == (5, {b"d/f3": Reason.EXCLUDED})


def test_without_signatures_nothing_is_remembered(place: CachedHome) -> None:
    fill(place, 5)
    assert place.scan(clean_allowed=False).learned == 0


def test_a_named_file_and_a_recent_scan_remember_and_are_told(place: CachedHome) -> None:
    fill(place, 6)
    assert place.scan(roots=(b"d/f1",), named=True).learned == 1
    assert place.scan(since_ns=0).known == 1
    ended = place.scan(since_ns=time.time_ns() + 10**12)
    assert ended.end.counts.not_scanned == {Reason.UNCHANGED: 6}
    assert place.scan(since_ns=0).known == 6


def test_another_basis_knows_nothing_and_the_old_one_goes(place: CachedHome) -> None:
    fill(place, 20)
    place.scan()
    place.era = era(b"n", b"t")
    assert (place.scan().known, place.scan().known) == (0, 20)
    place.era = era(b"b")
    assert place.scan().known == 0


# Contents


@pytest.fixture
def by_content(place: CachedHome) -> CachedHome:
    place.by_content = True
    return place


def test_copies_and_new_times_are_known_by_content(by_content: CachedHome) -> None:
    paths = fill(by_content, 10)
    first = by_content.scan()
    assert (first.known, first.contents) == (0, 10)
    shutil.copytree(by_content.home / "d", by_content.home / "copy")
    for path in paths:
        os.utime(path, ns=(1, 1))
    second = by_content.scan()
    assert (second.scanned, second.known, second.learned) == (20, 20, 20)
    by_content.by_content = False
    assert by_content.scan().known == 20


def test_a_content_counts_under_its_basis_alone(by_content: CachedHome) -> None:
    fill(by_content, 10)
    by_content.scan()
    shutil.copytree(by_content.home / "d", by_content.home / "copy")
    by_content.era = era(b"n")
    assert by_content.scan().known == 0


@pytest.mark.fails_with("one-cache-for-all")
def test_another_account_knows_no_content_of_it(by_content: CachedHome, tmp_path: Path) -> None:
    fill(by_content, 10)
    by_content.scan()
    other = CachedHome(tmp_path / "cache", by_content.home, by_content.socket_path, uid=1002)
    other.by_content = True
    assert other.scan().known == 0


@pytest.mark.fails_with("young-remembered")
def test_a_content_is_not_learned_from_what_changed_just_now(by_content: CachedHome) -> None:
    """Else what is hashed could be another content than what the engine sees. Known ones are told all the same."""
    fill(by_content, 5)
    by_content.scan()
    by_content.settle_s = 60.0
    shutil.copytree(by_content.home / "d", by_content.home / "copy")
    (by_content.home / "copy" / "new").write_bytes(b"never seen")
    ended = by_content.scan()
    assert (ended.known, ended.learned, ended.contents) == (10, 0, 0)


@pytest.mark.fails_with("infected-remembered")
def test_an_infected_content_is_never_known(by_content: CachedHome) -> None:
    (by_content.home / "bad").write_bytes(EICAR)
    for _ in range(2):
        assert by_content.scan().found == {b"bad"}
        shutil.copy(by_content.home / "bad", by_content.home / "bad2")
        (by_content.home / "bad2").unlink()


# Depths


@pytest.fixture
def rapid(place: CachedHome) -> CachedHome:
    """Scanned under one database, met by a rapid scan under the next."""
    fill(place, 40)
    for number in range(3):
        fill(place, 3, f"small{number}")
    place.era = era(b"1", database=1)
    place.scan()
    place.era = era(b"2", database=2)
    place.recheck_after_s = 10**9
    return place


def test_a_rapid_scan_takes_what_was_clean_under_an_earlier_database(rapid: CachedHome) -> None:
    ended = rapid.scan()
    assert (ended.known, ended.learned, ended.end.counts.earlier) == (49, 0, {1: 49})
    rapid.recheck_after_s = -1.0
    ended = rapid.scan()
    assert (ended.known, ended.learned, ended.end.counts.earlier) == (0, 49, {})
    assert rapid.scan().known == 49


def test_it_checks_a_share_again_and_says_which_is_of_which(rapid: CachedHome) -> None:
    rapid.share = 0.5
    again = 0
    for turn in (0, 1):
        rapid.turn = turn << 31
        ended = rapid.scan()
        again += ended.learned
        assert ended.known == 49 - ended.learned
        assert ended.end.counts.earlier == ({1: 49 - again} if again < 49 else {})
    assert again == 49, "each has had its turn"


def test_what_changed_not_long_ago_is_always_checked_again(rapid: CachedHome) -> None:
    rapid.young_s = 3_600.0
    assert rapid.scan().known == 0
    assert rapid.scan().end.counts.earlier == {}


def test_other_settings_are_no_earlier_database(rapid: CachedHome) -> None:
    rapid.era = era(b"2", b"t")
    assert rapid.scan().known == 0


def test_a_changed_file_is_scanned_whatever_the_depth(rapid: CachedHome) -> None:
    (rapid.home / "d" / "f7").write_bytes(EICAR)
    ended = rapid.scan()
    assert (ended.found, ended.known) == ({b"d/f7"}, 48)


# Attacks


@pytest.mark.fails_with("young-remembered")
def test_a_change_within_the_tick_of_the_clock_is_not_missed(place: CachedHome) -> None:
    """Settled is what changed 60 s ago: what is younger is scanned again, and asked for nothing else."""
    place.settle_s = 60.0
    fill(place, 5)
    assert (place.scan().learned, place.scan().known) == (0, 0)


@pytest.fixture
def mapped(place: CachedHome) -> Iterator[tuple[Path, mmap]]:
    """A file that is clean, and a mapping of it that has been written through already: its page is dirty."""
    path = place.home / "mapped"
    path.write_bytes(CLEAN)
    with path.open("r+b") as stream, mmap(stream.fileno(), 0) as view:
        view[:1] = b"c"
        tick()
        yield path, view


@pytest.mark.fails_with("mappings-forgotten")
def test_a_mapping_written_before_and_after_the_scan_is_seen(place: CachedHome, mapped: tuple[Path, mmap]) -> None:
    """The page is dirty: without the scan's own care no change of it would touch the times."""
    path, view = mapped
    before = path.stat()
    view[:] = CLEAN
    assert path.stat().st_ctime_ns == before.st_ctime_ns
    assert place.scan().learned == 1
    view[:] = EICAR
    assert place.scan().found == {b"mapped"}


@pytest.mark.fails_with("no-second-look")
def test_a_mapping_written_while_the_engine_looks_is_seen(
    place: CachedHome, mapped: tuple[Path, mmap], clamd: RealClamd
) -> None:
    _, view = mapped
    try:
        with Running(place, before=lambda: os.kill(clamd.pid, signal.SIGSTOP)) as running:
            while not any("mapped" in name for name in running.open_files()):
                pass
            tick()
            view[:] = CLEAN
            os.kill(clamd.pid, signal.SIGCONT)
            ended = running.end()
    finally:
        os.kill(clamd.pid, signal.SIGCONT)
    assert (ended.skipped, ended.learned) == ({b"mapped": Reason.CHANGED}, 0)


@pytest.mark.fails_with("ctime-not-hashed")
def test_the_same_size_and_times_set_back_are_a_change(place: CachedHome) -> None:
    path = place.home / "f"
    path.write_bytes(CLEAN)
    old = path.stat()
    place.scan()
    tick()
    path.write_bytes(EICAR)
    os.utime(path, ns=(old.st_atime_ns, old.st_mtime_ns))
    new = path.stat()
    assert (new.st_size, new.st_mtime_ns, new.st_ino) == (old.st_size, old.st_mtime_ns, old.st_ino)
    assert place.scan().found == {b"f"}


@pytest.mark.fails_with("ctime-not-hashed")
def test_a_new_file_with_an_old_inode_is_another_file(place: CachedHome) -> None:
    path = place.home / "f"
    path.write_bytes(CLEAN)
    old = path.stat()
    place.scan()
    tick()
    for _ in range(1_000):
        path.unlink()
        path.write_bytes(EICAR)
        os.utime(path, ns=(old.st_atime_ns, old.st_mtime_ns))
        if path.stat().st_ino == old.st_ino:
            break
    assert place.scan().found == {b"f"}


def test_a_file_moved_over_a_known_one_is_another(place: CachedHome) -> None:
    fill(place, 5)
    place.scan()
    bad = place.home / "bad"
    bad.write_bytes(EICAR)
    bad.rename(place.home / "d" / "f2")
    assert place.scan().found == {b"d/f2"}


@pytest.mark.fails_with("one-key-for-all", "one-cache-for-all")
def test_another_account_knows_nothing_of_it(place: CachedHome, tmp_path: Path) -> None:
    """Not by its own file, not with the other's file under its own name, not with the tables under its own key."""
    fill(place, 20)
    place.scan()
    other = CachedHome(tmp_path / "cache", place.home, place.socket_path, uid=1002)
    assert other.scan().known == 0
    (tmp_path / "cache" / "1002").write_bytes((tmp_path / "cache" / "1001").read_bytes())
    assert other.files.open(other.account).fd == -1
    told, fd = place.known()
    key = other.files.open(other.account).key
    assert key != told.key
    other.known = lambda: (type(told)(**{**{f: getattr(told, f) for f in told.__struct_fields__}, "key": key}), fd)  # type: ignore[method-assign]
    assert other.scan().known == 0


@pytest.mark.fails_with("key-of-the-uid")
def test_the_account_is_uid_and_name(place: CachedHome, tmp_path: Path) -> None:
    fill(place, 5)
    place.scan()
    other = CachedHome(tmp_path / "cache", place.home, place.socket_path)
    other.account = type(place.account)(uid=1001, gid=1001, name="newcomer", home=place.account.home)
    assert other.scan().known == 0


@pytest.mark.fails_with("any-file-system")
def test_on_a_file_system_that_is_not_named_nothing_is_known_or_remembered(place: CachedHome) -> None:
    fill(place, 5)
    place.scan()
    place.filesystems = ()
    ended = place.scan()
    assert (ended.known, ended.learned) == (0, 0)


@pytest.mark.fails_with("tmpfs-believed")
def test_a_tmpfs_is_none_of_those_that_can_be_named() -> None:
    from clamscannerd.pipeline.cached import FILESYSTEMS
    from clamscannerd.worker.beneath import filesystem_type

    fd = os.open("/dev/shm", os.O_RDONLY)
    try:
        assert filesystem_type(fd) not in FILESYSTEMS.values()
    finally:
        os.close(fd)
    assert 0x65735546 not in FILESYSTEMS.values()  # FUSE
