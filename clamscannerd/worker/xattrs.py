"""Extended attributes of a file: packed for the vault when it is taken away, and given back. [worker]

The user's own (`user.*`) and its access list. Others need rights that a user does not have, or are the system's:
capabilities and labels of a file that comes out of quarantine are not wanted back either.
"""

import errno
import os

import msgspec

from clamscannerd.worker.restorewire import XATTRS_MAX_BYTES

_ACCESS_LIST = "system.posix_acl_access"
_OVERHEAD_BYTES = 16  # of an entry, packed: a pair, a text and bytes with their lengths
_NONE = frozenset({errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})

_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(list[tuple[bytes, bytes]])


def collect(fd: int, limit: int = XATTRS_MAX_BYTES) -> tuple[bytes, int]:
    """The attributes of an open file, packed, b"" if there are none; and how many could not be read or had no room."""
    try:
        names = [name for name in os.listxattr(fd) if name.startswith("user.") or name == _ACCESS_LIST]
    except OSError as error:
        return b"", int(error.errno not in _NONE)
    pairs: list[tuple[bytes, bytes]] = []
    size = left_out = 0
    for name in names:
        try:
            pair = os.fsencode(name), os.getxattr(fd, name)
        except OSError:
            left_out += 1
            continue
        needed = len(pair[0]) + len(pair[1]) + _OVERHEAD_BYTES
        if size + needed > limit:
            left_out += 1
            continue
        pairs.append(pair)
        size += needed
    return _ENCODER.encode(pairs) if pairs else b"", left_out


def give_back(fd: int, packed: bytes) -> int:
    """Set what `collect` packed; how many the file system or the kernel refused."""
    if not packed:
        return 0
    refused = 0
    for name, value in _DECODER.decode(packed):
        try:
            os.setxattr(fd, name, value)
        except OSError:
            refused += 1
    return refused
