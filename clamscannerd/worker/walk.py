"""Meet every entry of a tree once, with two fds and no recursion. [worker]

The stack holds, for each directory on the way down, the names of the subdirectories still to be entered: no fd stays
open on the way, so a tree of any depth costs no fds; a path over the kernel's limit ends the way down there. What the
names may take is bounded: a directory for which there is no room is not entered, and said to be beyond a limit. Each
directory is opened afresh from the home fd (beneath.py), so a directory swapped for a link meanwhile is not followed.

What the configuration leaves out (globs.py) is met, and said to be excluded; a directory of that kind is not entered.
A stack of open directory iterators (as os.fwalk keeps) was rejected: one fd a level, and recursion.
"""

import errno
import os
import stat
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from functools import partial
from typing import Final, TypeVar

from clamscannerd.globs import Globs
from clamscannerd.model import PATH_MAX_BYTES, Reason
from clamscannerd.worker.beneath import Kernel

T = TypeVar("T")
_ROOM_BYTES = 16 << 20  # for names of directories still to be entered: 300,000 short ones, 56,000 of the longest
_NAME_BYTES = 41  # what a name of bytes costs beside itself, in a list
_MISSED = 2_000  # directories looked for once more: nobody has so many renamed at once without meaning to
_REASONS = {
    errno.ENOENT: Reason.VANISHED,
    errno.ELOOP: Reason.NOT_REGULAR,
    errno.ENOTDIR: Reason.NOT_REGULAR,
    errno.ENXIO: Reason.NOT_REGULAR,
    errno.EXDEV: Reason.OTHER_FILESYSTEM,
    errno.ENAMETOOLONG: Reason.PATH_TOO_LONG,
}


def reason_for(error: OSError) -> Reason:
    """Why a file that could not be opened or read was not scanned."""
    return _REASONS.get(error.errno or 0, Reason.UNREADABLE)


class Group:
    """Files of one directory that were met together. `left`: so many of them are not known to be clean."""

    __slots__ = ("digest", "left")

    def __init__(self, digest: bytes, left: int) -> None:
        self.digest = digest
        self.left = left


class Met:
    """One entry that is no directory (or a directory that cannot be entered: then `reason` says why).

    `name` is valid beneath `dir_fd` only until the walk goes on; dir_fd is -1 where there is nothing to open.
    `facts`, `group`: of verdicts.py.
    """

    __slots__ = ("dir_fd", "entry", "facts", "group", "name", "path", "reason")

    def __init__(
        self, dir_fd: int, name: bytes, path: bytes, reason: Reason | None, entry: "os.DirEntry[str] | None"
    ) -> None:
        self.dir_fd = dir_fd
        self.name = name
        self.path = path
        self.reason = reason
        self.entry = entry
        self.facts = b""
        self.group: Group | None = None

    def size(self) -> int:
        """Bytes, 0 for what is no regular file or has gone."""
        if self.reason is not None or self.entry is None:
            return 0
        try:
            return self.entry.stat(follow_symlinks=False).st_size
        except OSError:
            return 0  # it vanished while it was counted; scanning it says so


PAUSE: Final = Met(-1, b"", b"", None, None)
"""No entry: a moment to look at others."""

Reader = Callable[[int, bytes, Callable[[bytes], bool], int, Globs | None], Iterator[Met]]
"""Gives the entries of a directory: see _tree."""


def outermost(roots: Iterable[bytes]) -> list[bytes]:
    """The roots without those that lie beneath another: no entry is met twice."""
    kept: list[bytes] = []
    for root in sorted({b"" if r == b"." else r for r in roots}):
        if not any(k == b"" or root == k or root.startswith(k + b"/") for k in kept):
            kept.append(root)
    return kept


