"""Contents on their way out of the vault: to be read whole, or lent to a worker as a file. [daemon]

What lies in the vault is complemented, so its own fd is of no use to a worker: the original bytes go into a file that
has no name. Small ones into memory, sealed, so that not even its owner can change it under the engine; large ones into
the file system of the vault, unlinked. What goes down is a read-only fd of that file: a worker could only harm its own
restore with it, but the engine reads from it too.

Rejected: the content in messages (the engine wants an fd, which the worker would have to make on the user's disk before
anybody knows whether it may be restored), a pipe (the engine wants to seek).
"""

import errno
import fcntl
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from clamscannerd.errors import Refused, StateError
from clamscannerd.model import Item
from clamscannerd.state import vault_files
from clamscannerd.state.vault_blobs import BlobReader

MEMORY_BYTES = 16 << 20
"""Contents up to this size are lent from memory: most are, and tasks run a few at a time."""

_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
_NO_TMPFILE = frozenset({errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT})


class ItemLost(StateError):
    """This item's content is gone or damaged: the fault of no other item, and no reason for the daemon to end."""


class Outgoing:
    """An item being read."""

    def __init__(self, item: Item, reader: vault_files.Reader | BlobReader, threads: trio.CapacityLimiter) -> None:
        self._item = item
        self._reader = reader
        self._threads = threads

    async def read(self) -> bytes:
        """The next part; b"" once, and only if, all of it was what was kept. Else ItemLost."""
        try:
            data = await trio.to_thread.run_sync(self._reader.read, limiter=self._threads)
        except OSError as error:
            raise ItemLost(f"cannot read item {self._item.id}: {error.strerror}") from error
        whole = self._reader.size == self._item.size and self._reader.sha256 == self._item.sha256
        if not data and not whole:
            raise ItemLost(f"cannot read item {self._item.id}: its file is not what was kept")
        return data


@asynccontextmanager
async def lend(outgoing: "Outgoing", item: Item, directory: Path) -> AsyncIterator[int]:
    """A read-only fd of the whole original content, verified; closed at the end. `directory`: the vault's.

    Raises ItemLost, or Refused when there is no room for it.
    """
    small = item.size <= MEMORY_BYTES
    try:
        fd = await trio.to_thread.run_sync(_memory if small else _unnamed, directory)
        try:
            while part := await outgoing.read():
                await trio.to_thread.run_sync(_write, fd, part)
            lent = await trio.to_thread.run_sync(_lent, fd, _SEALS if small else 0)
        finally:
            os.close(fd)
    except OSError as error:
        raise Refused(f"cannot take item {item.id} out of the vault: {error.strerror}") from error
    try:
        yield lent
    finally:
        os.close(lent)


def _lent(fd: int, seals: int) -> int:
    """The same file, for reading. In a thread: the kernel was seen to take 25 ms to make sure that nobody writes."""
    if seals:
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)


def _memory(_directory: Path) -> int:
    return os.memfd_create("item", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)


def _unnamed(directory: Path) -> int:
    try:
        return os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno not in _NO_TMPFILE:
            raise
    path = directory / f"lent-{os.urandom(16).hex()}"
    fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_RDWR | os.O_CLOEXEC, 0o600)
    path.unlink()
    return fd


def _write(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]
