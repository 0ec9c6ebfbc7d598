"""One scan of one account: walk, open beneath, engine, verdict. [worker]

One loop, one thread, no callbacks from outside: fill the window, count ahead while the engine works, take
replies, report. A verdict "clean" or "infected" comes only from a parsed reply to the very fd that was opened
here (architecture, rule 4); every other end of a file is a reason.

A mailbox that is infected is taken apart (mailscan.py), its messages going through the same feed. So is one that is
over the engine's limit: its messages are not. If none of them is infected it is still too big, and not clean. One that
takes more than its share of processor time is left unread from there on, and is over a limit.
"""

import os
import select
import stat
from collections import deque
from itertools import islice, zip_longest
from typing import Final

import msgspec

from clamscannerd.engine.clamproto import Reply, classify
from clamscannerd.errors import RemoteProtocolError
from clamscannerd.model import Identity, Reason, Verdict
from clamscannerd.worker.beneath import Kernel
from clamscannerd.worker.channel import Channel, Clock
from clamscannerd.worker.feed import Feed, Flight
from clamscannerd.worker.hashing import NO_SHA256, identity_of, sha256_of, stamp
from clamscannerd.worker.linewire import Terms, Withdraw
from clamscannerd.worker.mailfile import is_mailbox, lone_message
from clamscannerd.worker.mailscan import FileBox, MessageFlight, found_message, is_worth_reading, settle
from clamscannerd.worker.messages import (
    Cancel,
    NeedSession,
    NoSession,
    Recheck,
    ScanJob,
    Scanned,
    Sessions,
    Window,
)
from clamscannerd.worker.tally import Tally
from clamscannerd.worker.verdicts import Verdicts
from clamscannerd.worker.walk import PAUSE, Met, reason_for, sizes, walk

_REPORT_S: Final = 0.2  # five reports a second are as fine as an eye can follow
_OPEN_AHEAD: Final = 16  # files: few fds, and most of what more would gain
_COUNT_SLICE: Final = 64  # entries counted between two looks at the engine: some 0.2 ms
_GIVEN_UP: Final = {"deadline": Reason.TIMED_OUT, "size": Reason.TOO_BIG, "unread": Reason.UNREADABLE}


