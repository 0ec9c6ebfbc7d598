"""A scan's worker with several engines, and with engines over TCP: real clamds, and a fake one that misbehaves."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from clamscannerd.engine.clamproto import HANDSHAKE, HANDSHAKE_REPLY
from clamscannerd.model import Reason
from clamscannerd.worker.linewire import Terms, Withdraw
from clamscannerd.worker.messages import (
    Found,
    NeedSession,
    Progress,
    Recheck,
    Reply,
    ScanJob,
    Scanned,
    Sessions,
    Skipped,
)
from tests.fakes.clamd import FakeClamd, Fault
from tests.fakes.engines import free_port
from tests.fakes.realclamd import EICAR, MARKER, RealClamd
from tests.fakes.worker_peer import WorkerPeer, clamd_session

MIB = 1 << 20
CHUNK = 64 << 10
SLOW = b"this one is answered late"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    path = tmp_path / "home"
    path.mkdir(mode=0o700)
    return path


@pytest.fixture(scope="module")
def remote() -> Iterator[tuple[RealClamd, int]]:
    """It takes streams of up to 2 MiB."""
    port = free_port()
    options = {"TCPSocket": str(port), "TCPAddr": "127.0.0.1", "StreamMaxLength": "2M"}
    with RealClamd(options=options) as clamd:
        yield clamd, port


def over_tcp(port: int) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port))
    sock.sendall(HANDSHAKE)
    assert sock.recv(100) == HANDSHAKE_REPLY
    return sock


def terms(number: int, *, most: int = 100 * MIB, clean: bool = True) -> Terms:
    return Terms(engine=number, max_file_size=most, clean_allowed=clean, threads=2)


def begin(worker: WorkerPeer, sessions: dict[Terms, socket.socket] | list[tuple[Terms, socket.socket]]) -> None:
    """The job, with these sessions, which are the worker's from then on."""
    pairs = sessions if isinstance(sessions, list) else list(sessions.items())
    told = tuple(one for one, _ in pairs)
    job = ScanJob(
        roots=(b".",),
        excludes=(),
        window=8,
        max_file_size=0,
        clean_allowed=False,
        file_deadline_s=60.0,
        max_skipped=1000,
        fds=len(told),
        terms=told,
    )
    worker.send(job, [sock.fileno() for _, sock in pairs])
    for _, sock in pairs:
        sock.close()
    worker.send(Recheck(paths=(), last=True))


def found(replies: list[Reply]) -> dict[bytes, int | None]:
    """Path -> the engine that found it."""
    return {file.path: file.engine for reply in replies if isinstance(reply, Found) for file in reply.files}


def skipped(replies: list[Reply]) -> dict[bytes, Reason]:
    return {file.path: file.reason for reply in replies if isinstance(reply, Skipped) for file in reply.files}


def test_contents_are_streamed_to_an_engine_over_tcp(home: Path, remote: tuple[RealClamd, int]) -> None:
    sizes = (0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 2 * MIB)
    for size in sizes:
        (home / f"clean{size}").write_bytes(b"c" * size)
    (home / "eicar").write_bytes(EICAR)
    (home / "marked").write_bytes(MARKER.rjust(2 * MIB, b"x"))
    (home / "large").write_bytes(MARKER.rjust(2 * MIB + 1, b"x"))
    with WorkerPeer(home) as worker:
        begin(worker, [(terms(3, most=2 * MIB), over_tcp(remote[1]))])
        replies, end = worker.until(Scanned)
    assert end.complete
    assert found(replies) == {b"eicar": 3, b"marked": 3}
    assert skipped(replies) == {b"large": Reason.TOO_BIG}
    assert end.counts.scanned_files == len(sizes) + 2


def test_a_file_over_streammaxlength_is_too_big_and_never_clean(home: Path, remote: tuple[RealClamd, int]) -> None:
    """The daemon was told a wrong limit. What was waiting beside it gets its verdict."""
    for number in range(20):
        (home / f"small{number}").write_bytes(b"fine")
    (home / "large").write_bytes(b"x" * 3 * MIB)
    (home / "larger").write_bytes(b"x" * 4 * MIB)
    with WorkerPeer(home) as worker:
        begin(worker, [(terms(0), over_tcp(remote[1]))])
        before, lost = [], 0
        while True:
            reply = worker.receive()
            before.append(reply)
            if isinstance(reply, NeedSession):
                lost += 1
                with over_tcp(remote[1]) as sock:
                    answer = Sessions(fds=1, max_file_size=0, clean_allowed=True, terms=(terms(0),))
                    worker.send(answer, [sock.fileno()])
            if isinstance(reply, Scanned):
                break
    assert reply.complete
    assert reply.counts.scanned_files == 20
    assert reply.counts.not_scanned.keys() <= {Reason.TOO_BIG, Reason.ENGINE_ERROR}
    assert skipped(before).keys() == {b"large", b"larger"}
    assert 1 <= lost <= 6