def walk(
    kernel: Kernel,
    home_fd: int,
    home_length: int,
    roots: Iterable[bytes],
    excludes: Sequence[bytes],
    *,
    named: bool = False,
    since_ns: int | None = None,
    read: Reader | None = None,
) -> Generator[Met, None, None]:
    """Every entry beneath `roots` (relative to the home). A root that does not exist is passed over. `excludes`:
    patterns of what is left out. `read`: another way to read a directory, which heeds `since_ns` itself.

    `named`: somebody named the roots. One may be a file, and one that does not exist is an entry that vanished.
    `since_ns`: what did not change since is met unopened, with that reason. ctime decides, which a file's owner cannot
    set; one in the future, of a clock that was set back, is a change. Directories are entered whatever their times.
    """

    def lone(path: bytes) -> Met:
        reason, status = _look(kernel, home_fd, path)
        if reason is None and status and since_ns is not None and status.st_ctime_ns < since_ns:
            reason = Reason.UNCHANGED
        return Met(home_fd, path, path, None, None) if reason is None else refused(path, path, reason)

    if read is None:
        read = _entries if since_ns is None else partial(_recent_entries, since_ns)
    return _tree(kernel, home_fd, home_length, roots, excludes, read, refused, lone if named else None)


def sizes(
    kernel: Kernel,
    home_fd: int,
    home_length: int,
    roots: Iterable[bytes],
    excludes: Sequence[bytes],
    *,
    named: bool = False,
) -> Generator[int, None, None]:
    """The bytes of every entry that `walk` meets, 0 for what is no regular file: for counting, at half the cost."""

    def lone(path: bytes) -> int:
        reason, status = _look(kernel, home_fd, path)
        return status.st_size if reason is None and status else 0

    return _tree(kernel, home_fd, home_length, roots, excludes, _sizes, _no_bytes, lone if named else None)


def _look(kernel: Kernel, home_fd: int, path: bytes) -> tuple[Reason | None, os.stat_result | None]:
    """At a root that is no directory: what else than a file it is, unopened, and its status."""
    try:
        fd = kernel.look(home_fd, path)
    except OSError as error:
        return reason_for(error), None
    try:
        status = os.fstat(fd)
    finally:
        os.close(fd)
    return None if stat.S_ISREG(status.st_mode) else Reason.NOT_REGULAR, status


class _Waiting:
    """Directories that are still to be entered: their names take up room, which is bounded."""

    def __init__(self) -> None:
        self._room = _ROOM_BYTES
        self._below: list[bytes] = []

    def enter(self, name: bytes) -> bool:
        """One of the directory at hand; False: there is no room for it."""
        if (cost := len(name) + _NAME_BYTES) > self._room:
            return False
        self._room -= cost
        self._below.append(name)
        return True

    def left(self, name: bytes) -> None:
        """It waits no more."""
        self._room += len(name) + _NAME_BYTES

    def take(self) -> list[bytes]:
        """Those of the directory at hand, and on to the next."""
        below, self._below = self._below, []
        return below


