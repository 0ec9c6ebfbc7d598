"""What many listeners of one account look for, looked for once. [daemon]

500 who listen to one scan would each ask the database for the same rows, and write the same numbers as JSON, a few
times a second. Here the first one does it, those who come meanwhile wait for it, and those who come later get what it
found, for as long as that is as new as their own look would have been: the basis says so. It is an object that is
replaced when something happens (a scan's value, the event of an account's jobs), so the same object is the same
moment, and numbers beside it. Of each kind and account the last look is kept, whatever its basis.

Rejected: to push what happens to all listeners from one task (a slow reader would need a queue, which is full some
day; now each has a cursor, and nothing that can be full).
"""

from collections.abc import Awaitable, Callable, Hashable
from typing import Any, TypeVar

import trio

T = TypeVar("T")

KEPT = 64
"""Looks; then the memory starts over. A page of findings has up to a megabyte."""


class _Look:
    __slots__ = ("basis", "line", "value", "when")

    def __init__(self) -> None:
        self.line = trio.Lock()
        self.basis: tuple[object, ...] = ()  # of nobody
        self.when = 0.0
        self.value: Any = None


class Looks:
    """By account and by what is looked for."""

    def __init__(self) -> None:
        self._looks: dict[Hashable, _Look] = {}

    async def once(
        self, key: Hashable, basis: tuple[object, ...], look: Callable[[], Awaitable[T]], max_age_s: float
    ) -> T:
        """What `look` gave to whoever looked last with this key, if that was on this basis and not longer ago."""
        kept = self._looks.get(key)
        if kept is None:
            if len(self._looks) >= KEPT:
                self._looks.clear()
            kept = self._looks[key] = _Look()
        if not self._is_new(kept, basis, max_age_s):
            async with kept.line:
                if not self._is_new(kept, basis, max_age_s):
                    when = trio.current_time()
                    kept.value = await look()
                    kept.basis, kept.when = basis, when
        value: T = kept.value
        return value

    def clear(self) -> None:
        """Nobody listens."""
        self._looks.clear()

    def _is_new(self, kept: _Look, basis: tuple[object, ...], max_age_s: float) -> bool:
        if not kept.basis or kept.basis[0] is not basis[0] or kept.basis[1:] != basis[1:]:
            return False
        return trio.current_time() - kept.when <= max_age_s
