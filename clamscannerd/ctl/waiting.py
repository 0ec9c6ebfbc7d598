"""--wait: ask again until a scan or a disinfection has ended.

Polling, not Events.subscribe: the six calls are all that this needs, and a poll every second costs the daemon tens of
microseconds. A daemon that is restarted under a wait is waited for: scans and disinfections go on after a restart, so
the wait does too. Ctrl-C ends the wait and nothing else.
"""

import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

from clamscannerd.ctl import text
from clamscannerd.ctl.calls import Caller, Json, say

FIRST_PAUSE_S = 0.2
"""A small home is scanned in less; a person does not notice it."""
LAST_PAUSE_S = 1.0
"""What a progress bar needs to look alive; 200 such pollers are 200 calls a second."""
PAUSE_GROWTH = 1.25
AWAY_S = 60.0
"""How long a daemon may be away under a wait: a restart takes a second, an upgrade of the package half a minute."""


class Watch(Protocol):
    """What sees each answer go by: a progress bar, or nothing."""

    def scan(self, status: Json) -> None: ...

    def record(self, record: Json) -> None: ...


class Silent:
    """Nobody looks."""

    def scan(self, status: Json) -> None:
        pass

    def record(self, record: Json) -> None:
        pass


class Seen:
    """Remembers the state that a scan was in when it was looked at last; and hands all on to `watch`."""

    def __init__(self) -> None:
        self.watch: Watch = Silent()
        self.state = ""

    def scan(self, status: Json) -> None:
        self.state = text.state(status)
        self.watch.scan(status)

    def record(self, record: Json) -> None:
        self.watch.record(record)


def watch(*, json: bool, total: int | None = None) -> AbstractContextManager[Watch]:
    """A progress bar where somebody looks: stderr is a terminal and no program asked for JSON."""
    if json or not sys.stderr.isatty():
        return nullcontext(Silent())
    from clamscannerd.ctl.progress import Bar

    return Bar(total)


class Poller:
    """Asks one of the six calls again and again, with growing pauses, over a restart of the daemon."""

    def __init__(self, caller: Caller, *, sleep: Callable[[float], None] = time.sleep) -> None:
        self._caller = caller
        self._sleep = sleep
        self._pause_s = FIRST_PAUSE_S
        self._away_since: float | None = None

    def pause(self) -> None:
        self._sleep(self._pause_s)
        self._pause_s = min(LAST_PAUSE_S, self._pause_s * PAUSE_GROWTH)

    def ask(self, func: str, **params: object) -> Json:
        """The next answer of one of the six. Raises what Caller.six raises once the daemon has been away for AWAY_S."""
        return self._over_restarts(lambda: self._caller.six(func, **params))

    def call(self, method: str, **params: object) -> Json:
        """The next result of any other call, an object."""

        def once() -> Json:
            answer = self._caller.call(method, params)
            return answer if isinstance(answer, dict) else {}

        return self._over_restarts(once)

    def _over_restarts(self, ask: Callable[[], Json]) -> Json:
        from clamscannerd.client import RemoteError, Unreachable

        while True:
            try:
                answer = ask()
            except Unreachable as error:
                self._away(error)
            except RemoteError as error:
                if error.kind != "shutting_down":
                    raise
                self._away(error)
            else:
                self._away_since = None
                return answer

    def _away(self, error: Exception) -> None:
        now = time.monotonic()
        if self._away_since is None:
            self._away_since = now
            say(f"{error}; waiting for it to come back")
        if now - self._away_since > AWAY_S:
            raise error
        self._caller.close()
        self.pause()


def scan_end(
    caller: Caller,
    watcher: Watch,
    scan_id: Any = None,  # noqa: ANN401  an id is echoed, never read
    *,
    or_paused: bool = False,
) -> Json:
    """The envelope of get_scan_status once the scan has ended, or once another scan stands in its place.

    A scan that is paused is waited for, and that is said once. `or_paused`: a pause is an end.
    """
    poller = Poller(caller)
    was = ""
    while True:
        answer = poller.ask("get_scan_status")
        status: Json = answer["result"]["data"]
        watcher.scan(status)
        if status["scan_complete"] or (scan_id is not None and status.get("scan_id") != scan_id):
            return answer
        if (now := text.state(status)) == "paused" != was:
            if or_paused:
                return answer
            say(f"the scan is paused; go on with: {caller.options.again('resume')}")
        was = now
        poller.pause()


def task_end(caller: Caller, watcher: Watch, *, after: int = 0) -> Json:
    """The envelope of check_disinfection_status once the task has ended; `details` are all records beyond `after`."""
    poller = Poller(caller)
    records: list[Json] = []
    while True:
        last = records[-1]["id"] if records else after
        answer = poller.ask("check_disinfection_status", **({"last_id": last} if last else {}))
        data: Json = answer["result"]["data"]
        for record in data["details"]:
            records.append(record)
            watcher.record(record)
        if data["status"] in {"done", "none"}:
            data["details"] = records
            return answer
        # A full page means that more is there already: ask at once.
        if not data["details"]:
            poller.pause()


def restore_end(caller: Caller, watcher: Watch, task_id: str) -> Json:
    """The answer of Task.get once the task has ended; `details` are all its records."""
    poller = Poller(caller)
    records: list[Json] = []
    while True:
        task = poller.call("Task.get", task_id=task_id, **({"last_id": records[-1]["id"]} if records else {}))
        for record in task["details"]:
            records.append(record)
            watcher.record(record)
        if task["state"] == "done":
            task["details"] = records
            return task
        if not task["details"]:
            poller.pause()
