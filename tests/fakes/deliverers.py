"""Mail software that delivers into one mailbox, each kind with its own locks, in a process of its own.

    python deliverers.py KIND MAILBOX NAME BATCH      # each line on stdin: deliver BATCH letters

Letters are `NAME-NUMBER`; every ninth one is infected. What was delivered is written to stdout, one id a line, after
the letter is in the mailbox. Standard library only. The pauses between letters are the load's shape: nothing waits.
"""

import fcntl
import hashlib
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

KINDS = ("dotlock_fcntl", "fcntl_dotlock", "fcntl", "flock", "opened_before")
INFECTION = b"CLAMSCANNERD-TEST-INFECTION-" + b"5f1c"
EVERY = 9
_PAUSE_S = 0.004


def letter(name: str) -> bytes:
    """What is delivered under this id: its own hash is in it, so a torn one shows."""
    number = int(name.rpartition("-")[2])
    lines = [b"line %d of %s" % (line, name.encode()) for line in range(5 + number % 40)]
    if number % EVERY == 0:
        lines.insert(len(lines) // 2, INFECTION)
    body = b"\n".join(lines)
    digest = hashlib.sha256(body).hexdigest().encode()
    head = b"From %s@example.org Thu Nov 29 22:33:52 2001\nMessage-ID: <%s>\nX-Body: %s\n\n"
    return head % (name.encode(), name.encode(), digest) + body + b"\n\n"


@contextmanager
def dotlock(path: str) -> Iterator[bool]:
    """Tried once."""
    try:
        fd = os.open(path + ".lock", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except FileExistsError:
        yield False
        return
    os.write(fd, b"%d" % os.getpid())
    os.close(fd)
    try:
        yield True
    finally:
        os.unlink(path + ".lock")


def append(path: str, data: bytes, lock: Callable[[int], bool], *, then_dotlock: bool = False) -> bool:
    """Open, lock, write at the end. False: somebody else has a lock that is only tried; then nothing is held."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND)
    try:
        if not lock(fd):
            return False
        if not then_dotlock:
            os.write(fd, data)
            return True
        with dotlock(path) as got:
            if got:
                os.write(fd, data)
            return got
    finally:
        os.close(fd)


def wait_fcntl(fd: int) -> bool:
    fcntl.lockf(fd, fcntl.LOCK_EX)
    return True


def try_fcntl(fd: int) -> bool:
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def wait_flock(fd: int) -> bool:
    fcntl.flock(fd, fcntl.LOCK_EX)
    return True


def deliver(kind: str, path: str, data: bytes) -> bool:
    """One try."""
    if kind == "dotlock_fcntl":
        with dotlock(path) as got:
            return got and append(path, data, try_fcntl)
    if kind == "fcntl_dotlock":
        return append(path, data, wait_fcntl, then_dotlock=True)
    return append(path, data, wait_flock if kind == "flock" else wait_fcntl)


def main(kind: str, path: str, name: str, batch: int) -> None:
    """Deliver until stdin ends."""
    early = os.open(path, os.O_WRONLY | os.O_APPEND)
    at = 0
    for _ in sys.stdin:
        for _ in range(batch):
            at += 1
            this = f"{name}-{at}"
            data = letter(this)
            if kind == "opened_before":  # one open file for all of its life: it never looks at what has the name now
                fcntl.lockf(early, fcntl.LOCK_EX)
                os.write(early, data)
                fcntl.lockf(early, fcntl.LOCK_UN)
            else:
                while not deliver(kind, path, data):
                    time.sleep(random.uniform(0, _PAUSE_S))
            sys.stdout.write(this + "\n")
            time.sleep(random.uniform(0, 2 * _PAUSE_S))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
