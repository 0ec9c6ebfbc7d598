"""spawn.py against a scripted monitor: many jobs at once, refusals, lost monitors, and fds that never leak."""

import os
import resource
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from clamscannerd import orders, rights
from clamscannerd.errors import MonitorLost, SpawnRefused
from clamscannerd.model import Account
from clamscannerd.orders import Message
from clamscannerd.spawn import Spawner, explain, open_spawner

ALICE = Account(uid=1001, gid=1001, name="alice", home=b"/home/alice")


class Script:
    """The monitor's end: what came, and what we say to it."""

    def __init__(self, end: socket.socket) -> None:
        self.end = trio.socket.from_stdlib_socket(end)
        self.fds: list[int] = []

    async def take(self) -> Message:
        data, control, flags, _ = await self.end.recvmsg(65536, socket.CMSG_SPACE(64), socket.MSG_CMSG_CLOEXEC)
        assert flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC) == 0
        self.close()
        self.fds = [fd for _, _, words in control for (fd,) in struct.iter_unpack("i", words)]
        return orders.decode(data, orders.TO_MONITOR)

    async def say(self, verb: int, job: int, value: int = 0, text: bytes = b"") -> None:
        await self.end.send(Message(verb, job, value, text).encode())

    def close(self) -> None:
        for fd in self.fds:
            os.close(fd)
        self.fds = []


@asynccontextmanager
async def scripted() -> AsyncIterator[tuple[Spawner, Script]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    script = Script(theirs)
    before = set(os.listdir("/proc/self/fd"))
    try:
        async with open_spawner(ours) as spawner:
            yield spawner, script
    finally:
        script.close()
        script.end.close()
    assert set(os.listdir("/proc/self/fd")) < before


async def spawn(spawner: Spawner, account: Account = ALICE) -> None:
    """Start one, and let it be."""
    lock = os.open("/dev/null", os.O_RDONLY)
    try:
        worker = await spawner.spawn(account, lock)
    finally:
        os.close(lock)
    with worker.channel:
        await worker.wait()


async def test_a_worker_is_asked_for_by_uid_and_name_with_two_fds() -> None:
    async with scripted() as (spawner, script), trio.open_nursery() as nursery:
        nursery.start_soon(spawn, spawner)
        asked = await script.take()
        assert asked == Message(orders.SPAWN, 9, 1001, b"alice")
        channel, lock = script.fds
        assert os.path.samestat(os.fstat(lock), os.stat("/dev/null"))
        with socket.socket(fileno=os.dup(channel)) as end:
            assert end.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE) == socket.SOCK_SEQPACKET
            end.send(b"x" * 131_072)  # MAX_MESSAGE_BYTES of worker/messages.py, without anybody reading
        await script.say(orders.STARTED, 9, 4711)
        await wait_all_tasks_blocked()
        assert spawner.statistics().running == 1
        await script.say(orders.EXITED, 9, 9)


async def test_answers_find_their_jobs_in_any_order() -> None:
    async with scripted() as (spawner, script):
        pids: dict[str, int] = {}

        async def one(name: str, lock: int) -> None:
            worker = await spawner.spawn(Account(uid=1000 + len(name), gid=0, name=name, home=b"/"), lock)
            pids[name] = worker.pid
            with worker.channel:
                assert await worker.wait() == worker.pid << 8 & 0xFF00

        lock = os.open("/dev/null", os.O_RDONLY)
        async with trio.open_nursery() as nursery:
            for number in range(1, 21):
                nursery.start_soon(one, "a" * number, lock)
            jobs = {asked.job: len(asked.text) for asked in [await script.take() for _ in range(20)]}
            for job in sorted(jobs, reverse=True):
                await script.say(orders.STARTED, job, jobs[job])
            for job in jobs:
                await script.say(orders.EXITED, job, jobs[job] << 8)
        os.close(lock)
        assert pids == {"a" * number: number for number in range(1, 21)}
        assert spawner.statistics().started == 20


