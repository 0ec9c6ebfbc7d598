"""The sessions of one scan: one with each engine that can be used, while the scan runs. [daemon]

A scan begins with the engines that answer at once. One that comes later joins; one that is lost is asked for again,
with growing pauses while others do the work; one that falls silent, or is left out, is withdrawn as soon as another has
a session: what waits there is asked elsewhere. The last one is never withdrawn: a scan waits for it, and no file is
given up for a clamd that was only stopped for a minute.

Each session of an engine goes through

    opening ---> held ---(Withdraw sent)---> leaving
       ^           |  NeedSession               |  NeedSession
       +-----------+----------------------------+

A worker that asks where it has nothing to lose does not wait for answers, and is ended.

Engines have numbers within the scan, in the order of the configuration, so that files go where they went in the last
scan (worker/feed.py); findings are told with them. `info` of a number is what that engine was last
known to be: a database that it loaded in the last seconds may be named for a verdict of the one before.
"""

import logging
import socket
from collections.abc import Sequence

import msgspec
import trio

from clamscannerd.errors import EngineLost, WorkerFailed
from clamscannerd.model import EngineInfo
from clamscannerd.pipeline.cached import KeptVerdicts
from clamscannerd.pipeline.engineview import EngineState, EngineView
from clamscannerd.pipeline.link import WorkerLink
from clamscannerd.state.live import LiveScan
from clamscannerd.worker.linewire import Terms, Withdraw
from clamscannerd.worker.messages import MAX_FDS, NoSession, Sessions

log = logging.getLogger(__name__)

SESSIONS = 50  # of one engine, lost and replaced in one scan: clamd reloads a few times a day, a bad file breaks two
FILES_A_SESSION = 1_000  # so many files allow one more,
MOST_FILES = 10_000_000  # up to here: the number is the worker's word
GRACE_S = 0.3  # from the first engine that answers to the start: the others join later
PAUSE_S = 0.5  # before an engine that gave no session is asked again
MOST_PAUSE_S = 30.0
STEADY_S = 60.0  # a session that held so long begins the pauses anew


class _Seat:
    """What is known of one engine in this scan."""

    def __init__(self, number: int, address: str) -> None:
        self.number = number
        self.address = address
        self.info = EngineInfo()
        self.state = "gone"  # opening, held, leaving
        self.lost = 0
        self.pause_s = PAUSE_S
        self.since = 0.0
        self.not_before = 0.0


