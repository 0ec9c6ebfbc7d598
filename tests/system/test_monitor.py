"""As root: whom the real monitor refuses, what it keeps for itself, and who dies with whom."""

import os
import select
import signal
import subprocess
from collections.abc import Iterator

import pytest
import trio

from clamscannerd import orders, rights
from clamscannerd.errors import MonitorLost, SpawnRefused
from clamscannerd.model import Account
from clamscannerd.spawn import explain, open_spawner
from tests.fakes.accounts import Person, throw_away
from tests.fakes.monitored import (
    RunningMonitor,
    fds_of,
    known,
    null,
    probing,
    proc,
    running_monitor,
    service,
    spawning,
    start,
    start_by_hand,
    status_of,
    usual_setup,
)

THREE = 1 << 5 | 1 << 6 | 1 << 7


@pytest.fixture(scope="module")
def alice() -> Iterator[Person]:
    with throw_away("alice", "one", "two") as account:
        yield account


@pytest.fixture(scope="module")
def bob() -> Iterator[Person]:
    with throw_away("bob") as account:
        yield account


# --- who is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("uid", [0, 65534, 2**32 - 1, 33, 999])
async def test_no_worker_for_what_is_no_account(uid: int) -> None:
    async with spawning() as (spawner, _):
        with pytest.raises(SpawnRefused, match="uid"):
            await start(spawner, Account(uid=uid, gid=uid, name="root", home=b"/root"))
        assert spawner.statistics().refused == 1


@pytest.mark.parametrize("name", ["root", "csd_test_bo", "csd_test_bobo", "1000", "--help"])
async def test_no_worker_under_another_name(name: str, bob: Person) -> None:
    async with spawning() as (spawner, _):
        worker = await start(spawner, Account(uid=bob.uid, gid=0, name=name, home=b"/"))
        with worker.channel:
            assert os.waitstatus_to_exitcode(await worker.wait()) == rights.EXIT_ACCOUNT


async def test_no_worker_for_a_uid_without_an_entry() -> None:
    async with spawning() as (spawner, _):
        worker = await start(spawner, Account(uid=59_999, gid=0, name="ghost", home=b"/"))
        with worker.channel:
            assert "the account is gone" in explain(await worker.wait())


async def test_the_gid_and_groups_asked_for_are_not_listened_to(bob: Person) -> None:
    async with spawning() as (spawner, _), probing(spawner, bob._replace(gid=0, groups=(0,))) as probe:
        status = status_of(probe.worker.pid)
        assert status["Gid"].split() == [str(bob.gid)] * 4
        assert sorted(map(int, status["Groups"].split())) == list(bob.groups)


# --- the monitor itself ------------------------------------------------------------------------------------------


def test_the_monitor_keeps_three_capabilities_and_no_more() -> None:
    with running_monitor() as monitor:
        monitor.ping()
        pid, status, user = monitor.process.pid, status_of(monitor.process.pid), service()
        assert status["Uid"].split() == [str(user.pw_uid)] * 4
        assert status["Gid"].split() == [str(user.pw_gid)] * 4
        assert status["Groups"] == ""
        for caps in ("CapInh", "CapPrm", "CapEff", "CapAmb", "CapBnd"):
            assert int(status[caps], 16) == THREE
        assert (status["NoNewPrivs"], status["Threads"]) == ("1", "1")
        assert os.stat(f"/proc/{pid}/mem").st_uid == 0
        assert int(status["VmRSS"].split()[0]) <= 15 * 1024
        assert set(fds_of(pid)) - {0, 1, 2} == {monitor_fd(pid)}


def monitor_fd(pid: int) -> int:
    """The one socket that it has."""
    (fd,) = [fd for fd, what in fds_of(pid).items() if fd > 2 and what.startswith("socket:")]
    return fd


def test_signals_of_a_terminal_do_not_end_the_monitor() -> None:
    with running_monitor() as monitor:
        monitor.ping()
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            monitor.process.send_signal(signum)
        monitor.ping()
        monitor.channel.close()
        assert monitor.process.wait(10) == 0


