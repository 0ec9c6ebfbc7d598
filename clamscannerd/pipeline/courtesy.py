"""Others of a shared clamd come first: fewer files at it while it is slow to answer them. [daemon]

While scans run on an engine that others use, the daemon is one of those others: every second it has some bytes scanned
as a mail filter does, connect and all, and takes the time. When that is too long the budget of all scans shrinks, by a
third; while it is not, it grows again, by a tenth of the whole. So a busy hour of mail has what it needs within
seconds, and a machine with nothing else to do is used whole. As TCP shares a line, and for the same reason: nobody can
know how many others there are.

Too long is relative: a slow machine answers slowly with nothing else to do. The best time that was seen is what it can
do, forgotten after a while, and three times as long is what others are expected not to mind.

By the median of three looks, as one may meet another's archive. A private engine has no others, and the operator's own
number (scans.in_flight) is left as it is. Rejected: what the worker sees (its files differ by a factor of ten
thousand in what they cost, a small file of ours at the end of a queue of ours says nothing of others), the load of the
machine (clamd may be on another), clamd's STATS (it says how long its queue is, not what is in it).
"""

import statistics
from collections import deque
from collections.abc import Awaitable, Callable

import trio

from clamscannerd.errors import EngineLost
from clamscannerd.pipeline.shares import Shares

LOOK_S = 1.0  # a mail filter's scan costs clamd one to two milliseconds
CONTENT = b"Subject: courtesy\n\nHow long does a small scan take just now?\n" * 64
"""4 kB: the engine's own work on it is short, so that the time is that of waiting."""

_LONGEST_S = 5.0  # then it is too long, by whatever measure
_LOOKS = 3
_TOO_LONG = 3.0  # times the best
_BEST_OF = 300  # looks: a clamd with other signatures, or another machine, is judged by itself after five minutes
_SHRINK, _GROW, _LEAST = 2 / 3, 0.1, 0.1


class Courtesy:
    """How much of the budget there is just now. `patience_s`: what is never too long; 0: all of it, always."""

    def __init__(self, patience_s: float) -> None:
        self.patience_s = patience_s  # replaced by a reload
        self._part = 1.0
        self._looks: list[float] = []
        self._best: deque[float] = deque(maxlen=_BEST_OF)

    def of(self, budget: int) -> int:
        """What there is of it; at least one."""
        return max(1, round(budget * self._part))

    def seen(self, seconds: float) -> bool:
        """So long did a small scan take; True when `of` may answer something else now."""
        self._best.append(seconds)
        self._looks.append(seconds)
        if len(self._looks) < _LOOKS:
            return False
        taken = statistics.median(self._looks)
        self._looks.clear()
        before = self._part
        if taken > max(self.patience_s, _TOO_LONG * min(self._best)):
            self._part = max(_LEAST, before * _SHRINK)
        else:
            self._part = min(1.0, before + _GROW)
        return self._part != before

    def forget(self) -> bool:
        """There are no others; True when `of` may answer something else now."""
        self._looks.clear()
        before, self._part = self._part, 1.0
        return before != 1.0


async def watch(
    courtesy: Courtesy, scan: Callable[[bytes], Awaitable[object]], concerned: Callable[[], bool], shares: Shares
) -> None:
    """Until cancelled. `scan`: Engines.scan; `concerned`: whether the engine is one of others, and the budget ours."""
    while True:
        await shares.wait_active()
        await trio.sleep(LOOK_S)
        if courtesy.patience_s <= 0 or not concerned():
            changed = courtesy.forget()
        elif (seconds := await _time(scan)) is None:
            continue  # the engine went; scans notice by themselves
        else:
            changed = courtesy.seen(seconds)
        if changed:
            shares.divide()


async def _time(scan: Callable[[bytes], Awaitable[object]]) -> float | None:
    start = trio.current_time()
    with trio.move_on_after(_LONGEST_S):
        try:
            await scan(CONTENT)
        except EngineLost:
            return None
    return trio.current_time() - start
