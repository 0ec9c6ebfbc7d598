"""One session of one engine: what was sent on it, and waits there for its reply. [worker]

Where the engine is local, a file is sent by the fd that we opened (FILDES). Over TCP no fd passes: there its content is
streamed (INSTREAM), in pieces as the socket takes them, so that one slow engine holds up no other. A file of which less
can be read than it had is streamed as far as it goes, and the stream ended properly: that it changed is seen
afterwards, as with any file, and a promise of bytes that do not come would cost the session. What grows is
streamed up to the size that it had.

clamd does not switch Nagle's algorithm off: a reply waits until the one before is acknowledged, which a kernel puts off
for 40 ms where nothing else is sent. So acknowledgements are made at once; without it 150 files a second went through.

Which of the two is used the socket itself says (its family), so everybody who is handed a session can use it.

Rejected: sendfile (a file cut short under it breaks the stream; copying is nothing against scanning), and one
connection a file (a TCP handshake each, and clamd counts connections against MaxQueue).
"""

import contextlib
import os
import socket
import struct
import time
from typing import Final

from clamscannerd.engine.clamproto import (
    FILDES_MESSAGE,
    INSTREAM,
    INSTREAM_CHUNK_BYTES,
    INSTREAM_END,
    KEEPALIVE_S,
    PING,
    SIZE_LIMIT_EXCEEDED,
    Reply,
    ReplyKind,
    Session,
    instream_header,
)
from clamscannerd.errors import RemoteProtocolError
from clamscannerd.worker.linewire import Terms

_RECEIVE_BYTES: Final = 16 * 1024
_FD: Final = struct.Struct("i")
_PIECES_AT_ONCE: Final = 16  # a megabyte; then the other sessions, and the daemon, have their turn


class LineLost(Exception):
    """The session is of no further use. `ours`: the file that was being sent could not be, whatever the engine is."""

    def __init__(self, reason: str, *, ours: bool = False) -> None:
        super().__init__(reason)
        self.ours = ours


class Flight:
    """One open file on its way through an engine. Owns `fd` until `close`. `terms`: those it was last sent under."""

    __slots__ = ("errors", "fd", "losses", "moves", "path", "recheck", "sent_at", "status", "terms", "unread")

    def __init__(self, path: bytes, fd: int, status: os.stat_result, *, recheck: bool) -> None:
        self.path = path
        self.fd = fd
        self.status = status
        self.recheck = recheck
        self.sent_at = 0.0
        self.errors = 0
        self.losses = 0
        self.moves = 0
        self.unread = False  # streamed in part, as the rest could not be read
        self.terms: Terms | None = None

    @property
    def engine(self) -> int | None:
        """Whose verdict it was; None: it was never sent."""
        return None if self.terms is None else self.terms.engine

    def close(self) -> None:
        os.close(self.fd)


