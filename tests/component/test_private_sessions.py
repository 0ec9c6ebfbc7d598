"""engine/sessions.py with the private clamd, run by its own configuration: chosen, looked after, changed over."""

import grp
import io
import os
import shutil
import signal
import socket
import stat
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from clamscannerd.engine import control, privately
from clamscannerd.engine.clamproto import ReplyKind
from clamscannerd.engine.privately import PrivateEngines
from clamscannerd.engine.sessions import open_engines
from clamscannerd.errors import EngineLost, RemoteProtocolError
from tests.fakes.clamd import FakeClamd
from tests.fakes.engines import PATIENCE_S, Private, scan, settings, until, until_ready
from tests.fakes.realclamd import EICAR, MARKER, RealClamd, ndb


@pytest.fixture
def place() -> Iterator[Path]:
    """Short enough for the name of a Unix socket."""
    directory = Path(tempfile.mkdtemp(prefix="engines-"))
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def private(place: Path) -> Iterator[Private]:
    with Private(place, {}) as engine:
        yield engine


def zipped(content: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("member", content)
    return stream.getvalue()


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a directory away")
def test_the_socket_belongs_to_the_group_of_its_directory_and_to_nobody_else(private: Private) -> None:
    clamd = private.clamds["builtin"]
    group = grp.getgrnam("daemon").gr_gid
    os.chown(clamd.directory, -1, group)
    clamd.directory.chmod(0o2750)
    clamd.start()
    status = os.stat(clamd.socket_path)
    assert (stat.S_IMODE(status.st_mode), status.st_gid) == (0o660, group)


async def test_a_reload_to_another_engine_ends_the_private_one_and_one_back_starts_it(
    place: Path, private: Private
) -> None:
    with FakeClamd(f"{place}/other") as other:
        own = settings("private", database=str(private.database))
        async with open_engines(own, private) as engines:
            assert not (await until(engines, "ready")).shared
            engines.reload(settings((other.socket_path,)))
            with trio.fail_after(PATIENCE_S):
                while not (state := engines.state()).shared or state.kind != "ready":
                    await engines.wait_changed(state)
            assert not private.running()
            engines.reload(own)
            assert engines.state().shared, "nothing has run since"
            with trio.fail_after(PATIENCE_S):
                while (state := engines.state()).shared or state.kind != "ready":
                    await engines.wait_changed(state)
            assert private.running()
        assert not private.running()


async def test_auto_takes_the_systems_clamd_when_it_answers(private: Private) -> None:
    with RealClamd() as real:
        conf = settings("auto", clamd_conf=str(real.conf_path), database=str(private.database))
        async with open_engines(conf, private) as engines:
            state = await until(engines, "ready")
            assert (state.shared, state.address) == (True, real.socket_path)
    assert private.started == []


async def test_auto_waits_for_an_enabled_clamd(place: Path, private: Private, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "system_clamd_enabled", lambda: True)
    file = place / "clamd.conf"
    file.write_text(f"LocalSocket {place}/late\n")
    private.clamds["signatures"].add("main.ndb", ndb("Test.Marker", MARKER))
    async with open_engines(settings("auto", clamd_conf=str(file), database=str(private.database)), private) as engines:
        with trio.fail_after(PATIENCE_S):
            state = engines.state()
            while "waited for" not in state.reason:
                state = await engines.wait_changed(state)
        assert state.kind == "starting"
        with FakeClamd(f"{place}/late"):
            assert (await until(engines, "ready")).shared
    assert private.started == []


async def test_auto_waits_for_no_clamd_that_has_no_signatures_to_start_with(
    place: Path, private: Private, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "system_clamd_enabled", lambda: True)
    file = place / "clamd.conf"
    file.write_text(f"LocalSocket {place}/never\n")
    conf = settings("auto", clamd_conf=str(file), database=str(private.database), auto_wait_s=10 * PATIENCE_S)
    async with open_engines(conf, private) as engines:
        assert not (await until(engines, "ready")).signatures


async def test_auto_gives_an_enabled_clamd_that_never_comes_up_for_the_private_one(
    place: Path, private: Private, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "system_clamd_enabled", lambda: True)
    file = place / "clamd.conf"
    file.write_text(f"LocalSocket {place}/never\n")
    private.clamds["signatures"].add("main.ndb", ndb("Test.Marker", MARKER))
    conf = settings("auto", clamd_conf=str(file), database=str(private.database), auto_wait_s=0.2)
    async with open_engines(conf, private) as engines:
        assert not (await until(engines, "ready")).shared


async def test_without_signatures_the_builtin_one_finds_the_test_file_and_says_so(private: Private) -> None:
    conf = settings("auto", database=str(private.database))
    async with open_engines(conf, private) as engines:
        state = await until(engines, "ready")
        assert (state.signatures, state.shared, state.max_file_size) == (False, False, 50 << 20)
        assert state.warnings() == ("Only the EICAR test signature is loaded: no file is called clean.",)
        for content in (EICAR, EICAR + b"\r\n", zipped(EICAR)):
            assert await trio.to_thread.run_sync(scan, await engines.open_session(), content) is ReplyKind.FOUND
        assert await trio.to_thread.run_sync(scan, await engines.open_session(), b"quote: " + EICAR) is ReplyKind.OK
    assert private.started == ["builtin"]
    assert not private.running()


async def test_the_builtin_engine_changes_over_when_real_signatures_appear(private: Private) -> None:
    async with open_engines(settings("private", database=str(private.database)), private) as engines:
        await until(engines, "ready", signatures=False)
        old = await engines.open_session()
        private.clamds["signatures"].add("main.ndb", ndb("Test.Marker", MARKER))
        state = await until(engines, "ready", signatures=True)
        assert state.warnings() == ()
        assert await trio.to_thread.run_sync(scan, await engines.open_session(), MARKER) is ReplyKind.FOUND
        with old:
            assert old.recv(1) == b""
    assert private.started == ["builtin", "signatures"]


async def test_a_private_engine_that_ends_is_started_again(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(privately, "FIRST_BACKOFF_S", 0.05)
    with Private(place, {"main.ndb": ndb("Test.Marker", MARKER)}) as engine:
        async with open_engines(settings("private", database=str(engine.database)), engine) as engines:
            await until(engines, "ready", signatures=True)
            engine.clamds["signatures"].kill()
            await until(engines, "lost")
            await until(engines, "ready")
            assert await trio.to_thread.run_sync(scan, await engines.open_session(), MARKER) is ReplyKind.FOUND
        assert engine.started == ["signatures", "signatures"]


async def test_a_private_engine_that_hangs_is_started_again(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(privately, "FIRST_BACKOFF_S", 0.05)
    with Private(place, {"main.ndb": ndb("Test.Marker", MARKER)}) as engine:
        conf = settings("private", database=str(engine.database), ping_timeout_s=0.3, first_ping_timeout_s=0.6)
        async with open_engines(conf, engine) as engines:
            await until(engines, "ready")
            os.kill(engine.clamds["signatures"].pid, 19)  # SIGSTOP
            await until(engines, "lost")
            await until(engines, "ready")
        assert engine.started == ["signatures", "signatures"]


@pytest.fixture
def three(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Private]:
    """Engines on the same signatures."""
    monkeypatch.setattr(privately, "FIRST_BACKOFF_S", 0.05)
    with Private(place, {"main.ndb": ndb("Test.Marker", MARKER)}, number=3) as engines:
        yield engines


async def test_of_several_private_engines_each_is_started_and_stopped(three: Private) -> None:
    async with open_engines(settings("private", database=str(three.database)), three) as engines:
        await until_ready(engines, 3)
        assert [state.address for state in engines.states()] == [clamd.socket_path for clamd in three.all]
        assert all(clamd.running for clamd in three.all)
    assert three.started == ["signatures"] * 3
    assert not three.running()


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGSTOP])
async def test_of_several_private_engines_one_that_ends_or_hangs_is_started_again_and_the_others_are_not(
    three: Private, signal_number: signal.Signals
) -> None:
    conf = settings("private", database=str(three.database), ping_timeout_s=0.3, first_ping_timeout_s=0.6)
    async with open_engines(conf, three) as engines:
        await until_ready(engines, 3)
        others = [clamd.pid for clamd in three.all[1:]]
        os.kill(three.all[0].pid, signal_number)
        await until_ready(engines, 2)
        assert engines.state().kind == "ready"
        assert await trio.to_thread.run_sync(scan, await engines.open_session(), MARKER) is ReplyKind.FOUND
        await until_ready(engines, 3)
        assert [clamd.pid for clamd in three.all[1:]] == others
    assert three.started == ["signatures"] * 4


async def test_the_single_builtin_engine_changes_over_to_several(place: Path) -> None:
    with Private(place, {}, number=2) as private:
        async with open_engines(settings("private", database=str(private.database)), private) as engines:
            await until(engines, "ready", signatures=False)
            assert len(engines.states()) == 1
            private.clamds["signatures"].add("main.ndb", ndb("Test.Marker", MARKER))
            await until_ready(engines, 2)
            assert all(state.signatures for state in engines.states())
            assert not private.clamds["builtin"].running


async def test_a_private_engine_that_cannot_start_says_why_and_is_tried_again(
    private: Private, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(privately, "FIRST_BACKOFF_S", 0.05)
    private.refuse = 2
    async with open_engines(settings("private", database=str(private.database)), private) as engines:
        assert (await until(engines, "lost")).reason == "cannot start the private engine: refused by the test"
        await until(engines, "ready")
    assert private.started == ["builtin"] * 3


async def test_a_broken_database_keeps_the_engine_lost_with_a_reason(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(privately, "FIRST_BACKOFF_S", 0.05)
    with Private(place, {"main.ndb": b"no signature at all\n"}) as engine:
        async with open_engines(settings("private", database=str(engine.database)), engine) as engines:
            lost = await until(engines, "lost")
            assert lost.reason == "The private engine ended; its own messages, before this, say why."
            await engine.wait_started(3)
            assert engines.state().since == lost.since
            (engine.database / "main.ndb").write_bytes(ndb("Test.Marker", MARKER))
            await until(engines, "ready")


async def test_without_a_private_engine_auto_says_what_is_missing() -> None:
    async with open_engines(settings("auto"), None) as engines:
        assert "a private one is not set up" in (await until(engines, "lost")).reason


async def test_what_state_says_right_after_open_session_is_true_of_that_session(private: Private) -> None:
    async with open_engines(settings("private", database=str(private.database)), private) as engines:
        await until(engines, "ready", signatures=False)
        found: list[bool] = []

        async def ask() -> None:
            while True:
                try:
                    sock = await engines.open_session()
                except EngineLost:
                    await trio.sleep(0.001)
                    continue
                claimed = engines.state().signatures  # without an await in between, as jobs do it
                kind = await trio.to_thread.run_sync(_marker_found, sock)
                if kind is not None:
                    found.append(claimed == kind)
                if kind:
                    return

        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(ask)
            private.clamds["signatures"].add("main.ndb", ndb("Test.Marker", MARKER))
    assert found
    assert all(found)


def _marker_found(sock: socket.socket) -> bool | None:
    """Whether this session's engine knows MARKER; None when it ended."""
    try:
        return scan(sock, MARKER) is ReplyKind.FOUND
    except (OSError, RemoteProtocolError, IndexError):
        return None


def test_the_protocol_of_the_private_engine_is_what_the_tests_fake(private: Private) -> None:
    checked: PrivateEngines = private
    assert not checked.of("builtin")[0].running()