async def test_a_refusal_says_who_and_why() -> None:
    async with scripted() as (spawner, script), trio.open_nursery() as nursery:

        async def refused() -> None:
            with pytest.raises(SpawnRefused, match=r"cannot start a worker for alice: uid 1001 is odd \(Operation"):
                await spawn(spawner)

        nursery.start_soon(refused)
        asked = await script.take()
        await script.say(orders.REFUSED, asked.job, 1, b"uid 1001 is odd")


@pytest.mark.parametrize("name", ["", "a" * 256, "al\0ice"])
async def test_a_name_that_would_end_the_monitor_is_not_sent(name: str) -> None:
    async with scripted() as (spawner, _):
        with pytest.raises(SpawnRefused):
            await spawn(spawner, Account(uid=1001, gid=0, name=name, home=b"/"))


@pytest.mark.parametrize("left", [0, 1, 2])
async def test_without_an_fd_left_a_spawn_is_refused_and_leaks_none(left: int) -> None:
    """Of the three that it needs; when there are some again, it works."""
    async with scripted() as (spawner, script), trio.open_nursery() as nursery:
        lock = os.open("/dev/null", os.O_RDONLY)
        before = os.listdir("/proc/self/fd")
        with no_more_fds_than(left), pytest.raises(SpawnRefused, match="cannot start a worker for alice: Too many"):
            await spawner.spawn(ALICE, lock)
        assert os.listdir("/proc/self/fd") == before
        os.close(lock)
        nursery.start_soon(spawn, spawner)
        asked = await script.take()
        await script.say(orders.STARTED, asked.job, 5)
        await script.say(orders.EXITED, asked.job, 9)


