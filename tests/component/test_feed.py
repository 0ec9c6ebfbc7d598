"""Files at an engine that this test plays over a socket pair: lost sessions, errors, deadlines."""

import array
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from clamscannerd.engine.clamproto import FIRST_ID, PING, ReplyKind
from clamscannerd.worker.feed import MAX_ERRORS, Feed, Flight


class Bench:
    """A feed, its far end, and what it gave up."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.given_up: list[tuple[bytes, str]] = []
        self.feed = Feed(30.0, self._give_up)
        self.far: socket.socket | None = None
        self.connect()

    def _give_up(self, flight: Flight, why: str) -> None:
        self.given_up.append((flight.path, why))
        flight.close()

    def connect(self) -> None:
        if self.far is not None:
            self.far.close()
        ours, self.far = socket.socketpair()
        self.far.settimeout(5)
        self.feed.adopt(ours.detach())

    def lose(self) -> None:
        assert self.far is not None
        self.far.close()
        assert self.feed.receive() == []
        assert not self.feed.connected

    def flight(self, name: str) -> Flight:
        path = self._directory / name
        path.write_bytes(b"x")
        fd = os.open(path, os.O_RDONLY)
        return Flight(name.encode(), fd, os.fstat(fd), recheck=False)

    def reply(self, text: bytes) -> list[tuple[bytes, ReplyKind]]:
        assert self.far is not None
        self.far.sendall(text)
        answers = self.feed.receive()
        for flight, _ in answers:
            flight.close()
        return [(flight.path, reply.kind) for flight, reply in answers]

    def arrived(self) -> int:
        """Files that reached the engine by now; their fds are closed."""
        assert self.far is not None
        self.far.setblocking(False)
        count = 0
        try:
            while True:
                _, control, _, _ = self.far.recvmsg(9, socket.CMSG_SPACE(64))
                fds = array.array("i", b"".join(data for _, _, data in control))
                count += len(fds)
                for fd in fds:
                    os.close(fd)
        except BlockingIOError:
            return count


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.feed.close()
    assert made.far is not None
    made.far.close()


def test_replies_out_of_order_reach_their_files(bench: Bench) -> None:
    for name in "ab":
        bench.feed.send(bench.flight(name))
    assert bench.reply(b"%d: fd[9]: OK\0" % (FIRST_ID + 1)) == [(b"b", ReplyKind.OK)]
    assert bench.reply(b"%d: fd[8]: X FOUND\0" % FIRST_ID) == [(b"a", ReplyKind.FOUND)]


def test_what_was_in_flight_is_asked_again_one_by_one(bench: Bench) -> None:
    for name in "abc":
        bench.feed.send(bench.flight(name))
    bench.lose()
    assert bench.feed.waiting == 3
    bench.connect()
    bench.feed.pump(8)
    assert bench.arrived() == 1
    assert not bench.feed.room(8)


def test_a_file_that_breaks_its_session_twice_alone_is_given_up_and_its_neighbour_is_not(bench: Bench) -> None:
    for name in ("poison", "innocent"):
        bench.feed.send(bench.flight(name))
    bench.lose()
    bench.connect()
    bench.feed.pump(8)  # poison, alone
    bench.lose()
    bench.connect()
    bench.feed.pump(8)  # innocent, alone
    assert bench.reply(b"%d: fd[9]: OK\0" % FIRST_ID) == [(b"innocent", ReplyKind.OK)]
    assert not bench.given_up
    bench.feed.pump(8)  # poison, alone again
    bench.lose()
    assert bench.given_up == [(b"poison", "error")]
    assert bench.feed.waiting == 0


def test_an_error_is_asked_again_and_then_given_up(bench: Bench) -> None:
    bench.feed.send(bench.flight("f"))
    for number in range(MAX_ERRORS):
        assert bench.far is not None
        bench.far.sendall(b"%d: fd[9]: Can't allocate memory ERROR\0" % (FIRST_ID + number))
        ((flight, reply),) = bench.feed.receive()
        assert reply.kind is ReplyKind.ERROR
        bench.feed.retry(flight)
        bench.feed.pump(8)
    assert bench.given_up == [(b"f", "error")]
    assert bench.feed.waiting == 0


def test_a_file_over_its_deadline_is_given_up_and_the_others_asked_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr("clamscannerd.worker.feed.time.monotonic", lambda: now)
    bench.connect()
    bench.feed.send(bench.flight("slow"))
    now += 29
    bench.feed.send(bench.flight("young"))
    now += 2
    bench.feed.check_deadlines()
    assert bench.given_up == [(b"slow", "deadline")]
    assert not bench.feed.connected
    assert bench.feed.waiting == 1


def test_a_session_that_waits_is_kept_alive(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("clamscannerd.worker.feed.time.monotonic", lambda: now)
    bench.connect()
    bench.feed.send(bench.flight("large"))
    assert bench.arrived() == 1
    now += 21
    bench.feed.check_deadlines()
    assert bench.far is not None
    assert bench.far.recv(100) == PING
    assert bench.reply(b"%d: PONG\0%d: fd[9]: OK\0" % (FIRST_ID + 1, FIRST_ID)) == [(b"large", ReplyKind.OK)]


def test_a_file_that_cannot_be_sent_is_given_up_after_two_sessions(bench: Bench) -> None:
    """ETOOMANYREFS, say: the user holds too many fds in flight elsewhere. New sessions for ever are no answer."""
    flight = bench.flight("f")
    real, flight.fd = flight.fd, 999_999  # sendmsg answers EBADF
    bench.feed.send(flight)
    assert not bench.feed.connected
    bench.connect()
    flight.fd = 999_999
    bench.feed._give_up = lambda given, why: bench.given_up.append((given.path, why))
    bench.feed.pump(8)
    os.close(real)
    assert bench.given_up == [(b"f", "error")]
    assert bench.feed.waiting == 0


@pytest.mark.parametrize("garbage", [b"hello\0", b"99: fd[9]: OK\0", b"2: OK\0", b"2: fd[9]: OK FOUND OK\0"])
def test_nonsense_is_never_a_verdict(bench: Bench, garbage: bytes) -> None:
    bench.feed.send(bench.flight("f"))
    assert bench.reply(garbage) == []
    assert not bench.feed.connected
    assert bench.feed.waiting == 1
