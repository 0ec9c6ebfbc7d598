"""Limits of the real daemon: what is over them is refused by word, and nobody else feels it."""

import json
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Any

import pytest

from tests.fakes.accounts import Person
from tests.fakes.running import PeerClient, RpcError, RunningDaemon, wait_for
from tests.integration.people import monitor, no_engine, put

CONFIG = "[server]\nidle_timeout_s = 1.5\nline_timeout_s = 0.5\nmax_message_bytes = 10000\n"


@pytest.fixture(scope="module")
def daemon(_people: object) -> Iterator[RunningDaemon]:
    with no_engine() as running:
        yield running


@pytest.fixture(scope="module")
def strict(_people: object) -> Iterator[RunningDaemon]:
    with no_engine(config=CONFIG) as running:
        yield running


def error_of(client: PeerClient) -> tuple[str, object]:
    """The error that comes unasked, and what comes after it."""
    kind = client.answer()["error"]["data"]["kind"]
    return kind, client.sock.recv(1)


def test_the_33rd_connection_of_a_user_is_refused_and_others_are_not(
    daemon: RunningDaemon, alice: Person, bob: Person
) -> None:
    with ExitStack() as stack:
        clients = [stack.enter_context(daemon.client(alice.uid)) for _ in range(32)]
        for client in clients:
            assert client.call("Daemon.version")
        over = stack.enter_context(daemon.client(alice.uid))
        assert error_of(over) == ("too_many_connections", b"")
        assert stack.enter_context(daemon.client(bob.uid)).call("Daemon.version")
        for _ in range(50):
            assert stack.enter_context(daemon.client(0)).call("Daemon.version")
        clients[0].close()

        def admitted() -> bool:
            with daemon.client(alice.uid) as client:
                client.sock.sendall(b'{"jsonrpc":"2.0","id":1,"method":"Daemon.version"}\n')
                return "result" in client.answer()

        wait_for(admitted, "a place that became free")


def test_a_silent_client_is_told_and_closed(strict: RunningDaemon, alice: Person) -> None:
    with strict.client(alice.uid) as client:
        assert client.call("Daemon.version")
        began = time.monotonic()
        assert error_of(client) == ("timed_out", b"")
        assert time.monotonic() - began > 1


def test_a_line_that_drips_is_cut_off_and_the_connection_closed(strict: RunningDaemon, alice: Person) -> None:
    with strict.client(alice.uid) as client:
        stop = threading.Event()

        def drip() -> None:
            while not stop.wait(0.05):
                try:
                    client.sock.send(b"[")
                except OSError:
                    return

        thread = threading.Thread(target=drip)
        thread.start()
        try:
            began = time.monotonic()
            kind = client.answer()["error"]["data"]["kind"]
            assert kind == "timed_out"
            assert time.monotonic() - began < 1.4, "the line's limit, not that of an idle client"
        finally:
            stop.set()
            thread.join()


def test_a_client_that_asks_again_and_again_is_never_idle(strict: RunningDaemon, alice: Person) -> None:
    with strict.client(alice.uid) as client:
        until = time.monotonic() + 2.5
        while time.monotonic() < until:
            assert client.uapi("get_scan_status")
            time.sleep(0.3)


def test_a_message_over_the_configured_length_is_refused(strict: RunningDaemon, alice: Person) -> None:
    with strict.client(alice.uid) as client:
        fits = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "Daemon.version", "params": {}}).encode()
        assert client.raw(fits.ljust(10_000))["result"]
        client.sock.sendall(fits.ljust(10_001) + b"\n")
        assert error_of(client) == ("message_too_large", b"")


def test_calls_over_the_limit_of_a_user_are_refused_and_the_others_answered(
    daemon: RunningDaemon, alice: Person, bob: Person
) -> None:
    """Calls that look into the home wait for a worker: the monitor, which would start it, stands still."""
    request = b'{"jsonrpc":"2.0","id":%d,"method":"ClamScanner.get_scan_paths"}\n'
    above = monitor(daemon)
    with ExitStack() as stack:
        clients = [stack.enter_context(daemon.client(alice.uid)) for _ in range(5)]
        os.kill(above, signal.SIGSTOP)
        try:
            for number, client in enumerate(clients):
                client.sock.sendall(b"".join(request % (number * 16 + line) for line in range(16)))
            refused = answers(clients, 16)
            assert {answer["error"]["data"]["kind"] for answer in refused} == {"too_many_calls"}
            with daemon.client(bob.uid) as other:
                assert other.uapi("get_scan_status")["status"] == 0
        finally:
            os.kill(above, signal.SIGCONT)
        given = answers(clients, 64)
        assert {answer["result"]["result"]["status"] for answer in given} == {1}
        assert {answer["id"] for answer in refused + given} == set(range(80))
        assert clients[0].good("get_scan_paths")


def answers(clients: list[PeerClient], count: int) -> list[dict[str, Any]]:
    """So many, in the order in which they come, from whichever client's connection."""
    found: list[dict[str, Any]] = []
    pending: dict[PeerClient, bytes] = dict.fromkeys(clients, b"")
    while len(found) < count:
        readable, _, _ = select.select([client.sock for client in clients], [], [], 30)
        assert readable, f"{len(found)} of {count} answers came"
        for client in clients:
            if client.sock in readable:
                *lines, pending[client] = (pending[client] + client.sock.recv(65_536)).split(b"\n")
                found += [json.loads(line) for line in lines]
    return found


def test_two_hundred_clients_poll_at_once(daemon: RunningDaemon, alice: Person) -> None:
    """An administrator's, who has no limit per uid."""
    put(alice, "file", b"fine")
    request = b'{"jsonrpc":"2.0","id":1,"method":"ClamScanner.get_scan_status","params":{"user":"%s"}}\n'
    with ExitStack() as stack:
        clients = [stack.enter_context(daemon.client(0)) for _ in range(200)]
        for _ in range(5):
            for client in clients:
                client.sock.sendall(request % alice.name.encode())
            for client in clients:
                assert client.answer()["result"]["func"] == "get_scan_status"
        alices = stack.enter_context(daemon.client(alice.uid))
        began = time.monotonic()
        assert alices.uapi("get_scan_status")
        assert time.monotonic() - began < 5


def test_connections_of_all_together_have_a_limit_of_their_own(alice: Person, bob: Person) -> None:
    with no_engine(config="[server]\nmax_connections = 20\n") as daemon, ExitStack() as stack:
        # The start's own connections may not be gone yet.
        wait_for(lambda: _fills(daemon, stack, alice), "twenty connections")
        assert error_of(stack.enter_context(daemon.client(bob.uid))) == ("too_many_connections", b"")


def _fills(daemon: RunningDaemon, stack: ExitStack, person: Person) -> bool:
    """One more connection; whether it was refused."""
    client = stack.enter_context(daemon.client(person.uid))
    try:
        return not client.call("Daemon.version")
    except (RpcError, AssertionError, BrokenPipeError):
        return True


def test_a_reset_in_the_middle_of_an_answer_is_no_fault(daemon: RunningDaemon, alice: Person) -> None:
    for _ in range(20):
        with daemon.client(alice.uid) as client:
            client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
            client.sock.sendall(b'{"jsonrpc":"2.0","id":1,"method":"ClamScanner.get_scan_status"}\n' * 50)

    def answered() -> bool:
        """What was asked before runs to its end, and counts until then."""
        with daemon.client(alice.uid) as client, suppress(RpcError):
            return bool(client.call("Daemon.version"))
        return False

    wait_for(answered, "an answer")
    assert "Traceback" not in daemon.log()
