"""`status --watch`: what happens to the account's scans and tasks, as the daemon tells it (Events.subscribe).

On a terminal one picture, drawn anew; in a pipe a line for each change; with --json each notification, a line each.
It ends with Ctrl-C, or when the daemon stays away; a daemon that is restarted is waited for, as under --wait, and tells
how things stand when it is back. Whoever wants an end uses --wait.
"""

import sys
import time
from collections.abc import Callable, Iterator

from clamscannerd.ctl import text
from clamscannerd.ctl.calls import INTERRUPTED, Caller, out, say
from clamscannerd.ctl.picture import Picture, line_of
from clamscannerd.ctl.waiting import AWAY_S, LAST_PAUSE_S

PLAIN_S = 10.0
"""In a pipe progress is told so often at most: findings, records, ends and changes of state are told at once."""

Json = dict[str, object]


def watch(caller: Caller) -> int:
    """Raises what the calls raise."""
    try:
        if caller.options.json:
            for method, params in _events(caller, say):
                _line(text.json_line({"method": method, "params": params}))
        elif sys.stdout.isatty():
            _draw(caller)
        else:
            lines = Lines()
            for method, params in _events(caller, say):
                if lines.wanted(method, params):
                    _line(line_of(method, params))
    except KeyboardInterrupt:
        pass
    return INTERRUPTED


def _draw(caller: Caller) -> None:
    from clamscannerd.ctl.progress import Screen

    picture = Picture()
    with Screen(picture) as screen:

        def away(words: str) -> None:
            picture.trouble(words)
            picture.again()
            screen.changed()

        for method, params in _events(caller, away):
            picture.take(method, params)
            screen.changed()


class Lines:
    """Which events are a line: all but progress that nobody would miss."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._said: tuple[object, object] = (None, None)
        self._at = 0.0

    def wanted(self, method: str, params: Json) -> bool:
        if method != "Scan.progress":
            return True
        what, now = (params.get("scan_id"), params.get("state")), self._now()
        if what == self._said and now - self._at < PLAIN_S:
            return False
        self._said, self._at = what, now
        return True


def _events(caller: Caller, away: Callable[[str], None]) -> Iterator[tuple[str, Json]]:
    """For ever, over restarts of the daemon; `away` hears of each, once. Raises when it was not there to begin with,
    and once it has been away for AWAY_S."""
    from clamscannerd.client import Client, RemoteError, Unreachable

    since: float | None = None
    told = False
    while True:
        try:
            with Client(caller.options.socket) as client:
                for event in client.events(user=caller.options.user):
                    since, told = None, True
                    yield event.method, event.params
        except (Unreachable, RemoteError) as error:
            if not told or (isinstance(error, RemoteError) and error.kind != "shutting_down"):
                raise
            now = time.monotonic()
            if since is None:
                since = now
                away(f"{error}; waiting for it to come back")
            if now - since > AWAY_S:
                raise
            time.sleep(LAST_PAUSE_S)


def _line(line: str) -> None:
    out(line)
    sys.stdout.flush()
