"""Files at the engines: sessions of one or more of them (line.py), several files in flight on each. [worker]

A file goes to the engine with the least outstanding for what it can do at once: an engine that is slow, or hangs, gets
no more than its part of the window, by what it can do at once, and the others go on. Where that leaves a choice it goes
where it went before, by its inode, so that what an engine remembers of its own serves again; one more than another has
is waited for, and no more, so that nobody idles behind a huge file. The verdict is an engine's reply to that very file,
and only if the file did not change from before to after.

When a session breaks (engine killed, reloaded, idle time-out), what was in flight is asked again, elsewhere or on a new
one. One of those files may have killed the engine: each is then asked alone, on one session that takes nothing else
meanwhile, and one that breaks its session twice alone is given up as an engine error. Innocent neighbours are not
blamed. A file that got an error, or whose engine is withdrawn, is asked elsewhere where that is possible.
"""

import select
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from msgspec import structs

from clamscannerd.engine.clamproto import Reply, ReplyKind
from clamscannerd.worker.line import Flight as Flight
from clamscannerd.worker.line import Line, LineLost, over_the_stream
from clamscannerd.worker.linewire import Terms
from clamscannerd.worker.wire import HELD_BACK

MAX_ERRORS: Final = 3  # replies of ERROR for one file before it is given up
MAX_LONELY_LOSSES: Final = 2  # sessions that one file broke while it was alone
MAX_MOVES: Final = 3  # engines that fell silent over one file: it may be the file
_MOST_AGAIN: Final = 64  # open files that wait here; a worker may have 256
_PATIENCE: Final = 1.0  # of load: as much as an engine works on at once, and it is seldom one that is stuck
_ANY: Final = Terms(engine=0, max_file_size=1 << 62, clean_allowed=True)


