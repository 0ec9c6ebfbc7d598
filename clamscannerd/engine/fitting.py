"""How many private engines fit this machine, and whether a reload may hold two databases each. Pure. [as started]

One single-threaded clamd for each core does the same work in 0.59 of the time of one clamd of many threads: threads of
one process disturb each other's memory maps. The price is a database in memory for each. What that takes is not known
before it is loaded, so it is estimated from the files: the official signatures, 225 MB packed, take 1.3 GB; 2,100,000
hashes and bodies as text, 120 MB, take 337 MB. Packed ones are the larger multiple, and the one that is reckoned with.

Of the memory that is available a quarter is left alone: for files under scan, for the page cache, for others. What is
still free then holds as many engines as there are cores, at most; and twice as many databases, or a reload keeps no old
one: all engines see new signatures within the same minute. Engines that run already have taken theirs, and what is so
already stays so as long as half of that reserve is left: a reload of the daemon must not change it to and fro.

A directory without signatures is taken to hold the official ones soon. Rejected: asking a running clamd (there is none
at first, and its resident set counts what it can give back); cgroup limits (an administrator who sets one for the
engines also sets engine.private_engines).
"""

from collections.abc import Iterable
from typing import Final

import msgspec

MOST: Final = 8  # orders.MAX_ENGINES: no home has been met that keeps more of them busy
_TIMES: Final = 6
_FIXED_BYTES: Final = 50 << 20  # clamd without signatures takes 20 MB; what it unpacks is on a tmpfs of its own
_OFFICIAL_BYTES: Final = 225 << 20
_GIB: Final = 1 << 30


class Room(msgspec.Struct, frozen=True, kw_only=True):
    """What the machine has. `available_bytes`: MemAvailable, 0 where the kernel does not say. `running`: engines that
    run at this moment, with their signatures in memory; `reload_twice`: each holds two databases during a reload."""

    cores: int
    available_bytes: int
    database_bytes: int
    running: int = 0
    reload_twice: bool = False


class Fitting(msgspec.Struct, frozen=True, kw_only=True):
    """`threads`: of each. `reason`: one sentence, for `health`."""

    engines: int
    threads: int
    concurrent_reload: bool
    reason: str


def database_bytes(sizes: Iterable[int], *, has_signatures: bool) -> int:
    """What is to be reckoned with, of a directory with files of these sizes."""
    return sum(sizes) if has_signatures else _OFFICIAL_BYTES


def each_bytes(database: int) -> int:
    """What one engine takes with so much of signatures on disk."""
    return _FIXED_BYTES + _TIMES * database


def fit(wanted: str | int, room: Room, *, max_threads: int) -> Fitting:
    """`wanted`: engine.private_engines. A single engine has `max_threads`, each of several one."""
    each = each_bytes(room.database_bytes)
    free = room.available_bytes + room.running * each
    number = max(1, min(room.cores, MOST))
    if isinstance(wanted, int):
        number = wanted
    else:
        while number > 1 and number * each > _usable(free, kept=number <= room.running):
            number -= 1
    return Fitting(
        engines=number,
        threads=1 if number > 1 else max_threads,
        concurrent_reload=2 * number * each <= _usable(free, kept=room.reload_twice and number <= room.running),
        reason=_reason(number, room.cores, free, each, max_threads, wanted=wanted),
    )


def _usable(free: int, *, kept: bool) -> int:
    return free * 7 // 8 if kept else free * 3 // 4


def _reason(number: int, cores: int, free: int, each: int, max_threads: int, *, wanted: str | int) -> str:
    threads = "one thread each" if number > 1 else f"{max_threads} thread{'s' if max_threads != 1 else ''}"
    what = f"{number} engine{'s' if number != 1 else ''} of {threads}"
    memory = f"{_said(free)} available, the signatures take about {_said(each)} each"
    if isinstance(wanted, int):
        why = f"engine.private_engines is {wanted}"
    elif number < min(cores, MOST):
        why = f"there is not the memory for {min(cores, MOST)}"
    elif cores > MOST:
        why = f"the most that there are, on {cores} cores"
    else:
        why = "one for each core"
    return f"{what}: {why} ({memory})"


def _said(size: int) -> str:
    return f"{size / _GIB:.1f} GiB" if size >= _GIB else f"{size >> 20} MiB"
