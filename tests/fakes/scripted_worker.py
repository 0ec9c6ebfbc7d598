"""Workers as the pipeline meets them, played by the test: what they say and when is the script's. Real sockets.

async def script(worker: Worker) -> None: ...
spawner = Scripts(nursery, script, script)      # the last one plays every further worker as well
"""

import array
import os
import socket
from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

from clamscannerd import __version__
from clamscannerd.model import Account, EngineInfo, Frozen
from clamscannerd.pipeline.engineview import EngineView
from clamscannerd.worker.messages import MAX_FDS, MAX_MESSAGE_BYTES, Command, Hello, Message, decode_command, encode

M = TypeVar("M", bound=Message)


class WorkerKilled(Exception):
    """The daemon killed this worker, or closed its end."""


class Worker:
    """The worker's end. Fds that come down are closed; `fds` counts them."""

    def __init__(self, sock: trio.socket.SocketType, pid: int) -> None:
        self.pid = pid
        self.fds = 0
        self.killed = False
        self.end = ("exit code 0", False)  # as Process.wait_end tells it
        self.scope = trio.CancelScope()
        self._sock = sock

    async def say(self, *messages: Message) -> None:
        try:
            for message in messages:
                await self._sock.send(encode(message))
        except (BrokenPipeError, ConnectionResetError):
            raise WorkerKilled from None

    async def hear(self) -> Command:
        try:
            data, control, _, _ = await self._sock.recvmsg(MAX_MESSAGE_BYTES, socket.CMSG_SPACE(MAX_FDS * 4))
        except ConnectionResetError:
            raise WorkerKilled from None
        if not data:
            raise WorkerKilled
        for _, _, payload in control:
            for fd in array.array("i", payload):
                os.close(fd)
                self.fds += 1
        return decode_command(data)

    async def until(self, kind: type[M]) -> M:
        while not isinstance(command := await self.hear(), kind):
            pass
        return command


Script = Callable[[Worker], Awaitable[None]]


class _Process:
    def __init__(self, worker: Worker, channel: trio.socket.SocketType) -> None:
        self.channel = channel
        self.pid = worker.pid
        self.exited = trio.Event()
        self._worker = worker

    async def wait(self) -> int:
        await self.exited.wait()
        return 0

    async def wait_end(self) -> tuple[str, bool]:
        await self.wait()
        return self._worker.end

    def kill_nowait(self) -> None:
        self._worker.killed = True
        self._worker.scope.cancel()


class Scripts:
    """A pipeline.link.Spawner."""

    def __init__(self, nursery: trio.Nursery, *scripts: Script | None) -> None:
        self.workers: list[Worker] = []
        self.version = __version__
        self.hello: bytes | None = None  # said in place of a Hello
        self.late_s = 0.0  # from its start to its hello
        self.end = ("exit code 0", False)
        self._nursery = nursery
        self._scripts = scripts

    async def spawn(self, account: Account, lock_fd: int) -> _Process:
        ours, theirs = trio.socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        number = len(self.workers)
        worker = Worker(theirs, number + 1)
        worker.end = self.end
        self.workers.append(worker)
        process = _Process(worker, ours)
        script = self._scripts[min(number, len(self._scripts) - 1)]

        async def live() -> None:
            try:
                with worker.scope:
                    await trio.sleep(self.late_s)
                    if self.hello is not None:
                        await theirs.send(self.hello)
                        return
                    if script is None and self.version == __version__:
                        return
                    await worker.say(Hello(version=self.version, seals={}, home_error=""))
                    if script is None:
                        return
                    await script(worker)
            except WorkerKilled:
                pass
            finally:
                theirs.close()
                process.exited.set()

        self._nursery.start_soon(live)
        return process


class EngineNow(Frozen, frozen=True, kw_only=True):
    info: EngineInfo = EngineInfo()
    signatures: bool = True
    max_file_size: int = 1 << 20
    max_threads: int = 10
    shared: bool = False
    generation: str = "1/1"
    settings: str = "plain"
    address: str = "/clamd"


class Engine:
    """A pipeline.engineview.Engines: sessions lead nowhere. `away`: until it is set, none is given."""

    def __init__(self) -> None:
        self.sessions = 0
        self.now = EngineNow()
        self.seen: EngineNow | None = None  # what somebody sees who looks again
        self.back = trio.Event()
        self.back.set()

    def state(self) -> EngineNow:
        return self.now

    def states(self) -> tuple[EngineNow, ...]:
        return (self.now,)

    async def look(self) -> tuple[EngineNow, ...]:
        await trio.lowlevel.checkpoint()
        return (self.seen or self.now,)

    def in_flight_budget(self, cores: int, configured: int) -> int:
        return cores + configured

    def usable(self) -> tuple[EngineNow, ...]:
        return (self.state(),) if self.back.is_set() else ()

    def changed(self) -> trio.Event:
        return trio.Event() if self.back.is_set() else self.back

    def threads(self, address: str, cores: int) -> int:
        return cores

    async def open_at(self, address: str) -> tuple[socket.socket, EngineNow]:
        return await self.open_session(), self.state()

    async def open_session(self) -> socket.socket:
        self.sessions += 1
        ours, theirs = socket.socketpair()
        theirs.close()
        return ours

    async def scan(self, content: bytes) -> object:
        return content

    async def wait_ready(self, timeout_s: float) -> None:
        with trio.move_on_after(timeout_s):
            await self.back.wait()


def engine_view(engine: Engine) -> EngineView:
    return EngineView(engine, cores=1, in_flight=4, wait_s=600.0)


async def confirmed(_account: Account) -> None:
    """TaskJobs.confirm where every account stays who it was."""
