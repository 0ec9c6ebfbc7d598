"""Exchanges pairs of names (renameat2 EXCHANGE) as fast as it can, as an ordinary user, until told to stop.

    with Flipper(uid, gid, directory, [(b"real", b"link")]) as flipper:
        ...                                # every pair is exchanged again and again
    assert flipper.flips > 20_000          # and stands as it stood before, as far as both its names still exist

An exchange costs some 40 us on ext4, so many pairs would each be turned too seldom to hit a window of microseconds.
With `log`, the disinfection's log in the home, the pairs are in the order of the steps, and those are exchanged whose
turn it is next: what any user can see, an attacker can go by. Then it also changes its pace: a pair that never rests
is only ever seen changing, so what stands exchanged for a while, or far ahead, has to be tried as well.

The file is the script as well: it runs as a process of its own, with nothing of the tests or the product in it.
"""

import ctypes
import os
import random
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

RENAMEAT2 = {"x86_64": 316, "aarch64": 276}
NOREPLACE, EXCHANGE = 1, 2
TURNS = 10
"""Exchanges between two looks at the log and standard input: less than a step takes."""

SPELLS = ((3, 0), (3, 5), (40, 0), (200, 0))
"""Pairs that are exchanged from the one on whose turn it is (the log may lag behind, by three groups at most), and the
milliseconds for which all then stand as they are."""

SPELL_S = 0.01

TAKES_NAME = 0.2
"""How often a name that is missing is given to the pair's other file."""

STOP_TIMEOUT_S = 30.0


class Flipper:
    """The running script; `flips` is known when the context has ended."""

    def __init__(self, uid: int, gid: int, directory: str, pairs: Sequence[tuple[bytes, bytes]], log: str = "") -> None:
        self.flips = 0
        self._words = [sys.executable, "-I", __file__, directory, log]
        self._pairs = pairs
        self._ids = uid, gid

    def __enter__(self) -> Self:
        uid, gid = self._ids
        self._process = subprocess.Popen(
            self._words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, user=uid, group=gid, extra_groups=[]
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        lines = [f"{one.hex()} {other.hex()}\n".encode() for one, other in self._pairs]
        self._process.stdin.write(b"".join(lines) + b"\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == b"flipping\n"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        out, _ = self._process.communicate(timeout=STOP_TIMEOUT_S)
        self.flips = int(out)
        assert self._process.returncode == 0


def ended(log: str, fresh_after: int) -> int:
    """How many steps the log has, as soon as it is another file than the one that stood there at first."""
    try:
        with open(log, "rb") as stream:
            return 0 if os.fstat(stream.fileno()).st_ino == fresh_after else stream.read().count(b"\n")
    except FileNotFoundError:
        return 0


def inode(path: str) -> int:
    return os.stat(path).st_ino if os.path.exists(path) else 0


def main(directory: str, log: str) -> None:
    """Pairs as lines of two names in hex, an empty line, then EOF to stop; prints how often it exchanged."""
    libc = ctypes.CDLL(None, use_errno=True)
    number = RENAMEAT2[os.uname().machine]
    at = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    pairs = []
    while line := sys.stdin.buffer.readline().strip():
        one, other = (bytes.fromhex(word) for word in line.decode().split())
        pairs.append((one, other))
    turned = [False] * len(pairs)
    stop = select.poll()
    stop.register(0, select.POLLIN | select.POLLHUP)
    flips = 0

    def flip(place: int) -> int:
        one, other = pairs[place]
        if libc.syscall(number, at, one, at, other, EXCHANGE) == 0:
            turned[place] = not turned[place]
            return 1
        # One of the two is not there, for now or for good: sometimes the one that is takes its name, so that putting
        # back or restoring finds it taken, for a while.
        if random.random() < TAKES_NAME and libc.syscall(number, at, other, at, one, NOREPLACE) != 0:
            libc.syscall(number, at, one, at, other, NOREPLACE)
        return 0

    old = inode(log)
    ahead, rest_ms, until = len(pairs), 0, 0.0
    print("flipping", flush=True)
    while not stop.poll(rest_ms):
        if log and time.monotonic() > until:
            ahead, rest_ms = random.choice(SPELLS)
            until = time.monotonic() + SPELL_S
        first = min(ended(log, old), len(pairs) - 1) if log else 0
        last = min(first + ahead, len(pairs))
        for _ in range(TURNS):
            flips += flip(random.randrange(first, last))
    flips += sum(flip(place) for place, is_turned in enumerate(turned) if is_turned)
    print(flips, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
