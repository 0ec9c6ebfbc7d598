"""As root: workers that nobody can kill, since the kernel waits for a file system of the account's own making.

The account is suspended with the last of so many; calls say so, its job waits, others work, and it goes on by itself.
"""

import time
from collections.abc import Iterator

import pytest
import trio

from clamscannerd.errors import SpawnRefused
from clamscannerd.spawn import explain
from tests.fakes.accounts import Person, throw_away
from tests.fakes.hung import Hung
from tests.fakes.monitored import known, probing, proc, spawning, start, usual_setup
from tests.fakes.realclamd import EICAR
from tests.fakes.restoring import put
from tests.fakes.running import RunningDaemon, wait_for

BOUND = 256
HANGING = 12
CONFIG = "[accounts]\nmax_stuck = 2\n[scans]\nsilence_s = 2.0\nretries = 9\nmax_active = 1\n"


@pytest.fixture(scope="module")
def alice() -> Iterator[Person]:
    with throw_away("stuck_a") as account:
        yield account


@pytest.fixture(scope="module")
def bob() -> Iterator[Person]:
    with throw_away("stuck_b") as account:
        yield account


def test_an_account_whose_workers_hang_waits_and_nobody_else(alice: Person, bob: Person) -> None:
    for person in (alice, bob):
        put(person, "bad", EICAR)
    with RunningDaemon(config=CONFIG) as daemon, daemon.client(alice.uid) as client, daemon.client(bob.uid) as other:
        assert client.good("get_scan_paths")  # so that start_scan need not look again
        with Hung(alice.home, alice.uid, alice.gid) as hung:
            client.good("start_scan", {"scan_type": "home"})
            suspended = f"nothing starts for uid {alice.uid} until one ends: 2 of its workers were killed and hang"
            wait_for(lambda: suspended in daemon.log(), "the account to be suspended")
            assert hung.taken >= 2

            why = "2 of its workers were killed and hang in the kernel"
            began = time.monotonic()
            assert client.uapi("start_scan", {"scan_type": "home"})["errors"] == [f"cannot start the scan: {why}"]
            looked = client.uapi("get_scan_paths")
            assert looked["errors"] == [
                f"cannot look into the home directory: cannot start a worker for {alice.name}: {why}"
            ]
            assert time.monotonic() - began < 2.0, "no further worker was tried"

            waits = f"cannot start a worker for {alice.name}: {why}"
            wait_for(lambda: waits in daemon.log(), "its scan to wait")
            assert client.good("get_scan_status")["scan_complete"] == 0
            assert other.scan()["infected_files"] == [f"{bob.home}/bad"], "in the only place that there is for scans"
        ended = client.wait_scan()
        assert ended["infected_files"] == [f"{alice.home}/bad"]
        assert f"work for uid {alice.uid} goes on" in daemon.log()
        assert client.good("get_scan_paths")


async def test_workers_that_hang_take_no_place_of_others(alice: Person, bob: Person) -> None:
    """The monitor's bound is for those that work. Here the program is none of ours: it hangs for one account."""
    program = f'if [ "$0" = {alice.uid} ]; then exec stat -f {alice.home}; else exec sleep 1000; fi'
    setup = usual_setup()._replace(worker=(b"/bin/sh", b"-c", program.encode()))
    with Hung(alice.home) as hung:
        async with spawning(setup) as (spawner, _):
            spawner.max_stuck = HANGING
            stuck = [await start(spawner, known(alice)) for _ in range(HANGING)]
            await trio.to_thread.run_sync(wait_for, lambda: hung.taken == HANGING, "all of them to hang")
            for worker in stuck:
                worker.kill_nowait()
            await trio.to_thread.run_sync(wait_for, lambda: spawner.statistics().stuck == HANGING, "that to be noticed")
            assert {"State:\tD" in proc(worker.pid, "status") for worker in stuck} == {True}
            with pytest.raises(SpawnRefused, match="12 of its workers were killed and hang in the kernel"):
                await start(spawner, known(alice))
            working = [await start(spawner, known(bob)) for _ in range(BOUND)]
            with pytest.raises(SpawnRefused, match="256 workers are running"):
                await start(spawner, known(bob))
            hung.end()
            with trio.fail_after(30):
                for worker in stuck:
                    assert explain(await worker.wait()) == "signal 9"
            for worker in (*stuck, *working):
                worker.channel.close()


async def test_a_worker_over_its_processor_time_is_ended_by_the_kernel(alice: Person) -> None:
    async with spawning(usual_setup()._replace(worker_cpu_s=1)) as (spawner, _), probing(spawner, alice) as probe:
        await probe.worker.channel.send(b"[0 for _ in iter(int, 1)]")
        with trio.fail_after(120):
            assert explain(await probe.worker.wait()) == "signal 24: it used up its processor time"
