"""One open file through the engine once more, alone: for what changed since the scan, or comes back. [worker]"""

import os
import time
from typing import Final

from clamscannerd.engine.clamproto import classify
from clamscannerd.model import Reason, Verdict
from clamscannerd.worker.feed import Feed, Flight
from clamscannerd.worker.hashing import stamp

_POLL_MS: Final = 200  # as often as a scan looks at deadlines


def rescan_file(feed: Feed, fd: int, path: bytes, timeout_s: float) -> tuple[Verdict, Reason | None, str]:
    """The engine's word on one open file, alone, for actions. The fd stays the caller's."""
    status = os.fstat(fd)
    flight = Flight(path, os.dup(fd), status, recheck=True)
    feed.send(flight)
    until = time.monotonic() + timeout_s
    while feed.in_flight and time.monotonic() < until:
        feed.wait(_POLL_MS)
        feed.check_deadlines()
        for done, reply in feed.receive():
            done.close()
            verdict, reason, signature = classify(reply)
            if verdict is Verdict.CLEAN and stamp(os.fstat(fd)) != stamp(status):
                return Verdict.NOT_SCANNED, Reason.CHANGED, ""
            return verdict, reason, signature
    feed.close()
    return Verdict.NOT_SCANNED, Reason.ENGINE_ERROR, ""
