"""A19: what a hijacked engine could reach: nothing of the daemon's, of its state and vault, of a worker, of a home.

The real engine is a process with a user of its own and no rights; that is read from the kernel while it scans. What
that user can do is then tried by a script in its place (tests/fakes/engine_intruder.py), which shows first that each
kind of attempt succeeds on what is its own.
"""

import json
import os
import pwd
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from clamscannerd.errors import SpawnRefused
from clamscannerd.spawn import explain
from tests.fakes.accounts import Person, throw_away
from tests.fakes.aftermath import children
from tests.fakes.dropped import Look
from tests.fakes.monitored import ROOT, proc, spawning, status_of
from tests.fakes.restoring import put, take
from tests.fakes.running import RunningDaemon, wait_for
from tests.rows import Figure

ABLE = {
    ("process", "mem"),
    ("process", "mem, writing"),
    ("process", "ptrace"),
    ("process", "pidfd_getfd"),
    ("process", "signal"),
    ("process", "limits"),
    ("directory", "listing"),
    ("directory", "making a file"),
    ("directory", "removing a directory"),
    ("file", "reading"),
    ("file", "writing"),
    ("file", "renaming"),
}
READING = {"entering", "listing", "reading"}
"""What may be done to the few places that all the world may look at."""

TRIED = 200


@pytest.fixture(scope="module")
def alice() -> Iterator[Person]:
    with throw_away("beyond_engine") as account:
        yield account


def engine_user() -> pwd.struct_passwd:
    return pwd.getpwnam("clamscannerd-engine")


@pytest.mark.row("A19")
@pytest.mark.fails_with("engine-is-the-service")
async def test_the_engine_runs_as_its_own_user() -> None:
    async with spawning() as (spawner, _):
        engine = await spawner.start_engine(0)
        with trio.fail_after(10):
            while proc(engine.pid, "comm") != "sleep\n":
                await trio.lowlevel.checkpoint()
        _has_no_rights(status_of(engine.pid))
        with trio.fail_after(10):  # the loader still has a library open
            while set(os.listdir(f"/proc/{engine.pid}/fd")) != {"0", "1", "2"}:
                await trio.lowlevel.checkpoint()
        assert os.getpriority(os.PRIO_PROCESS, engine.pid) == 5
        with pytest.raises(SpawnRefused, match="running"):
            await spawner.start_engine(0)
        await spawner.stop_engine(0)
        assert spawner.engine(0) is None
        assert explain(await engine.wait()) == "signal 15"
        again = await spawner.start_engine(0)
        assert again.pid != engine.pid


def _has_no_rights(status: dict[str, str]) -> None:
    user = engine_user()
    assert status["Uid"].split() == [str(user.pw_uid)] * 4
    assert status["Gid"].split() == [str(user.pw_gid)] * 4
    assert status["Groups"] == ""
    for caps in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
        assert int(status[caps], 16) == 0
    assert status["NoNewPrivs"] == "1"


@pytest.mark.row("A19")
@pytest.mark.fails_with("state-open-to-all", "database-readable")
def test_what_the_engines_user_tries_is_refused(alice: Person, tmp_path: Path, figure: Figure) -> None:
    bad = put(alice, "bad")
    own = tmp_path / "own"
    own.mkdir()
    os.chown(own, engine_user().pw_uid, engine_user().pw_gid)
    for place in (tmp_path, *tmp_path.parents[:3]):
        place.chmod(place.stat().st_mode | 0o011)
    with RunningDaemon() as daemon, daemon.client(alice.uid) as client:
        (monitor,) = children(daemon.pid)
        (engine,) = [pid for pid in children(monitor) if proc(pid, "comm") == "clamd\n"]
        take(client)
        for number in range(2_000):  # a scan that is still at work when it is looked for
            put(alice, f"file{number}", b"clean\n", mode=0o600)
        bad = put(alice, "bad", mode=0o600)
        client.good("start_scan", {"scan_type": "home"})
        worker = wait_for(lambda: _at_work(monitor, alice), "a worker at work")
        os.kill(worker, signal.SIGSTOP)
        try:
            look = Look.at(engine)
            assert look is not None
            _has_no_rights(look.status)
            ours = [fd for fd, target in look.fds.items() if target.startswith(f"{daemon.state}/") and fd > 2]
            assert ours == [], "nothing of the daemon's is open in it"
            public = _public(daemon)
            targets = {
                "own": str(own),
                "user": alice.name,
                "pids": {daemon.pid: "daemon", monitor: "monitor", worker: "worker"},
                **_places(daemon, alice, bad, public),
            }
            said = _as_engine(json.dumps(targets))
        finally:
            os.kill(worker, signal.SIGCONT)
        assert client.wait_scan()["infected_files"] == [f"{alice.home}/bad"]
    assert {(what, how) for word, what, how in said if word == "able"} >= ABLE
    got = [(what, how) for word, what, how in said if word == "got"]
    assert [(what, how) for what, how in got if what not in public or how not in READING] == []
    tried = next(int(what) for word, what, _ in said if word == "tried")
    assert tried >= TRIED
    figure(f"{tried} attempts under the engine's uid, 0 beyond what all may read")


def _at_work(monitor: int, person: Person) -> int | None:
    for pid in children(monitor):
        look = Look.at(pid)
        if look is not None and look.has_opened(person.home) and look.status["Name"] == "csd-worker":
            return pid
    return None


def _public(daemon: RunningDaemon) -> list[str]:
    """Root's, or the daemon's, for everybody to see: the socket's directory, and configuration."""
    run = Path(daemon.socket_path).parent
    return [str(path) for path in (run, daemon.config_path, *Path(f"{run}-engine").glob("*.conf"))]


def _places(daemon: RunningDaemon, person: Person, bad: Path, public: list[str]) -> dict[str, list[str]]:
    """Those, and what the daemon and the account have for themselves: of the state all that there is."""
    state = list(daemon.state.rglob("*"))
    files = [path for path in state if path.is_file()]
    assert any(path.suffix == ".item" for path in files) or (daemon.state / "vault/small.db") in files
    assert len(public) >= 3
    return {
        "directories": [public[0], *map(str, (daemon.state, *filter(Path.is_dir, state), person.home))],
        "files": [*public[1:], *map(str, (*files, bad, daemon.socket_path))],
        "sockets": [daemon.socket_path],
    }


def _as_engine(targets: str) -> list[tuple[str, str, str]]:
    user = engine_user()
    words = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", "--no-new-privs"]
    words += ["--inh-caps=-all", sys.executable, "-I", str(ROOT / "tests/fakes/engine_intruder.py")]
    run = subprocess.run(words, input=targets, check=True, capture_output=True, text=True, timeout=60, cwd="/")
    lines = [[*line.split("\t"), "", ""][:3] for line in run.stdout.splitlines()]
    return [(word, what, how) for word, what, how in lines]