def ended(pidfd: int) -> bool:
    """Whether it ends within 10 s."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    try:
        return bool(poll.poll(10_000))
    finally:
        os.close(pidfd)


MALFORMED = {
    "nothing known": (b"\xff" * 17, 0),
    "short": (b"\2", 0),
    "a second SETUP": (b"", 0),
    "SPAWN without fds": (orders.Message(orders.SPAWN, 15, 1000, b"a").encode(), 0),
    "SPAWN with one fd": (orders.Message(orders.SPAWN, 15, 1000, b"a").encode(), 1),
    "SPAWN with three fds": (orders.Message(orders.SPAWN, 15, 1000, b"a").encode(), 3),
    "SPAWN of a running job": (orders.Message(orders.SPAWN, 10, 1000, b"a").encode(), 2),
    "SPAWN in an engine's place": (orders.Message(orders.SPAWN, 8, 1000, b"a").encode(), 2),
    "KILL with an fd": (orders.Message(orders.KILL, 10).encode(), 1),
    "an engine in a worker's place": (orders.Message(orders.ENGINE_START, 10).encode(), 0),
    "too long": (b"\2" * (orders.MAX_MESSAGE_BYTES + 1), 0),
}


@pytest.mark.parametrize("case", sorted(MALFORMED))
def test_a_malformed_message_ends_the_monitor_and_its_workers(case: str, alice: Person) -> None:
    data, count = MALFORMED[case]
    with running_monitor(stderr=subprocess.DEVNULL) as monitor, null() as fd:
        channel, pid = start_by_hand(monitor, alice)
        pidfd = os.pidfd_open(pid)
        monitor.send_raw(data or usual_setup().encode(), (fd,) * count)
        assert monitor.process.wait(10) == 1
        assert ended(pidfd)
        channel.close()


def test_the_end_of_the_daemon_ends_workers_engine_and_monitor(alice: Person) -> None:
    with running_monitor() as monitor:
        channel, pid = start_by_hand(monitor, alice)
        pidfd = os.pidfd_open(pid)
        monitor.send(orders.ENGINE_START, 1)
        engine = os.pidfd_open(monitor.receive().value)
        monitor.channel.close()
        assert ended(pidfd)
        assert ended(engine)
        assert monitor.process.wait(10) == 0
        channel.close()


def test_the_monitors_sudden_end_takes_workers_and_engine_with_it(alice: Person) -> None:
    with running_monitor() as monitor:
        channel, pid = start_by_hand(monitor, alice)
        pidfd = os.pidfd_open(pid)
        monitor.send(orders.ENGINE_START, 1)
        pid = monitor.receive().value
        engine = os.pidfd_open(pid)
        while proc(pid, "comm") != "sleep\n":
            os.sched_yield()  # until its exec, which comes after the parent's death signal was asked for
        monitor.process.kill()
        assert ended(pidfd)
        assert ended(engine)
        channel.close()


async def test_the_monitors_end_is_the_daemons() -> None:
    monitor = RunningMonitor()

    async def daemon() -> None:
        async with open_spawner(monitor.channel) as spawner:
            await spawner.ping()
            monitor.process.kill()
            await trio.sleep_forever()

    with trio.fail_after(10), pytest.raises(MonitorLost):
        await daemon()
    monitor.process.wait(10)


async def test_no_engine_where_none_is_set_up() -> None:
    async with spawning(usual_setup()._replace(engine=None)) as (spawner, _):
        with pytest.raises(SpawnRefused, match="no private engine is set up"):
            await spawner.start_engine(1)


async def test_engines_beyond_those_that_are_set_up_are_refused_and_the_others_run_beside_each_other() -> None:
    async with spawning() as (spawner, _):
        with pytest.raises(SpawnRefused, match="2 private engines are set up"):
            await spawner.start_engine(2)
        first, second = await spawner.start_engine(0), await spawner.start_engine(1)
        await spawner.stop_engine(0)
        assert explain(await first.wait()) == "signal 15"
        assert spawner.engine(1) is second


async def test_an_interpreter_that_cannot_run_is_told_from_a_failed_job(alice: Person) -> None:
    async with spawning(usual_setup()._replace(worker=(b"/nonexistent/python",))) as (spawner, _):
        worker = await start(spawner, known(alice))
        with worker.channel:
            assert "program cannot be run" in explain(await worker.wait())


async def test_workers_have_a_bound(alice: Person) -> None:
    """The monitor's own, whatever the daemon thinks: here with a program that only waits."""
    async with spawning(usual_setup()._replace(worker=(b"/bin/sh", b"-c", b"exec sleep 1000"))) as (spawner, _):
        workers = [await start(spawner, known(alice)) for _ in range(256)]
        with pytest.raises(SpawnRefused, match="256 workers are running"):
            await start(spawner, known(alice))
        for worker in workers:
            worker.channel.close()
            worker.kill_nowait()
        for worker in workers:
            await worker.wait()
        (await start(spawner, known(alice))).channel.close()
