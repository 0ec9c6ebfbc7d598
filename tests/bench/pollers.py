"""Many clients that poll, in one loop of one process: each asks, waits for the answer, and asks again at its time.

A client has a connection to the daemon and one to the echo, and asks both equally often, half a period apart: so both
are measured by the same clock, under the same load, with the same delays of the measuring process itself. An
answer counts from just before it was asked for until it was read whole.
"""

import heapq
import itertools
import select
import socket
import time
from collections.abc import Callable
from typing import NamedTuple

_RECEIVE_BYTES = 1 << 20
_TIMEOUT_S = 30.0
_LAST_ANSWERS_S = 0.01


class _Line:
    """One connection: `request` goes out, one line comes back."""

    def __init__(
        self, sock: socket.socket, request: bytes, samples: list[float], seen: Callable[[bytes], None]
    ) -> None:
        self.sock = sock
        self.asked = 0.0
        self.waits = False
        self._request = request
        self._answer = b""
        self._samples = samples
        self._seen = seen

    def ask(self) -> None:
        self.waits = True
        self.asked = time.perf_counter()
        self.sock.sendall(self._request)

    def read(self) -> None:
        data = self.sock.recv(_RECEIVE_BYTES)
        if not data:
            raise RuntimeError("cannot poll: the connection was closed")
        self._answer += data
        if self._answer.endswith(b"\n"):
            self._samples.append((time.perf_counter() - self.asked) * 1000)
            self._seen(self._answer)
            self._answer = b""
            self.waits = False


class Side(NamedTuple):
    """Whom to ask, and what. `seen` gets each answer."""

    sockets: list[socket.socket]
    request: bytes
    seen: Callable[[bytes], None]


def poll(sides: tuple[Side, Side], period_s: float, seconds: float) -> tuple[list[float], list[float]]:
    """Milliseconds of all answers of both sides. A client whose answer is late asks later, never twice at once."""
    samples: tuple[list[float], list[float]] = ([], [])
    count = len(sides[0].sockets)
    order = itertools.count()
    start = time.perf_counter()
    due: list[tuple[float, int, _Line]] = []
    lines: dict[int, _Line] = {}
    epoll = select.epoll()
    for number, (side, got) in enumerate(zip(sides, samples, strict=True)):
        for place, sock in enumerate(side.sockets):
            line = lines[sock.fileno()] = _Line(sock, side.request, got, side.seen)
            epoll.register(sock.fileno(), select.EPOLLIN)
            due.append((start + period_s * ((place / count + number / 2) % 1), next(order), line))
    heapq.heapify(due)
    while due or any(line.waits for line in lines.values()):
        now = time.perf_counter()
        if now > start + seconds + _TIMEOUT_S:
            raise RuntimeError("cannot poll: an answer did not come")
        while due and due[0][0] <= now:
            at, _, line = heapq.heappop(due)
            if now < start + seconds:
                if not line.waits:
                    line.ask()
                heapq.heappush(due, (at + period_s, next(order), line))
        wait = max(0.0, due[0][0] - time.perf_counter()) if due else _LAST_ANSWERS_S
        for fd, _ in epoll.poll(wait):
            lines[fd].read()
    epoll.close()
    return samples