def _tree(
    kernel: Kernel,
    home_fd: int,
    home_length: int,
    roots: Iterable[bytes],
    patterns: Sequence[bytes],
    read: Callable[[int, bytes, Callable[[bytes], bool], int, Globs | None], Iterator[T]],
    refuse: Callable[[bytes, bytes, Reason], T],
    lone: Callable[[bytes], T] | None,
) -> Generator[T, None, None]:
    """`read(dir_fd, path, enter, longest, excludes)` gives the entries of a directory and tells `enter` of those to be
    entered; False: there is no room for more. `lone` gives a root that is no directory, where roots may be such."""
    longest = PATH_MAX_BYTES - home_length - 1
    excludes = Globs(patterns) if patterns else None
    tops = outermost(roots)
    named = frozenset(tops) if lone else frozenset()
    stack: list[tuple[bytes, list[bytes]]] = [(b"", tops[::-1])]
    waiting = _Waiting()
    missed: list[bytes] | None = []  # directories that were gone; looked for once more at the end, then None
    while stack or missed:
        if not stack:  # renamed away and back while we came by is not a way to hide
            stack, missed = [(b"", missed or [])], None
        parent, names = stack[-1]
        if not names:
            stack.pop()
            continue
        name = names.pop()
        waiting.left(name)
        path = parent + b"/" + name if parent else name
        try:
            dir_fd = kernel.open_dir(home_fd, path or b".")
        except OSError as error:
            if error.errno == errno.ENOTDIR and lone and path in named:
                left_out = excludes and excludes.why(path, directory=False)
                yield refuse(path, path, Reason.EXCLUDED) if left_out else lone(path)
            elif error.errno != errno.ENOENT:
                yield refuse(name, path, reason_for(error))
            elif missed is not None and path and len(missed) < _MISSED:
                missed.append(path)
            elif path in named or (missed is not None and path):
                yield refuse(name, path, Reason.VANISHED)
            continue
        try:
            if excludes and path and len(stack) == 1 and excludes.why(path, directory=True):  # a root: nobody asked yet
                yield refuse(name, path, Reason.EXCLUDED)
            else:
                yield from read(dir_fd, path, waiting.enter, longest, excludes)
        except OSError as error:  # reading the directory itself failed half way
            yield refuse(name, path, reason_for(error))
        finally:
            os.close(dir_fd)
        if below := waiting.take():
            stack.append((path, below))


def _entries(
    dir_fd: int, path: bytes, enter: Callable[[bytes], bool], longest: int, excludes: Globs | None
) -> Iterator[Met]:
    prefix = path + b"/" if path else b""
    with os.scandir(dir_fd) as entries:
        for entry in entries:
            name = os.fsencode(entry.name)
            if len(prefix) + len(name) > longest:
                yield refused(name, path, Reason.PATH_TOO_LONG)
            elif excludes and excludes.excludes(prefix + name, directory=entry.is_dir(follow_symlinks=False)):
                yield refused(name, prefix + name, Reason.EXCLUDED)
            elif entry.is_file(follow_symlinks=False):
                yield Met(dir_fd, name, prefix + name, None, entry)
            elif entry.is_dir(follow_symlinks=False):
                if not enter(name):
                    yield refused(name, prefix + name, Reason.LIMIT)
            else:
                yield Met(-1, name, prefix + name, Reason.NOT_REGULAR, None)


def _recent_entries(
    since_ns: int, dir_fd: int, path: bytes, enter: Callable[[bytes], bool], longest: int, excludes: Globs | None
) -> Iterator[Met]:
    for met in _entries(dir_fd, path, enter, longest, excludes):
        if met.entry is not None and is_unchanged(met.entry, since_ns):
            met.reason = Reason.UNCHANGED
        yield met


def is_unchanged(entry: "os.DirEntry[str]", since_ns: int) -> bool:
    try:
        return entry.stat(follow_symlinks=False).st_ctime_ns < since_ns
    except OSError:
        return False  # opening it says what is wrong


def refused(name: bytes, path: bytes, reason: Reason) -> Met:
    return Met(-1, name, path or b".", reason, None)


def _sizes(
    dir_fd: int, path: bytes, enter: Callable[[bytes], bool], longest: int, excludes: Globs | None
) -> Iterator[int]:
    room = longest - len(path) - bool(path)
    prefix = path + b"/" if path else b""
    with os.scandir(dir_fd) as entries:
        for entry in entries:
            name = os.fsencode(entry.name)
            if len(name) > room or (
                excludes and excludes.excludes(prefix + name, directory=entry.is_dir(follow_symlinks=False))
            ):
                yield 0
            elif entry.is_file(follow_symlinks=False):
                try:
                    yield entry.stat(follow_symlinks=False).st_size
                except OSError:
                    yield 0  # it vanished meanwhile; scanning it says so
            elif not entry.is_dir(follow_symlinks=False) or not enter(name):
                yield 0


def _no_bytes(_name: bytes, _path: bytes, _reason: Reason) -> int:
    return 0
