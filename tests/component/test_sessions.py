"""engine/sessions.py with somebody else's clamd: found, watched, and a session handed out is one that works."""

import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import trio
import trio.testing

from clamscannerd.engine.clamproto import ReplyKind
from clamscannerd.engine.sessions import open_engines
from clamscannerd.errors import EngineLost
from tests.fakes.clamd import FakeClamd
from tests.fakes.engines import PATIENCE_S, free_port, scan, settings, until, until_ready
from tests.fakes.realclamd import EICAR, RealClamd, ndb


@pytest.fixture
def place() -> Iterator[Path]:
    """Short enough for the name of a Unix socket."""
    directory = Path(tempfile.mkdtemp(prefix="engines-"))
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def clamd() -> Iterator[FakeClamd]:
    with FakeClamd() as running:
        yield running


async def test_a_session_of_a_shared_clamd_works_and_its_first_id_is_the_one_expected(clamd: FakeClamd) -> None:
    async with open_engines(settings((clamd.socket_path,)), None) as engines:
        await engines.wait_ready(PATIENCE_S)
        sock = await engines.open_session()
        assert sock.gettimeout() is None
        assert not sock.get_inheritable()
        assert await trio.to_thread.run_sync(scan, sock, EICAR) is ReplyKind.FOUND
        assert engines.statistics().sessions_opened == 1
        state = engines.state()
        assert (state.shared, state.signatures, state.address) == (True, True, clamd.socket_path)
        assert state.info.version == "1.4.6"


async def test_opening_does_not_wait_for_an_engine(place: Path) -> None:
    with trio.fail_after(1):
        async with open_engines(settings((f"{place}/none",)), None) as engines:
            assert engines.state().kind == "starting"
            with pytest.raises(EngineLost, match="An engine is being looked for"):
                await engines.open_session()


async def test_an_engine_that_is_not_there_is_lost_with_a_reason_and_ready_when_it_comes(place: Path) -> None:
    path = f"{place}/s"
    async with open_engines(settings((path,)), None) as engines:
        state = await until(engines, "lost")
        assert state.reason == f"cannot connect to clamd at {path}: No such file or directory"
        with pytest.raises(EngineLost, match="No such file"):
            await engines.open_session()
        with pytest.raises(EngineLost, match="No such file"):
            await engines.wait_ready(0.01)
        with FakeClamd(path):
            assert (await until(engines, "ready")).reason == ""
            (await engines.open_session()).close()


async def test_other_engines_are_taken_at_a_reload_and_a_session_stays_with_its_own(
    clamd: FakeClamd, place: Path
) -> None:
    old = settings((clamd.socket_path,))
    async with open_engines(old, None) as engines:
        await until(engines, "ready")
        before = await engines.open_session()
        with FakeClamd(f"{place}/s") as other:
            engines.reload(settings((clamd.socket_path, other.socket_path)))
            assert engines.state().kind == "ready", "the one that was there is there all the time"
            await until_ready(engines, 2)
            engines.reload(settings((other.socket_path,)))
            while engines.state().address != other.socket_path:
                await engines.wait_changed(engines.state())
            await until(engines, "ready")
            assert await trio.to_thread.run_sync(scan, before, EICAR) is ReplyKind.FOUND
            assert await trio.to_thread.run_sync(scan, await engines.open_session(), EICAR) is ReplyKind.FOUND
            assert engines.statistics().engines == 1


async def test_other_time_limits_hold_from_the_next_look_on(clamd: FakeClamd) -> None:
    slow = msgspec.structs.replace(settings((clamd.socket_path,)), check_interval_s=3_600.0, ping_timeout_s=3_600.0)
    async with open_engines(slow, None) as engines:
        await until(engines, "ready")
        clamd.silent = True
        engines.reload(settings((clamd.socket_path,), ping_timeout_s=0.1, first_ping_timeout_s=0.2))
        assert "no answer for 0.2 s" in (await until(engines, "lost")).reason


async def test_an_engine_that_ends_is_lost_and_found_again_and_since_says_when(clamd: FakeClamd) -> None:
    async with open_engines(settings((clamd.socket_path,)), None) as engines:
        ready = await until(engines, "ready")
        clamd.stop()
        lost = await until(engines, "lost")
        assert lost.since >= ready.since
        clamd.start()
        again = await until(engines, "ready")
        assert again.since >= lost.since


