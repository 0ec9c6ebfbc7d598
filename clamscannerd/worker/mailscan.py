"""Which messages of an infected mailbox are infected: each is scanned by itself, as a file of its own. [worker]

The engine says FOUND of a mailbox as a whole; only message by message can it be said what to take out. A message goes
to the engine as a sealed memfd, several in flight like files, through the same feed. Contents in memfds are bounded by
HELD_BYTES, or one message. Used by a scan, and by a cleanse for what changed since.
"""

import math
import os
import time
from collections.abc import Callable, Iterator
from typing import Final

from clamscannerd.engine.clamproto import classify
from clamscannerd.errors import EngineLost
from clamscannerd.model import MailMessage, Reason, Verdict
from clamscannerd.worker.feed import Feed, Flight
from clamscannerd.worker.hashing import sha256_of
from clamscannerd.worker.mailfile import copy_of_ranges, is_mailbox, messages_of
from clamscannerd.worker.mailheader import Fields
from clamscannerd.worker.mailwire import MAX_MESSAGES, MAX_SIGNATURE
from clamscannerd.worker.mbox import Message

HELD_BYTES: Final = 64 << 20
_BLOCKS_AT_ONCE: Final = 64  # 16 MB of one large message, 10 ms: then others have their turn
_HOLES: Final = 64  # bytes to one on the disk: compression gives 2 to 4
_HOLES_FROM_BYTES: Final = 64 << 30  # up to here holes are read, at the cost of a minute
_BLOCK_BYTES: Final = 512  # what st_blocks counts in
_POLL_MS: Final = 200
_SESSIONS: Final = 5  # that a survey may lose: one message that kills its engine costs two


class MessageFlight(Flight):
    """One message on its way through the engine."""

    __slots__ = ("box", "message")

    def __init__(self, box: "BoxScan", message: Message, fd: int) -> None:
        super().__init__(box.path, fd, os.fstat(fd), recheck=True)
        self.box = box
        self.message = message


class BoxScan:
    """One mailbox being taken apart. Owns `fd` until `close`.

    `known(message)`: True for a message that need not be scanned. `messages`: only these ranges of it. `cpu_s`: what
    it may cost of this process' own time, reading, copying and hashing; then the rest of it is left unread.
    """

    def __init__(
        self,
        path: bytes,
        fd: int,
        max_message_size: int,
        known: Callable[[Message], bool] | None = None,
        messages: Iterator[Message | None] | None = None,
        *,
        cpu_s: float = math.inf,
    ) -> None:
        self.path = path
        self.fd = fd
        self.infected: list[MailMessage] = []
        self.total = 0  # infected ones, listed or not
        self.count = 0  # messages in it; 0 until it was read to its end
        self.unscanned = 0
        self.why_unscanned = ""
        self.reading = True
        self.spent = False  # it was over its time
        self.left_s = self._cpu_s = cpu_s
        self._max_message_size = max_message_size
        self._known = known or (lambda _: False)
        self._messages = messages or messages_of(fd, os.fstat(fd).st_size)
        self._next: Message | None = None
        self._met = 0
        self._outstanding = 0
        self._held = 0

    @property
    def done(self) -> bool:
        return not self.reading and not self._outstanding

    @property
    def blocked(self) -> bool:
        """It waits for verdicts before it copies more."""
        return self._next is not None

    def close(self) -> None:
        os.close(self.fd)

    def next_flight(self) -> MessageFlight | None:
        """The next message worth sending; None: not now if `reading`, else none is left. OSError: it cannot be read."""
        if self.left_s < 0:
            self._leave_rest()
            return None
        began = time.thread_time()
        try:
            return self._look_on()
        finally:
            self.left_s -= time.thread_time() - began

    def _leave_rest(self) -> None:
        self.reading, self.spent, self._next = False, True, None
        self.unscanned += 1
        self.why_unscanned = f"the rest of it: its processor time of {self._cpu_s:g} s is used up"

    def _look_on(self) -> MessageFlight | None:
        for _ in range(_BLOCKS_AT_ONCE):
            if self._next is None:
                try:
                    self._next = next(self._messages)
                except StopIteration:
                    self.reading = False
                    self.count = self._met
                    return None
            message = self._next
            if message is None:
                continue
            self._met = message.number
            size = message.end - message.start
            if self._known(message):
                self._next = None
            elif size > self._max_message_size:
                self._next = None
                self.unscanned += 1
                self.why_unscanned = "a message is over the engine's size limit"
            elif self._outstanding and self._held + size > HELD_BYTES:
                return None
            else:
                self._next = None
                self._outstanding += 1
                self._held += size
                return MessageFlight(self, message, copy_of_ranges(self.fd, [(message.start, message.end)]))
        return None

    def verdict(self, flight: MessageFlight, verdict: Verdict, text: str) -> None:
        """The engine's last word on one message."""
        self._outstanding -= 1
        self._held -= flight.status.st_size
        if verdict is Verdict.NOT_SCANNED:
            self.unscanned += 1
            self.why_unscanned = text
        if verdict is not Verdict.INFECTED:
            return
        self.total += 1
        if len(self.infected) < MAX_MESSAGES:
            began = time.thread_time()
            told, sha256 = flight.message, sha256_of(flight.fd)
            self.left_s -= time.thread_time() - began
            self.infected.append(found_message(told, sha256, text, number=told.number, start=told.start, end=told.end))


