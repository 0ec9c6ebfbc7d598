"""engine/unit.py against real clamds behind sockets that somebody else opened: what it starts, leaves and ends."""

import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from clamscannerd.engine.privately import EngineSettings
from clamscannerd.engine.sessions import open_engines
from clamscannerd.engine.unit import UnitEngine, UnitEngines
from tests.fakes.engines import until_ready
from tests.fakes.realclamd import CLAMD, EICAR, RealClamd, ndb

WAIT_S = 30.0


class Activated:
    """clamd as its socket unit starts it: the listening socket is ours and outlives it."""

    def __init__(self, directory: Path, name: str) -> None:
        self.path = str(directory / f"{name}.sock")
        self._listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listening.bind(self.path)
        self._listening.listen()
        self._conf = RealClamd(directory / name)
        self._conf.conf_path.write_text("".join(f"{key} {value}\n" for key, value in self._conf.options.items()))
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        fd = self._listening.fileno()
        # LISTEN_PID has to be the program's own, which exec keeps.
        script = f'exec 3<&{fd} {fd}<&-; LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" -F -c "$1"'
        words = ["bash", "-c", script, CLAMD, str(self._conf.conf_path)]
        self.process = subprocess.Popen(words, pass_fds=[fd], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        self._listening.close()
        self._conf.close()


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Activated, Activated]]:
    """The engine of the signatures, and the one of the test signature; both run."""
    made = (Activated(tmp_path, "1"), Activated(tmp_path, "builtin"))
    for one in made:
        one.start()
    yield made
    for one in made:
        one.close()


def settings(database: Path) -> EngineSettings:
    return EngineSettings(sockets="private", database=str(database), check_interval_s=0.1)


def engine(pair: tuple[Activated, Activated]) -> UnitEngines:
    """Files of configuration are not there unless a test makes them."""
    return UnitEngines((pair[1].path, f"{pair[1].path}.conf"), lambda: [(pair[0].path, f"{pair[0].path}.conf")])


async def test_it_is_found_by_its_socket_and_stays_when_the_daemon_leaves(
    pair: tuple[Activated, Activated], tmp_path: Path
) -> None:
    database = tmp_path / "db"
    database.mkdir()
    (database / "test.ndb").write_bytes(ndb("Eicar", EICAR))
    for _ in range(2):  # a daemon, and the one after it
        with trio.fail_after(WAIT_S):
            async with open_engines(settings(database), engine(pair)) as engines:
                await engines.wait_ready(WAIT_S)
                assert engines.state().signatures
                assert engines.state().address == pair[0].path
    for one in pair:
        assert one.process is not None
        assert one.process.poll() is None


async def test_real_signatures_end_the_engine_of_the_test_signature_and_no_other(
    pair: tuple[Activated, Activated], tmp_path: Path
) -> None:
    signatures, builtin = pair
    assert builtin.process is not None
    assert signatures.process is not None
    database = tmp_path / "db"
    database.mkdir()
    with trio.fail_after(WAIT_S):
        async with open_engines(settings(database), engine(pair)) as engines:
            await engines.wait_ready(WAIT_S)
            assert not engines.state().signatures
            (database / "test.ndb").write_bytes(ndb("Eicar", EICAR))
            state = engines.state()
            while not (state.kind == "ready" and state.signatures):
                state = await engines.wait_changed(state)
            assert await trio.to_thread.run_sync(builtin.process.wait) == 0
    assert signatures.process.poll() is None


async def test_its_limits_are_what_stands_in_the_file_that_it_is_configured_by(
    pair: tuple[Activated, Activated], tmp_path: Path
) -> None:
    database = tmp_path / "db"
    database.mkdir()
    (database / "test.ndb").write_bytes(ndb("Eicar", EICAR))
    conf = trio.Path(f"{pair[0].path}.conf")
    with trio.fail_after(WAIT_S):
        async with open_engines(settings(database), engine(pair)) as engines:
            await engines.wait_ready(WAIT_S)
            assert engines.state().max_file_size == settings(database).max_file_size
            await conf.write_text("MaxFileSize 3M\nMaxScanSize 3M\nMaxThreads 4\n")  # a reload's, while it runs
            while (state := engines.state()).max_file_size != 3 << 20:
                await engines.wait_changed(state)
            assert engines.state().max_threads == 4


async def test_their_number_may_change_while_the_daemon_runs(tmp_path: Path) -> None:
    """As a reload does it, by more or fewer files of configuration and sockets."""
    database = tmp_path / "db"
    database.mkdir()
    (database / "test.ndb").write_bytes(ndb("Eicar", EICAR))
    made = [Activated(tmp_path, "1"), Activated(tmp_path, "2")]
    there = [(one.path, f"{one.path}.conf") for one in made]
    now = there[:1]
    try:
        for one in made:
            one.start()
        with trio.fail_after(WAIT_S):
            units = UnitEngines((str(tmp_path / "none"), "/nonexistent"), lambda: now)
            async with open_engines(settings(database), units) as engines:
                await until_ready(engines, 1)
                first = engines.states()[0]
                now = there
                await until_ready(engines, 2)
                assert engines.states()[0].since == first.since, "it was there all the time"
                now = there[:1]
                while len(engines.states()) != 1:
                    await engines.changed().wait()
                assert engines.state().kind == "ready"
        for one in made:
            assert one.process is not None
            assert one.process.poll() is None, "systemd's to end"
    finally:
        for one in made:
            one.close()


async def test_an_engine_that_is_gone_is_no_reason_to_fail(tmp_path: Path) -> None:
    missing = UnitEngine(str(tmp_path / "1"), "/nonexistent")
    with trio.fail_after(WAIT_S):
        await missing.start()
        await missing.dismiss()
