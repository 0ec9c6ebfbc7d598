"""Clients that call at a steady pace, in a process of their own, so that nobody's pace is the test's.

    with Callers(sockets, [line, line], per_s=5.0, seconds=10.0) as callers:   # 5 a second on each connection
        ...
    callers.result.milliseconds                                                # of each call

A call that had to wait for the one before it counts from when it was due: whom the daemon keeps waiting cannot ask less
often and look well served. `at_once`: so many calls may be under way on a connection; 1 for those who wait for their
answer.
"""

import heapq
import json
import select
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import msgspec

_RECEIVE_BYTES = 1 << 18
_ROOT = Path(__file__).parents[2]
_END_S = 60.0


class Result(NamedTuple):
    """`milliseconds`: of each call; `refused`: how many of the answers were errors; `seconds`: from first to last."""

    milliseconds: list[float]
    refused: int
    seconds: float

    def percentile(self, share: float) -> float:
        ordered = sorted(self.milliseconds)
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


class Callers:
    """Run while the context lasts; leaving it waits for their end."""

    result: Result

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        lines: Sequence[bytes],
        *,
        per_s: float,
        seconds: float,
        at_once: int = 1,
    ) -> None:
        self._seconds = seconds
        fds = [sock.fileno() for sock in sockets]
        task = {"fds": fds, "lines": [line.decode() for line in lines], "per_s": per_s, "seconds": seconds}
        self._task = json.dumps({**task, "at_once": at_once})
        self._fds = fds

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.fakes.callers"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=self._fds,
            cwd=_ROOT,
            text=True,
        )
        assert self._process.stdin is not None
        self._process.stdin.write(self._task + "\n")
        self._process.stdin.flush()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._process.kill()
        said, _ = self._process.communicate(timeout=self._seconds + 2 * _END_S)
        if kind is None:
            assert self._process.returncode == 0, "the callers failed: their words are above"
            self.result = Result(*json.loads(said))


class _Caller:
    """One connection."""

    def __init__(self, fd: int) -> None:
        self.sock = socket.socket(fileno=fd)
        self.sock.settimeout(_END_S)
        self.asked: dict[int, float] = {}  # number of a call -> when it was made, or was due
        self.due: deque[float] = deque()  # calls that wait for a place
        self.rest = b""


class _Run:
    def __init__(self, callers: list[_Caller], lines: list[bytes], at_once: int) -> None:
        self._lines = lines
        self._at_once = at_once
        self._numbers = 0
        self.callers = callers
        self.milliseconds: list[float] = []
        self.refused = 0

    def ask(self, caller: _Caller, since: float) -> None:
        self._numbers += 1
        caller.asked[self._numbers] = since
        line = self._lines[self._numbers % len(self._lines)]
        caller.sock.sendall(line.replace(b"NUMBER", b"%d" % self._numbers))

    def come_due(self, caller: _Caller, due: float) -> None:
        if len(caller.asked) < self._at_once:
            self.ask(caller, time.perf_counter())
        else:
            caller.due.append(due)

    def read(self, caller: _Caller) -> None:
        data = caller.sock.recv(_RECEIVE_BYTES)
        assert data, "the daemon closed the connection"
        *lines, caller.rest = (caller.rest + data).split(b"\n")
        now = time.perf_counter()
        for line in lines:
            answer = msgspec.json.decode(line)
            self.milliseconds.append((now - caller.asked.pop(answer["id"])) * 1000)
            self.refused += "error" in answer
            if caller.due:
                self.ask(caller, caller.due.popleft())

    def waits(self) -> bool:
        return any(caller.asked for caller in self.callers)


def _run(fds: list[int], lines: list[str], per_s: float, seconds: float, at_once: int) -> Result:
    callers = [_Caller(fd) for fd in fds]
    run = _Run(callers, [line.encode() + b"\n" for line in lines], at_once)
    by_fd = dict(zip(fds, callers, strict=True))
    epoll = select.epoll()
    for fd in fds:
        epoll.register(fd, select.EPOLLIN)
    start = time.perf_counter()
    order = [(start + place / len(callers) / per_s, place) for place in range(len(callers))]  # spread over the period
    heapq.heapify(order)
    while order or run.waits():
        now = time.perf_counter()
        assert now < start + seconds + _END_S, "an answer did not come"
        while order and order[0][0] <= now:
            due, place = heapq.heappop(order)
            run.come_due(callers[place], due)
            if due + 1 / per_s < start + seconds:
                heapq.heappush(order, (due + 1 / per_s, place))
        for fd, _ in epoll.poll(max(0.0, order[0][0] - time.perf_counter()) if order else 0.01):
            run.read(by_fd[fd])
    epoll.close()
    return Result(run.milliseconds, run.refused, time.perf_counter() - start)


if __name__ == "__main__":
    print(json.dumps(_run(**json.loads(sys.stdin.readline()))))
