"""A11: clients that are slow, silent or break off are let go in time, and nobody else waits for them.

All at once: an administrator's connections that say nothing, as many as there may be; and those of one account up to
its limit, of every kind that a client can be slow in. Meanwhile another account asks, and is answered. All share one
loop of the daemon, so the answers are timed until the last of the others is gone.
"""

import json
import select
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack

import pytest

from tests.fakes.accounts import Person, throw_away
from tests.fakes.callers import Callers
from tests.fakes.crowd import connections, open_files, room_for
from tests.fakes.running import RunningDaemon, wait_for
from tests.rows import Amount, Figure

LINE_S = 10.0
"""The daemon's own setting, server.line_timeout_s."""

LIMIT = 32
LATE_S = 5.0
"""For the daemon to see it, to say so and to close, and twice what it took to take all of them in: thousands end."""

MOST_MS = 250.0
STATUS = b'{"jsonrpc":"2.0","id":NUMBER,"method":"ClamScanner.get_scan_status"}'
VERSION = b'{"jsonrpc":"2.0","id":1,"method":"Daemon.version"}'
TOO_LONG = b'"' + b"x" * (1 << 20) + b'"'


@pytest.fixture(scope="module")
def people() -> Iterator[tuple[Person, Person, Person]]:
    """A, who is slow; B, who is honest; an administrator."""
    with throw_away("slow_a") as anna, throw_away("slow_b") as bert, throw_away("slow_admin") as admin:
        yield anna, bert, admin


class Watched:
    """Connections whose end is waited for: when it came, and what was said last."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._open: dict[int, tuple[str, socket.socket, float]] = {}
        self._heard: dict[int, bytes] = {}
        self.ended: list[tuple[str, float, bytes]] = []
        """What kind it was, how long it lasted, and all that it heard."""

    def add(self, kind: str, socks: Sequence[socket.socket]) -> None:
        now = time.monotonic()
        for sock in socks:
            self._open[sock.fileno()] = kind, sock, now
            self._heard[sock.fileno()] = b""
            self._epoll.register(sock.fileno(), select.EPOLLIN)

    def left(self) -> int:
        return len(self._open)

    def look(self, seconds: float) -> None:
        """What comes within so long; who is closed by the daemon closes too."""
        until = time.monotonic() + seconds
        while self._open and (rest := until - time.monotonic()) > 0:
            for fd, _ in self._epoll.poll(rest):
                self._read(fd)

    def _read(self, fd: int) -> None:
        kind, sock, since = self._open[fd]
        try:
            data = sock.recv(65_536)
        except ConnectionError:  # closed with something of ours unread
            data = b""
        self._heard[fd] += data
        if not data:
            self._epoll.unregister(fd)
            del self._open[fd]
            sock.close()
            self.ended.append((kind, time.monotonic() - since, self._heard.pop(fd)))

    def drip(self, kind: str) -> None:
        """One more byte on each."""
        for one, sock, _ in list(self._open.values()):
            if one == kind:
                try:
                    sock.send(b" ")
                except ConnectionError:  # its end is in the buffer, to be read
                    continue


def begin_slowly(daemon: RunningDaemon, anna: Person, stack: ExitStack, watched: Watched) -> None:
    """As many as the account may have, of each kind; those that end at once make room for more."""
    eight = [stack.enter_context(connections(daemon.socket_path, anna.uid, 8)) for _ in range(4)]
    with daemon.client(anna.uid) as over:
        assert over.answer()["error"]["data"]["kind"] == "too_many_connections"
        assert over.sock.recv(1) == b""
    drips, unended, half_closed, too_long = eight
    for sock in (*drips, *unended):
        sock.sendall(b'{"jsonrpc":')
    watched.add("1 byte/s", drips)
    watched.add("no newline", unended)
    for sock in half_closed:
        sock.sendall(VERSION)
        sock.shutdown(socket.SHUT_WR)
    watched.add("half closed", half_closed)
    for sock in too_long:
        sock.sendall(TOO_LONG)
    watched.add("too long", too_long)


def kinds_of(heard: bytes) -> list[str]:
    """Of the errors among the answers; "" for an answer that is none."""
    answers = [json.loads(line) for line in heard.splitlines()]
    return [answer["error"]["data"]["kind"] if "error" in answer else "" for answer in answers]


@pytest.mark.row("A11")
@pytest.mark.fails_with("no-limit-of-a-line", "no-limit-of-idleness", "no-limit-of-connections", "an-end-holds-all-up")
def test_slow_and_silent_clients_are_let_go_in_time_and_delay_nobody(
    people: tuple[Person, Person, Person], amount: Amount, figure: Figure
) -> None:
    anna, bert, admin = people
    count, idle_s = amount(quick=2_000, long=10_000), amount(quick=13, long=120)
    config = f'[server]\nidle_timeout_s = {idle_s}\nadmins = ["root", "{admin.name}"]\n'
    watched = Watched()
    # Not timed: it looks for garbage among all that so many connections take up.
    with room_for(count), RunningDaemon(config=config, timed=False) as daemon, ExitStack() as stack:
        before = open_files(daemon.pid)
        honest = stack.enter_context(connections(daemon.socket_path, bert.uid, 10))
        with Callers(honest, [STATUS], per_s=4.0, seconds=idle_s + 2 * LATE_S) as timed:
            came = time.monotonic()
            watched.add("idle", stack.enter_context(connections(daemon.socket_path, admin.uid, count)))
            begin_slowly(daemon, anna, stack, watched)
            wait_for(lambda: open_files(daemon.pid) >= before + count, "the daemon to have them all")
            late_s = LATE_S + 2 * (time.monotonic() - came)
            until = time.monotonic() + idle_s + late_s
            while watched.left() and time.monotonic() < until:
                watched.drip("1 byte/s")
                watched.look(1.0)
            assert not watched.left(), "some were never closed"
        p99 = timed.result.percentile(0.99)
        assert timed.result.refused == 0
        assert p99 < MOST_MS
    check_ends(watched, count, idle_s, late_s)
    figure(f"{count:,} idle, {LIMIT} slow; others' p99 {p99:.0f} ms of {len(timed.result.milliseconds):,} calls")


def check_ends(watched: Watched, count: int, idle_s: float, late_s: float) -> None:
    wanted = {
        "1 byte/s": (8, LINE_S, "timed_out"),
        "no newline": (8, LINE_S, "timed_out"),
        "half closed": (8, 0.0, ""),
        "too long": (8, 0.0, "message_too_large"),
        "idle": (count, idle_s, "timed_out"),
    }
    for kind, (number, limit_s, said) in wanted.items():
        ends = [(lasted, kinds_of(heard)) for name, lasted, heard in watched.ended if name == kind]
        assert len(ends) == number
        assert max(lasted for lasted, _ in ends) < limit_s + late_s, kind
        assert min(lasted for lasted, _ in ends) > limit_s * 0.5, kind
        assert all(kinds == [said] for _, kinds in ends), kind