@contextmanager
def no_more_fds_than(number: int) -> Iterator[None]:
    """`number` more fds can be opened; the rest is taken."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, soft), hard))
    taken = []
    try:
        with suppress(OSError):
            while True:
                taken.append(os.open("/dev/null", os.O_RDONLY))
        for _ in range(number):
            os.close(taken.pop())
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in taken:
            os.close(fd)


async def test_a_cancelled_spawn_is_killed() -> None:
    async with scripted() as (spawner, script), trio.open_nursery() as nursery:
        scope = trio.CancelScope()

        async def cancelled() -> None:
            with scope:
                await spawn(spawner)

        nursery.start_soon(cancelled)
        await wait_all_tasks_blocked()
        scope.cancel()
        assert (await script.take()).verb == orders.SPAWN
        assert await script.take() == Message(orders.KILL, 9)
        await script.say(orders.STARTED, 9, 5)
        await script.say(orders.EXITED, 9, 9)


async def test_killing_goes_out_behind_what_was_asked_before_even_when_the_monitor_reads_nothing() -> None:
    async with scripted() as (spawner, script), trio.open_nursery() as nursery:
        scope = trio.CancelScope()

        async def flood() -> None:
            with scope:
                async with trio.open_nursery() as inner:
                    for _ in range(2_000):
                        inner.start_soon(spawner.ping)
                    inner.start_soon(spawn, spawner)

        nursery.start_soon(flood)
        await wait_all_tasks_blocked()
        scope.cancel()
        await wait_all_tasks_blocked()
        got = [await script.take() for _ in range(2_002)]
        verbs = [message.verb for message in got if message.verb != orders.PING]
        assert verbs == [orders.SPAWN, orders.KILL]


async def test_a_monitor_that_ends_ends_what_is_inside() -> None:
    async def inside() -> None:
        async with scripted() as (spawner, script):
            script.end.close()
            await spawner.ping()

    with pytest.raises(MonitorLost, match="the monitor ended"):
        await inside()


async def test_a_monitor_that_ends_with_messages_unread_is_lost_too() -> None:
    async def inside() -> None:
        async with scripted() as (spawner, script), trio.open_nursery() as nursery:
            nursery.start_soon(spawn, spawner)
            await wait_all_tasks_blocked()
            script.end.close()

    with pytest.raises(MonitorLost):
        await inside()


async def test_who_cleans_up_out_of_reach_of_a_cancellation_does_not_wait_for_what_a_lost_monitor_started() -> None:
    ends: list[str] = []

    async def inside() -> None:
        async with scripted() as (spawner, script), trio.open_nursery() as nursery:

            async def use() -> None:
                with open("/dev/null", "rb") as lock:  # noqa: ASYNC230
                    worker = await spawner.spawn(ALICE, lock.fileno())
                try:
                    await trio.sleep_forever()
                finally:
                    with trio.CancelScope(shield=True), trio.fail_after(5):
                        worker.kill_nowait()
                        ends.append((await worker.wait_end())[0])
                        await spawner.stop_engine(1)
                    worker.channel.close()

            nursery.start_soon(use)
            nursery.start_soon(spawner.start_engine, 1)
            jobs = [(await script.take()).job for _ in range(2)]
            for job in jobs:
                await script.say(orders.STARTED, job, 5)
            await wait_all_tasks_blocked()
            script.end.close()

    with pytest.raises(MonitorLost):
        await inside()
    assert ends == ["exit code 83: the monitor ended meanwhile"]


@pytest.mark.parametrize(
    ("status", "no_program"), [(0, False), (9, False), (1 << 8, True), (80 << 8, True), (81 << 8, False)]
)
async def test_a_program_that_cannot_run_is_told_from_a_worker_that_ended(status: int, *, no_program: bool) -> None:
    async with scripted() as (spawner, script), trio.open_nursery() as nursery:

        async def use() -> None:
            with open("/dev/null", "rb") as lock:  # noqa: ASYNC230
                worker = await spawner.spawn(ALICE, lock.fileno())
            with worker.channel:
                assert await worker.wait_end() == (explain(status), no_program)

        nursery.start_soon(use)
        job = (await script.take()).job
        await script.say(orders.STARTED, job, 5)
        await script.say(orders.EXITED, job, status)


async def test_a_ping_is_answered_by_its_own_pong() -> None:
    async with scripted() as (spawner, script), trio.open_nursery() as nursery:
        done: list[int] = []

        async def ping(number: int) -> None:
            await spawner.ping()
            done.append(number)

        for number in range(2):
            nursery.start_soon(ping, number)
            await wait_all_tasks_blocked()
        first, second = await script.take(), await script.take()
        await script.say(orders.PONG, second.job)
        await wait_all_tasks_blocked()
        assert done == [1]
        await script.say(orders.PONG, first.job)


async def test_an_engine_that_does_not_stop_is_killed(autojump_clock: trio.testing.MockClock) -> None:
    async with scripted() as (spawner, script), trio.open_nursery() as nursery:
        assert spawner.engine(1) is None
        await spawner.stop_engine(1)
        nursery.start_soon(spawner.start_engine, 1)
        assert await script.take() == Message(orders.ENGINE_START, 1)
        await script.say(orders.STARTED, 1, 99)
        await wait_all_tasks_blocked()
        engine = spawner.engine(1)
        assert engine is not None
        nursery.start_soon(spawner.stop_engine, 1)
        assert await script.take() == Message(orders.ENGINE_STOP, 1)
        assert await script.take() == Message(orders.KILL, 1)
        await script.say(orders.EXITED, 1, 9)
        assert explain(await engine.wait()) == "signal 9"
        assert autojump_clock.current_time() >= 5


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (0, "exit code 0"),
        (9, "signal 9"),
        (24, "signal 24: it used up its processor time"),
        (rights.EXIT_ACCOUNT << 8, "exit code 81: the account is gone or has another name"),
        (rights.EXIT_RIGHTS << 8, "exit code 82: the worker could not prove that it gave up all rights"),
    ],
)
def test_a_wait_status_is_explained(status: int, words: str) -> None:
    assert explain(status) == words
