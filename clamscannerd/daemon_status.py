"""The STATUS line that `systemctl status` shows, kept current. [daemon]

Every local user can read it: so no names, no paths, and no sentence of an engine or an error, which have both.

    2 scans, 1 queued, 1 task; clamd 1.4.6/27400 of 3 h ago
    degraded: clamd not reachable since 14:02; 1 queued
"""

import time
from collections.abc import Callable
from typing import Protocol

import trio

from clamscannerd import systemd
from clamscannerd.model import EngineInfo

_AGAIN_S = 60.0  # ages and days change by themselves
_PAUSE_S = 1.0  # jobs may come and go a hundred times in a second: nobody reads that fast
_LONG_AGO_S = 20 * 3600.0  # from here on a time of the day could be today's
_LONGEST_VERSION = 30


class Jobs(Protocol):
    """What runs and waits: state/runner.RunnerStatistics."""

    @property
    def scans(self) -> int: ...
    @property
    def tasks(self) -> int: ...
    @property
    def waiting(self) -> int: ...
    @property
    def paused(self) -> int: ...
    @property
    def stuck(self) -> int: ...
    @property
    def stuck_since(self) -> float: ...


class Engine(Protocol):
    """engine/sessions.EngineState."""

    @property
    def kind(self) -> str: ...
    @property
    def since(self) -> float: ...
    @property
    def info(self) -> EngineInfo: ...
    @property
    def signatures(self) -> bool: ...


_NOT_READY = {
    "starting": "clamd is starting since",
    "loading": "clamd does not answer yet since",
    "lost": "clamd not reachable since",
}


def status_line(jobs: Jobs, engine: Engine, notes: list[str], troubles: list[str], now: float) -> str:
    """`notes` and `troubles`: what else there is to say; with a trouble the daemon is degraded."""
    troubles = list(troubles)
    if engine.kind in _NOT_READY:
        troubles.insert(0, f"{_NOT_READY[engine.kind]} {_at(engine.since, now)}")
    elif not engine.signatures:
        troubles.insert(0, "no signatures, so no file is called clean")
    if jobs.stuck:
        troubles.append(_stuck(jobs, now))
    parts = [f"degraded: {', '.join(troubles)}"] if troubles else []
    parts += [*notes, _jobs(jobs)]
    if engine.kind == "ready":
        parts.append(_engine(engine.info, now))
    return "; ".join(parts)


def _stuck(jobs: Jobs, now: float) -> str:
    return f"{_count(jobs.stuck, 'job')} cannot start since {_at(jobs.stuck_since, now)}, see the log"


def _jobs(jobs: Jobs) -> str:
    counted = [
        _count(jobs.scans, "scan"),
        f"{jobs.waiting} queued",
        f"{jobs.paused} paused",
        _count(jobs.tasks, "task"),
    ]
    return ", ".join(words for words in counted if not words.startswith("0 ")) or "idle"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _engine(info: EngineInfo, now: float) -> str:
    words = f"clamd {info.version[:_LONGEST_VERSION]}"
    if info.database:
        words += f"/{info.database}"
    if info.database_time:
        words += f" of {_age(max(0.0, now - info.database_time))} ago"
    return words


def _age(seconds: float) -> str:
    for unit_s, most, unit in ((60, 60, "min"), (3600, 48, "h")):
        if seconds < most * unit_s:
            return f"{seconds // unit_s:.0f} {unit}"
    return f"{seconds // 86_400:.0f} days"


def _at(moment: float, now: float) -> str:
    """Of the day, in local time; with its date when that was long ago."""
    return time.strftime("%H:%M" if now - moment < _LONG_AGO_S else "%Y-%m-%d %H:%M", time.localtime(moment))


class Status:
    """One per daemon. `note` and `trouble` hold one sentence for each topic; "" takes it back."""

    def __init__(
        self, jobs: Callable[[], Jobs], engine: Callable[[], Engine], clock: Callable[[], float] = time.time
    ) -> None:
        self._jobs = jobs
        self._engine = engine
        self._clock = clock
        self._notes: dict[str, str] = {}
        self._troubles: dict[str, str] = {}
        self._changed = trio.Event()

    def note(self, topic: str, sentence: str) -> None:
        self._notes[topic] = sentence
        self.changed()

    def trouble(self, topic: str, sentence: str) -> None:
        self._troubles[topic] = sentence
        self.changed()

    def changed(self) -> None:
        """The line may be another."""
        self._changed.set()

    def troubles(self) -> list[str]:
        """A sentence each, but for the engine's: that has a state of its own."""
        jobs = self._jobs()
        return [*filter(None, self._troubles.values()), *([_stuck(jobs, self._clock())] if jobs.stuck else [])]

    def line(self) -> str:
        notes, troubles = (list(filter(None, table.values())) for table in (self._notes, self._troubles))
        return status_line(self._jobs(), self._engine(), notes, troubles, self._clock())

    async def follow(self) -> None:
        """For ever: say it whenever it is another."""
        said = ""
        while True:
            self._changed = trio.Event()
            line = self.line()
            if line != said:
                systemd.notify(STATUS=line)
                said = line
            await trio.sleep(_PAUSE_S)
            with trio.move_on_after(_AGAIN_S):
                await self._changed.wait()
