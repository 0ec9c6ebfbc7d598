"""What stands in a tree, so that a test can say that nothing of it changed, or that nothing of it was lost."""

import hashlib
import os
import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class Entry(NamedTuple):
    """One name of a tree. `content`: SHA-256 of a file, target of a link, empty for all else."""

    mode: int
    uid: int
    gid: int
    inode: int
    links: int
    mtime_ns: int
    ctime_ns: int
    content: bytes


def manifest(root: Path | str) -> dict[bytes, Entry]:
    """Every entry of the tree at `root`, the root itself (b"") among them. Only for trees at rest."""
    top = os.fsencode(root)
    return {path[len(top) + 1 :]: _entry(path) for path in (top, *_paths(top))}


def contents(root: Path | str) -> Counter[bytes]:
    """How often each content stands in regular files beneath `root`, under whatever names."""
    return Counter(_read(path) for path in _paths(os.fsencode(root)) if stat.S_ISREG(os.lstat(path).st_mode))


def names(root: Path | str) -> dict[bytes, bytes]:
    """Content of each regular file beneath `root`, by its path beneath it."""
    top = os.fsencode(root)
    files = (path for path in _paths(top) if stat.S_ISREG(os.lstat(path).st_mode))
    return {path[len(top) + 1 :]: _read(path) for path in files}


def _paths(top: bytes) -> Iterator[bytes]:
    for directory, below, files in os.walk(top):
        for name in (*below, *files):
            yield os.path.join(directory, name)


def _entry(path: bytes) -> Entry:
    status = os.lstat(path)
    content = b""
    if stat.S_ISREG(status.st_mode):
        content = hashlib.sha256(_read(path)).digest()
    elif stat.S_ISLNK(status.st_mode):
        content = os.readlink(path)
    return Entry(
        status.st_mode,
        status.st_uid,
        status.st_gid,
        status.st_ino,
        status.st_nlink,
        status.st_mtime_ns,
        status.st_ctime_ns,
        content,
    )


def _read(path: bytes) -> bytes:
    with open(path, "rb") as stream:
        return stream.read()
