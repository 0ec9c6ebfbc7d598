"""A14: what the kernel says about every worker, of the real monitor and of a whole daemon under load.

Whether a worker is past its drop is told by what it does: one that has the home open has to be wholly dropped, sealed,
and to hold nothing but what its job needs. One that never is would never be judged; so enough of each have to be.
"""

import os
import pwd
import threading
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
import trio

from tests.fakes.accounts import Person, throw_away
from tests.fakes.aftermath import children
from tests.fakes.dropped import Look, fds_of_job, rights_of
from tests.fakes.monitored import probing, proc, spawning, status_of
from tests.fakes.realclamd import MARKER
from tests.fakes.restoring import items, put, restore, states, take
from tests.fakes.running import END_TIMEOUT_S, PeerClient, RunningDaemon
from tests.rows import Amount, Figure

FILES, INFECTED = 200, 20


@pytest.fixture(scope="module")
def alice() -> Iterator[Person]:
    with throw_away("dropped_a", "one", "two") as account:
        yield account


@pytest.fixture(scope="module")
def bob() -> Iterator[Person]:
    with throw_away("dropped_b") as account:
        yield account


@pytest.mark.row("A14")
@pytest.mark.fails_with("other-groups", "keeps-a-capability", "no-filter", "fds-left-open")
async def test_a_worker_is_the_account_and_nothing_else(alice: Person) -> None:
    assert len(alice.groups) == 3
    async with spawning() as (spawner, monitor), probing(spawner, alice) as probe:
        pid = probe.worker.pid
        look = Look.at(pid)
        assert look is not None
        assert rights_of(look.status, alice) == []
        assert not look.dumpable, "/proc/PID is root's"
        assert look.status["PPid"] == str(monitor)
        assert set(look.fds) == {0, 1, 2, 3, 4}
        assert look.fds[0] == look.fds[1] == look.fds[4] == "/dev/null"
        assert look.fds[3].startswith("socket:")
        assert os.getsid(pid) == pid
        assert os.getpriority(os.PRIO_PROCESS, pid) == 7
        assert os.readlink(f"/proc/{pid}/cwd") == "/"
        assert proc(pid, "environ") == "LC_ALL=C.UTF-8\0PATH=/usr/bin:/bin\0"


@pytest.mark.row("A14")
@pytest.mark.fails_with("other-groups", "keeps-a-capability", "no-filter")
async def test_fifty_workers_at_once_are_all_their_accounts(alice: Person, bob: Person) -> None:
    async with spawning() as (spawner, _):
        seen: list[str] = []

        async def one(account: Person) -> None:
            async with probing(spawner, account) as probe:
                seen.append(account.name)
                assert rights_of(status_of(probe.worker.pid), account) == []

        async with trio.open_nursery() as nursery:
            for number in range(50):
                nursery.start_soon(one, bob if number % 2 else alice)
        assert (seen.count(alice.name), seen.count(bob.name)) == (25, 25)
        assert spawner.statistics().running == 0


class Load(threading.Thread):
    """One account at work: scan, everything to the vault, everything back; until told to stop."""

    def __init__(self, client: PeerClient, stop: threading.Event) -> None:
        super().__init__()
        self._client = client
        self._stop_soon = stop
        self.rounds = 0
        self.trouble = ""

    def run(self) -> None:
        try:
            while not self._stop_soon.is_set():
                task = take(self._client, "quarantine")
                kept = [item["id"] for item in items(self._client, state="quarantined") if item["task_id"] == task]
                done = states(restore(self._client, kept, force=True))
                assert len(kept) == INFECTED, kept
                assert set(done) == {"restored", "success"}, done
                self.rounds += 1
        except Exception as error:
            self.trouble = repr(error)


@pytest.mark.row("A14")
@pytest.mark.fails_with("other-groups", "keeps-a-capability", "no-filter", "fds-left-open")
def test_every_worker_of_a_daemon_at_work_is_wholly_dropped(
    alice: Person, bob: Person, amount: Amount, figure: Figure
) -> None:
    people = {person.home: person for person in (alice, bob)}
    for person in people.values():
        for number in range(FILES):
            put(person, f"f{number:04}", b"clean\n" if number >= INFECTED else MARKER + b" %d\n" % number)
    wanted, judged, looks = amount(quick=16, long=400), dict[int, str](), 0
    stop = threading.Event()
    with RunningDaemon() as daemon, ExitStack() as clients:
        # Connected before there are threads: for a moment the whole process has the account's uid.
        load = [Load(clients.enter_context(daemon.client(person.uid)), stop) for person in people.values()]
        (monitor,) = children(daemon.pid)
        for thread in load:
            thread.start()
        try:
            while len(judged) < wanted and all(thread.is_alive() for thread in load):
                for pid in children(monitor):
                    looks += 1
                    if home := _judge(pid, daemon, people):
                        judged[pid] = home
        finally:
            stop.set()
            for thread in load:
                thread.join(END_TIMEOUT_S)
    assert [thread.trouble for thread in load] == [""] * len(load)
    assert len(judged) >= wanted
    assert set(judged.values()) == set(people)
    assert all(thread.rounds for thread in load)
    figure(f"{len(judged)} workers at work looked at in {looks:,} looks: all dropped, sealed, no further fd")


def _judge(pid: int, daemon: RunningDaemon, people: dict[str, Person]) -> str:
    """The home that this process works in, once it has been found to be as it must; "" for any other."""
    look = Look.at(pid)
    home = next((home for home in people if look is not None and look.has_opened(home)), "")
    if look is None or not home or look.status["Uid"].split()[0] == str(pwd.getpwnam("clamscannerd-engine").pw_uid):
        return ""  # the engine has open what it is just scanning
    assert look.status["Name"] == "csd-worker"
    assert rights_of(look.status, people[home]) == []
    assert not look.dumpable
    locks = (f"{daemon.state}/locks/{people[home].uid}",)
    assert fds_of_job(look.fds, home, locks, f"{daemon.state}/vault", str(daemon.log_path)) == []
    return home