async def test_an_engine_that_loads_is_loading_not_lost(clamd: FakeClamd) -> None:
    clamd.silent = True
    async with open_engines(settings((clamd.socket_path,)), None) as engines:
        assert "does not answer yet" in (await until(engines, "loading")).reason
        with pytest.raises(EngineLost):
            await engines.open_session()
        clamd.silent = False
        await until(engines, "ready")


async def test_an_engine_that_falls_silent_is_loading_first_and_lost_after_the_long_patience(clamd: FakeClamd) -> None:
    short = settings((clamd.socket_path,), ping_timeout_s=0.1, first_ping_timeout_s=0.2)
    async with open_engines(short, None) as engines:
        await until(engines, "ready")
        clamd.silent = True
        loading = await until(engines, "loading")
        lost = await until(engines, "lost")
        assert "no answer for 0.2 s" in lost.reason
        assert lost.since == loading.since
        clamd.silent = False
        await until(engines, "ready")


async def test_open_session_does_not_hang_on_a_silent_engine(clamd: FakeClamd) -> None:
    quick = msgspec.structs.replace(settings((clamd.socket_path,), ping_timeout_s=0.2), check_interval_s=60.0)
    async with open_engines(quick, None) as engines:
        await until(engines, "ready")
        clamd.silent = True
        with trio.fail_after(PATIENCE_S), pytest.raises(EngineLost, match="no answer for"):
            await engines.open_session()


