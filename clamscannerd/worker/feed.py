"""Files at the engine: one IDSESSION with several FILDES in flight. [worker]

A file is sent by the fd that we opened; the verdict is the engine's reply to that very fd, and only if the file did not
change from before to after. Nothing blocks: with replies unread clamd stops reading, so sends are nonblocking.

When a session breaks (engine killed, reloaded, idle time-out), what was in flight is asked again on a new one. One of
those files may have killed the engine: each is then asked alone, and one that breaks its session twice
alone is given up as an engine error. Innocent neighbours are not blamed.
"""

import contextlib
import os
import socket
import struct
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from clamscannerd.engine.clamproto import FILDES_MESSAGE, KEEPALIVE_S, PING, Reply, Session
from clamscannerd.errors import RemoteProtocolError
from clamscannerd.worker.wire import HELD_BACK

_RECEIVE_BYTES = 16 * 1024
_FD = struct.Struct("i")
MAX_ERRORS: Final = 3  # replies of ERROR for one file before it is given up
MAX_LONELY_LOSSES: Final = 2  # sessions that one file broke while it was alone


class Flight:
    """One open file on its way through the engine. Owns `fd` until `close`."""

    __slots__ = ("errors", "fd", "losses", "path", "recheck", "sent_at", "status")

    def __init__(self, path: bytes, fd: int, status: os.stat_result, *, recheck: bool) -> None:
        self.path = path
        self.fd = fd
        self.status = status
        self.recheck = recheck
        self.sent_at = 0.0
        self.errors = 0
        self.losses = 0

    def close(self) -> None:
        os.close(self.fd)


class Feed:
    """Sends flights, hands out replies, survives the loss of sessions.

    `give_up(flight, why)` is told of a file that the engine will not answer for ("deadline" or "error"); it closes it.
    """

    def __init__(self, deadline_s: float, give_up: Callable[[Flight, str], None]) -> None:
        self._deadline_s = deadline_s
        self._give_up = give_up
        self._sock: socket.socket | None = None
        self._session = Session()
        self._last_command = 0.0
        self._flights: dict[int, Flight] = {}
        self._again: deque[Flight] = deque()  # to be asked again, among others
        self._alone: deque[Flight] = deque()  # to be asked again, one by one
        self._wants = 0
        self.lost_reason = "no session yet"

    @property
    def connected(self) -> bool:
        return self._sock is not None

    @property
    def in_flight(self) -> int:
        return len(self._flights)

    @property
    def waiting(self) -> int:
        """Files held here that have no verdict yet."""
        return len(self._flights) + len(self._again) + len(self._alone)

    def fileno(self) -> int:
        return -1 if self._sock is None else self._sock.fileno()

    def adopt(self, fd: int) -> None:
        """A session from the daemon, which has sent zIDSESSION on it already."""
        self._drop()
        self._sock = socket.socket(fileno=fd)
        self._sock.settimeout(0)
        self._session = Session()
        self._last_command = time.monotonic()

    def room(self, window: int) -> bool:
        """Whether a new file may be sent now. Suspects go alone, so nothing new goes while there are any."""
        if self._sock is None:
            return False
        if self._alone or len(self._flights) >= window:
            self._wants = HELD_BACK
            return False
        return True

    def take_wants(self) -> int:
        """So many files were at the engine at most since this was last asked; HELD_BACK: there was no room for more."""
        wants, self._wants = max(self._wants, len(self._flights)), 0
        return wants

    def pump(self, window: int) -> None:
        """Ask again for what was lost or answered with an error, as far as there is room."""
        while self._sock is not None and self._alone and not self._flights:
            self.send(self._alone.popleft())
        while self._again and self.room(window) and self.send(self._again.popleft()):
            pass

    def send(self, flight: Flight) -> bool:
        """Give one file to the engine. False: nothing more can be sent now, and it waits here."""
        if self._sock is None:
            self._again.appendleft(flight)
            return False
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, _FD.pack(flight.fd))]
        try:
            sent = self._sock.sendmsg((FILDES_MESSAGE,), rights)
        except BlockingIOError:  # clamd reads nothing now: verdicts first
            self._again.appendleft(flight)
            return False
        except (BrokenPipeError, ConnectionResetError) as error:  # over something that was sent before
            self._again.appendleft(flight)
            self._lose(f"send: {error.strerror}")
            return False
        except OSError as error:
            # Not the engine's end: ETOOMANYREFS is what this user's own fds in flight elsewhere make of it.
            flight.losses += 1
            if flight.losses >= MAX_LONELY_LOSSES:
                self._give_up(flight, "error")
            else:
                self._again.append(flight)
            self._lose(f"send: {error.strerror}")
            return False
        flight.sent_at = self._last_command = time.monotonic()
        self._flights[self._session.sent()] = flight
        self._wants = max(self._wants, len(self._flights))
        if sent != len(FILDES_MESSAGE):
            self._lose("send: cut short")
            return False
        return True

    def receive(self) -> list[tuple[Flight, Reply]]:
        """Replies that are there, each with its file. Never blocks."""
        if self._sock is None:
            return []
        try:
            data = self._sock.recv(_RECEIVE_BYTES)
            if not data:
                self._lose("closed by the engine")
                return []
            replies = self._session.receive_data(data)
        except BlockingIOError:
            return []
        except OSError as error:
            self._lose(f"receive: {error.strerror}")
            return []
        except RemoteProtocolError as error:
            self._lose(str(error))
            return []
        return [(self._flights.pop(reply.id), reply) for reply in replies]

    def retry(self, flight: Flight) -> None:
        """The engine answered ERROR: ask again later, a few times."""
        flight.errors += 1
        if flight.errors >= MAX_ERRORS:
            self._give_up(flight, "error")
        else:
            self._again.append(flight)

    def check_deadlines(self) -> None:
        """Give up a file that takes too long; its session goes with it, for nothing can take a file back.

        clamd also ends a session that gets no new command for its ReadTimeout, scans under way or not: hence the PING.
        """
        now = time.monotonic()
        if self._sock is not None and now - self._last_command > KEEPALIVE_S:
            self._keep_alive(now)
        late = [number for number, flight in self._flights.items() if now - flight.sent_at > self._deadline_s]
        if not late:
            return
        for number in late:
            self._give_up(self._flights.pop(number), "deadline")
        self._again.extend(self._flights.values())
        self._flights.clear()
        self._lose("a file took too long")

    def _keep_alive(self, now: float) -> None:
        self._last_command = now
        try:
            if self._sock is not None and self._sock.send(PING) == len(PING):
                self._session.sent_ping()
                return
        except OSError as error:
            self._lose(f"send: {error.strerror}")
            return
        self._lose("send: cut short")

    def close(self) -> None:
        """Forget all files, without verdicts."""
        for flight in (*self._flights.values(), *self._again, *self._alone):
            flight.close()
        self._flights.clear()
        self._again.clear()
        self._alone.clear()
        self._drop()

    def _drop(self) -> None:
        if self._sock is not None:
            with contextlib.suppress(OSError):  # nothing to save on a session that is let go
                self._sock.close()
            self._sock = None

    def _lose(self, reason: str) -> None:
        self.lost_reason = reason
        self._drop()
        lost = list(self._flights.values())
        self._flights.clear()
        if len(lost) == 1:
            lost[0].losses += 1
            if lost[0].losses >= MAX_LONELY_LOSSES:
                self._give_up(lost.pop(), "error")
        self._alone.extend(lost)
