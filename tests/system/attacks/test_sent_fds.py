"""As root: open files that a client sends along with its messages. None stays open, in the daemon or in its monitor.

What is sent is the writing end of a pipe, as often as the kernel takes it in one message. When all is over and the
client has closed its own, the pipe is at its end only if nobody, anywhere, has kept one.
"""

import array
import os
import select
import socket
from collections.abc import Callable, Iterator, Sequence

import pytest

from tests.fakes.accounts import Person, throw_away
from tests.fakes.aftermath import children
from tests.fakes.running import PeerClient, RunningDaemon, wait_for
from tests.rows import Amount, Figure

FDS = 253
"""SCM_MAX_FD: the kernel takes no more in one message."""

CALL = b'{"jsonrpc":"2.0","id":1,"method":"Daemon.version"}\n'
PER_CONNECTION = 50
SPARE = 20  # connections, to the daemon and to its engine; far less than comes with one message


@pytest.fixture(scope="module")
def daemon() -> Iterator[RunningDaemon]:
    with RunningDaemon() as running:
        yield running


@pytest.fixture(scope="module")
def alice() -> Iterator[Person]:
    with throw_away("fds_a") as account:
        yield account


def open_fds(daemon: RunningDaemon) -> dict[int, int]:
    """Of the daemon and its monitor."""
    return {pid: len(os.listdir(f"/proc/{pid}/fd")) for pid in (daemon.pid, *children(daemon.pid))}


def send(sock: socket.socket, data: bytes, fds: Sequence[int]) -> None:
    """All of `data`, the fds with its first byte."""
    sent = sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))])
    sock.sendall(data[sent:])


def answered(client: PeerClient, writer: int) -> None:
    """A call that is answered as if nothing had come with it."""
    send(client.sock, CALL, [writer] * FDS)
    assert "version" in client.answer()["result"]


def in_the_middle(client: PeerClient, writer: int) -> None:
    """Two messages with fds for one line."""
    send(client.sock, CALL[:20], [writer] * FDS)
    send(client.sock, CALL[20:], [writer] * FDS)
    assert "version" in client.answer()["result"]


def malformed(client: PeerClient, writer: int) -> None:
    send(client.sock, b"\0" * 100 + b"\n", [writer] * FDS)
    assert client.answer()["error"]["code"] == -32700


def the_socket_itself(client: PeerClient, writer: int) -> None:
    """The connection's own end, and a socket with fds in it: what only the kernel's garbage collector can close."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        send(ours, b"x", [writer, theirs.fileno()])
        send(client.sock, CALL, [client.sock.fileno(), ours.fileno(), theirs.fileno(), *[writer] * (FDS - 3)])
    assert "version" in client.answer()["result"]


@pytest.mark.row("A12")
@pytest.mark.fails_with("fds-are-received")
@pytest.mark.parametrize("say", [answered, in_the_middle, malformed, the_socket_itself])
def test_fds_that_come_with_messages_are_closed(
    daemon: RunningDaemon,
    alice: Person,
    say: Callable[[PeerClient, int], None],
    amount: Amount,
    figure: Figure,
) -> None:
    messages = amount(quick=200, long=1_000)
    before = open_fds(daemon)
    reader, writer = os.pipe()
    try:
        for start in range(0, messages, PER_CONNECTION):
            with daemon.client(alice.uid) as client:
                for _ in range(min(PER_CONNECTION, messages - start)):
                    say(client, writer)
                    now = open_fds(daemon)
                    assert now.keys() == before.keys()
                    assert all(now[pid] < before[pid] + SPARE for pid in now), "what was sent is open"
    finally:
        os.close(writer)
    check_over(daemon, before, reader)
    figure(f"{messages:,} x {FDS} {say.__name__.replace('_', ' ')}")


@pytest.mark.row("A12")
@pytest.mark.fails_with("fds-are-received")
def test_fds_that_nobody_read_are_closed_with_the_connection(
    daemon: RunningDaemon, alice: Person, amount: Amount, figure: Figure
) -> None:
    """Half lines, and a client that is gone before they are read."""
    messages = amount(quick=200, long=1_000)
    before = open_fds(daemon)
    reader, writer = os.pipe()
    try:
        for _ in range(messages):
            with daemon.client(alice.uid) as client:
                send(client.sock, CALL[:-1], [writer] * FDS)
        wait_for(lambda: open_fds(daemon) == before, "the connections to be closed")
        with daemon.client(alice.uid) as client:  # half a line of one that stays
            answered(client, writer)
            send(client.sock, CALL[:-1], [writer] * FDS)
            client.sock.sendall(b"\n")
            assert client.answer()["id"] == 1
            with_its_own = {pid: many + (pid == daemon.pid) for pid, many in before.items()}
            wait_for(lambda: open_fds(daemon) == with_its_own, "no fd more than the connection's own")
    finally:
        os.close(writer)
    check_over(daemon, before, reader)
    figure(f"{messages:,} x {FDS} unread")


def check_over(daemon: RunningDaemon, before: dict[int, int], reader: int) -> None:
    """As many fds as before, and nobody has the pipe's writing end any more; its reading end is closed here."""
    try:
        wait_for(lambda: open_fds(daemon) == before, "as many fds as before")
        poll = select.poll()
        poll.register(reader, select.POLLIN)
        assert poll.poll(30_000) == [(reader, select.POLLHUP)], "a writing end is still open"
    finally:
        os.close(reader)
