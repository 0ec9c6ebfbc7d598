"""Messages about sessions: which engine one is of and what holds there; that one is wanted, or gone. Sans-IO.

A Flight knows the terms that it was last sent under: so a finding is told with its engine, and a verdict is learned
(verdicts.py) only from an engine that rests on the same as what is known.
"""

from msgspec import Struct

from clamscannerd.worker.wire import Message


class Terms(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of one session. `engine`: the daemon's number for it, in this scan. `max_file_size`: a larger file does not fit.
    `threads`: files that it works on at once; it gets its share of the window by them. `slow`: it came back just now,
    and gets one file first. `kept`: that a file is clean there is remembered. `in_turn`: it works on one file after the
    other, so what waits there is late by no fault of its own."""

    engine: int
    max_file_size: int
    clean_allowed: bool
    threads: int = 1
    slow: bool = False
    kept: bool = True
    in_turn: bool = False


class Withdraw(Message, frozen=True, kw_only=True, tag=True, forbid_unknown_fields=True):
    """Use this engine no longer: what waits there is asked elsewhere. The answer is NeedSession for it, unless one for
    its loss is on its way already."""

    engine: int


class Sessions(Message, frozen=True, kw_only=True, tag=True, forbid_unknown_fields=True):
    """`fds` new sessions. `terms`: in a scan, what holds for each; none: the two other fields say it of all. `same`:
    all is as it was for a session of that engine before, so what was known to be clean still is."""

    fds: int
    max_file_size: int
    clean_allowed: bool
    same: bool = False
    terms: tuple[Terms, ...] = ()


class NoSession(Message, frozen=True, kw_only=True, tag=True, forbid_unknown_fields=True):
    """The answer to NeedSession when no engine came back in time."""

    reason: str


class NeedSession(Message, frozen=True, kw_only=True, tag=True, forbid_unknown_fields=True):
    """There is no session, or that of `engine` is gone: told once for each. The answer is Sessions or NoSession."""

    reason: str
    engine: int = 0
