"""One worker process, from its hello to its end, as the daemon's jobs see it. [daemon]

Nothing that comes up is believed beyond its form; fds only go down. A worker that says nothing for `silence_s`
is killed: its user can stop it, and a file system can hang it.
"""

import array
import contextlib
import logging
import signal
import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Protocol

import trio

from clamscannerd import __version__
from clamscannerd.errors import RemoteProtocolError, SpawnRefused, WorkerFailed, WorkerOutdated, WorkerSpent
from clamscannerd.model import Account
from clamscannerd.worker.messages import (
    MAX_MESSAGE_BYTES,
    Fault,
    Hello,
    Message,
    Reply,
    decode_reply,
    encode,
    hello_version,
)

log = logging.getLogger(__name__)

_SPENT = f"signal {int(signal.SIGXCPU)}"  # how one ends that is over its limit (spawn.explain)
_END_S = 1.0  # a worker whose channel is closed leaves in milliseconds; killing it is as safe as any crash


class WorkerProcess(Protocol):
    """What spawn.py gives."""

    @property
    def channel(self) -> trio.socket.SocketType: ...
    @property
    def pid(self) -> int: ...
    async def wait(self) -> int: ...
    async def wait_end(self) -> tuple[str, bool]: ...
    def kill_nowait(self) -> None: ...


class Spawner(Protocol):
    """Starts workers: spawn.py in the daemon."""

    async def spawn(self, account: Account, lock_fd: int) -> WorkerProcess: ...


class HomeUnusable(WorkerFailed):
    """The worker refuses the home directory: the sentence says which rule it breaks. Asking again is no use."""


class WorkerLink:
    """Messages to and from one worker. One task receives; any task may send."""

    def __init__(self, process: WorkerProcess, silence_s: float) -> None:
        self._process = process
        self._silence_s = silence_s
        self._sending = trio.Lock()
        self.seals: dict[str, int] = {}

    async def send(self, message: Message, fds: Sequence[int] = ()) -> None:
        """One message, with fds that stay the caller's to close. Raises WorkerFailed."""
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            async with self._sending:
                with trio.fail_after(self._silence_s):
                    await self._process.channel.sendmsg([encode(message)], rights)
        except OSError as error:
            raise WorkerFailed(f"worker {self._process.pid} is gone: {error.strerror}") from None
        except trio.TooSlowError:
            raise WorkerFailed(f"worker {self._process.pid} reads nothing") from None

    async def receive(self, further_s: float = 0.0) -> Reply:
        """The next message. Raises WorkerFailed at its end, its silence, its fault, or unlawful bytes.

        `further_s`: so much longer it may be silent this time.
        """
        data = await self._packet(self._silence_s + further_s)
        if not data:
            how, _ = await self._end()
            kind = WorkerSpent if how.startswith(_SPENT) else WorkerFailed
            raise kind(f"worker {self._process.pid} ended before its job: {how}")
        return self._decode(data)

    async def _packet(self, silence_s: float) -> bytes:
        """b"" at its end."""
        try:
            with trio.fail_after(silence_s):
                data, _, flags, _ = await self._process.channel.recvmsg(MAX_MESSAGE_BYTES)
        except ConnectionResetError:  # it ended with something unread
            return b""
        except OSError as error:
            raise WorkerFailed(f"worker {self._process.pid} is gone: {error.strerror}") from None
        except trio.TooSlowError:
            raise WorkerFailed(f"worker {self._process.pid} said nothing for {silence_s:g} s") from None
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            raise WorkerFailed(f"worker {self._process.pid} sent too much at once")
        return data

    def _decode(self, data: bytes) -> Reply:
        try:
            reply = decode_reply(data)
        except RemoteProtocolError as error:
            raise WorkerFailed(f"worker {self._process.pid}: {error}") from None
        if isinstance(reply, Fault):
            log.error("worker %d failed: %r", self._process.pid, reply.text)
            raise WorkerFailed(f"worker {self._process.pid} failed")
        return reply

    async def _end(self) -> tuple[str, bool]:
        """How it ended, and whether its program could not run; it can also close its channel and live on."""
        with trio.move_on_after(_END_S):
            return await self._process.wait_end()
        return "it closed its channel", False

    async def hello(self, within_s: float) -> None:
        """The first message: same program, usable home.

        A program that cannot run is no fault of the job: SpawnRefused, as for a process that could not be made.
        """
        data = await self._packet(within_s)
        if not data:
            how, no_program = await self._end()
            problem = f"worker {self._process.pid} ended before it began: {how}"
            raise SpawnRefused(f"cannot start a worker: {problem}") if no_program else WorkerFailed(problem)
        version = hello_version(data)
        if version not in ("", __version__):
            raise WorkerOutdated(f"worker is version {version[:40]!r}, this daemon {__version__}: restart the daemon")
        reply = self._decode(data)
        if not isinstance(reply, Hello):
            raise WorkerFailed(f"worker {self._process.pid} began with {type(reply).__name__}")
        if reply.home_error:
            raise HomeUnusable(reply.home_error)
        self.seals = reply.seals


def pause_s(attempt: int) -> float:
    """After the so manieth worker died: 1 s, 4 s, 16 s, a minute. What ails it may pass, or be mended."""
    return float(min(4 ** (attempt - 1), 60))


@contextlib.contextmanager
def one_of(*kinds: type[Exception]) -> Iterator[None]:
    """Around a nursery: when all that went wrong in it is of `kinds`, raise the first of them, not a group."""
    try:
        yield
    except BaseExceptionGroup as group:
        _, rest = group.split(lambda error: isinstance(error, (*kinds, trio.Cancelled)))
        found = group.subgroup(lambda error: isinstance(error, kinds))
        if rest is not None or found is None:
            raise
        first: BaseException = found
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        raise first from None


@contextlib.asynccontextmanager
async def open_worker(
    spawner: Spawner, account: Account, lock_fd: int, silence_s: float, *, start_s: float = 0.0
) -> AsyncIterator[WorkerLink]:
    """A worker for `account`, said hello to; it is gone when the context ends, whatever happened. `start_s`: how long
    it may take to say hello, where that is longer than `silence_s`."""
    process = await spawner.spawn(account, lock_fd)
    well = False
    try:
        link = WorkerLink(process, silence_s)
        await link.hello(max(start_s, silence_s))
        yield link
        well = True
    finally:
        process.channel.close()
        if not well:  # silent, stopped by its user, talking nonsense, or the daemon stops: nothing to wait for
            process.kill_nowait()
        with trio.CancelScope(shield=True):
            with trio.move_on_after(_END_S) as patience:
                await process.wait()
            if patience.cancelled_caught:
                log.warning("worker %d did not end by itself: killed", process.pid)
                process.kill_nowait()
                with trio.move_on_after(_END_S):
                    await process.wait()
