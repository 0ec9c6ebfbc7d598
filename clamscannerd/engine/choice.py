"""Which of several engines are used, and what holds for them together. Pure. [daemon]

Signatures are compared by the time of the official database that VERSION names: numbers and times both grow with each
release, and a time says how far behind. An engine without official signatures, where another has some, is behind by
all there is to know. Nobody is behind a database from the future: one engine whose clock, or whose word, is wrong would
have all others left out. What is left out is judged among ready engines only, so there is always one that is not.

Rejected: comparing databases by their directories (those of other machines are out of reach), and leaving engines out
at once, which at each release would leave one engine until the others' freshclam has run.
"""

import math
from collections.abc import Iterable, Sequence

import msgspec

from clamscannerd.engine.health import EngineState

_LEAST, _LEAST_SHARED = 4, 2  # files at an engine of ours, and at one of a single thread before which mail waits
_AHEAD_S = 86_400.0  # a database's time is in its builder's zone, or in clamd's: by no more than that


def lags(states: Sequence[EngineState], now: float) -> dict[str, float]:
    """Address -> seconds by which an engine's signatures are older than the newest ones of these, as last known."""
    known = [state for state in states if state.info.version]
    times = [state.info.database_time for state in known if state.info.database]
    newest = max((moment for moment in times if moment <= now + _AHEAD_S), default=0.0)
    if not newest:
        return {state.address: 0.0 for state in known}
    return {
        state.address: max(0.0, newest - state.info.database_time) if state.info.database else math.inf
        for state in known
    }


def usable(states: Iterable[EngineState], max_lag_s: float, now: float) -> tuple[EngineState, ...]:
    """The ready ones, but for those that are behind by more than `max_lag_s`; 0: for none."""
    ready = [state for state in states if state.kind == "ready"]
    behind = lags(ready, now)
    return tuple(state for state in ready if not max_lag_s or behind[state.address] <= max_lag_s)


def combined(states: Sequence[EngineState]) -> EngineState:
    """What holds for all of these ready engines. Version and database are those of the oldest: no verdict has less."""
    if len(states) == 1:
        return states[0]
    blind = tuple(dict.fromkeys(sentence for state in states for sentence in state.info.blind))
    cure = tuple(dict.fromkeys(line for state in states for line in state.cure))
    most = max(state.info.max_file_size for state in states)  # a scan sends a file where it fits
    oldest = min(states, key=lambda state: (state.info.database_time, state.info.database))
    return msgspec.structs.replace(
        oldest,
        since=min(state.since for state in states),
        steady_since=min(state.steady_since for state in states),
        info=msgspec.structs.replace(oldest.info, blind=blind, max_file_size=most),
        signatures=all(state.signatures for state in states),
        max_file_size=min(state.max_file_size for state in states),
        max_threads=sum(state.max_threads for state in states),
        shared=any(state.shared for state in states),
        generation=" ".join(state.generation for state in states),
        read_timeout_s=min(state.read_timeout_s for state in states),
        cure=cure,
        shutdown=any(state.shutdown for state in states),
        settings=" ".join(state.settings for state in states) if all(state.settings for state in states) else "",
    )


def budget(states: Iterable[EngineState], cores: int) -> int:
    """Files at the engines at once. For each MaxThreads, or 4 a core where that is less and they are our cores; of a
    shared one two thirds at most, so that mail is still scanned. At one of few threads files wait besides: else
    it would wait for us after each of them."""
    total = 0
    for state in states:
        threads = state.max_threads if state.remote else min(state.max_threads, 4 * cores)
        if not state.shared:
            total += max(_LEAST, threads)
        elif state.max_threads == 1:
            total += _LEAST_SHARED
        else:
            total += max(1, min(threads, state.max_threads * 2 // 3))
    return max(1, total)
