"""Files streamed over TCP to an engine that this test plays: nothing is promised that does not come."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from clamscannerd.engine.clamproto import FIRST_ID, INSTREAM, PING, ReplyKind
from clamscannerd.worker import line as line_module
from clamscannerd.worker.feed import Feed, Flight

CHUNK = 64 << 10


class Stream:
    """A feed with one session over TCP, and its far end."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.given_up: list[tuple[bytes, str]] = []
        self.feed = Feed(30.0, self._give_up)
        with socket.create_server(("127.0.0.1", 0)) as server:
            ours = socket.create_connection(server.getsockname())
            self.far, _ = server.accept()
        self.far.settimeout(5)
        self.feed.adopt(ours.detach())

    def _give_up(self, flight: Flight, why: str) -> None:
        self.given_up.append((flight.path, why))
        flight.close()

    def flight(self, content: bytes) -> tuple[Path, Flight]:
        path = self._directory / "file"
        path.write_bytes(content)
        fd = os.open(path, os.O_RDONLY)
        return path, Flight(b"file", fd, os.fstat(fd), recheck=False)

    def take(self) -> bytes:
        """The next stream, to its end."""
        assert self._exactly(len(INSTREAM)) == INSTREAM
        content = b""
        while size := int.from_bytes(self._exactly(4), "big"):
            content += self._exactly(size)
        return content

    def _exactly(self, size: int) -> bytes:
        got = b""
        while len(got) < size:
            self.far.setblocking(False)
            try:
                got += self.far.recv(size - len(got))
            except BlockingIOError:
                self.feed.receive()  # it streams on
        self.far.settimeout(5)
        return got

    def answer(self, text: bytes) -> list[tuple[Flight, ReplyKind]]:
        self.far.sendall(text)
        self.feed.wait(5_000)
        return [(flight, reply.kind) for flight, reply in self.feed.receive()]


@pytest.fixture
def stream(tmp_path: Path) -> Iterator[Stream]:
    made = Stream(tmp_path)
    yield made
    made.feed.close()
    made.far.close()


def test_a_large_file_arrives_whole_and_nothing_else_is_sent_meanwhile(stream: Stream) -> None:
    content = os.urandom(20 * CHUNK + 7)
    _, flight = stream.flight(content)
    assert stream.feed.send(flight)
    assert not stream.feed.room(8)
    assert stream.take() == content
    stream.feed.receive()
    assert stream.feed.room(8)
    ((answered, kind),) = stream.answer(b"%d: stream: OK\0" % FIRST_ID)
    assert (answered, kind) == (flight, ReplyKind.OK)
    flight.close()


def test_a_file_cut_short_under_it_is_a_whole_stream_and_the_session_lives(stream: Stream) -> None:
    path, flight = stream.flight(b"c" * (100 * CHUNK))
    assert stream.feed.send(flight)
    os.truncate(path, CHUNK)
    assert len(stream.take()) < 100 * CHUNK
    ((answered, _),) = stream.answer(b"%d: stream: OK\0" % FIRST_ID)
    assert os.fstat(answered.fd).st_size != flight.status.st_size, "which is what the scan looks at"
    assert stream.feed.connected
    flight.close()


def test_a_file_that_grows_is_streamed_up_to_the_size_it_had(stream: Stream) -> None:
    path, flight = stream.flight(b"c" * (100 * CHUNK))
    assert stream.feed.send(flight)
    os.truncate(path, 200 * CHUNK)
    assert len(stream.take()) == 100 * CHUNK


def test_what_cannot_be_read_to_its_end_is_never_clean_but_may_be_infected(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_fd: int, _size: int, offset: int) -> bytes:
        if offset:
            raise OSError(5, "Input/output error")
        return b"c" * CHUNK

    monkeypatch.setattr(os, "pread", fails)
    _, flight = stream.flight(b"c" * (3 * CHUNK))
    stream.feed.send(flight)
    assert len(stream.take()) == CHUNK
    assert stream.answer(b"%d: stream: OK\0" % FIRST_ID) == []
    assert stream.given_up == [(b"file", "unread")]
    _, flight = stream.flight(b"c" * (3 * CHUNK))
    stream.feed.send(flight)
    stream.take()
    assert stream.answer(b"%d: stream: X FOUND\0" % (FIRST_ID + 1)) == [(flight, ReplyKind.FOUND)]
    flight.close()


def test_an_answer_before_the_end_of_a_stream_ends_the_session_and_blames_nobody_else(stream: Stream) -> None:
    _, small = stream.flight(b"small")
    stream.feed.send(small)
    assert stream.take() == b"small"
    stream.feed.receive()
    _, large = stream.flight(b"c" * (1000 * CHUNK))
    stream.feed.send(large)
    assert stream.answer(b"%d: INSTREAM size limit exceeded. ERROR\0" % (FIRST_ID + 1)) == []
    assert not stream.feed.connected
    assert stream.feed.waiting == 2
    assert not stream.given_up


def test_no_ping_falls_into_a_stream(stream: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    content = b"c" * (100 * CHUNK)
    _, flight = stream.flight(content)
    stream.feed.send(flight)
    monkeypatch.setattr(line_module, "KEEPALIVE_S", -1.0)
    stream.feed.check_deadlines()
    assert stream.take() == content
    stream.feed.receive()
    stream.feed.check_deadlines()
    assert stream._exactly(len(PING)) == PING
