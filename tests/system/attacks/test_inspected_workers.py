"""A15: nobody gets into a worker: not its user, not the service's own uid, from the moment on that its process exists.

The attacker (tests/fakes/intruder.py) is a process of that user, tries each new process of the machine over and over,
and has shown before that it gets into one that is not guarded.
"""

import pwd
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator

import pytest
import trio

from tests.fakes.accounts import Person, throw_away
from tests.fakes.monitored import ROOT, known, service, spawning, start
from tests.rows import Amount, Figure


@pytest.fixture(scope="module")
def alice() -> Iterator[Person]:
    with throw_away("inspected_a", "one", "two") as account:
        yield account


@pytest.mark.row("A15")
@pytest.mark.fails_with("dumpable")
@pytest.mark.parametrize("attacker", ["account", "service"])
async def test_nobody_gets_into_a_worker_from_its_first_microsecond_on(
    attacker: str, alice: Person, amount: Amount, figure: Figure
) -> None:
    races = amount(quick=50, long=200)
    user = pwd.getpwnam(alice.name) if attacker == "account" else service()
    words = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--init-groups", "--inh-caps=-all"]
    words += [sys.executable, "-I", str(ROOT / "tests/fakes/intruder.py")]
    workers: set[int] = set()
    lines: list[str] = []
    async with spawning() as (spawner, _), trio.open_nursery() as nursery:
        process = await nursery.start(_intruder, words)
        reader = _lines(process.stdout)
        while (line := await anext(reader)) != "ready":
            lines.append(line)
        assert {"able mem", "able ptrace", "able pidfd_getfd"} <= set(lines), (
            "this attacker could not get into anything"
        )
        for _ in range(races):
            worker = await start(spawner, known(alice))
            workers.add(worker.pid)
            await worker.channel.recv(65536)
            while f"tried {worker.pid}" not in lines:
                lines.append(await anext(reader))
            assert not [line for line in lines if line.startswith(f"got {worker.pid} ")]
            worker.channel.close()
            with trio.fail_after(10):  # a traced one would stay with its tracer
                await worker.wait()
        await process.stdin.aclose()
        lines += [line async for line in reader]
    tried = {int(line.split()[1]) for line in lines if line.startswith("tried")}
    had = {int(line.split()[1]) for line in lines if line.startswith("got")}
    assert workers <= tried
    assert len(workers) == races
    assert had & workers == set()
    figure(f"{attacker}: {len(had & workers)} of {len(workers)} workers reached by mem, ptrace or pidfd_getfd")


async def _intruder(words: list[str], task_status: trio.TaskStatus[trio.Process]) -> None:
    with trio.fail_after(120):
        await trio.run_process(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, task_status=task_status)


async def _lines(stream: trio.abc.ReceiveStream | None) -> AsyncIterator[str]:
    assert stream is not None
    rest = b""
    async for chunk in stream:
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield line.decode()
