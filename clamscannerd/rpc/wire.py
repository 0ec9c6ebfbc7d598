"""One client's stream in the daemon: lines in, answers out, with every time limit. trio; one `Wire` a connection.

One task reads and starts another for each line; answers leave as they are ready, each line's answer whole. At most
LINES_AT_ONCE lines are under way; then nothing more is read, and a client that does not read its answers is stopped by
its own socket buffer. When the client has shut down its writing side, what it asked before is still answered. A client
that vanished is only noticed when it is written to: no call is ever cancelled because of its client, as a call half
done is worse than one whose answer nobody reads.

A call may begin a stream of notifications. Such a connection is never idle, and it lasts when the client has shut down
its writing side, as `printf ... | nc` does; that it is gone is seen at the next write, or looked for now and then.

A call passes through the loop several times, and each time waits for all that can go on. So a uid begins one line, or
the decoding of one chunk, each time round, over all its connections: else one with 500 lines under way makes others
wait for 500 of its steps, each time. And connections end one behind the other, over all uids: ten thousand that were
silent equally long, or whose panel was killed, would all be in the way at once. (A trio.Lock that is waited for is
held once round at least.)

A line that was read is dropped before its answer is written, so that a client that does not read holds no megabytes.
Rejected: answers in the order of the lines (a slow call would delay a poll), a queue and a task for writing (a lock
does, and the one who writes knows that it was written).
"""

import contextlib
import math
import os
import select
from collections.abc import AsyncIterator, Awaitable, Callable

import msgspec
import trio

