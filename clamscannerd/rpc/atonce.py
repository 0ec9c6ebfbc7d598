"""Await something, and hear of it just before it waits for the first time. Nothing of trio's; [daemon]

What never waits has then cost no task and no time round the loop. What does wait goes on in the task that it began in,
as its deadlines and context variables belong there; who called has the chance to hand on whatever else that task had
to do.

Rejected: to begin it in one task and to end it in another (a cancel scope knows its task), an instrument that looks
whether a step has ended (each step of every task would pay).
"""

import types
from collections.abc import Callable, Coroutine, Generator
from typing import Any


@types.coroutine
def at_once(
    work: Coroutine[Any, Any, None], before_wait: Callable[[], None], after_wait: Callable[[], None]
) -> Generator[Any, Any, bool]:
    """Await `work`. Whether it went through without waiting; else `before_wait` was called just before it did, and
    `after_wait` at its end."""
    try:
        trap = work.send(None)
    except StopIteration:
        return True
    before_wait()
    try:
        while True:  # as `await` does it
            try:
                sent = yield trap
            except BaseException as error:
                trap = work.throw(error)
            else:
                trap = work.send(sent)
    except StopIteration:
        return False
    finally:
        after_wait()
