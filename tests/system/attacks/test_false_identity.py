"""As root: clients that are not who they seem to be. Who speaks is who the kernel says connected, and nobody else.

What a connection speaks for is read off the place of the log in an answer: it is in the home of that account.
"""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.accounts import Person, throw_away
from tests.fakes.own_calls import OWN_CALLS
from tests.fakes.restoring import items, put, take
from tests.fakes.running import PeerClient, RpcError, RunningDaemon, acting_as
from tests.fakes.strangers import Stranger
from tests.rows import Amount, Figure

SUBUID = 1_700_000_000
"""The first of uids that nobody has an entry for."""

NOBODY = 65_534


@pytest.fixture(scope="module")
def daemon() -> Iterator[RunningDaemon]:
    with RunningDaemon(timed=False) as running:
        yield running


@pytest.fixture(scope="module")
def alice(daemon: RunningDaemon) -> Iterator[Person]:
    with throw_away("identity_a") as account:
        yield account


@pytest.fixture(scope="module")
def bob(daemon: RunningDaemon) -> Iterator[Person]:
    """Has something in the vault."""
    with throw_away("identity_b") as account:
        put(account, "bad")
        with daemon.client(account.uid) as client:
            take(client)
            assert len(items(client)) == 1
        yield account


def check_speaks_for(stranger: Stranger, account: Person, other: Person) -> None:
    """For this account, as a plain user."""
    answer = stranger.call("ClamScanner.check_disinfection_status")
    assert Path(answer["result"]["result"]["data"]["log"]).parent == Path(account.home)
    for method, params in (*OWN_CALLS.items(), ("Daemon.version", {})):
        for user in (other.name, account.name, "root", "nobody", "csd_no_such_user"):
            assert kind(stranger.call(method, {**params, "user": user})) == "denied"
    assert kind(stranger.call("Daemon.reload")) == "denied"


def check_unknown(stranger: Stranger, other: Person) -> None:
    for method, params in OWN_CALLS.items():
        assert kind(stranger.call(method, params)) == "unknown_account", method
        assert kind(stranger.call(method, {**params, "user": other.name})) == "denied"
    assert kind(stranger.call("Daemon.reload")) == "denied"


def kind(answer: dict[str, Any]) -> str:
    """Of the error; "" for a result."""
    return str(answer["error"]["data"]["kind"]) if "error" in answer else ""


@pytest.mark.row("A13")
@pytest.mark.fails_with("everybody-is-admin")
def test_root_of_a_user_namespace_is_the_user_who_made_it(daemon: RunningDaemon, alice: Person, bob: Person) -> None:
    with Stranger.namespace_root(daemon.socket_path, alice.uid, alice.gid) as stranger:
        assert stranger.seen == {"uid": 0, "euid": 0}, "it sees itself as root"
        check_speaks_for(stranger, alice, bob)


@pytest.mark.row("A13")
@pytest.mark.fails_with("identity-of-the-process")
def test_who_connected_stays_who_they_were_whatever_they_become(
    daemon: RunningDaemon, alice: Person, bob: Person
) -> None:
    for connect_as, then in ((alice, bob.uid), (bob, alice.uid), (alice, 0), (alice, NOBODY)):
        other = bob if connect_as is alice else alice
        with Stranger.switched(daemon.socket_path, connect_as=connect_as.uid, then=then) as stranger:
            assert stranger.seen == {"uid": then, "euid": then}
            check_speaks_for(stranger, connect_as, other)
    with Stranger.switched(daemon.socket_path, connect_as=0, then=alice.uid) as stranger:
        assert "result" in stranger.call("Task.list", {"user": bob.name}), "root's connection stays root's"


@pytest.mark.row("A13")
@pytest.mark.fails_with("identity-of-the-process")
def test_a_connection_outlives_its_connector_and_speaks_for_them(
    daemon: RunningDaemon, alice: Person, bob: Person, amount: Amount, figure: Figure
) -> None:
    """Handed on by a process that has ended before the first call, and every second time before it was accepted."""
    times = amount(quick=20, long=500)
    for number in range(times):
        if number % 2:
            os.kill(daemon.pid, signal.SIGSTOP)
        try:
            sock = handed_on(daemon.socket_path, alice)
        finally:
            os.kill(daemon.pid, signal.SIGCONT)
        with acting_as(bob.uid), PeerClient.over(sock) as client:
            assert Path(client.good("check_disinfection_status")["log"]).parent == Path(alice.home)
            assert items(client) == []
            with pytest.raises(RpcError) as refused:
                client.call("Task.list", {"user": bob.name})
            assert refused.value.kind == "denied"
    figure(f"{times} connectors dead")


def handed_on(path: str, account: Person) -> socket.socket:
    code = (
        "import array, socket; ours = socket.socket(fileno=0); s = socket.socket(socket.AF_UNIX)\n"
        f"s.connect({path!r})\n"
        "ours.sendmsg([b'x'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [s.fileno()]))])"
    )
    ours, theirs = socket.socketpair()
    with ours, theirs:
        words = [sys.executable, "-I", "-c", code]
        subprocess.run(words, stdin=theirs.fileno(), user=account.uid, group=account.gid, extra_groups=[], check=True)
        _, fds, _, _ = socket.recv_fds(ours, 1, 1)
    return socket.socket(fileno=fds[0])


@pytest.mark.row("A13")
@pytest.mark.fails_with("strangers-are-served")
def test_subordinate_uids_are_nobodys_and_refused(daemon: RunningDaemon, alice: Person, bob: Person) -> None:
    for inside in (1, 5, 1_000, NOBODY):
        with Stranger.mapped(daemon.socket_path, alice.uid, SUBUID, inside) as stranger:
            assert stranger.seen["euid"] == inside
            check_unknown(stranger, bob)


@pytest.mark.row("A13")
@pytest.mark.fails_with("everybody-is-admin")
def test_a_uid_is_what_it_is_outside_of_any_map(daemon: RunningDaemon, alice: Person, bob: Person) -> None:
    """Without a map everybody is 65534 inside; with one that has the account, 0 is the account."""
    for inside, seen in ((-1, NOBODY), (0, 0)):
        with Stranger.mapped(daemon.socket_path, alice.uid, SUBUID, inside) as stranger:
            assert stranger.seen["euid"] == seen
            check_speaks_for(stranger, alice, bob)


@pytest.mark.row("A13")
@pytest.mark.fails_with("strangers-are-served")
@pytest.mark.parametrize("uid", [NOBODY, 59_999, 2**31 + 7, 2**32 - 2, 1, 33])
def test_who_is_no_account_is_refused(daemon: RunningDaemon, bob: Person, uid: int) -> None:
    """nobody, uids without an entry, and users of the system."""
    with Stranger.switched(daemon.socket_path, connect_as=uid, then=bob.uid) as stranger:
        check_unknown(stranger, bob)
