"""What happened to whom, as journal fields: infection found, action taken, engine lost and back. Pure; [daemon]

    log.info("scan %d: %r in %r", ..., extra=events.infection(uid=1001, scan=7, path=b"/home/ann/x", signature="Eicar"))

systemd.py's handler sends what begins with CLAMSCANNERD_, and MESSAGE_ID, to the journal; on stderr only the text is
seen. The ids are explained in systemd/clamscannerd.catalog (`journalctl -x`), and never change their meaning.

How many there are is up to users: 100,000 infected files are a scan's lawful findings. So `EventLimit` bounds the lines
about one uid, or a user could have journald, which drops what comes too fast from a service, drop everybody else's.
"""

import logging
import time
from collections.abc import Callable

from clamscannerd.model import Outcome

INFECTION_FOUND = "4d8f2b6e1c0a4f6c9a53e7b0d2c41f88"
ACTION_TAKEN = "b1c7e0d95f3248e6a7d41c9e60f2ab35"
ENGINE_LOST = "93ad50f4c6e24b1d8f7702ea5b9c3d16"
ENGINE_BACK = "e65c19a8270d4d3bb84f0ca1937de542"

MOST_A_MINUTE = 300
"""About one uid. journald's default takes 10,000 messages in 30 s from a service: more than 60 such users at once."""

_WINDOW_S = 60.0
_KEPT = 10_000  # uids in one window; then the counts start over

Fields = dict[str, object]


def about(uid: int, *, scan: int | None = None, task: str | None = None) -> Fields:
    """For any line about one account: `journalctl CLAMSCANNERD_UID=1001` shows it."""
    fields: Fields = {"CLAMSCANNERD_UID": str(uid)}
    if scan is not None:
        fields["CLAMSCANNERD_SCAN_ID"] = str(scan)
    if task is not None:
        fields["CLAMSCANNERD_TASK_ID"] = task
    return fields


def infection(uid: int, *, scan: int, path: str, signature: str) -> Fields:
    """`path`: in the form of the wire, in which every name can be written."""
    what = {"CLAMSCANNERD_PATH": path, "CLAMSCANNERD_SIGNATURE": signature}
    return {"MESSAGE_ID": INFECTION_FOUND, **about(uid, scan=scan), **what}


def action(uid: int, *, task: str, path: str, signature: str, outcome: Outcome) -> Fields:
    """One step of a task has ended, well or not."""
    what = {"CLAMSCANNERD_PATH": path, "CLAMSCANNERD_SIGNATURE": signature, "CLAMSCANNERD_OUTCOME": outcome.value}
    return {"MESSAGE_ID": ACTION_TAKEN, **about(uid, task=task), **what}


class EventLimit(logging.Filter):
    """Lets MOST_A_MINUTE lines about one uid through, and then says once that there were more. For handlers.

    Warnings and worse always pass: users cannot cause many of those.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._since = clock()
        self._counts: dict[str, int] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        uid: str | None = getattr(record, "CLAMSCANNERD_UID", None)
        if uid is None or record.levelno > logging.INFO:
            return True
        if self._clock() - self._since > _WINDOW_S or len(self._counts) > _KEPT:
            self._since = self._clock()
            self._counts.clear()
        count = self._counts[uid] = self._counts.get(uid, 0) + 1
        if count == MOST_A_MINUTE:
            record.msg, record.args = (
                "%s (and more: the rest of this minute about uid %s is not logged)",
                (
                    record.getMessage(),
                    uid,
                ),
            )
        return count <= MOST_A_MINUTE
