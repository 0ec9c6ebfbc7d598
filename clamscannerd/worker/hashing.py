"""SHA-256 and state of an open file, without moving its offset. [worker]"""

import hashlib
import os

from clamscannerd.model import Identity, int64

_BLOCK_BYTES = 256 * 1024  # larger blocks gain nothing and show in the worker's resident memory

NO_SHA256 = bytes(32)
"""Of no content that anybody will find: whoever compares with it must ask the engine."""

Stamp = tuple[int, int, int]


def stamp(status: os.stat_result) -> Stamp:
    """What must not change between the first and the last look at a file: size, mtime_ns, ctime_ns."""
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def sha256_of(fd: int) -> bytes:
    """Of the whole content, by pread: whoever shares the open file is not disturbed."""
    digest = hashlib.sha256()
    offset = 0
    while block := os.pread(fd, _BLOCK_BYTES, offset):
        digest.update(block)
        offset += len(block)
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