class ScanRun:
    """The whole life of one scan in one worker."""

    def __init__(
        self, channel: Channel, kernel: Kernel, home_fd: int, home_length: int, job: ScanJob, known_fd: int = -1
    ) -> None:
        self._channel = channel
        self._kernel, self._home_fd = kernel, home_fd
        self._job = job
        self._window = job.window
        self._tally = Tally(channel, job.max_skipped)
        self._feed = Feed(job.file_deadline_s, self._given_up, self._session_lost)
        self._tally.wants = self._feed.take_wants
        self._max_file_size = 0  # of the engines that were there last
        tree = kernel, home_fd, home_length, job.roots, job.excludes
        self._verdicts = Verdicts(channel, self._tally, job.known, known_fd, home_fd)
        read = self._verdicts.reader(job.since_ns) if self._verdicts.active else None
        self._files = walk(*tree, named=job.named, since_ns=job.since_ns, read=read)
        self._ahead = sizes(*tree, named=job.named)
        self._poll = select.poll()  # one for all waits: there is one for every second file
        self._poll.register(channel.fileno(), select.POLLIN)
        self._counting = self._walking = True
        self._ready: deque[Flight] = deque()  # opened, not sent
        self._rechecks: deque[bytes] = deque()
        self._boxes: deque[FileBox] = deque()  # to be taken apart; the first is at work
        self._open_boxes: set[FileBox] = set()
        self._stop_reason: str | None = None
        self._report = Clock(_REPORT_S)

    def run(self, fds: list[int]) -> Scanned:
        """Scan until the tree is done, the daemon cancels, or no engine is left."""
        self._take_recheck()
        self._adopt(fds, self._job)
        try:
            while self._stop_reason is None and self._advance():
                self._wait()
                if self._tell():
                    self._feed.check_deadlines()
        finally:
            self._feed.close()
            opened: list[Flight | FileBox] = [*self._ready, *self._open_boxes]
            for one in opened:
                one.close()
            self._files.close()
            self._ahead.close()
            self._verdicts.close()
        complete = self._stop_reason is None
        if complete:
            self._tally.balance()
        self._tally.report()
        return Scanned(counts=self._tally.counts(), complete=complete, reason=self._stop_reason or "")

    def _tell(self) -> bool:
        """Report when it is time for it."""
        if due := self._report.due():
            self._verdicts.flush()
            self._tally.report()
        return due

    def _take_recheck(self) -> None:
        """The list of what was found before precedes all else; it ends with `last`."""
        while True:
            command, _ = self._channel.receive()
            if not isinstance(command, Recheck):
                raise RemoteProtocolError(f"cannot take {type(command).__name__} before the list to look at again")
            self._rechecks.extend(command.paths)
            if command.last:
                return

    def _advance(self) -> bool:
        """Fill the window. False when every file has its verdict or its reason."""
        feed = self._feed
        if not feed.connected:
            return True
        feed.pump(self._window)
        while feed.room(self._window):
            flight = self._next_flight()
            if flight is None:
                return feed.waiting > 0 or bool(self._boxes) or self._walking
            if not feed.send(flight):
                break
        return True

    def _next_flight(self) -> Flight | None:
        """The next file or message worth sending; files that are not are counted on the way."""
        if self._boxes:
            message = self._next_message()
            if message is not None or self._boxes:
                return message
        while self._rechecks:
            if flight := self._open_again(self._rechecks.popleft()):
                return flight
            if self._boxes:
                return self._next_message()
        if not self._ready:
            self._open_ahead()
        if self._ready:
            flight = self._ready.popleft()
            self._tally.current = flight.path
            return flight
        return self._next_message()

    def _open_ahead(self) -> None:
        """Open the next files, some at once: code and data of the walk stay in the processor's caches meanwhile."""
        seen = 0
        while self._walking and len(self._ready) < _OPEN_AHEAD and not self._boxes:
            met = next(self._files, None)
            if met is None:
                self._walking = False
                break
            if met is PAUSE:
                break
            if flight := self._open(met):
                self._ready.append(flight)
            seen += 1
            if seen % 1024 == 0:  # a million links make no verdicts: still a sign of life
                self._tally.report()

    def _next_message(self) -> Flight | None:
        """Of the first mailbox; None while it waits or reads, or when none is left."""
        while self._boxes:
            box = self._boxes[0]
            try:
                if flight := box.next_flight():
                    return flight
            except OSError:
                box.reading = False  # what was found until here stands
            if box.reading:
                return None
            self._boxes.popleft()
            if box.done:
                self._box_ended(box)
        return None

    def _take_apart(self, flight: Flight, signature: str) -> None:
        """The file is closed when the mailbox is through. `signature`: empty where the engine did not see it."""
        box = FileBox(flight, signature, self._max_file_size, self._job.file_cpu_s)
        self._boxes.append(box)
        self._open_boxes.add(box)

    def _box_ended(self, box: FileBox) -> None:
        self._open_boxes.remove(box)
        flight = box.flight
        try:
            reported = bool(box.signature)
            if not reported and box.infected:
                reported = self._found(flight, box.infected[0].signature, box.left_s, mailbox=True) is not None
            elif not reported:
                self._not_scanned(flight, Reason.LIMIT if box.spent else Reason.TOO_BIG)
            if reported:
                in_order = sorted(box.infected, key=lambda one: one.number)
                self._tally.found_messages(flight.path, in_order, box.total, box.count)
        finally:
            box.close()

    def _open(self, met: Met) -> Flight | None:
        tally = self._tally
        tally.met_files += 1
        if met.reason is not None:
            tally.skipped(met.path, met.reason)
            return None
        try:
            fd = self._kernel.open_file(met.dir_fd, met.name)
        except OSError as error:
            tally.met_bytes += met.size()
            tally.skipped(met.path, reason_for(error))
            return None
        flight = Flight(met.path, fd, os.fstat(fd), recheck=False)
        tally.met_bytes += flight.status.st_size
        reason = self._unfit(flight)
        if reason is None:
            if not self._verdicts.knows(flight, met, self._tell):
                return flight
            flight.close()
        elif not self._is_large_box(flight, reason):
            flight.close()
            tally.skipped(met.path, reason)
        return None

    def _open_again(self, path: bytes) -> Flight | None:
        try:
            fd = self._kernel.open_file(self._home_fd, path)
        except OSError as error:
            if reason_for(error) in (Reason.VANISHED, Reason.NOT_REGULAR):  # else it stands: nobody looked at it
                self._tally.cleared(path)
            return None
        flight = Flight(path, fd, os.fstat(fd), recheck=True)
        reason = self._unfit(flight)
        if reason is None:
            return flight
        if not self._is_large_box(flight, reason):
            flight.close()
        return None

    def _unfit(self, flight: Flight) -> Reason | None:
        if not stat.S_ISREG(flight.status.st_mode):
            return Reason.NOT_REGULAR
        return Reason.TOO_BIG if flight.status.st_size > self._max_file_size else None

    def _is_large_box(self, flight: Flight, reason: Reason) -> bool:
        """Whether it is a mailbox over the engine's limit; then it is being taken apart."""
        if reason is not Reason.TOO_BIG or not is_worth_reading(flight):
            return False
        self._take_apart(flight, "")
        return True

    def _wait(self) -> None:
        """Until the engine or the daemon says something, or something is due; meanwhile count ahead."""
        self._feed.watch(self._poll)
        counting = (
            self._counting and self._feed.in_flight > 0
        )  # with nothing at the engine, the walk itself is as quick
        if counting:
            self._count_ahead()
        more = not self._boxes[0].blocked if self._boxes else self._walking  # else wait for the engine
        busy = counting or (more and self._feed.room(self._window))
        for fd, _ in self._poll.poll(0 if busy else _REPORT_S * 1000):
            if fd == self._channel.fileno():
                self._command()
                continue
            for flight, reply in self._feed.receive(fd):
                self._verdict(flight, reply)

    def _count_ahead(self) -> None:
        counted = list(islice(self._ahead, _COUNT_SLICE))
        self._tally.counted_files += len(counted)
        self._tally.counted_bytes += sum(counted)
        self._counting = len(counted) == _COUNT_SLICE

    def _command(self) -> None:
        command, fds = self._channel.receive()
        match command:
            case Window():
                self._window = command.window
            case Sessions():
                if not command.same:
                    self._verdicts.forget()
                self._adopt(fds, command)
            case Withdraw():
                self._feed.withdraw(command.engine, "withdrawn")
            case NoSession():
                self._stop_reason = command.reason
            case Cancel():
                self._stop_reason = "cancelled"
            case _:
                raise RemoteProtocolError(f"cannot take {type(command).__name__} during a scan")

    def _adopt(self, fds: list[int], told: ScanJob | Sessions) -> None:
        """One session for each engine; surplus ones are closed."""
        same = Terms(engine=0, max_file_size=told.max_file_size, clean_allowed=told.clean_allowed)
        for fd, terms in zip_longest(fds, told.terms or (same,)):
            if fd is not None and terms is not None:
                self._feed.adopt(fd, terms)
            elif fd is not None:
                os.close(fd)
        self._max_file_size = self._feed.max_file_size

    def _session_lost(self, terms: Terms, reason: str) -> None:
        self._max_file_size = self._feed.max_file_size or self._max_file_size
        self._channel.send(NeedSession(reason=reason, engine=terms.engine))

    def _verdict(self, flight: Flight, reply: Reply) -> None:
        verdict, reason, signature = classify(reply)
        if reason is Reason.ENGINE_ERROR:
            self._feed.retry(flight)
            return
        if isinstance(flight, MessageFlight):
            self._message_ended(flight, verdict, signature)
            return
        taken_apart = False
        try:
            if verdict is Verdict.INFECTED:
                taken_apart = self._infected(flight, signature)
            elif verdict is Verdict.CLEAN and stamp(os.fstat(flight.fd)) != stamp(flight.status):
                self._not_scanned(flight, Reason.CHANGED)
            elif verdict is Verdict.CLEAN and not (flight.terms and flight.terms.clean_allowed):
                self._not_scanned(flight, Reason.NO_SIGNATURES)
            elif verdict is Verdict.CLEAN:
                self._clean(flight)
            else:
                self._not_scanned(flight, reason or Reason.ENGINE_ERROR)
        finally:
            if not taken_apart:
                flight.close()

    def _message_ended(self, flight: Flight, verdict: Verdict, text: str) -> None:
        box = settle(flight, verdict, text)
        if isinstance(box, FileBox) and box.flight.terms is None:
            box.flight.terms = flight.terms  # no engine takes it as a whole
        if isinstance(box, FileBox) and box.done:
            self._box_ended(box)

    def _infected(self, flight: Flight, signature: str) -> bool:
        """Report it; True when it is a mailbox, whose messages are to follow."""
        try:
            is_box, told = is_mailbox(flight.fd), lone_message(flight.fd)
        except OSError:
            is_box, told = False, None
        identity = self._found(flight, signature, self._job.file_cpu_s, mailbox=is_box)
        if is_box and identity is not None:
            self._take_apart(flight, signature)
            return True
        if told is not None and identity is not None:
            whole = found_message(told, identity.sha256, signature, number=0, start=0, end=identity.size)
            self._tally.found_messages(flight.path, [whole], 1, 0)
        return False

    def _found(self, flight: Flight, signature: str, cpu_s: float, *, mailbox: bool) -> Identity | None:
        """Count and report it; None when it cannot be read. Over `cpu_s` it gets an identity that no file has."""
        try:
            identity = identity_of(flight.status, sha256_of(flight.fd, cpu_s, self._tell, flight.status.st_size))
        except OSError:
            self._not_scanned(flight, Reason.UNREADABLE)
            return None
        if stamp(os.fstat(flight.fd)) != stamp(flight.status):
            # What was found is not what was hashed: no file has this identity, so that an action asks again first.
            identity = msgspec.structs.replace(identity, sha256=NO_SHA256)
        if not flight.recheck:
            self._tally.scanned(flight.status.st_size)
            self._tally.infected_files += 1
        self._tally.found(flight, identity, signature, mailbox=mailbox)
        return identity

    def _clean(self, flight: Flight) -> None:
        if flight.recheck:
            self._tally.cleared(flight.path)
        else:
            self._tally.scanned(flight.status.st_size)
            if flight.terms is None or flight.terms.kept:
                self._verdicts.clean(flight)

    def _not_scanned(self, flight: Flight, reason: Reason) -> None:
        if not flight.recheck:
            self._tally.skipped(flight.path, reason)

    def _given_up(self, flight: Flight, why: str) -> None:
        if isinstance(flight, MessageFlight):
            self._message_ended(flight, Verdict.NOT_SCANNED, why)
            return
        self._not_scanned(flight, _GIVEN_UP.get(why, Reason.ENGINE_ERROR))
        flight.close()


def scan(channel: Channel, kernel: Kernel, home_fd: int, home_length: int, job: ScanJob, fds: list[int]) -> None:
    """Do the job and say how it ended."""
    known_fd = fds.pop() if job.known is not None and job.known.file and fds else -1
    channel.send(ScanRun(channel, kernel, home_fd, home_length, job, known_fd).run(fds))
