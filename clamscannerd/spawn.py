"""[daemon] Client of the monitor: asks for workers and private engines, kills them, learns how they ended.

One task reads, one writes, so any number of jobs may ask at once, and killing never waits. What is queued is bounded
by the callers: for each worker a SPAWN and a KILL, and the pipeline has a bound on workers. The monitor's end is the
daemon's end: everything inside the context is cancelled and MonitorLost comes out of it.

A worker that was killed and does not end hangs in the kernel: a file server that is gone, a file system of the user's
own making. It costs a process each time, so an account with too many of those is suspended: no worker starts for it
until one of them ends. That no other account pays for them, the monitor sees to: it counts them apart.

Rejected: os.kill from here (the daemon has no right to); a pidfd sent up by the monitor (a signal through it needs the
same right); waiting for a worker by EOF on its channel (a worker can close it and live on).
"""

import logging
import os
import signal
import socket
import struct
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager

import trio

from clamscannerd import events, orders, rights
from clamscannerd.errors import MonitorLost, SpawnRefused
from clamscannerd.model import Account, Frozen

log = logging.getLogger(__name__)

CHANNEL_BUFFER_BYTES = 1 << 20
"""Asked for on both ends of a worker's channel; the kernel cuts it to net.core.[rw]mem_max: one message still fits."""

ENGINE_STOP_S = 5.0
"""From SIGTERM to SIGKILL: clamd ends its scans first, and nobody waits for those any more."""

STUCK_AFTER_S = 5.0
"""From SIGKILL on: an end takes milliseconds, and on a machine that swaps a second or two."""

MAX_STUCK = 8
"""Of one account, where nothing else is set: config.Accounts."""

_PYTHON_FAILED = 1
"""An exception that nobody caught: in a worker's first lines, a module that is not there (half an upgrade)."""

_MEANINGS = {
    rights.EXIT_EXEC: "the worker's program cannot be run",
    rights.EXIT_ACCOUNT: "the account is gone or has another name",
    rights.EXIT_RIGHTS: "the worker could not prove that it gave up all rights",
    rights.EXIT_ORPHAN: "the monitor ended meanwhile",
}


class SpawnStatistics(Frozen, frozen=True, kw_only=True):
    """Since the start, but for `running`, which counts engines as well, and `stuck`, those of them that hang."""

    running: int
    stuck: int
    started: int
    refused: int


class Process:
    """A child of the monitor: a private engine, or a worker (WorkerProcess)."""

    def __init__(self, spawner: "Spawner", job: int) -> None:
        self.pid = 0
        self.refusal = ""
        self._spawner = spawner
        self._job = job
        self._answered = trio.Event()
        self._exited = trio.Event()
        self._status = 0

    async def wait(self) -> int:
        """Its wait status, as soon as it has ended (os.waitstatus_to_exitcode, explain)."""
        await self._exited.wait()
        return self._status

    async def wait_end(self) -> tuple[str, bool]:
        """How it ended, as words, and whether its program could not run: then nobody's file was to blame."""
        status = await self.wait()
        return explain(status), os.waitstatus_to_exitcode(status) in (rights.EXIT_EXEC, _PYTHON_FAILED)

    def kill_nowait(self) -> None:
        """SIGKILL, in the order in which things were asked; nothing if it has ended."""
        if not self._exited.is_set():
            self._spawner._post(orders.Message(orders.KILL, self._job))

    def _answer(self, message: orders.Message) -> None:
        """What the monitor says about this process."""
        if message.verb == orders.STARTED:
            self.pid = message.value
        elif message.verb == orders.EXITED:
            self._status = message.value
            self._exited.set()
        else:
            self.refusal = f"{message.text.decode(errors='backslashreplace')} ({os.strerror(message.value)})"
            self._exited.set()
        self._answered.set()

    def _lose(self) -> None:
        """The monitor is gone, and the kernel kills what it started: nobody will ever tell how this one ended.

        Not `_answered`: who still asks for a process is being cancelled, and would take it for started.
        """
        self._status = rights.EXIT_ORPHAN << 8
        self._exited.set()


class WorkerProcess(Process):
    """One worker. `channel`: our end of a SOCK_SEQPACKET pair, the caller's to close; its EOF ends the worker."""

    def __init__(self, spawner: "Spawner", job: int, uid: int, channel: trio.socket.SocketType) -> None:
        super().__init__(spawner, job)
        self.channel = channel
        self._uid = uid
        self._killed = False

    def kill_nowait(self) -> None:
        super().kill_nowait()
        if not self._killed and not self._exited.is_set():
            self._killed = True
            self._spawner._watch(self)


