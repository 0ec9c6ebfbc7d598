"""The end of [daemon]: one deadline for all that still has to be done, wherever it is done.

    with stop.shield():                  # as long as it takes, and at a stop as long as is left
        await store.park_scan(scan.id)

Each part's own time limit would add up: what is bounded is the stop as a whole. Set once, at SIGTERM; shields that are
open at that moment get it too.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import trio


class Stop:
    """One per daemon, and one of its own for whoever is built without (tests)."""

    def __init__(self) -> None:
        self.deadline = math.inf
        self._open: set[trio.CancelScope] = set()

    def begin(self, within_s: float) -> None:
        """From now on everything ends within this."""
        self.deadline = trio.current_time() + within_s
        for scope in self._open:
            scope.deadline = min(scope.deadline, self.deadline)

    def left(self, own_s: float) -> float:
        """`own_s`, or what is left of the stop where that is less."""
        return max(0.0, min(own_s, self.deadline - trio.current_time()))

    @contextmanager
    def shield(self, own_s: float = math.inf) -> Iterator[trio.CancelScope]:
        """Cleaning up, out of reach of a cancellation: for `own_s` at most, and no longer than the stop."""
        deadline = min(trio.current_time() + own_s, self.deadline)
        with trio.CancelScope(shield=True, deadline=deadline) as scope:
            self._open.add(scope)
            try:
                yield scope
            finally:
                self._open.discard(scope)
