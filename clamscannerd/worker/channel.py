"""The worker's end of its channel to the daemon: whole messages, blocking, with fds that come down. [worker]

CPython 3.11's socket.recv_fds ignores its flags (fds arrive inheritable, surplus ones vanish in silence): hence recvmsg
with MSG_CMSG_CLOEXEC here, and a truncated control message is an error.
"""

import array
import select
import socket
import time
from collections.abc import Callable

from clamscannerd.errors import RemoteProtocolError
from clamscannerd.worker.messages import MAX_FDS, MAX_MESSAGE_BYTES, Command, Message, decode_command, encode

_ANCILLARY_BYTES = socket.CMSG_SPACE(MAX_FDS * array.array("i").itemsize)


class DaemonGone(Exception):
    """The daemon closed its end: a worker does not outlive its job."""


class Channel:
    """Sends replies, receives commands. `fileno()` is for poll."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def fileno(self) -> int:
        return self._sock.fileno()

    def send(self, message: Message) -> None:
        """Blocks until the daemon has room: a slow daemon slows its workers, nothing piles up."""
        try:
            self._sock.sendmsg([encode(message)])
        except (BrokenPipeError, ConnectionResetError):
            raise DaemonGone from None

    def receive(self) -> tuple[Command, list[int]]:
        """The next command and the fds that came with it; blocks. Raises DaemonGone, RemoteProtocolError."""
        try:
            data, ancillary, flags, _ = self._sock.recvmsg(MAX_MESSAGE_BYTES, _ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC)
        except ConnectionResetError:
            raise DaemonGone from None
        if not data:
            raise DaemonGone
        if flags & (socket.MSG_CTRUNC | socket.MSG_TRUNC):
            raise RemoteProtocolError("cannot take a message: it was truncated")
        fds = array.array("i")
        for level, kind, payload in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
        return decode_command(data), list(fds)


class Clock:
    """A thing is due every `period_s` seconds of monotonic time."""

    def __init__(self, period_s: float) -> None:
        self._period_s = period_s
        self._next = time.monotonic() + period_s

    def due(self) -> bool:
        """Whether the period is over; starts the next one if so."""
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + self._period_s
        return True


def pause_on(channel: Channel) -> Callable[[float], None]:
    """Waits, unless the daemon goes: a worker does not outlive its job, and least of all for a lock."""

    def pause(seconds: float) -> None:
        poll = select.poll()
        poll.register(channel.fileno(), 0)
        if poll.poll(seconds * 1000):
            raise DaemonGone

    return pause
