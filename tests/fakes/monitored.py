"""The real monitor as a process, with the test in the daemon's place, and workers that do what they are told.

Needs root and the service's users (tests/fakes/accounts.py). Workers are started by the real monitor and sealed by the
real worker/drop.py, but then run tests/fakes/probe_worker.py in place of worker/main.py.
"""

import contextlib
import json
import os
import pwd
import socket
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from clamscannerd import orders
from clamscannerd.model import Account
from clamscannerd.spawn import Spawner, WorkerProcess, open_spawner
from tests.fakes.accounts import Person, have_service_users

ROOT = Path(__file__).parents[2]
PROBE = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import clamscannerd.worker.drop as d"
PROBE += "; d.run('tests.fakes.probe_worker')"
MONITOR = "import socket, sys; from clamscannerd import monitor"
MONITOR += "; sys.exit(monitor.serve(socket.socket(fileno=int(sys.argv[1]))))"


def service() -> pwd.struct_passwd:
    have_service_users()
    return pwd.getpwnam("clamscannerd")


def usual_setup() -> orders.Setup:
    user, engine = service(), pwd.getpwnam("clamscannerd-engine")
    sleep = (b"/bin/sleep", b"1000")
    return orders.Setup(
        system=True,
        uid=user.pw_uid,
        gid=user.pw_gid,
        min_uid=1000,
        worker_nice=7,
        worker_io_priority=3 << 13,
        worker_cpu_policy=os.SCHED_BATCH,
        worker_cpu_s=77,
        worker=(os.fsencode(sys.executable), b"-I", b"-c", PROBE.encode()),
        engine=orders.Engine(engine.pw_uid, engine.pw_gid, 5, (b"", b""), (sleep, sleep)),
    )


class RunningMonitor:
    """The monitor as a process, and our end of its socket."""

    def __init__(self, setup: orders.Setup | None = None, stderr: int | None = None) -> None:
        self.channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            words = [sys.executable, "-c", MONITOR, str(theirs.fileno())]
            self.process = subprocess.Popen(words, pass_fds=[theirs.fileno()], stderr=stderr)
        self.channel.send((setup or usual_setup()).encode())

    def send(self, verb: int, job: int, value: int = 0, text: bytes = b"", fds: tuple[int, ...] = ()) -> None:
        self.send_raw(orders.Message(verb, job, value, text).encode(), fds)

    def send_raw(self, data: bytes, fds: tuple[int, ...] = ()) -> None:
        control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack(f"{len(fds)}i", *fds))] if fds else []
        self.channel.sendmsg([data], control)

    def receive(self) -> orders.Message:
        return orders.decode(self.channel.recv(4096), orders.TO_DAEMON)

    def ping(self) -> None:
        self.send(orders.PING, 77)
        assert self.receive() == orders.Message(orders.PONG, 77)


@contextlib.contextmanager
def running_monitor(setup: orders.Setup | None = None, stderr: int | None = None) -> Iterator[RunningMonitor]:
    monitor = RunningMonitor(setup, stderr)
    try:
        yield monitor
    finally:
        monitor.channel.close()
        monitor.process.wait(10)


@asynccontextmanager
async def spawning(setup: orders.Setup | None = None) -> AsyncIterator[tuple[Spawner, int]]:
    """A spawner, and the pid of its monitor, which must leave quietly at the end."""
    monitor = RunningMonitor(setup)
    try:
        async with open_spawner(monitor.channel) as spawner:
            await spawner.ping()
            yield spawner, monitor.process.pid
    finally:
        monitor.channel.close()
        assert await trio.to_thread.run_sync(monitor.process.wait, 10) == 0


@asynccontextmanager
async def probing(spawner: Spawner, account: Person) -> AsyncIterator["Probe"]:
    worker = await start(spawner, known(account))
    try:
        yield Probe(worker, json.loads(await worker.channel.recv(65536)))
    finally:
        worker.channel.close()
        with trio.CancelScope(shield=True), trio.fail_after(10):
            await worker.wait()


class Probe:
    """A sealed worker that evaluates what it is sent."""

    def __init__(self, worker: WorkerProcess, hello: dict[str, object]) -> None:
        self.worker = worker
        self.hello = hello

    async def ask(self, expression: str, *fds: int) -> dict[str, object]:
        control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack(f"{len(fds)}i", *fds))] if fds else []
        await self.worker.channel.sendmsg([expression.encode()], control)
        answer: dict[str, object] = json.loads(await self.worker.channel.recv(65536))
        return answer


async def start(spawner: Spawner, account: Account) -> WorkerProcess:
    """A worker, with /dev/null for the account's lock."""
    with null() as lock:
        return await spawner.spawn(account, lock)


@contextlib.contextmanager
def null() -> Iterator[int]:
    fd = os.open("/dev/null", os.O_RDONLY)
    try:
        yield fd
    finally:
        os.close(fd)


def known(account: Person) -> Account:
    return Account(uid=account.uid, gid=account.gid, name=account.name, home=account.home.encode())


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def proc(pid: int, name: str) -> str:
    return Path(f"/proc/{pid}/{name}").read_text()


def fds_of(pid: int) -> dict[int, str]:
    return {int(fd.name): os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir()}


def start_by_hand(monitor: RunningMonitor, account: Person, job: int = 10) -> tuple[socket.socket, int]:
    """Our end of a worker's channel, and its pid: it is up, sealed, and waits."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs, null() as lock:
        monitor.send(orders.SPAWN, job, account.uid, account.name.encode(), (theirs.fileno(), lock))
    started = monitor.receive()
    assert (started.verb, started.job) == (orders.STARTED, job)
    assert ours.recv(65536)
    return ours, started.value
