"""cache/files.py on a real directory: what is kept, for whom, in how little, and what of it when it is damaged."""

import os
import random
import stat
import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from clamscannerd.cache import files as module
from clamscannerd.cache.basis import Era, standing
from clamscannerd.cache.files import CacheLimits, Files, Header
from clamscannerd.cache.table import find
from clamscannerd.model import Account
from tests.fakes.cached import era

ANN = Account(uid=1001, gid=1001, name="ann", home=b"/home/ann")
BEN = Account(uid=1002, gid=1002, name="ben", home=b"/home/ben")
NOW = 1_000_000.0
LIMITS = CacheLimits(max_entries=100_000)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path / "cache", LIMITS)


def prints(number: int, seed: int = 0) -> list[bytes]:
    chance = random.Random(seed)
    return [chance.randbytes(8) for _ in range(number)]


def keep(
    files: Files,
    said: list[bytes],
    under: Era,
    account: Account = ANN,
    now: float = NOW,
    groups: bytes = b"",
    contents: bytes = b"",
) -> Header:
    spool = files.spool(account)
    spool.confirm(under)
    spool.add(b"".join(said), groups, contents)
    spool.close()
    files.merge(account, under, now)
    opened = files.open(account)
    if opened.fd >= 0:
        os.close(opened.fd)
    return opened.header


def known(files: Files, wanted: list[bytes], present: Era, account: Account = ANN, now: float = NOW) -> int:
    """How many of them are worth something."""
    opened = files.open(account)
    if opened.fd < 0:
        return 0
    with open(opened.fd, "rb") as stream:
        data = stream.read()
    header = opened.header
    worth = standing(header.eras, present, now) if header.made_at <= now else bytes(256)
    return sum(worth[find(data, header.files.start, header.files.slots, one)] for one in wanted)


def test_all_that_was_said_is_known_and_nothing_else(files: Files) -> None:
    said = prints(20_000)
    keep(files, said, era())
    assert known(files, said, era()) >= 19_995  # a fingerprint that finds no room is left out
    assert known(files, prints(20_000, 1), era()) == 0


def test_a_file_takes_no_more_than_17_bytes(files: Files, tmp_path: Path) -> None:
    """With one row for a directory for every four files, the most that there can be."""
    keep(files, prints(20_000), era(), groups=b"".join(prints(5_000, 2)))
    size = (tmp_path / "cache" / "1001").stat().st_size - (64 << 10)
    assert size / 20_000 <= 17
    keep(files, prints(1), era(), BEN, contents=b"".join(prints(20_000, 3)))
    size = (tmp_path / "cache" / "1002").stat().st_size - (64 << 10)
    assert size / 20_000 <= 17, "and a content as much again"


def test_what_earlier_scans_said_stays_as_long_as_it_counts(files: Files) -> None:
    old, new = prints(3_000), prints(3_000, 1)
    keep(files, old, era())
    keep(files, new, era())
    assert known(files, old + new, era()) == 6_000
    keep(files, new, era(b"n"))
    assert known(files, new, era(b"n")) == 3_000
    assert known(files, old, era()) == 0
    assert len(files.open(ANN).header.eras) == 1