def is_worth_reading(flight: Flight) -> bool:
    """Whether it is a mailbox, and not nothing but holes."""
    status = flight.status
    if status.st_size > _HOLES_FROM_BYTES and status.st_size > _HOLES * _BLOCK_BYTES * status.st_blocks:
        return False
    try:
        return is_mailbox(flight.fd)
    except OSError:
        return False


def found_message(told: Fields, sha256: bytes, signature: str, *, number: int, start: int, end: int) -> MailMessage:
    """What is said of an infected message."""
    return MailMessage(
        number=number,
        start=start,
        end=end,
        message_id=told.message_id,
        subject=told.subject,
        sender=told.sender,
        date=told.date,
        signature=signature[:MAX_SIGNATURE],
        sha256=sha256,
    )


class FileBox(BoxScan):
    """A mailbox of a scan, with the flight that brought it here. `signature`: empty where the engine did not see it."""

    def __init__(self, flight: Flight, signature: str, max_message_size: int, cpu_s: float) -> None:
        super().__init__(flight.path, flight.fd, max_message_size, cpu_s=cpu_s)
        self.flight = flight
        self.signature = signature


class Survey:
    """Takes a mailbox apart outside of a scan, with sessions of its own. `session()` gives an fd; EngineLost."""

    def __init__(self, session: Callable[[], int], window: int, deadline_s: float) -> None:
        self._session = session
        self._window = window
        self._feed = Feed(deadline_s, self._given_up)

    def run(self, box: BoxScan) -> None:
        """All of `box`. Raises EngineLost when sessions break again and again, OSError when it cannot be read."""
        feed, sessions = self._feed, 0
        try:
            while not box.done:
                if not feed.connected:
                    sessions += 1
                    if sessions > _SESSIONS:
                        raise EngineLost(f"cannot scan its messages: {feed.lost_reason}")
                    feed.adopt(self._session())
                self._fill(box)
                if feed.in_flight:
                    self._receive()
                feed.check_deadlines()
        finally:
            feed.close()

    def _fill(self, box: BoxScan) -> None:
        self._feed.pump(self._window)
        while box.reading and self._feed.room(self._window):
            flight = box.next_flight()
            if flight is None:
                return
            self._feed.send(flight)

    def _receive(self) -> None:
        self._feed.wait(_POLL_MS)
        for flight, reply in self._feed.receive():
            verdict, reason, text = classify(reply)
            if reason is Reason.ENGINE_ERROR:
                self._feed.retry(flight)
                continue
            settle(flight, verdict, text)

    def _given_up(self, flight: Flight, why: str) -> None:
        settle(flight, Verdict.NOT_SCANNED, f"the engine gave no verdict ({why})")


class Engine:
    """What a cleanse needs of the engine; main.py gives it."""

    def __init__(
        self,
        rescan: Callable[[int, bytes], tuple[Verdict, str]],
        survey: Survey,
        max_file_size: int,
        file_cpu_s: float = math.inf,
    ) -> None:
        self.rescan = rescan
        self.survey = survey
        self.max_file_size = max_file_size
        self.file_cpu_s = file_cpu_s


def settle(flight: Flight, verdict: Verdict, text: str) -> BoxScan:
    """End the flight of a message and tell its box."""
    if not isinstance(flight, MessageFlight):
        raise TypeError("not the flight of a message")
    try:
        flight.box.verdict(flight, verdict, text)
    finally:
        flight.close()
    return flight.box
