"""Answers that were made and not yet written: how much of them one uid may have the daemon hold. Pure; [daemon].

A call ends when its answer is made, so the limit of calls says nothing of answers: 32 connections that read nothing
could each have lists of 9 MB waiting. What is held counts until it is written or its connection is given up.

A call refused before it ran did nothing; one that ran must be answered, for it may have changed something. Calls
that change have small answers, so these always pass, and only a long one, of a call that reads, is made and dropped. A
long answer passes too when nothing else waits: how large a list may be is not judged here.
"""

from collections.abc import Callable

MAX_BYTES = 32 << 20
"""Of one uid: three lists of 100,000 files."""

MAX_BATCH_BYTES = 16 << 20
"""Of one line: a batch's answer is written as a whole, so all of it is held until its last member is answered."""

SMALL_BYTES = 512 << 10
"""disinfect_files names up to 100 paths of 4,096 characters in its warnings; no other call that changes says more."""


class Unsent:
    """All that waits for one uid."""

    __slots__ = ("held_bytes",)

    def __init__(self) -> None:
        self.held_bytes = 0


class Held:
    """What one line has waiting. `limited`: whether the uid's limit counts (not for administrators); a batch's does."""

    __slots__ = ("_bytes", "_limited", "_unsent")

    def __init__(self, unsent: Unsent, *, limited: Callable[[], bool]) -> None:
        self._unsent = unsent
        self._limited = limited
        self._bytes = 0

    def problem_before_call(self) -> str:
        """Why nothing more may be asked; "" when it may."""
        if self._bytes >= MAX_BATCH_BYTES:
            return f"the answers before it in this batch have {self._bytes} bytes"
        if self._unsent.held_bytes >= MAX_BYTES and self._limited():
            return f"{self._unsent.held_bytes} bytes of answers wait to be read"
        return ""

    def problem_with(self, size: int) -> str:
        """Why an answer of so many bytes cannot be kept; "" when it can."""
        if size <= SMALL_BYTES:
            return ""
        if self._bytes and self._bytes + size > MAX_BATCH_BYTES:
            return f"it has {size} bytes, and the answers before it in this batch {self._bytes}"
        waiting = self._unsent.held_bytes
        if waiting and waiting + size > MAX_BYTES and self._limited():
            return f"it has {size} bytes, and {waiting} bytes of answers wait to be read"
        return ""

    def take(self, size: int) -> None:
        self._bytes += size
        self._unsent.held_bytes += size

    def release(self) -> None:
        """They were written, or never will be."""
        self._unsent.held_bytes -= self._bytes
        self._bytes = 0
