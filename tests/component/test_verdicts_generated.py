"""Whatever happens to a tree between scans: with all that is known the findings are those of a scan that knows nothing.

The edits are made by chance, of a seed that a failure names: contents that change in place, keep their size or get old
times; files that are renamed, exchanged, linked, copied, cut, mapped and removed, one by one and by the directory.
"""

import os
import random
import shutil
import time
from collections.abc import Callable
from mmap import mmap
from pathlib import Path

import pytest

from tests.fakes.cached import CachedHome, Ended
from tests.fakes.realclamd import EICAR, MARKER, RealClamd
from tests.rows import Amount

CONTENTS = (b"clean", b"c" * len(EICAR), EICAR, MARKER, b"another", b"", b"x" * 5_000)
EDITS = 25


class Tree:
    """A home, and somebody who is at work in it."""

    def __init__(self, home: Path, chance: random.Random) -> None:
        self.home = home
        self.chance = chance
        self.edits: list[Callable[[], object]] = [
            self.write, self.write, self.write_alike, self.rename, self.exchange, self.link, self.copy, self.copy_all,
            self.cut, self.map, self.remove, self.touch, self.forbid, self.move_directory,
        ]  # fmt: skip

    def files(self) -> list[Path]:
        return sorted(path for path in self.home.rglob("*") if path.is_file() and not path.is_symlink())

    def directories(self) -> list[Path]:
        return [self.home, *sorted(path for path in self.home.rglob("*") if path.is_dir())]

    def some(self) -> Path:
        return self.chance.choice(self.files() or [self.write()])

    def fresh(self) -> Path:
        return self.chance.choice(self.directories()) / f"n{self.chance.randrange(10**9)}"

    def write(self) -> Path:
        path = self.fresh()
        path.write_bytes(self.chance.choice(CONTENTS))
        return path

    def write_alike(self) -> None:
        """Another content of the same size and times, where there is one."""
        path = self.some()
        old = path.stat()
        path.write_bytes(self.chance.choice([one for one in CONTENTS if len(one) == old.st_size] or CONTENTS))
        os.utime(path, ns=(old.st_atime_ns, old.st_mtime_ns))

    def rename(self) -> None:
        self.some().rename(self.fresh())

    def exchange(self) -> None:
        one, other, between = self.some(), self.some(), self.fresh()
        if one != other:
            one.rename(between)
            other.rename(one)
            between.rename(other)

    def link(self) -> None:
        self.fresh().hardlink_to(self.some())

    def copy(self) -> None:
        shutil.copy2(self.some(), self.fresh())

    def copy_all(self) -> None:
        if len(self.files()) < 200:
            source = self.chance.choice(self.directories()[1:] or [self.directory()])
            shutil.copytree(source, self.home / f"c{self.chance.randrange(10**9)}")  # never into itself

    def directory(self) -> Path:
        path = self.fresh()
        path.mkdir()
        return path

    def cut(self) -> None:
        os.truncate(self.some(), self.chance.randrange(100))

    def map(self) -> None:
        path, content = self.some(), self.chance.choice((EICAR, b"m" * len(EICAR)))
        path.write_bytes(bytes(len(content)))
        with path.open("r+b") as stream, mmap(stream.fileno(), 0) as view:
            view[:] = content

    def remove(self) -> None:
        self.some().unlink()

    def touch(self) -> None:
        os.utime(self.some(), ns=(1, self.chance.randrange(2**40)))

    def forbid(self) -> None:
        self.some().chmod(0o400)

    def move_directory(self) -> None:
        places = self.directories()[1:]
        if places:
            place = self.chance.choice(places)
            place.rename(self.home / f"m{self.chance.randrange(10**9)}")

    def change(self) -> None:
        for _ in range(EDITS):
            self.chance.choice(self.edits)()


def said(ended: Ended) -> tuple[object, ...]:
    counts = ended.end.counts
    return (
        ended.found,
        ended.skipped,
        counts.total_files,
        counts.scanned_files,
        counts.total_bytes,
        counts.scanned_bytes,
    )


@pytest.mark.parametrize("by_content", [False, True])
def test_with_every_cache_off_the_findings_are_the_same(
    tmp_path: Path, clamd: RealClamd, by_content: bool, amount: Amount
) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    place = CachedHome(tmp_path / "cache", home, clamd.socket_path)
    place.by_content = by_content
    seed = random.randrange(2**32)
    tree = Tree(home, random.Random(seed))
    for _ in range(4):
        tree.directory()
    for _ in range(3 * EDITS):  # so that some stay as they are
        tree.write()
    known = 0
    for number in range(amount(2, 100)):
        tree.change()
        time.sleep(0.02)  # two changes within one tick of the clock: see the rule of 60 s
        with_all, without = place.scan(window=16), place.scan(window=16, known=None)
        assert said(with_all) == said(without), f"seed {seed}, round {number}"
        known += with_all.known
    assert known > 0