class Line:
    """Owns the socket until `close`. Nothing here blocks."""

    __slots__ = (
        *("_answered_at", "_command", "_last_command", "_offset", "_piece", "_session", "_sock", "_stream", "_up"),
        *("broken", "flights", "terms", "window"),
    )

    def __init__(self, fd: int, terms: Terms) -> None:
        """A session from the daemon, which has sent zIDSESSION on it already."""
        self.terms = terms
        self.flights: dict[int, Flight] = {}
        self.window = 1 if terms.slow else 1 << 30
        self._sock = socket.socket(fileno=fd)
        self._sock.settimeout(0)
        self._stream = self._sock.family in (socket.AF_INET, socket.AF_INET6)
        self._session = Session()
        self._last_command = self._answered_at = time.monotonic()
        self._up: Flight | None = None  # being streamed
        self._offset = 0  # in it; -1: all of it is in `_piece`
        self._command = b""
        self._piece = memoryview(b"")
        self.broken = False
        """It answered before it had the whole of a stream: clamd closes then, and what else waits there is to blame for
        nothing."""

    def fileno(self) -> int:
        return self._sock.fileno()

    @property
    def uploading(self) -> bool:
        """It wants to write; nothing else can be sent meanwhile."""
        return self._up is not None

    def load(self) -> float:
        """What waits there, by what it can work on at once."""
        return len(self.flights) / self.terms.threads

    def takes(self, flight: Flight) -> bool:
        return flight.status.st_size <= self.terms.max_file_size

    def free(self) -> bool:
        return self._up is None and len(self.flights) < self.window

    def send(self, flight: Flight) -> bool:
        """Begin with one file. False: the engine reads nothing now, and the file was not sent. Raises LineLost."""
        if self._stream:
            self._up, self._offset, self._command = flight, 0, INSTREAM
            self._note(flight)
            self.flush()
            return True
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, _FD.pack(flight.fd))]
        try:
            sent = self._sock.sendmsg((FILDES_MESSAGE,), rights)
        except BlockingIOError:  # clamd reads nothing now: verdicts first
            return False
        except (BrokenPipeError, ConnectionResetError) as error:  # over something that was sent before
            raise LineLost(f"send: {error.strerror}") from None
        except OSError as error:
            # Not the engine's end: ETOOMANYREFS is what this user's own fds in flight elsewhere make of it.
            raise LineLost(f"send: {error.strerror}", ours=True) from None
        self._note(flight)
        if sent != len(FILDES_MESSAGE):
            raise LineLost("send: cut short")
        return True

    def _note(self, flight: Flight) -> None:
        flight.sent_at = self._last_command = time.monotonic()
        flight.terms = self.terms
        flight.unread = False
        self.flights[self._session.sent()] = flight

    def flush(self) -> None:
        """Stream on, as far as the socket takes it. Raises LineLost."""
        for _ in range(_PIECES_AT_ONCE):
            if self._up is None:
                return
            if not self._piece:
                self._piece = self._next_piece(self._up)
            try:
                self._piece = self._piece[self._sock.send(self._piece) :]
            except BlockingIOError:
                return
            except OSError as error:
                raise LineLost(f"send: {error.strerror}") from None
            self._last_command = time.monotonic()
            if not self._piece and self._offset < 0:
                self._up = None

    def _next_piece(self, flight: Flight) -> memoryview:
        """The next chunk, with its header; before the first one the command, after the last one the end."""
        piece, data, size = self._command, b"", flight.status.st_size
        self._command = b""
        if self._offset < size:
            try:
                data = os.pread(flight.fd, min(size - self._offset, INSTREAM_CHUNK_BYTES), self._offset)
            except OSError:
                flight.unread = True
        if data:
            piece += instream_header(len(data)) + data
        self._offset += len(data)
        if not data or self._offset >= size:
            piece += INSTREAM_END
            self._offset = -1
        return memoryview(piece)

    def receive(self) -> list[tuple[Flight, Reply]]:
        """Replies that are there, each with its file. Raises LineLost."""
        try:
            data = self._sock.recv(_RECEIVE_BYTES)
            if not data:
                raise LineLost("closed by the engine")
            if self._stream:  # not for long: the kernel forgets it
                self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
            replies = self._session.receive_data(data)
        except BlockingIOError:
            return []
        except OSError as error:
            raise LineLost(f"receive: {error.strerror}") from None
        except RemoteProtocolError as error:
            raise LineLost(str(error)) from None
        self.window += len(replies)
        if replies:
            self._answered_at = time.monotonic()
        answered = [(self.flights.pop(reply.id), reply) for reply in replies]
        for flight, reply in answered:
            if flight is self._up or over_the_stream(reply):
                self._up, self.broken = None, True
        return answered

    def late(self, deadline_s: float, now: float) -> list[int]:
        """Numbers of what takes longer than `deadline_s`. Of an engine that works in turn that can be the first only,
        whose turn came with the last answer, or so many deadlines later as it has files of others before ours."""
        if not self.terms.in_turn:
            return [number for number, flight in self.flights.items() if now - flight.sent_at > deadline_s]
        first = next(iter(self.flights.items()), None)
        if first is None or now - max(first[1].sent_at, self._answered_at) <= deadline_s * self.terms.threads:
            return []
        return [first[0]]

    def keep_alive(self, now: float) -> None:
        """clamd ends a session without a new command for its ReadTimeout, scans or not: hence PING. Raises LineLost."""
        if self._up is not None or now - self._last_command <= KEEPALIVE_S:
            return
        self._last_command = now
        try:
            sent = self._sock.send(PING)
        except OSError as error:
            raise LineLost(f"send: {error.strerror}") from None
        if sent != len(PING):
            raise LineLost("send: cut short")
        self._session.sent_ping()

    def close(self) -> None:
        with contextlib.suppress(OSError):  # nothing to save on a session that is let go
            self._sock.close()


def over_the_stream(reply: Reply) -> bool:
    """Whether it says that the file was over StreamMaxLength; clamd then ends the session."""
    return reply.kind is ReplyKind.ERROR and reply.text == SIZE_LIMIT_EXCEEDED