class Spawner:
    """Made by open_spawner."""

    def __init__(self, monitor: socket.socket) -> None:
        self.max_stuck = MAX_STUCK  # replaced by a reload
        self.freed: Callable[[], None] = lambda: None  # called when a suspended account is none any more
        self._nursery: trio.Nursery | None = None
        self._stuck: Counter[int] = Counter()  # workers that hang in the kernel, by uid
        self._monitor = trio.socket.from_stdlib_socket(monitor)
        self._processes: dict[int, Process] = {}
        self._pings: dict[int, trio.Event] = {}
        self._outgoing: deque[tuple[bytes, tuple[int, ...]]] = deque()
        self._posted = trio.Event()
        self._last = orders.MAX_ENGINES
        self._started = self._refused = 0
        self.lost = False

    async def spawn(self, account: Account, lock_fd: int) -> WorkerProcess:
        """A worker for `account`, which holds `lock_fd` open as long as it lives. Raises SpawnRefused.

        That it was started does not mean that it got far: see `wait` and `explain`. Cancelled, it is killed.
        """
        name = os.fsencode(account.name)
        if not 0 < len(name) <= orders.MAX_TEXT_BYTES or b"\0" in name:
            raise SpawnRefused(f"cannot start a worker for {account.name!r}: no name that passwd can hold")
        if why := self.suspended(account.uid):
            raise SpawnRefused(f"cannot start a worker for {account.name}: {why}")
        try:
            ours, fds = _channel(lock_fd)
        except OSError as error:
            raise SpawnRefused(f"cannot start a worker for {account.name}: {error.strerror}") from None
        self._last += 1
        worker = WorkerProcess(self, self._last, account.uid, trio.socket.from_stdlib_socket(ours))
        with ExitStack() as undo:
            undo.callback(worker.channel.close)
            undo.callback(worker.kill_nowait)
            await self._start(worker, orders.Message(orders.SPAWN, worker._job, account.uid, name), fds)
            if worker.refusal:
                raise SpawnRefused(f"cannot start a worker for {account.name}: {worker.refusal}")
            undo.pop_all()
        return worker

    async def start_engine(self, job: int) -> Process:
        """Start one private engine, of orders.ENGINE_JOBS. Raises SpawnRefused, also when it runs already."""
        if job in self._processes:
            raise SpawnRefused("cannot start the private engine: it is running")
        engine = Process(self, job)
        with ExitStack() as undo:
            undo.callback(engine.kill_nowait)
            await self._start(engine, orders.Message(orders.ENGINE_START, job))
            if engine.refusal:
                raise SpawnRefused(f"cannot start the private engine: {engine.refusal}")
            undo.pop_all()
        return engine

    async def stop_engine(self, job: int) -> None:
        """Returns when this private engine, if it runs, has ended."""
        engine = self.engine(job)
        if engine is None:
            return
        self._post(orders.Message(orders.ENGINE_STOP, job))
        with trio.move_on_after(ENGINE_STOP_S):
            await engine.wait()
            return
        engine.kill_nowait()
        await engine.wait()

    def engine(self, job: int) -> Process | None:
        """A private engine's process while there is one; `await engine.wait()` tells its end."""
        return self._processes.get(job)

    async def ping(self) -> None:
        """Returns when the monitor has answered."""
        self._last += 1
        token, answered = self._last, trio.Event()
        self._pings[token] = answered
        self._post(orders.Message(orders.PING, token))
        try:
            await answered.wait()
        finally:
            del self._pings[token]

    def statistics(self) -> SpawnStatistics:
        stuck = self._stuck.total()
        return SpawnStatistics(running=len(self._processes), stuck=stuck, started=self._started, refused=self._refused)

    def suspended(self, uid: int) -> str:
        """Why no worker starts for this account now, or ""."""
        stuck = self._stuck[uid]
        return f"{stuck} of its workers were killed and hang in the kernel" if stuck >= self.max_stuck else ""

    def _watch(self, worker: WorkerProcess) -> None:
        """It was killed: see that it ends."""
        if self._nursery is not None:
            self._nursery.start_soon(self._see_end, worker)

    async def _see_end(self, worker: WorkerProcess) -> None:
        with trio.move_on_after(STUCK_AFTER_S):
            await worker.wait()
            return
        uid, about = worker._uid, events.about(worker._uid)
        self._stuck[uid] += 1
        log.info("worker %d of uid %d was killed and hangs in the kernel", worker.pid, uid, extra=about)
        if self._stuck[uid] == self.max_stuck:
            log.error("nothing starts for uid %d until one ends: %s", uid, self.suspended(uid), extra=about)
        try:
            await worker.wait()
        finally:
            was_suspended = bool(self.suspended(uid))
            self._stuck[uid] -= 1
            if not self._stuck[uid]:
                del self._stuck[uid]
        if was_suspended and not self.suspended(uid) and not self.lost:
            log.warning("work for uid %d goes on: a worker that hung has ended", uid, extra=about)
            self.freed()

    async def _start(self, process: Process, message: orders.Message, fds: tuple[int, ...] = ()) -> None:
        self._processes[message.job] = process
        self._post(message, fds)
        await process._answered.wait()

    def _post(self, message: orders.Message, fds: tuple[int, ...] = ()) -> None:
        """Queue a message; its fds are ours to close once it has left."""
        self._outgoing.append((message.encode(), fds))
        self._posted.set()

    async def _write(self) -> None:
        while True:
            await self._posted.wait()
            self._posted = trio.Event()
            while self._outgoing:
                data, fds = self._outgoing[0]
                rights_message = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack(f"{len(fds)}i", *fds))]
                try:
                    await self._monitor.sendmsg([data], rights_message if fds else [])
                except (BrokenPipeError, ConnectionResetError):
                    return  # the reader sees it too, and says so
                self._outgoing.popleft()
                _close(fds)

    async def _read(self) -> None:
        """Until EOF."""
        while True:
            try:
                data = await self._monitor.recv(orders.MAX_MESSAGE_BYTES)
            except ConnectionResetError:
                return
            if not data:
                return
            message = orders.decode(data, orders.TO_DAEMON)
            if message.verb == orders.PONG:
                if (answered := self._pings.get(message.job)) is not None:
                    answered.set()
                continue
            process = self._processes[message.job]
            process._answer(message)
            self._started += message.verb == orders.STARTED
            self._refused += message.verb == orders.REFUSED
            if message.verb != orders.STARTED:
                del self._processes[message.job]

    def _lose(self) -> None:
        """At the monitor's end: whoever waits for a process, out of a cancellation's reach, need wait no more."""
        self.lost = True
        for process in self._processes.values():
            process._lose()
        self._processes.clear()

    def _close(self) -> None:
        self._monitor.close()
        for _, fds in self._outgoing:
            _close(fds)
        self._outgoing.clear()


