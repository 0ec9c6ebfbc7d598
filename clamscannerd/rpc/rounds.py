"""Turns: of all the connections of a uid, one does something each time that trio's loop goes round. [daemon]

Whoever wants to go on, and is the first of its uid this time round, does so at once, and so do others while its time
lasts; the rest stand in a line, and each comes up one round later. So a client alone never waits, and 500 lines of one
uid delay everybody else's next step by a few of them, or by one that takes long. The rounds are counted by an
instrument of trio's, which takes 1 us each.

Rejected: a lock that everybody takes and lets go (trio.Lock.acquire goes round the loop even where it is free: a
third of a poll's time).
"""

import time

import trio

TURN_S = 0.000_2
"""So long a turn may be used: some polls. What takes longer has one for itself."""


class Rounds(trio.abc.Instrument):
    """How often the loop went round. To be added to the loop."""

    def __init__(self) -> None:
        self.number = 0

    def after_io_wait(self, timeout: float) -> None:
        self.number += 1


class Turns:
    """Of one uid."""

    __slots__ = ("_line", "_rounds", "_taken", "_until", "_waiting")

    def __init__(self, rounds: Rounds) -> None:
        self._rounds = rounds
        self._taken = -1  # in which round
        self._until = 0.0
        self._line = trio.Lock()
        self._waiting = 0  # in the line

    def take_nowait(self) -> bool:
        """Whether it is the caller's: the first of this round, or another while the first's time lasts."""
        if self._waiting:
            return False
        if self._taken == self._rounds.number:
            return time.perf_counter() < self._until
        self._taken = self._rounds.number
        self._until = time.perf_counter() + TURN_S
        return True

    async def take(self) -> None:
        """Behind all who wait for it."""
        if self.take_nowait():
            return
        self._waiting += 1
        try:
            async with self._line:  # for one round at least, whether or not it was free
                self._taken = self._rounds.number
                self._until = time.perf_counter() + TURN_S
        finally:
            self._waiting -= 1
