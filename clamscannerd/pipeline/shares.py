"""How many files each scan may have at the engine: the budget of all, split evenly. [daemon] Pure but for its event."""

from collections.abc import Callable

import trio

MOST = 64
"""For one scan, however large the engine and the machine: each is an open file of its worker, which may have 256."""


class Shares:
    """Scans register while they run; `wait_changed` wakes when the share of each is another."""

    def __init__(self, budget: Callable[[], int]) -> None:
        self._budget = budget
        self._active = 0
        self._changed = trio.Event()

    def share(self) -> int:
        """Files in flight for one scan; at least one, so that nobody waits for others to end."""
        return min(MOST, max(1, self._budget() // max(1, self._active)))

    def join(self) -> None:
        self._active += 1
        self._wake()

    def leave(self) -> None:
        self._active -= 1
        self._wake()

    def budget_changed(self) -> None:
        """The next share is another."""
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def wait_changed(self) -> None:
        await self._changed.wait()
