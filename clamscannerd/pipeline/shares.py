"""How many files each scan may have at the engine: the budget of all, divided. [daemon] Pure but for its events.

Scans that somebody waits for share it evenly, a timer's get what those leave, and each has one at least, so that nobody
waits for others to end. What a scan cannot use, the others have: at the end of a home one large file is all that is
left of it, and a slow disk gives a worker less to send than it may. A worker says what it could have used (`wants`, in
its reports). One that lies gains nothing by it: what the others want of their even parts they have first.
"""

from collections.abc import Callable, Sequence

import trio

MOST = 64
"""For one scan, however large the engine and the machine: each is an open file of its worker, which may have 256."""

_MORE = 1  # than it had: so that it can show that it could use it


class Share:
    """One scan's part; `wait_changed` wakes when that is another. Made by `Shares.join`."""

    def __init__(self, shares: "Shares", *, scheduled: bool) -> None:
        self.window = 1
        self.scheduled = scheduled
        self.wants = MOST
        self._shares = shares
        self._changed = trio.Event()

    def wanted(self, most: int) -> None:
        """So many files were at the engine at most since this was last said; MOST: there would have been more."""
        self.wants = min(MOST, max(1, most + _MORE))
        self._shares.divide()

    def leave(self) -> None:
        """The scan has ended."""
        self._shares.leave(self)

    def become(self, window: int) -> None:
        """What `Shares` has decided."""
        if window != self.window:
            self.window = window
            self._changed.set()
            self._changed = trio.Event()

    async def wait_changed(self) -> None:
        await self._changed.wait()


class Shares:
    """Scans join while they run."""

    def __init__(self, budget: Callable[[], int]) -> None:
        self._budget = budget
        self._active: list[Share] = []
        self._joined = trio.Event()

    async def wait_active(self) -> None:
        """Returns while there is a scan."""
        while not self._active:
            await self._joined.wait()

    def join(self, *, scheduled: bool) -> Share:
        """A scan begins; nothing is known yet of what it can use."""
        share = Share(self, scheduled=scheduled)
        self._active.append(share)
        self._joined.set()
        self._joined = trio.Event()
        self.divide()
        return share

    def leave(self, share: Share) -> None:
        """See Share.leave."""
        self._active.remove(share)
        self.divide()

    def divide(self) -> None:
        """The budget, or what somebody wants of it, is another."""
        first = [share for share in self._active if not share.scheduled]
        last = [share for share in self._active if share.scheduled]
        left = max(self._budget(), len(self._active))
        for group, others in ((first, len(last)), (last, 0)):
            parts = evenly(left - others, [share.wants for share in group])
            for share, part in zip(group, parts, strict=True):
                share.become(part)
            left -= sum(parts)


def evenly(total: int, wants: Sequence[int]) -> list[int]:
    """`total` divided so that nobody gets more than they want, or less than another who has more than one.

    That is max-min fairness. Each want is 1 or more, as is each part: `total` is their number at least.
    """
    parts = [0] * len(wants)
    modest = sorted(range(len(wants)), key=wants.__getitem__)
    for done, place in enumerate(modest):
        parts[place] = min(wants[place], total // (len(modest) - done))
        total -= parts[place]
    return parts