from clamscannerd.errors import CallError, TimedOut
from clamscannerd.rpc import jsonrpc
from clamscannerd.rpc.table import Notice, Stream
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
        turn: trio.Lock,
        ending: trio.Lock,
    ) -> None:
        self._stream = stream
        self._limits = limits
        self._streams = streams  # asked for by calls, and begun when those are answered
        self._streaming = 0
        self._stream_ended = trio.Event()
        self._answer = answer
        self._hold = hold
        self._note_busy = note_busy
        self._heavy = heavy  # one for all connections of a uid
        self._turn = turn  # likewise
        self._ending = ending  # one for all connections
        self._protocol = jsonrpc.Connection(limits=limits.messages)
        self._slots = trio.Semaphore(LINES_AT_ONCE, max_value=LINES_AT_ONCE)
        self._writing = trio.Lock()
        self._reading = trio.CancelScope()  # of the receive at hand: its deadline is moved while it waits
        self._line_began: float | None = None
        self._busy = 0  # lines under way
        self._broken = False  # nothing can be written any more
        self._half_written = False  # a line has left in part
        self._refused = False  # we end the connection, not the client

    async def run(self) -> None:
        """Until the client has left and every line is answered. The caller closes the socket."""
        async with trio.open_nursery() as streams:
            async with trio.open_nursery() as lines:
                await self._read(lines, streams)
            while self._streaming and not (self._broken or self._refused or self._is_gone()):
                with trio.move_on_after(GONE_S):
                    await self._stream_ended.wait()
            streams.cancel_scope.cancel()
        if self._refused and not self._broken:
            await self._linger()

    def say_nowait(self, line: bytes) -> None:
        """A line out of turn, where it can be written at once; not behind half of another."""
        if not self._broken and not self._half_written:
            with contextlib.suppress(OSError):  # it is gone, or full
                os.write(self._stream.socket.fileno(), line)

    async def _read(self, lines: trio.Nursery, streams: trio.Nursery) -> None:
        while not self._broken:
            chunk = await self._receive()
            if chunk is None:
                return
            async with self._turn:
                pass
            events = await self._decode(chunk)
            events.reverse()
            has_turn = True
            while events and not self._broken:
                event = events.pop()  # the list must not keep what a line's task drops
                if isinstance(event, jsonrpc.TooLarge):
                    await self._refuse(event.error)
                    return
                await _take(self._slots)
                if not has_turn:
                    async with self._turn:
                        pass
                has_turn = False
                self._begin_line()
                lines.start_soon(self._line, event, streams)
                del event
            if not chunk:
                return
            if b"\n" in chunk or self._line_began is None:
                # Only now: time that we took ourselves, with earlier lines, is not the client's.
                self._line_began = trio.current_time() if self._protocol.has_partial_line else None

    async def _receive(self) -> bytes | None:
        """b"" at the end; None when the client is gone or was too slow."""
        chunk: bytes | None = None
        with trio.CancelScope() as self._reading:
            self._rearm()
            try:
                chunk = bytes(await self._stream.receive_some(CHUNK_BYTES))
            except trio.BrokenResourceError:
                self._broken = True
        if chunk:
            return chunk
        async with self._ending:  # not while it is written to: who does not read holds up nobody's end
            pass
        if chunk is None and not self._broken and not self._refused:
            limits = self._limits
            if self._line_began is None:
                problem = f"cannot keep the connection: nothing was asked for {limits.idle_timeout_s:g} s"
            else:
                problem = f"cannot take the message: its line did not end within {limits.line_timeout_s:g} s"
            await self._refuse(_as_error(TimedOut(problem)))
        return chunk

    def _rearm(self) -> None:
        """How long the next byte may take. Called whenever one of the three conditions may have changed."""
        if self._line_began is not None:
            self._reading.deadline = self._line_began + self._limits.line_timeout_s
        elif self._busy or self._streaming:
            self._reading.deadline = math.inf
        else:
            self._reading.deadline = trio.current_time() + self._limits.idle_timeout_s

    async def _decode(self, chunk: bytes) -> list[jsonrpc.Event]:
        ends_line = not chunk or b"\n" in chunk
        if not ends_line or self._protocol.pending_bytes + len(chunk) < BIG_LINE_BYTES:
            return self._feed(chunk)
        # One at a time per uid, and then a pause as long: a uid's big lines take at most half of the loop.
        async with self._heavy:
            began = trio.current_time()
            events = self._feed(chunk)
            await trio.sleep(trio.current_time() - began)
        return events

    def _feed(self, chunk: bytes) -> list[jsonrpc.Event]:
        return self._protocol.receive_data(chunk) if chunk else self._protocol.receive_eof()

    def _begin_line(self) -> None:
        self._busy += 1
        self._note_busy(+1)

    async def _line(self, event: jsonrpc.Member | jsonrpc.Batch, streams: trio.Nursery) -> None:
        held = self._hold()
        try:
            answer = await self._answer(event, held)
            del event
            if answer is not None:
                await self._send(answer)
            while self._streams:
                self._streaming += 1
                streams.start_soon(self._push, self._streams.pop())
        finally:
            held.release()
            self._busy -= 1
            self._slots.release()
            self._rearm()
            self._note_busy(-1)

    async def _push(self, stream: Stream) -> None:
        try:
            with contextlib.suppress(_Gone):
                await stream(self._say)
        except CallError as error:
            await self._refuse(_as_error(error))
            self._reading.cancel()
        finally:
            self._streaming -= 1
            self._stream_ended.set()
            self._stream_ended = trio.Event()
            self._rearm()

    async def _say(self, notice: Notice) -> None:
        await self._send(jsonrpc.encode_notification(notice.method, notice.params))
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
        async with _held(self._writing):
            if self._broken:
                return
            rest = memoryview(line)
            with contextlib.suppress(OSError):  # it is full, or gone: then once more below, where that is told
                rest = rest[os.write(self._stream.socket.fileno(), rest) :]
                self._half_written = len(rest) > 0
            if not rest:
                return
            with trio.move_on_after(self._limits.write_timeout_s), contextlib.suppress(OSError):
                while rest:  # not send_all, which does not tell how far it got when it is cancelled
                    rest = rest[await self._stream.socket.send(rest) :]
                    self._half_written = len(rest) > 0
            if rest:
                self._broken = True
                self._reading.cancel()

    async def _linger(self) -> None:
        with trio.move_on_after(LINGER_S), contextlib.suppress(trio.BrokenResourceError):
            await self._stream.send_eof()
            left = LINGER_BYTES
            while left > 0 and (chunk := await self._stream.receive_some(CHUNK_BYTES)):
                left -= len(chunk)


async def _take(slots: trio.Semaphore) -> None:
    """Without a time round the loop where one is free: a call has few enough of its own."""
    try:
        slots.acquire_nowait()
    except trio.WouldBlock:
        await slots.acquire()


@contextlib.asynccontextmanager
async def _held(lock: trio.Lock) -> AsyncIterator[None]:
    """Likewise."""
    try:
        lock.acquire_nowait()
    except trio.WouldBlock:
        await lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _as_error(error: CallError) -> jsonrpc.Error:
    return jsonrpc.Error(code=error.code, message=str(error), data=error.data())
