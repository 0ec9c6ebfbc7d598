"""One job of an account at a time, also across daemons: a flock on `locks/UID`, which goes down to the worker. [daemon]

The worker holds the same open file: one that outlives its daemon delays the next job of its account, and no other.
"""

import fcntl
import os
from pathlib import Path

from clamscannerd.errors import StateError


def lock_of(directory: Path, uid: int) -> int | None:
    """The account's lock, or None while an old worker holds it. StateError: no fd is left, a full disk."""
    try:
        fd = os.open(directory / str(uid), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise StateError(f"cannot open the lock of uid {uid}: {error.strerror}") from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return fd