async def test_a_session_of_an_engine_replaced_meanwhile_is_not_handed_out(clamd: FakeClamd) -> None:
    rare = msgspec.structs.replace(settings((clamd.socket_path,)), check_interval_s=60.0)
    async with open_engines(rare, None) as engines:
        await until(engines, "ready")
        clamd.silent = True

        async def be_refused() -> None:
            with pytest.raises(EngineLost, match="replaced meanwhile"):
                await engines.open_session()

        with trio.fail_after(PATIENCE_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(be_refused)
                await trio.testing.wait_all_tasks_blocked()
                engines.take_over([])  # what a change-over does
                clamd.silent = False


async def test_an_engine_with_a_broken_database_is_lost_though_it_answers_ping(clamd: FakeClamd) -> None:
    clamd.broken_database = True
    async with open_engines(settings((clamd.socket_path,)), None) as engines:
        assert "answers PING but does not scan" in (await until(engines, "lost")).reason
        clamd.broken_database = False
        await until(engines, "ready")


@pytest.mark.parametrize(
    "nonsense", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\0", b"1: PONK\0", b"1: PONG\x001: PONG\0"]
)
async def test_what_is_no_clamd_is_lost(clamd: FakeClamd, nonsense: bytes) -> None:
    clamd.nonsense = nonsense
    async with open_engines(settings((clamd.socket_path,)), None) as engines:
        assert "it answered PING with" in (await until(engines, "lost")).reason


async def test_an_engine_over_tcp_gives_sessions_and_what_streamed_size_it_takes() -> None:
    port = free_port()
    address = f"tcp://localhost:{port}"
    options = {"TCPSocket": str(port), "TCPAddr": "127.0.0.1", "StreamMaxLength": "7M"}
    with RealClamd(options=options) as real:
        known = settings((address,), confs={address: str(real.conf_path)})
        async with open_engines(known, None) as engines:
            state = await until(engines, "ready")
            assert (state.max_file_size, state.info.blind, state.remote) == (7 << 20, (), True)
            sock = await engines.open_session()
            assert sock.family is socket.AF_INET
            sock.close()
            assert (await engines.scan(EICAR)).kind is ReplyKind.FOUND
            assert engines.in_flight_budget(1, 0) == 6, "of its own processors we know nothing"
        async with open_engines(settings((address,)), None) as engines:
            unknown = await until(engines, "ready")
            assert unknown.max_file_size == 25 << 20
            assert "engine.confs" in unknown.info.blind[0]
            real.kill()
            assert "Connection refused" in (await until(engines, "lost")).reason


async def test_a_host_that_has_no_address_is_lost_with_a_reason() -> None:
    async with open_engines(settings(("tcp://no-such-host.invalid:3310",)), None) as engines:
        assert "cannot find the host of clamd" in (await until(engines, "lost")).reason


async def test_a_session_is_had_elsewhere_when_the_engine_whose_turn_it_is_gives_none(clamd: FakeClamd) -> None:
    with FakeClamd() as other:
        rare = msgspec.structs.replace(settings((clamd.socket_path, other.socket_path)), check_interval_s=60.0)
        async with open_engines(rare, None) as engines:
            await until_ready(engines, 2)
            other.stop()
            for _ in range(4):
                sock = await engines.open_session()
                assert sock.getpeername() == clamd.socket_path
                sock.close()


async def test_an_engine_too_far_behind_is_left_out_until_it_has_caught_up(clamd: FakeClamd) -> None:
    clamd.version = b"ClamAV 1.4.3/27400/Mon Nov 23 09:26:44 2026"
    with FakeClamd() as other:
        other.version = b"ClamAV 1.4.3/27390/Fri Nov 13 09:26:44 2026"
        both = (clamd.socket_path, other.socket_path)
        async with open_engines(settings(both, max_signature_lag_s=86_400.0), None) as engines:
            await until_ready(engines, 2)
            assert [state.address for state in engines.usable()] == [clamd.socket_path]
            assert engines.state().info.database == 27400
            (await engines.open_session()).close()
            engines.reload(settings(both))
            assert engines.state().info.database == 27390, "what holds is the least of both"
            engines.reload(settings(both, max_signature_lag_s=86_400.0))
            other.version = clamd.version
            with trio.fail_after(PATIENCE_S):
                while len(engines.usable()) < 2:
                    await engines.changed().wait()
            other.version = b"ClamAV 1.4.3/27390/Fri Nov 13 09:26:44 2026"
            clamd.stop()
            await until_ready(engines, 1)
            assert [state.address for state in engines.usable()] == [other.socket_path], "better than none"


async def test_several_engines_are_served_in_turn_and_one_lost_costs_nothing(clamd: FakeClamd) -> None:
    with FakeClamd() as other:
        async with open_engines(settings((clamd.socket_path, other.socket_path)), None) as engines:
            await until_ready(engines, 2)
            peers = []
            for _ in range(4):
                sock = await engines.open_session()
                peers.append(sock.getpeername())
                sock.close()
            assert sorted(peers) == sorted([clamd.socket_path, other.socket_path] * 2)
            other.stop()
            await until_ready(engines, 1)
            (await engines.open_session()).close()
            assert engines.state().kind == "ready"


async def test_a_new_official_database_is_noticed(clamd: FakeClamd) -> None:
    clamd.version = b"ClamAV 1.4.3/27400/Mon Nov 23 09:26:44 2026"
    async with open_engines(settings((clamd.socket_path,)), None) as engines:
        before = await until(engines, "ready")
        assert before.info.database == 27400
        clamd.version = b"ClamAV 1.4.3/27401/Tue Nov 24 09:26:44 2026"
        with trio.fail_after(PATIENCE_S):
            after = await engines.wait_changed(before)
        assert after.info.database == 27401
        assert after.info.database_time > before.info.database_time
        assert after.generation != before.generation


async def test_new_unofficial_signatures_are_noticed() -> None:
    with RealClamd() as real:
        conf = settings((real.socket_path,), clamd_conf=str(real.conf_path))
        async with open_engines(conf, None) as engines:
            before = await until(engines, "ready")
            real.add("more.ndb", ndb("Test.More", b"more"))
            with trio.fail_after(PATIENCE_S):
                after = await engines.wait_changed(before)
            assert after.generation != before.generation


async def test_a_shared_clamds_limits_and_blindness_come_from_its_file() -> None:
    options = {"MaxFileSize": "3M", "MaxScanSize": "9M", "MaxThreads": "9", "AlertEncrypted": "no", "ReadTimeout": "77"}
    with RealClamd(options=options) as real:
        conf = settings((real.socket_path,), clamd_conf=str(real.conf_path))
        async with open_engines(conf, None) as engines:
            state = await until(engines, "ready")
            assert (state.max_file_size, state.max_threads, state.read_timeout_s) == (3 << 20, 9, 77)
            assert state.warnings() == state.info.blind
            assert len(state.info.blind) == 3
            assert engines.in_flight_budget(1, 0) == 4
            assert engines.in_flight_budget(64, 0) == 6
            assert engines.in_flight_budget(64, 40) == 40


async def test_a_clamd_whose_file_is_unknown_is_used_with_caution(clamd: FakeClamd) -> None:
    async with open_engines(settings((clamd.socket_path,)), None) as engines:
        state = await until(engines, "ready")
        assert state.max_file_size == 25 << 20
        assert "are not known" in state.info.blind[0]