def test_tables_larger_than_a_segment_are_whole(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SEGMENT_SLOTS", 1_000)
    old, new = prints(5_000), prints(7_000, 1)
    keep(files, old, era())
    header = keep(files, new, era())
    assert header.files.count >= 11_990
    assert known(files, old + new, era()) == header.files.count


def test_over_the_limit_what_is_newest_stays(files: Files) -> None:
    files.limits = CacheLimits(max_entries=1_000)
    old, new = prints(900), prints(2_000, 1)
    keep(files, old, era())
    keep(files, new, era())
    assert (known(files, old, era()), known(files, new, era())) == (0, 1_000)


def test_fingerprints_that_all_want_one_place_cost_no_time(files: Files) -> None:
    """Who has the key can make them."""
    said = [struct.pack(">Q", (1 << 63) + number) for number in range(50_000)]
    began = time.thread_time()
    keep(files, said, era())
    assert time.thread_time() - began < 2.0
    assert known(files, said, era()) < 100


@pytest.mark.fails_with("one-key-for-all", "key-of-the-uid", "cache-open-to-all")
def test_each_account_has_a_key_and_a_file_of_its_own(files: Files, tmp_path: Path) -> None:
    said = prints(100)
    keep(files, said, era())
    assert files.open(ANN).key != files.open(BEN).key
    (tmp_path / "cache" / "1002").write_bytes((tmp_path / "cache" / "1001").read_bytes())
    assert files.open(BEN).fd == -1
    newcomer = Account(uid=1001, gid=1001, name="newcomer", home=b"/home/ann")
    assert files.open(newcomer).fd == -1
    for name in ("1001", "secret"):
        assert stat.S_IMODE((tmp_path / "cache" / name).stat().st_mode) == 0o600


@pytest.mark.fails_with("one-cache-for-all")
def test_what_voids_one_accounts_verdicts_leaves_anothers(files: Files) -> None:
    """One was scanned under new signatures, the other not; then the old ones are back."""
    said = prints(100)
    keep(files, said, era(), BEN)
    keep(files, said, era())
    keep(files, said, era(b"n"))
    assert (known(files, said, era()), known(files, said, era(), BEN)) == (0, 100)


@pytest.mark.fails_with("clock-set-back")
def test_after_a_clock_was_set_back_nothing_counts_that_was_made_later(files: Files) -> None:
    said, new = prints(100), prints(10, 1)
    keep(files, said, era())
    assert known(files, said, era(), now=NOW - 60) == 0
    keep(files, new, era(), now=NOW - 60)
    assert (known(files, said, era(), now=NOW), known(files, new, era(), now=NOW)) == (0, 10)


def test_what_an_interrupted_scan_said_is_there_for_the_next(files: Files) -> None:
    said = prints(100)
    spool = files.spool(ANN)
    spool.confirm(era())
    spool.add(b"".join(said), b"", b"")
    spool.close()
    files.merge(ANN, era(), NOW)
    assert known(files, said, era()) == 100


def test_what_was_never_confirmed_is_not_kept(files: Files) -> None:
    spool = files.spool(ANN)
    spool.add(b"".join(prints(100)), b"", b"")
    spool.close()
    files.merge(ANN, era(), NOW)
    assert files.open(ANN).fd == -1


@pytest.mark.parametrize("cut", [1, 4_000, 4_096, 4_100, 4_500])
def test_a_torn_spool_is_taken_as_far_as_it_is_whole(files: Files, tmp_path: Path, cut: int) -> None:
    spool = files.spool(ANN)
    spool.confirm(era())
    for one in prints(100):
        spool.add(one, b"", b"")
    spool.close()
    os.truncate(tmp_path / "cache" / "1001.spool", cut)
    with (tmp_path / "cache" / "1001.spool").open("ab") as stream:
        stream.write(bytes(500))
    files.merge(ANN, era(), NOW)
    assert known(files, prints(100), era()) == max(0, cut - 4_096) // 13
    assert not (tmp_path / "cache" / "1001.spool").exists()


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.unlink(),
        lambda file: file.write_bytes(b""),
        lambda file: os.truncate(file, file.stat().st_size - 1),
        lambda file: file.write_bytes(bytes(100_000)),
        lambda file: file.write_bytes(file.read_bytes()[:40] + bytes(100_000)),
        lambda file: file.with_name("secret").unlink(),
        lambda file: file.with_name("secret").write_bytes(b"short"),
    ],
)
def test_what_is_damaged_is_as_if_it_had_never_been(
    files: Files, tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    said = prints(100)
    keep(files, said, era())
    damage(tmp_path / "cache" / "1001")
    again = Files(tmp_path / "cache", LIMITS)
    assert known(again, said, era()) == 0
    keep(again, said, era())
    assert known(again, said, era()) == 100


def test_what_is_of_no_use_for_long_is_removed(files: Files, tmp_path: Path) -> None:
    keep(files, prints(10), era())
    keep(files, prints(10), era(), BEN)
    os.utime(tmp_path / "cache" / "1001", (NOW, NOW))
    os.utime(tmp_path / "cache" / "secret", (NOW, NOW))
    files.prune(NOW + 1)
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == ["1002", "secret"]
    Files(tmp_path / "nowhere", LIMITS).prune(NOW)