@asynccontextmanager
async def open_spawner(monitor: socket.socket) -> AsyncIterator[Spawner]:
    """Speak with the monitor on `monitor`, the launcher's end of the pair, and close it at the end.

    Raises MonitorLost, after cancelling what is inside, when the monitor ends; what the inside raises comes in a group,
    as out of any nursery. That the socket is closed is what ends the monitor, and with it every worker.
    """
    spawner = Spawner(monitor)
    try:
        async with trio.open_nursery() as nursery:

            async def read() -> None:
                await spawner._read()
                spawner._lose()
                nursery.cancel_scope.cancel()

            spawner._nursery = nursery
            nursery.start_soon(read)
            nursery.start_soon(spawner._write)
            yield spawner
            nursery.cancel_scope.cancel()
    finally:
        spawner._nursery = None
        spawner._close()
    if spawner.lost:
        raise MonitorLost("cannot go on: the monitor ended")


def explain(status: int) -> str:
    """A wait status as words: "exit code 81: the account is gone or has another name", "signal 9"."""
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        return f"signal {-code}" + (": it used up its processor time" if code == -signal.SIGXCPU else "")
    return f"exit code {code}" + (f": {_MEANINGS[code]}" if code in _MEANINGS else "")


def _channel(lock_fd: int) -> tuple[socket.socket, tuple[int, int]]:
    """Our end of a new channel, and what goes down: the other end and a copy of the lock. OSError: no fd is left.

    A copy: a caller that is cancelled may close its own before the message has left.
    """
    with ExitStack() as undo:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (ours, theirs):
            undo.callback(end.close)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, CHANNEL_BUFFER_BYTES)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, CHANNEL_BUFFER_BYTES)
        lock = os.dup(lock_fd)
        undo.pop_all()
    return ours, (theirs.detach(), lock)


def _close(fds: tuple[int, ...]) -> None:
    for fd in fds:
        os.close(fd)
