"""Trees to scan: mixed real content of this machine, and very many small files. Deterministic on a given machine.

Real content is copied directory by directory, in the order of a hash of their paths, so that each keeps what belongs
together and no kind comes first; links, and what is larger than a bound, are left out. When the machine has too few
files, further rounds copy them again (a scanner that remembers contents is then faster, on both sides alike).
"""

import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from tests.bench.common import say
from tests.fakes.accounts import Person

SOURCES = ("/usr/lib/python3", "/usr/lib/python3.11", "/usr/share", "/usr/include", "/usr/lib")
MAX_FILE_BYTES = 8 << 20  # some large libraries, but none that is most of the whole
PER_DIRECTORY = 1_000


def mixed(person: Person, files: int, max_bytes: int) -> tuple[int, int]:
    """About `files` files of real content in the account's home, never over `max_bytes`; their number and bytes."""
    number = size = 0
    for place, directory, names in _rounds(files):
        there = Path(person.home, place)
        there.mkdir(parents=True, exist_ok=True)
        for name in names:
            source = os.path.join(directory, name)
            length = os.lstat(source).st_size
            if number == files:
                break
            # What is left is to suffice for the files that are left: a large one must not end the tree early.
            if size + length > max_bytes * (0.1 + 0.9 * (number + 1) / files) or size + length > max_bytes:
                continue
            shutil.copyfile(source, there / name)
            number += 1
            size += length
        if number == files:
            break
    _give(person)
    say(f"tree: {number} files, {size / 1e6:.0f} MB")
    return number, size


def _rounds(files: int) -> Iterator[tuple[str, str, list[str]]]:
    """(place beneath the home, directory, its files) until nobody wants more."""
    directories = sorted(_directories(), key=lambda row: hashlib.sha256(row[0].encode(errors="replace")).digest())
    for number in range(files):
        for directory, names in directories:
            yield f"tree{number}{directory}", directory, names


def _directories() -> Iterator[tuple[str, list[str]]]:
    seen: set[str] = set()
    for source in SOURCES:
        for directory, below, names in os.walk(source):
            below.sort()
            if directory in seen:
                below.clear()
                continue
            seen.add(directory)
            if fit := [name for name in sorted(names) if _fits(os.path.join(directory, name))]:
                yield directory, fit


def _fits(path: str) -> bool:
    return os.path.isfile(path) and not os.path.islink(path) and os.lstat(path).st_size <= MAX_FILE_BYTES


def small(person: Person, files: int) -> None:
    """`files` files of 1 to 200 bytes, all different, 1,000 a directory."""
    for first in range(0, files, PER_DIRECTORY):
        directory = os.path.join(person.home, f"small/{first // PER_DIRECTORY:05}")
        os.makedirs(directory)
        for number in range(first, min(first + PER_DIRECTORY, files)):
            text = b"%d and more\n" % number * 20
            with open(os.path.join(directory, f"{number}.txt"), "wb") as stream:
                stream.write(text[: 1 + number * 7919 % 200])
    _give(person)
    say(f"tree: {files} small files")


def _give(person: Person) -> None:
    os.sync()  # writing it back must not fall into the first run
    for directory, _, names in os.walk(person.home):
        os.chown(directory, person.uid, person.gid)
        for name in names:
            os.lchown(os.path.join(directory, name), person.uid, person.gid)


def warm(home: str) -> None:
    """Everything into the page cache."""
    for directory, _, names in os.walk(home):
        for name in names:
            with open(os.path.join(directory, name), "rb") as stream:
                while stream.read(1 << 20):
                    pass