def test_a_file_goes_to_an_engine_that_takes_its_size(home: Path) -> None:
    with FakeClamd() as small, FakeClamd() as large:
        for number in range(10):
            (home / f"large{number}").write_bytes(b"l" * 2000)
        (home / "small").write_bytes(EICAR)
        (home / "too large").write_bytes(b"l" * 4000)
        with WorkerPeer(home) as worker:
            given = [(terms(0, most=1000), clamd_session(small.socket_path))]
            begin(worker, [*given, (terms(1, most=3000), clamd_session(large.socket_path))])
            replies, end = worker.until(Scanned)
        assert [len(one) for one in large.contents if len(one) > 1000] == [2000] * 10
        assert all(len(one) <= 1000 for one in small.contents)
    assert end.counts.scanned_files == 11
    assert skipped(replies) == {b"too large": Reason.TOO_BIG}
    assert found(replies).keys() == {b"small"}


def test_only_an_engine_with_signatures_calls_a_file_clean(home: Path) -> None:
    for number in range(40):
        (home / f"f{number}").write_bytes(b"%d" % number)
    with FakeClamd() as without, FakeClamd() as with_signatures, WorkerPeer(home) as worker:
        given = [(terms(0, clean=False), clamd_session(without.socket_path))]
        begin(worker, [*given, (terms(1), clamd_session(with_signatures.socket_path))])
        _, end = worker.until(Scanned)
        assert end.counts.not_scanned == {Reason.NO_SIGNATURES: len(without.contents)}
        assert end.counts.scanned_files == len(with_signatures.contents)
    assert 0 < end.counts.scanned_files < 40


def test_a_withdrawn_engines_files_are_asked_elsewhere_and_the_others_went_on_meanwhile(home: Path) -> None:
    for number in range(100):
        (home / f"f{number}").write_bytes(b"%d" % number)
    with FakeClamd() as hung, FakeClamd() as well, WorkerPeer(home) as worker:
        hung.verdicts.clear()
        hung.content_faults[b""] = Fault.SILENCE
        begin(worker, [(terms(0), clamd_session(hung.socket_path)), (terms(1), clamd_session(well.socket_path))])
        scanned = 0
        while scanned + len(hung.contents) < 100:
            if isinstance(reply := worker.receive(), Progress):
                scanned = reply.counts.scanned_files
        waiting = len(hung.contents)
        assert 0 < waiting <= 8, "a part of the window"
        worker.send(Withdraw(engine=0))
        worker.send(Withdraw(engine=0))  # crossed with its loss, as far as the worker knows
        replies, end = worker.until(Scanned)
        assert [(one.engine, one.reason) for one in replies if isinstance(one, NeedSession)] == [(0, "withdrawn")]
        assert sorted(well.contents) == sorted(b"%d" % number for number in range(100))
    assert end.complete
    assert end.counts.scanned_files == 100


def test_a_killed_engines_files_are_asked_elsewhere_without_waiting_for_it(home: Path) -> None:
    for number in range(60):
        (home / f"f{number}").write_bytes(b"%d" % number)
    (home / "bad").write_bytes(EICAR)
    with RealClamd() as killed, RealClamd() as well, WorkerPeer(home) as worker:
        with clamd_session(killed.socket_path) as one, clamd_session(well.socket_path) as other:
            pair = (os.dup(one.fileno()), os.dup(other.fileno()))
        killed.kill()
        begin(worker, [(terms(number), socket.socket(fileno=fd)) for number, fd in enumerate(pair)])
        replies, end = worker.until(Scanned)
    assert [one.engine for one in replies if isinstance(one, NeedSession)] == [0]
    assert end.complete
    assert (end.counts.scanned_files, found(replies)) == (61, {b"bad": 1})
