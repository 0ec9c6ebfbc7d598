"""Whose turn it is, so that one who asks much makes others wait for one of their questions, not for all. [daemon]

Calls say for whom they are asked (`asked_by`), once, where the account is looked up; what they await below knows it
then, as a context variable does. Jobs say nothing: there are few of them.
"""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from contextvars import ContextVar

import trio

_asker: ContextVar[int | None] = ContextVar("asker", default=None)


def asked_by(uid: int) -> None:
    """The rest of this task is a call of this uid."""
    _asker.set(uid)


def behind_own(locks: dict[int, trio.Lock]) -> AbstractAsyncContextManager[None]:
    """Around a place in a line of all: the uid that asks has one place at most, its other calls wait behind that."""
    uid = _asker.get()
    return nullcontext() if uid is None else one_at_a_time(locks, uid)


@asynccontextmanager
async def one_at_a_time(locks: dict[int, trio.Lock], uid: int) -> AsyncIterator[None]:
    """A lock for each uid, while somebody holds it or waits for it."""
    lock = locks.setdefault(uid, trio.Lock())
    try:
        async with lock:
            yield
    finally:
        if not lock.locked():
            locks.pop(uid, None)