class ScanSessions:
    """One for each worker of a scan. `first()`, `taken()` and `terms()`, then `serve()` beside the replies and `need()`
    for each NeedSession of them."""

    def __init__(self, engines: EngineView, live: LiveScan, kept: KeptVerdicts) -> None:
        self._kept = kept
        self._engines = engines
        self._live = live
        self._seats = {state.address: _Seat(at, state.address) for at, state in enumerate(engines.states())}
        self._news = trio.Event()
        self._reason = ""
        self._empty_since = 0.0

    async def first(self) -> list[tuple[socket.socket, EngineState]]:
        """Sessions to start with: at least one. Raises EngineLost after the time that is waited for engines."""
        return await self._engines.sessions(MAX_FDS, GRACE_S)

    def taken(self, sessions: Sequence[tuple[socket.socket, EngineState]]) -> None:
        """They are those that the worker begins with."""
        for _, state in sessions:
            self._hold(self._seat(state.address), state)

    def terms(self, sessions: Sequence[tuple[socket.socket, EngineState]]) -> tuple[Terms, ...]:
        """What the worker is told of them, when it is known which verdicts are kept."""
        return tuple(self._terms(state, slow=False) for _, state in sessions)

    def info(self, engine: int | None) -> EngineInfo | None:
        """Of the engine with this number: the worker's word, and None where there is none."""
        return next((seat.info for seat in self._seats.values() if seat.number == engine and seat.since), None)

    def need(self, engine: int, reason: str) -> None:
        """The worker says that this engine's session is gone. Raises WorkerFailed where it had none."""
        seat = next((seat for seat in self._seats.values() if seat.number == engine), None)
        if seat is None or seat.state not in ("held", "leaving"):
            raise WorkerFailed("worker asked for a session again before it had one")
        now = trio.current_time()
        if seat.state == "held":
            log.info("scan %d: %s: new session wanted: %r", self._live.scan.id, seat.address, reason[:200])
            seat.lost += 1
            seat.pause_s = PAUSE_S if now - seat.since > STEADY_S else min(seat.pause_s * 2, MOST_PAUSE_S)
        seat.state, seat.not_before = "gone", now + seat.pause_s
        self._reason = reason
        if not self._held():
            self._empty_since = now
            for other in self._seats.values():  # nobody does the work meanwhile
                other.not_before = min(other.not_before, now)
        self._news.set()

    async def serve(self, link: WorkerLink) -> None:
        """Bring and withdraw sessions, until cancelled. Raises EngineLost when engines break without end."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._follow)
            while True:
                self._news = trio.Event()
                await self._withdraw(link)
                for seat in self._wanted():
                    seat.state = "opening"
                    nursery.start_soon(self._bring, link, seat)
                with trio.move_on_at(self._next_look()):
                    await self._news.wait()
                if self._is_given_up():
                    await link.send(NoSession(reason=f"no engine for {self._engines.wait_s:g} s: {self._reason}"))
                    await trio.sleep_forever()

    async def _follow(self) -> None:
        while True:
            await self._engines.changed().wait()
            self._news.set()

    def _held(self) -> list[_Seat]:
        return [seat for seat in self._seats.values() if seat.state == "held"]

    def _seat(self, address: str) -> _Seat:
        if address not in self._seats:
            self._seats[address] = _Seat(len(self._seats), address)
        return self._seats[address]

    def _hold(self, seat: _Seat, state: EngineState) -> None:
        seat.state, seat.since = "held", trio.current_time()
        seat.info = state.info
        self._live.engine(self._all_info())

    def _terms(self, state: EngineState, *, slow: bool) -> Terms:
        return Terms(
            engine=self._seat(state.address).number,
            max_file_size=state.max_file_size,
            clean_allowed=state.signatures,
            threads=self._engines.threads(state),
            slow=slow,
            kept=self._kept.counts(state),
            in_turn=state.max_threads == 1,
        )

    def _all_info(self) -> EngineInfo:
        """Of all that gave verdicts in this scan: the oldest's version and database, what any is blind to, what any
        takes."""
        used = [seat.info for seat in self._seats.values() if seat.since]
        blind = tuple(dict.fromkeys(sentence for info in used for sentence in info.blind))
        oldest = min(used, key=lambda info: (info.database_time, info.database))
        most = max(info.max_file_size for info in used)
        return msgspec.structs.replace(oldest, blind=blind, max_file_size=most)

    async def _withdraw(self, link: WorkerLink) -> None:
        """Engines that cannot be used any more, if another can."""
        usable = {state.address: state for state in self._engines.usable()}
        for address, state in usable.items():
            if address in self._seats:
                self._seats[address].info = state.info
        held = self._held()
        if not any(seat.address in usable for seat in held):
            return
        for seat in held:
            if seat.address not in usable:
                seat.state = "leaving"
                log.info("scan %d: %s is withdrawn", self._live.scan.id, seat.address)
                await link.send(Withdraw(engine=seat.number))

    def _wanted(self) -> list[_Seat]:
        """Usable engines without a session whose time has come. Raises EngineLost when all that can be used have broken
        too often."""
        most = SESSIONS + min(self._live.counts.total_files, MOST_FILES) // FILES_A_SESSION
        seats = [self._seat(state.address) for state in self._engines.usable()]
        sound = [seat for seat in seats if seat.lost <= most]
        if seats and not sound and not self._held():
            lost = sum(seat.lost for seat in seats)
            raise EngineLost(f"{lost} sessions with the engine broke, the last by {self._reason[:200]!r}")
        now, room = trio.current_time(), MAX_FDS - sum(seat.state != "gone" for seat in self._seats.values())
        return [seat for seat in sound if seat.state == "gone" and seat.not_before <= now][: max(0, room)]

    def _next_look(self) -> float:
        times = [seat.not_before for seat in self._seats.values() if seat.state == "gone"]
        now = trio.current_time()
        later = [moment for moment in times if moment > now]
        if not self._busy():
            later.append(self._empty_since + self._engines.wait_s)
        return min(later, default=now + MOST_PAUSE_S)

    def _busy(self) -> bool:
        return any(seat.state in ("held", "leaving") for seat in self._seats.values())

    def _is_given_up(self) -> bool:
        return not self._busy() and trio.current_time() >= self._empty_since + self._engines.wait_s

    async def _bring(self, link: WorkerLink, seat: _Seat) -> None:
        try:
            session, state = await self._engines.open_at(seat.address)
        except EngineLost as error:
            seat.state, seat.not_before = "gone", trio.current_time() + seat.pause_s
            self._reason = str(error)
            self._news.set()
            return
        slow = seat.lost > 0 or bool(self._held())
        same = self._kept.replaced(state)
        self._hold(seat, state)
        with session:
            answer = Sessions(
                fds=1,
                max_file_size=state.max_file_size,
                clean_allowed=state.signatures,
                same=same,
                terms=(self._terms(state, slow=slow),),
            )
            await link.send(answer, [session.fileno()])
        await self._kept.check()
