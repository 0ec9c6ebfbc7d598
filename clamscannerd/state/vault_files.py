"""Files of the vault: written whole or not at all, unreadable as programs. [daemon] Plain functions, run in threads.

Contents are neutralised, each byte complemented: no scanner, indexer or backup tool trips over them, nobody runs one
by mistake. That is no secrecy: mode 0400 in a 0700 directory is. SHA-256 is of the original and is taken here, by the
daemon, because a worker may lie.

Order at the end: content, fsync of the file, name (linkat of an O_TMPFILE), fsync of the directory; the row in the
index comes after. A failed fsync is final: the kernel may have dropped the pages and will say "fine" the next time, so
the file is given up and nothing is tried again.

Where the file system has no O_TMPFILE, the file has its final name from the start; its row says `receiving` until it
is whole, so nobody takes it for more than it is.
"""

import contextlib
import errno
import hashlib
import os
from pathlib import Path

NEUTRAL = bytes(255 - value for value in range(256))
"""bytes.translate table; its own inverse."""

READ_BYTES = 256 << 10

_NO_TMPFILE = frozenset({errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT})
"""What open says where the file system, or the kernel, has no O_TMPFILE."""


def path_of(directory: Path, file: str) -> Path:
    """Two hex digits of folders: 256 of them keep each small enough to list."""
    return directory / file[:2] / f"{file}.item"


def sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_directory(path: Path) -> None:
    """The directory, 0700, its name on disk."""
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        return
    try:
        sync_directory(path.parent)
    except OSError:
        path.rmdir()  # or whoever finds it would take its name for one that is on disk
        raise


def remove(directory: Path, files: list[str]) -> None:
    """Unlink, and have it on disk. A file that is not there is as good as removed."""
    touched: set[Path] = set()
    for file in files:
        path = path_of(directory, file)
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
            touched.add(path.parent)
    for folder in sorted(touched):
        sync_directory(folder)


def free_share(directory: Path, size: int) -> float:
    """What part of the file system would be free for us after `size` more bytes."""
    status = os.statvfs(directory)
    return (status.f_bavail * status.f_frsize - size) / max(1, status.f_blocks * status.f_frsize)


def names_in(folder: Path) -> list[str]:
    """Every name in one of the folders; none if it was never made."""
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []


class Writer:
    """One file on its way into the vault. Not thread-safe; each call may come from another thread, one at a time."""

    def __init__(self, directory: Path, file: str) -> None:
        self._path = path_of(directory, file)
        self._fd = -1
        self._named = False
        self._hash = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes | bytearray) -> None:
        """Append original content."""
        if self._fd < 0:
            self._open()
        self._hash.update(data)
        rest = memoryview(data.translate(NEUTRAL))
        while rest:
            rest = rest[os.write(self._fd, rest) :]
        self.size += len(data)

    def _open(self) -> None:
        folder = self._path.parent
        make_directory(folder.parent)
        make_directory(folder)
        try:
            self._fd = os.open(folder, os.O_TMPFILE | os.O_RDWR, 0o400)
        except OSError as error:
            if error.errno not in _NO_TMPFILE:
                raise
            self._open_named()

    def _open_named(self) -> None:
        self._fd = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_RDWR, 0o400)
        self._named = True

    @property
    def sha256(self) -> bytes:
        """Of the original content written so far."""
        return self._hash.digest()

    def finish(self) -> None:
        """Whole, named and on disk when this returns; on OSError call discard()."""
        if self._fd < 0:
            self._open()
        os.fsync(self._fd)
        if not self._named:
            folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:  # os.link follows /proc's link only with an explicit dst_dir_fd
                os.link(f"/proc/self/fd/{self._fd}", self._path.name, dst_dir_fd=folder, follow_symlinks=True)
                self._named = True
                os.fsync(folder)
            finally:
                os.close(folder)
        else:
            sync_directory(self._path.parent)
        self._close()

    def discard(self) -> None:
        """Nothing of it stays."""
        self._close()
        if self._named:
            self._path.unlink(missing_ok=True)
            self._named = False
            sync_directory(self._path.parent)  # or a power cut brings it back, when its row is gone

    def _close(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)


class Reader:
    """The original content of a kept file, with the hash of what was read."""

    def __init__(self, directory: Path, file: str) -> None:
        self._fd = os.open(path_of(directory, file), os.O_RDONLY | os.O_NOFOLLOW)
        self._hash = hashlib.sha256()
        self.size = 0

    def read(self) -> bytes:
        """The next part, b"" at the end."""
        data = os.read(self._fd, READ_BYTES).translate(NEUTRAL)
        self._hash.update(data)
        self.size += len(data)
        return data

    @property
    def sha256(self) -> bytes:
        return self._hash.digest()

    def close(self) -> None:
        os.close(self._fd)
