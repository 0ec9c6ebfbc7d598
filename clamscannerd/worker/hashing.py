"""SHA-256 and state of an open file, without moving its offset. [worker]"""

import hashlib
import math
import os
import time
from collections.abc import Callable

from clamscannerd.model import Identity, int64

_BLOCK_BYTES = 256 * 1024  # larger blocks gain nothing and show in the worker's resident memory
_SMALL_BYTES = 64 * 1024  # most files: in one read that needs no memory mapped, which saves a fifth
_LOOK_BYTES = 64 * _BLOCK_BYTES  # 16 MB: some 50 ms

NO_SHA256 = bytes(32)
"""Of no content that anybody will find: whoever compares with it must ask the engine."""

Stamp = tuple[int, int, int]


def stamp(status: os.stat_result) -> Stamp:
    """What must not change between the first and the last look at a file: size, mtime_ns, ctime_ns."""
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def sha256_of(
    fd: int, cpu_s: float = math.inf, meanwhile: Callable[[], object] = lambda: None, size: int = _SMALL_BYTES
) -> bytes:
    """Of the whole content, by pread: whoever shares the open file is not disturbed. NO_SHA256 when it takes longer
    than `cpu_s` of this thread's time. `meanwhile` is called now and then. `size`: bytes that it should have."""
    if size < _SMALL_BYTES:
        small = os.pread(fd, size + 1, 0)
        if len(small) == size:  # and no more, although one more was asked for
            return hashlib.sha256(small).digest()
    digest = hashlib.sha256()
    offset, ends = 0, time.thread_time() + cpu_s
    while block := os.pread(fd, _BLOCK_BYTES, offset):
        digest.update(block)
        offset += len(block)
        if offset % _LOOK_BYTES == 0:
            meanwhile()
            if time.thread_time() > ends:
                return NO_SHA256
    return digest.digest()


def identity_of(status: os.stat_result, sha256: bytes) -> Identity:
    """The identity by which an action finds this content again."""
    return Identity(
        dev=int64(status.st_dev),
        ino=int64(status.st_ino),
        size=status.st_size,
        mtime_ns=int64(status.st_mtime_ns),
        sha256=sha256,
    )


def is_same_file(status: os.stat_result, identity: Identity) -> bool:
    """Whether this is the inode of `identity`, with the size and time it had."""
    return (int64(status.st_dev), int64(status.st_ino), status.st_size, int64(status.st_mtime_ns)) == (
        identity.dev,
        identity.ino,
        identity.size,
        identity.mtime_ns,
    )


def is_same_inode(status: os.stat_result, identity: Identity) -> bool:
    """Whether this may be the inode of `identity`, whatever its content is now (ext4 reuses numbers at once)."""
    return (int64(status.st_dev), int64(status.st_ino)) == (identity.dev, identity.ino)
