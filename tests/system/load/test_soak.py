"""L2: work of every kind for as long as one likes, and the daemon is as large at the end as it was at the beginning.

Each round, every account gets files, scans, looks at lists, disinfects, undoes, deletes for good, and clients come and
go. Then all is quiet again, and memory, open files and processes are counted: what a round leaves behind, however
little, adds up. In the long form the memory's slope is the claim's: MB an hour, by least squares over all rounds after
the warm-up. The quick form has too few rounds for a slope: it bounds what may have been added.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import NamedTuple

import pytest

from tests.fakes.accounts import Person, throw_away
from tests.fakes.aftermath import children
from tests.fakes.crowd import connections, memory_kb, open_files
from tests.fakes.realclamd import EICAR
from tests.fakes.restoring import ended, items, put
from tests.fakes.running import PeerClient, RunningDaemon, wait_for
from tests.rows import Amount, Figure

ACCOUNTS = 2
FILES = 20
COMING_AND_GOING = 100
SLOPE_MB_H = 1.0
ADDED_KB = 2 << 10
"""In the quick form, after the warm-up: an allocator's pages. A kB a call would be three times as much."""


class Sample(NamedTuple):
    at_s: float
    memory_kb: int
    files: int
    processes: int


@pytest.fixture(scope="module")
def people() -> Iterator[list[Person]]:
    with ExitStack() as stack:
        yield [stack.enter_context(throw_away(f"soak_{number}")) for number in range(ACCOUNTS)]


def fill(person: Person) -> None:
    for number in range(FILES):
        put(person, f"d{number % 4}/f{number}", EICAR if number % 4 == 0 else b"fine %d" % number)


def work(clients: Sequence[PeerClient], people: Sequence[Person]) -> None:
    """One round, step by step for all of them at once, so that their jobs run beside each other."""
    for client, person in zip(clients, people, strict=True):
        fill(person)
        client.good("get_scan_paths")
        client.good("start_scan", {"scan_type": "home"})
    for client in clients:
        assert client.wait_scan()["infected_file_count"] == FILES // 4
        assert len(client.good("list_infected_files")) == FILES // 4
    tasks = [client.good("disinfect_files", {"actions": {}, "others": "quarantine"})["task_id"] for client in clients]
    for client in clients:
        assert client.wait_disinfection()[-1]["state"] == "success"
    undone = [
        client.call("Task.undo", {"task_id": task, "force": True}) for client, task in zip(clients, tasks, strict=True)
    ]
    for client, undo in zip(clients, undone, strict=True):
        ended(client, undo["task_id"])
        client.scan()
        client.disinfect({}, "delete")
        client.call("Quarantine.delete", {"ids": [item["id"] for item in items(client)]})
        client.call("Task.list", {"limit": 100})


def come_and_go(daemon: RunningDaemon, person: Person) -> None:
    """Politely, in mid-line, with the answer unread, with rubbish."""
    lines = (b'{"jsonrpc":"2.0","id":1,"method":"Daemon.version"}\n', b'{"jsonrpc":', b"", b"\xff\n")
    for number in range(0, COMING_AND_GOING, 20):
        with connections(daemon.socket_path, person.uid, 20) as socks:
            for sock in socks:
                sock.sendall(lines[number // 20 % len(lines)])
            if number == 0:
                assert all(sock.recv(4096) for sock in socks)


def quiet(daemon: RunningDaemon, began: float, files: int | None = None) -> Sample:
    """When nothing runs any more. `files`: the clients that went are let go when so many are open, or fewer."""

    def settled() -> bool:
        workers = len(children(children(daemon.pid)[0])) - 1
        return workers == 0 and (files is None or open_files(daemon.pid) <= files)

    wait_for(settled, f"the end of all workers, and at most {files} open files")
    (monitor,) = children(daemon.pid)
    memory = memory_kb(daemon.pid, "VmRSS") + memory_kb(monitor, "VmRSS")
    return Sample(time.monotonic() - began, memory, open_files(daemon.pid), len(children(monitor)) + 2)


def slope(samples: Sequence[Sample]) -> float:
    """MB an hour, by least squares."""
    times, values = [one.at_s for one in samples], [one.memory_kb for one in samples]
    middle, mean = sum(times) / len(times), sum(values) / len(values)
    above = sum((at - middle) * (value - mean) for at, value in zip(times, values, strict=True))
    return above / sum((at - middle) ** 2 for at in times) * 3_600 / 1_024


@pytest.mark.row("L2")
@pytest.mark.fails_with("answers-are-kept", "a-file-stays-open")
def test_rounds_of_mixed_work_leave_nothing_behind(people: list[Person], amount: Amount, figure: Figure) -> None:
    rounds, warm, seconds = amount(quick=6, long=100), amount(quick=3, long=50), amount(quick=0, long=2_400)
    samples: list[Sample] = []
    config = "[state]\nkeep_per_account = 5\n"  # so that what is kept is as much as it will be
    with RunningDaemon(config=config) as daemon, ExitStack() as stack:
        began = time.monotonic()
        clients = [stack.enter_context(daemon.client(person.uid)) for person in people]
        while len(samples) < rounds or time.monotonic() < began + seconds:
            work(clients, people)
            files = min([quiet(daemon, began).files, *(one.files for one in samples)])
            come_and_go(daemon, people[len(samples) % ACCOUNTS])
            samples.append(quiet(daemon, began, files))
            warm = max(warm, len([one for one in samples if one.at_s < seconds / 4]))
        assert "Traceback" not in daemon.log()
    steady = samples[warm:]
    assert len(steady) > 2
    assert len({one.processes for one in samples}) == 1
    assert len({one.files for one in steady}) == 1
    added = steady[-1].memory_kb - steady[0].memory_kb
    if seconds:
        assert slope(steady) < SLOPE_MB_H
        words = f"{slope(steady):+.2f} MB/h"
    else:
        assert added < ADDED_KB
        words = f"{added:+,} kB"
    figure(
        f"{len(samples)} rounds of {ACCOUNTS} accounts in {samples[-1].at_s:.0f} s: {words}, {steady[-1].files} files"
    )
