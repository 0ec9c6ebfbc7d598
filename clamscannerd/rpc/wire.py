"""One client's stream in the daemon: lines in, answers out, with every time limit. trio; one `Wire` a connection.

One task leads: it reads, and answers line by line. Most calls are answered from memory, without waiting for anything;
one that waits for something keeps the task, and just before its first wait a new task takes over the lead. So answers
leave as they are ready, each line's answer whole, and a poll costs one time round the loop and no new task. At most
LINES_AT_ONCE lines are under way; then nothing more is read, and a client that does not read its answers is stopped by
its own socket buffer. When the client has shut down its writing side, what it asked before is still answered. A client
that vanished is only noticed when it is written to: no call is ever cancelled because of its client, as a call half
done is worse than one whose answer nobody reads.

A call may begin a stream of notifications. Such a connection is never idle, and it lasts when the client has shut down
its writing side, as `printf ... | nc` does; that it is gone is seen at the next write, or looked for now and then.

Each time round, the loop waits for all that can go on. So a uid begins one line, or the decoding of one chunk, each
time round, over all its connections (rounds.py): else one with 500 lines under way makes others wait for 500 of its
steps, each time. And connections end one behind the other, over all uids: ten thousand that were silent equally long,
or whose panel was killed, would all be in the way at once. (A trio.Lock is held once round at least.)

A line that was read is dropped before its answer is written, so that a client that does not read holds no megabytes.
Rejected: a task for each line (it, its scope and its way through the loop cost as much as all the rest of a poll);
handlers without `async` for what is answered from memory (two ways to write each, and to get right); answers in the
order of the lines (a slow call would delay a poll), a queue and a task for writing (a lock does, and the one who writes
knows that it was written).
"""

import contextlib
import math
import os
import select
from collections.abc import Awaitable, Callable

import msgspec
import trio

from clamscannerd.errors import CallError, LocalProtocolError, TimedOut
from clamscannerd.rpc import jsonrpc
from clamscannerd.rpc.atonce import at_once
from clamscannerd.rpc.rounds import Turns
from clamscannerd.rpc.table import Stream
from clamscannerd.rpc.unsent import Held

CHUNK_BYTES = 16 << 10
"""Read at once: decoding a chunk of the shortest lawful calls keeps the loop for about 2 ms."""

LINES_AT_ONCE = 16
"""A panel has two or three calls under way; more gives nobody more throughput."""

BIG_LINE_BYTES = 64 << 10
"""Lines from here on are decoded under `Wire.heavy`: a hostile megabyte takes 40 ms of the loop."""

LINGER_S = 1.0
"""When we close first: so long we still read, and drop. A client that is writing would get EPIPE, not our answer."""

LINGER_BYTES = 16 << 20

GONE_S = 15.0
"""A client of a stream that has shut down its writing side may be gone: looked for so often while nothing is said."""

_NOTHING = memoryview(b"")

Answer = Callable[[jsonrpc.Member | jsonrpc.Batch, Held], Awaitable[bytes | None]]


class WireLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Reasons: config.Server."""

    messages: jsonrpc.Limits
    line_timeout_s: float
    idle_timeout_s: float
    write_timeout_s: float


class _Gone(Exception):
    """Nothing can be written any more."""


class Wire:
    """`answer` makes a line's answer, or None for none; what it holds in `hold`'s value is let go when that is written.
    `note_busy` hears +1 and -1 around each line."""

    def __init__(
        self,
        stream: trio.SocketStream,
        limits: WireLimits,
        streams: list[Stream],
        *,
        answer: Answer,
        hold: Callable[[], Held],
        note_busy: Callable[[int], None],
        heavy: trio.Lock,
        turns: Turns,
        ending: trio.Lock,
    ) -> None:
        self._stream = stream
        self._fd = stream.socket.fileno()
        self._limits = limits
        self._streams = streams  # asked for by calls, and begun when those are answered
        self._streaming = 0
        self._stream_ended = trio.Event()
        self._answer = answer
        self._hold = hold
        self._note_busy = note_busy
        self._heavy = heavy  # one for all connections of a uid
        self._turns = turns  # likewise
        self._ending = ending  # one for all connections
        self._protocol = jsonrpc.Connection(limits=limits.messages)
        self._writing = trio.Lock()
        self._sending = 0  # lines that wait for the client to read
        self._owed = _NOTHING  # what was told and not written yet: it goes first
        self._pushing: trio.Nursery  # the streams
        self._lines: trio.Nursery  # who leads, and calls that wait for something
        self._events: list[jsonrpc.Event] = []  # what was read and not begun, the next one last
        self._pending_bytes = 0  # of a line that has not ended
        self._has_turn = False  # for the next of them
        self._at_end = False  # of what the client sends
        self._reading = trio.CancelScope()  # around the wait for bytes
        self._armed = math.inf  # its deadline
        self._line_began: float | None = None
        self._line_is_new = False  # not the one whose begin was noted
        self._idle_since = 0.0
        self._busy = 0  # lines that wait for something
        self._line_ended = trio.Event()  # of the busy ones, if somebody waits for that
        self._broken = False  # nothing can be written any more
        self._half_written = False  # a line has left in part
        self._refused = False  # we end the connection, not the client

    async def run(self) -> None:
        """Until the client has left and every line is answered. The caller closes the socket."""
        async with trio.open_nursery() as self._pushing:
            async with trio.open_nursery() as self._lines:
                await self._lead()
            while self._streaming and not (self._broken or self._refused or self._is_gone()):
                with trio.move_on_after(GONE_S):
                    await self._stream_ended.wait()
            self._pushing.cancel_scope.cancel()
        if self._refused and not self._broken:
            await self._linger()

    def say_nowait(self, line: bytes) -> None:
        """A line out of turn, where it can be written at once; not behind half of another."""
        if not self._half_written:
            self._write_nowait(line)  # where it is gone, or full: nothing

    async def _lead(self) -> None:
        """Read lines and answer them one by one, until the end, or until one waits: then another task leads."""
        while not (self._broken or self._refused):
            if self._events:
                leads = await self._next_line()
            elif self._at_end:
                return
            else:
                leads = await self._read()
            if not leads:
                return

    async def _read(self) -> bool:
        """The next lines into `_events`; those that can be answered at once are. Whether this task still leads."""
        chunk = None
        self._time_line(trio.current_time())
        with trio.CancelScope() as self._reading:  # it takes 8 us to make one, so it lasts for many polls
            self._armed = math.inf
            while True:
                if self._line_began is not None or self._armed == math.inf:
                    self._rearm()
                await trio.lowlevel.wait_readable(self._fd)
                now = trio.current_time()
                if now >= self._armed or self._broken or self._refused:
                    break  # the scope is cancelled, or about to be: that must not reach a call
                chunk = self._read_nowait()
                if not chunk or self._is_heavy(chunk) or not self._turns.take_nowait():
                    break
                self._take_in(chunk)
                chunk = None
                while self._events:
                    if not self._may_begin():
                        return True
                    if not await self._line():
                        return False
                self._time_line(now)
        if chunk is None:
            await self._end_in_time()
        else:
            await self._take_in_later(chunk)
        return True

    def _read_nowait(self) -> bytes | None:
        """b"" at the end; None where there was nothing after all, or nobody is there any more."""
        try:
            return os.read(self._fd, CHUNK_BYTES)
        except BlockingIOError:
            return None
        except OSError:
            self._broken = True
            return None

    def _is_heavy(self, chunk: bytes) -> bool:
        size = self._pending_bytes + len(chunk)
        return size >= BIG_LINE_BYTES and (not chunk or b"\n" in chunk)

    def _may_begin(self) -> bool:
        """The next line, at once."""
        if self._busy >= LINES_AT_ONCE or isinstance(self._events[-1], jsonrpc.TooLarge):
            return False
        return self._has_turn or self._turns.take_nowait()

    def _take_in(self, chunk: bytes) -> None:
        """With the turn: it is the first line's too."""
        self._has_turn = True
        self._line_is_new = self._line_is_new or b"\n" in chunk
        self._events = self._protocol.receive_data(chunk) if chunk else self._protocol.receive_eof()
        self._events.reverse()
        self._pending_bytes = self._protocol.pending_bytes

    async def _take_in_later(self, chunk: bytes) -> None:
        if not chunk:
            self._at_end = True
            async with self._ending:  # not while it is written to: who does not read holds up nobody's end
                pass
        await self._turns.take()
        if not self._is_heavy(chunk):
            self._take_in(chunk)
            return
        # One at a time per uid, and then a pause as long: a uid's big lines take at most half of the loop.
        async with self._heavy:
            began = trio.current_time()
            self._take_in(chunk)
            await trio.sleep(trio.current_time() - began)

    def _time_line(self, now: float) -> None:
        """A line that has begun and not ended has its time from now on: what we took ourselves, with the lines before
        it, is not the client's."""
        self._idle_since = now
        if self._line_is_new or self._line_began is None:
            self._line_began = now if self._pending_bytes else None
            self._line_is_new = False

    def _deadline(self) -> float:
        """Of the next byte."""
        if self._line_began is not None:
            return self._line_began + self._limits.line_timeout_s
        if self._busy or self._streaming:
            return math.inf
        return self._idle_since + self._limits.idle_timeout_s

    def _rearm(self) -> None:
        """Called whenever the deadline may have changed. It is not put off, which costs more than to be woken in vain
        once in a while."""
        if (deadline := self._deadline()) < self._armed:
            self._reading.deadline = self._armed = deadline

    async def _end_in_time(self) -> None:
        """The wait for bytes has ended, and there are none."""
        if not (self._broken or self._refused) and trio.current_time() < self._deadline():
            return
        async with self._ending:
            pass
        if self._broken or self._refused:
            return
        limits = self._limits
        if self._line_began is None:
            problem = f"cannot keep the connection: nothing was asked for {limits.idle_timeout_s:g} s"
        else:
            problem = f"cannot take the message: its line did not end within {limits.line_timeout_s:g} s"
        await self._refuse(_as_error(TimedOut(problem)))

    async def _next_line(self) -> bool:
        """Begin the next of `_events` when it may. Whether this task still leads."""
        if isinstance(event := self._events[-1], jsonrpc.TooLarge):
            await self._refuse(event.error)
            return False
        del event  # it must not be kept while its answer is written
        while self._busy >= LINES_AT_ONCE:
            self._line_ended = trio.Event()
            await self._line_ended.wait()
        if not self._has_turn:
            await self._turns.take()
        return await self._line()

    def _line(self) -> Awaitable[bool]:
        """Answer the next of `_events`. Whether this task still leads: when the call waits for something, it does so
        here, and a new task leads."""
        self._has_turn = False
        return at_once(self._answer_line(), self._hand_over, self._note_end)

    def _hand_over(self) -> None:
        self._busy += 1
        self._note_busy(+1)
        self._reading.deadline = self._armed = math.inf  # a call may be going on within it
        self._reading = trio.CancelScope()  # for who cancels it before there is the next
        self._lines.start_soon(self._lead)

    def _note_end(self) -> None:
        self._busy -= 1
        self._line_ended.set()
        self._note_quiet()
        self._note_busy(-1)

    def _note_quiet(self) -> None:
        self._idle_since = trio.current_time()
        self._rearm()

    async def _answer_line(self) -> None:
        event = self._events.pop()
        if isinstance(event, jsonrpc.TooLarge):
            raise LocalProtocolError("cannot answer a line: it is over the limit")
        held = self._hold()
        try:
            answer = await self._answer(event, held)
            del event
            if answer is not None and (sent := self._write_nowait(answer)) < len(answer):
                await self._send_rest(answer, sent)
            while self._streams:
                self._streaming += 1
                self._pushing.start_soon(self._push, self._streams.pop())
        finally:
            held.release()

    async def _push(self, stream: Stream) -> None:
        try:
            with contextlib.suppress(_Gone):
                await stream(self)
        except CallError as error:
            await self._refuse(_as_error(error))
            self._reading.cancel()
        finally:
            self._streaming -= 1
            self._stream_ended.set()
            self._stream_ended = trio.Event()
            self._note_quiet()

    def tell(self, lines: bytes) -> bool:
        """Of a stream, as table.Hearer."""
        if (sent := self._write_nowait(lines)) < len(lines):
            rest = memoryview(lines)[sent:]  # no copy: many may be told the same and not read it
            self._owed = memoryview(b"".join((self._owed, rest))) if self._owed else rest
        return not self._owed

    async def say(self, lines: bytes) -> None:
        """Likewise."""
        await self._send(lines)
        if self._broken:
            raise _Gone

    def _is_gone(self) -> bool:
        """Both sides are shut down; one alone is a client that has asked all it wanted."""
        poll = select.poll()
        poll.register(self._stream.socket.fileno(), 0)  # POLLHUP and POLLERR are always told
        return bool(poll.poll(0))

    async def _refuse(self, error: jsonrpc.Error) -> None:
        self._refused = True
        await self._send(jsonrpc.encode_error(None, error.code, error.message, error.data))

    async def _send(self, line: bytes) -> None:
        sent = self._write_nowait(line)
        if sent < len(line) or self._owed:
            await self._send_rest(line, sent)

    def _write_nowait(self, line: bytes) -> int:
        """How much was taken: nothing while another line is on its way. The rest has to follow at once."""
        if self._sending or self._owed or self._broken:
            return 0
        try:
            sent = os.write(self._fd, line)
        except OSError:  # it is full, or gone: then once more in `_send_rest`, where that is told
            return 0
        self._half_written = sent < len(line)
        return sent

    async def _send_rest(self, line: bytes, sent: int) -> None:
        self._sending += 1
        try:
            async with self._writing:
                if self._broken:
                    return
                rest = memoryview(line)[sent:]
                if owed := self._owed:
                    rest = memoryview(b"".join((owed, rest))) if rest else owed
                    self._owed = _NOTHING
                with trio.move_on_after(self._limits.write_timeout_s), contextlib.suppress(OSError):
                    while rest:  # not send_all, which does not tell how far it got when it is cancelled
                        rest = rest[await self._stream.socket.send(rest) :]
                        self._half_written = len(rest) > 0
                if rest:
                    self._broken = True
                    self._reading.cancel()
        finally:
            self._sending -= 1

    async def _linger(self) -> None:
        with trio.move_on_after(LINGER_S), contextlib.suppress(trio.BrokenResourceError):
            await self._stream.send_eof()
            left = LINGER_BYTES
            while left > 0 and (chunk := await self._stream.receive_some(CHUNK_BYTES)):
                left -= len(chunk)


def _as_error(error: CallError) -> jsonrpc.Error:
    return jsonrpc.Error(code=error.code, message=str(error), data=error.data())