class Feed:
    """Sends flights, hands out replies, survives the loss of sessions.

    `give_up(flight, why)` is told of a file that no engine will answer for ("deadline", "error", "size", "unread"); it
    closes it. `lost(terms, reason)` is told of each session that is gone.
    """

    def __init__(
        self,
        deadline_s: float,
        give_up: Callable[[Flight, str], None],
        lost: Callable[[Terms, str], None] = lambda _terms, _reason: None,
    ) -> None:
        self._deadline_s = deadline_s
        self._give_up = give_up
        self._told_lost = lost
        self._lines: list[Line] = []
        self._threads = 0  # of all of them
        self._again: deque[Flight] = deque()  # to be asked again, among others
        self._alone: deque[Flight] = deque()  # to be asked again, one by one
        self._lonely: Line | None = None  # for these
        self._polled: dict[int, int] = {}
        self._gone: list[int] = []  # closed, and maybe polled still
        self._most: dict[int, int] = {}  # of engines whose StreamMaxLength is below what the daemon knows
        self._wants = 0
        self._window = 1 << 30  # the last one that was given
        self.lost_reason = "no session yet"

    @property
    def connected(self) -> bool:
        return bool(self._lines)

    @property
    def in_flight(self) -> int:
        if len(self._lines) == 1:  # as most often, and this is asked several times a file
            return len(self._lines[0].flights)
        return sum(len(line.flights) for line in self._lines)

    @property
    def waiting(self) -> int:
        """Files held here that have no verdict yet."""
        return self.in_flight + len(self._again) + len(self._alone)

    @property
    def max_file_size(self) -> int:
        """What fits the most patient engine that is there."""
        return max((line.terms.max_file_size for line in self._lines), default=0)

    def adopt(self, fd: int, terms: Terms = _ANY) -> None:
        """A session from the daemon, beside those of other engines; it replaces one of the same engine."""
        for line in self._lines:
            if line.terms.engine == terms.engine:
                self._again.extend(line.flights.values())
                self._release(line)
                break
        if (most := self._most.get(terms.engine, terms.max_file_size)) < terms.max_file_size:
            terms = structs.replace(terms, max_file_size=most)
        self._lines.append(Line(fd, terms))
        self._threads += terms.threads

    def withdraw(self, engine: int, reason: str) -> None:
        """Ask elsewhere what waits at this engine."""
        for line in self._lines:
            if line.terms.engine == engine:
                self._move(line)
                self._release(line)
                self._told_lost(line.terms, reason)
                return

    def watch(self, poll: select.poll) -> None:
        """Have `poll` wait for all sessions, and no others of ours."""
        for fd in self._gone:
            if self._polled.pop(fd, 0):
                poll.unregister(fd)
        self._gone.clear()
        for line in self._lines:
            fd = line.fileno()
            wanted = select.POLLIN | select.POLLOUT if line.uploading else select.POLLIN
            if self._polled.get(fd) != wanted:
                poll.register(fd, wanted)
                self._polled[fd] = wanted

    def wait(self, timeout_ms: int) -> None:
        """Until an engine says something, or takes more of a stream."""
        poll = select.poll()
        for line in self._lines:
            poll.register(line.fileno(), select.POLLIN | select.POLLOUT if line.uploading else select.POLLIN)
        poll.poll(timeout_ms)

    def room(self, window: int) -> bool:
        """Whether a new file may be sent now. Suspects go alone, so nothing new goes where they are."""
        self._window = window
        if not self._lines:
            return False
        if self._best(None, window) is None:
            self._wants = HELD_BACK
            return False
        return True

    def take_wants(self) -> int:
        """So many files were at the engine at most since this was last asked; HELD_BACK: there was no room for more."""
        wants, self._wants = max(self._wants, self.in_flight), 0
        return wants

    def _best(self, flight: Flight | None, window: int) -> Line | None:
        """The session with room that has the least to do; of a file that was refused somewhere, another one's."""
        if len(self._lines) == 1:
            line = self._lines[0]
            fits = not self._alone and line is not self._lonely and line.free() and len(line.flights) < window
            return line if fits and (flight is None or line.takes(flight)) else None
        taken = self._lonely_line() if self._alone else self._lonely
        free, busy = [], 0
        for line in self._lines:  # twice a file: hence one loop
            here = len(line.flights)
            busy += here
            # One more is within its part of the window: rounded up, so that the parts are all of it.
            if here * self._threads < self._window * line.terms.threads and line is not taken and line.free():
                free.append(line)
        if busy >= window or (flight is None and len(self._again) >= _MOST_AGAIN):
            return None
        if flight is None:
            return free[0] if free else None
        fitting = [line for line in free if line.takes(flight)]
        best = min(fitting, key=lambda line: (line.terms is flight.terms, line.load()), default=None)
        if best is None or flight.terms is not None:
            return best
        usual = max(self._lines, key=lambda line: _affinity(flight.status.st_ino, line.terms.engine))
        return usual if usual in fitting and usual.load() <= best.load() + _PATIENCE else best

    def _lonely_line(self) -> Line | None:
        """Where suspects go: it empties first."""
        if self._lonely is None:
            self._lonely = min(self._lines, key=lambda line: len(line.flights), default=None)
        return self._lonely

    def pump(self, window: int) -> None:
        """Ask again for what was lost or answered with an error, as far as there is room."""
        self._window = window
        self._pump_alone()
        for _ in range(len(self._again)):
            flight = self._again.popleft()
            if not self._fits_anywhere(flight):
                self._give_up(flight, "size")
            elif (line := self._best(flight, window)) is None:
                self._again.append(flight)
            else:
                self._send(line, flight)

    def _pump_alone(self) -> None:
        while self._alone and (line := self._lonely_line()) is not None and not line.flights:
            flight = self._alone.popleft()
            if not line.takes(flight) and self._fits_anywhere(flight):
                self._alone.appendleft(flight)
                self._lonely = next(other for other in self._lines if other.takes(flight))
            elif not line.takes(flight):
                self._give_up(flight, "size")
            elif not self._send(line, flight):
                return
        if not self._alone and self._lonely is not None and not self._lonely.flights:
            self._lonely = None

    def _fits_anywhere(self, flight: Flight) -> bool:
        return not self._lines or any(line.takes(flight) for line in self._lines)

    def send(self, flight: Flight) -> bool:
        """Give one file to an engine, or keep it until one that it fits has room. False: nothing more can be sent now,
        and it waits here."""
        line = self._best(flight, 1 << 30)
        if line is None:
            self._again.append(flight)
            return bool(self._lines)
        return self._send(line, flight)

    def _send(self, line: Line, flight: Flight) -> bool:
        try:
            if line.send(flight):
                self._wants = max(self._wants, self.in_flight)
                return True
            (self._alone if line is self._lonely else self._again).appendleft(flight)
        except LineLost as error:
            if not any(flight is sent for sent in line.flights.values()):
                self._unsent(flight, ours=error.ours)
            self._lose(line, str(error))
        return False

    def _unsent(self, flight: Flight, *, ours: bool) -> None:
        flight.losses += ours
        if flight.losses >= MAX_LONELY_LOSSES:
            self._give_up(flight, "error")
        else:
            self._again.append(flight)

    def receive(self, fd: int = -1) -> list[tuple[Flight, Reply]]:
        """Replies that are there, each with its file; streams go on as far as they can. Never blocks. `fd`: of the
        session that has something to say, -1: ask all."""
        lines = [line for line in self._lines if fd in (-1, line.fileno())]
        return [answer for line in lines for answer in self._receive(line)]

    def _receive(self, line: Line) -> list[tuple[Flight, Reply]]:
        answers: list[tuple[Flight, Reply]] = []
        try:
            answers = line.receive()
            if not line.broken:
                line.flush()
        except LineLost as error:
            self._lose(line, str(error))
        if line.broken:  # and then nothing was raised
            self._again.extend(line.flights.values())
            line.flights.clear()
            self._lose(line, "an answer before the end of the stream")
        return [(flight, reply) for flight, reply in answers if not self._is_settled(flight, reply)]

    def _is_settled(self, flight: Flight, reply: Reply) -> bool:
        """Whether the reply says nothing of the file: too long for this engine, or not read to its end."""
        if over_the_stream(reply):
            engine = flight.engine or 0
            self._most[engine] = min(self._most.get(engine, 1 << 62), flight.status.st_size - 1)
            self.retry(flight, "size")
        elif flight.unread and reply.kind is not ReplyKind.FOUND:
            self._give_up(flight, "unread")
        else:
            return False
        return True

    def retry(self, flight: Flight, why: str = "error") -> None:
        """The engine answered ERROR: ask again later, elsewhere if that can be, a few times."""
        flight.errors += 1
        if flight.errors >= MAX_ERRORS:
            self._give_up(flight, why)
        else:
            self._again.append(flight)

    def check_deadlines(self) -> None:
        """Give up a file that takes too long; its session goes with it, for nothing can take a file back."""
        now = time.monotonic()
        for line in list(self._lines):
            late = line.late(self._deadline_s, now)
            try:
                line.keep_alive(now)
            except LineLost as error:
                self._lose(line, str(error))
                continue
            if not late:
                continue
            for number in late:
                self._give_up(line.flights.pop(number), "deadline")
            self._again.extend(line.flights.values())
            line.flights.clear()
            self._lose(line, "a file took too long")

    def close(self) -> None:
        """Forget all files, without verdicts."""
        for line in list(self._lines):
            for flight in line.flights.values():
                flight.close()
            self._release(line)
        for flight in (*self._again, *self._alone):
            flight.close()
        self._again.clear()
        self._alone.clear()

    def _release(self, line: Line) -> None:
        self._lines.remove(line)
        self._threads -= line.terms.threads
        self._gone.append(line.fileno())
        if line is self._lonely:
            self._lonely = None
        line.close()

    def _move(self, line: Line) -> None:
        for flight in line.flights.values():
            flight.moves += 1
            if flight.moves >= MAX_MOVES:
                self._give_up(flight, "deadline")
            else:
                self._again.append(flight)
        line.flights.clear()

    def _lose(self, line: Line, reason: str) -> None:
        self.lost_reason = reason
        lost = list(line.flights.values())
        line.flights.clear()
        self._release(line)
        if len(lost) == 1:
            lost[0].losses += 1
            if lost[0].losses >= MAX_LONELY_LOSSES:
                self._give_up(lost.pop(), "error")
        self._alone.extend(lost)
        self._told_lost(line.terms, reason)


def _affinity(inode: int, engine: int) -> int:
    """The engine for which it is highest has this inode: when one goes, others get what was its, and nothing else moves
    (rendezvous hashing)."""
    mixed = (inode + 1) * 0x9E3779B97F4A7C15 ^ (engine + 1) * 0xC2B2AE3D27D4EB4F
    return (mixed ^ mixed >> 29) * 0xBF58476D1CE4E5B9 >> 7 & 0xFFFFFFFF
