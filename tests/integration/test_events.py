"""Events.subscribe of a real daemon: the present state, then each thing once, however slowly it is read."""

import json
import os
import select
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, aclosing
from pathlib import Path
from typing import Any

import pytest
import trio

from clamscannerd.client import Client, RemoteError
from clamscannerd.client_trio import open_client
from tests.conftest import AccountOnHost
from tests.fakes.realclamd import MARKER
from tests.fakes.running import END_TIMEOUT_S, PeerClient, RpcError, RunningDaemon, wait_for

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="workers of two accounts need root")

FILES = 40
MANY = 2_000
SOME = 500
Told = list[dict[str, Any]]


@pytest.fixture(scope="module")
def daemon() -> Iterator[RunningDaemon]:
    with RunningDaemon() as running:
        yield running


@pytest.fixture
def anna(accounts: tuple[AccountOnHost, AccountOnHost]) -> AccountOnHost:
    return accounts[0]


def infect(account: AccountOnHost, number: int, *, clean: int = 0, into: str = "d") -> None:
    directory = account.home / into
    directory.mkdir()
    for index in range(number):
        (directory / f"bad{index:05}").write_bytes(MARKER + b" %d" % index)
    for index in range(clean):
        (directory / f"good{index:05}").write_bytes(b"good %d" % index)
    for path in (directory, *directory.iterdir()):
        os.chown(path, account.uid, account.gid)


def subscribe(client: PeerClient, *kinds: str) -> None:
    answer = client.call("Events.subscribe", {"kinds": list(kinds)} if kinds else None)
    assert set(answer["kinds"]) >= set(kinds)


def until(client: PeerClient, method: str, **wanted: object) -> Told:
    """What is told up to the first of `method` with these parameters."""
    told: Told = []
    while True:
        notice = client.answer()
        assert "id" not in notice
        told.append(notice)
        if notice["method"] == method and wanted.items() <= notice["params"].items():
            return told


def of(told: Told, method: str) -> list[dict[str, Any]]:
    return [notice["params"] for notice in told if notice["method"] == method]


def test_a_scan_and_a_disinfection_are_told_from_their_beginning_to_their_end(
    daemon: RunningDaemon, anna: AccountOnHost
) -> None:
    infect(anna, FILES, clean=MANY)
    with daemon.client(anna.uid) as listener, daemon.client(anna.uid) as client:
        subscribe(listener)
        scan = client.good("start_scan", {"scan_type": "home"})["scan_id"]
        told = until(listener, "Scan.done", scan_id=scan)
        assert of(told, "Engine.changed")[0]["state"] == "ready"
        assert of(told, "Scan.progress")
        found = [one["file"] for one in of(told, "Scan.finding") if one["scan_id"] == scan]
        assert Counter(found) == Counter(f"{anna.home}/d/bad{index:05}" for index in range(FILES))
        (end,) = [one for one in of(told, "Scan.done") if one["scan_id"] == scan]
        assert (end["state"], end["infected_file_count"], end["user"]) == ("done", FILES, anna.name)
        task = client.good("disinfect_files", {"actions": {}, "others": "quarantine"})["task_id"]
        told = until(listener, "Task.done", task_id=task)
        details = client.wait_disinfection()
        assert [one["record"] for one in of(told, "Task.step") if one["task_id"] == task] == details


def test_who_comes_late_is_told_how_things_stand(daemon: RunningDaemon, anna: AccountOnHost) -> None:
    infect(anna, FILES)
    with daemon.client(anna.uid) as client:
        scan = client.scan()["scan_id"]
        with daemon.client(anna.uid) as listener:
            subscribe(listener, "Scan.finding", "Scan.done")
            told = until(listener, "Scan.done")
            assert len(of(told, "Scan.finding")) == FILES
            assert {one["scan_id"] for one in (*of(told, "Scan.finding"), *of(told, "Scan.done"))} == {scan}
            assert {notice["method"] for notice in told} == {"Scan.finding", "Scan.done"}


def test_another_account_is_told_nothing_of_it(
    daemon: RunningDaemon, accounts: tuple[AccountOnHost, AccountOnHost]
) -> None:
    anna, bert = accounts
    infect(anna, FILES)
    with daemon.client(anna.uid) as client, daemon.client(bert.uid) as listener:
        with pytest.raises(RpcError) as refused:
            listener.call("Events.subscribe", {"user": anna.name})
        assert refused.value.kind == "denied"
        subscribe(listener)
        client.scan()
        told = until(listener, "Engine.changed")
        assert not select.select([listener.sock], [], [], 1.0)[0]
        assert {notice["params"]["user"] for notice in told} == {bert.name}


def test_an_administrator_can_listen_for_an_account(daemon: RunningDaemon, anna: AccountOnHost) -> None:
    infect(anna, 1)
    with daemon.client(anna.uid) as client, daemon.client() as listener:
        listener.call("Events.subscribe", {"user": anna.name, "kinds": ["Scan.done"]})
        scan = client.scan()["scan_id"]
        assert until(listener, "Scan.done", scan_id=scan)[-1]["params"]["user"] == anna.name


def test_who_is_no_administrator_any_more_is_told_nothing_more(
    accounts: tuple[AccountOnHost, AccountOnHost],
) -> None:
    anna, bert = accounts
    with RunningDaemon(config=f'[server]\nadmins = ["{bert.name}"]\n') as daemon, daemon.client(bert.uid) as listener:
        listener.call("Events.subscribe", {"user": anna.name})
        until(listener, "Engine.changed")
        daemon.write_config()
        with daemon.client() as root, daemon.client(anna.uid) as client:
            root.call("Daemon.reload")
            client.scan()
        answer = listener.answer()
        assert answer["error"]["data"]["kind"] == "denied"
        assert listener.sock.recv(1) == b""


@pytest.mark.fails_with("finding-not-told")
def test_a_slow_reader_loses_no_finding_and_holds_up_nobody(daemon: RunningDaemon, anna: AccountOnHost) -> None:
    infect(anna, MANY)
    with daemon.client(anna.uid) as client, daemon.client(anna.uid) as listener:
        listener.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        subscribe(listener)
        scan = client.scan(timeout_s=120)["scan_id"]  # nothing was read meanwhile
        told = until(listener, "Scan.done", scan_id=scan)
        found = [one["file"] for one in of(told, "Scan.finding") if one["scan_id"] == scan]
        assert len(found) == len(set(found)) == MANY


def test_of_many_each_hears_each_finding_once_whoever_leaves_comes_or_does_not_read(
    daemon: RunningDaemon, anna: AccountOnHost
) -> None:
    infect(anna, SOME, into="d" * 250)  # more text than a socket holds
    with ExitStack() as stack:

        def listener() -> PeerClient:
            client = stack.enter_context(daemon.client(anna.uid))
            subscribe(client)
            return client

        first, *others = [listener() for _ in range(3)]
        client = stack.enter_context(daemon.client(anna.uid))
        scan = client.good("start_scan", {"scan_type": "home"})["scan_id"]
        until(first, "Scan.finding", scan_id=scan)
        first.close()
        others.append(listener())
        client.wait_scan()  # so far nobody else has read anything
        others.append(listener())
        for one in others:
            told = until(one, "Scan.done", scan_id=scan)
            found = [finding["file"] for finding in of(told, "Scan.finding") if finding["scan_id"] == scan]
            assert len(found) == len(set(found)) == SOME


def test_a_connection_that_listens_is_never_idle_and_can_still_ask(anna: AccountOnHost) -> None:
    with (
        RunningDaemon(config="[server]\nidle_timeout_s = 1\n") as daemon,
        daemon.client(anna.uid) as idle,
        daemon.client(anna.uid) as listener,
    ):
        subscribe(listener, "Task.done")
        assert idle.answer()["error"]["data"]["kind"] == "timed_out"  # nothing was asked for idle_timeout_s
        assert listener.call("Daemon.version")
        with pytest.raises(RpcError) as refused:
            listener.call("Events.subscribe")
        assert "already" in str(refused.value)


def test_a_client_that_has_shut_down_its_writing_side_goes_on_listening(
    daemon: RunningDaemon, anna: AccountOnHost
) -> None:
    infect(anna, 1)
    with daemon.client(anna.uid) as client, daemon.client(anna.uid) as listener:
        listener.sock.sendall(b'{"jsonrpc":"2.0","id":1,"method":"Events.subscribe"}\n')
        listener.sock.shutdown(socket.SHUT_WR)
        assert "result" in listener.answer()
        scan = client.scan()["scan_id"]
        assert until(listener, "Scan.done", scan_id=scan)


def test_a_listener_that_is_gone_costs_no_fd(daemon: RunningDaemon, anna: AccountOnHost) -> None:
    infect(anna, 1)

    def fds() -> int:
        return len(list(Path(f"/proc/{daemon.pid}/fd").iterdir()))

    with daemon.client(anna.uid) as client:
        client.scan()
        before = wait_for(fds, "the fds")
        for _ in range(5):
            with daemon.client(anna.uid) as listener:
                subscribe(listener)
        client.scan()  # something to tell: now it is noticed that nobody reads
        wait_for(lambda: fds() <= before, "the connections to be given up")


def test_the_plain_client_tells_events(daemon: RunningDaemon, anna: AccountOnHost) -> None:
    infect(anna, 2)
    with Client(daemon.socket_path) as asking, Client(daemon.socket_path) as listening:
        asking.call("ClamScanner.start_scan", {"scan_type": "home", "user": anna.name})
        told = []
        for event in listening.events(["Scan.finding", "Scan.done"], user=anna.name):
            told.append(event.method)
            if event.method == "Scan.done":
                break
    assert told == ["Scan.finding", "Scan.finding", "Scan.done"]


async def test_the_trio_client_calls_and_tells_events(daemon: RunningDaemon, anna: AccountOnHost) -> None:
    await trio.to_thread.run_sync(infect, anna, 2)
    with trio.fail_after(END_TIMEOUT_S):
        async with open_client(daemon.socket_path) as asking, open_client(daemon.socket_path) as listening:
            with pytest.raises(RemoteError):
                await asking.call("Daemon.nothing")
            await asking.call("ClamScanner.start_scan", {"scan_type": "home", "user": anna.name})
            told = []
            async with aclosing(listening.events(["Scan.finding", "Scan.done"], user=anna.name)) as events:
                async for event in events:
                    told.append(event.method)
                    if event.method == "Scan.done":
                        break
    assert told == ["Scan.finding", "Scan.finding", "Scan.done"]


async def test_a_daemon_that_stops_is_said_to_who_listens(anna: AccountOnHost) -> None:
    with RunningDaemon() as daemon, trio.fail_after(END_TIMEOUT_S):

        async def listen() -> None:
            async with open_client(daemon.socket_path) as client, aclosing(client.events(user=anna.name)) as events:
                async for _ in events:
                    begun.set()

        async with trio.open_nursery() as nursery:
            begun = trio.Event()

            async def stop() -> None:
                await begun.wait()
                assert await trio.to_thread.run_sync(daemon.stop) == 0

            nursery.start_soon(stop)
            with pytest.raises(RemoteError) as ended:
                await listen()
    assert ended.value.kind == "shutting_down"


def test_a_wrong_kind_is_named(daemon: RunningDaemon, anna: AccountOnHost) -> None:
    with daemon.client(anna.uid) as client:
        answer = client.raw(
            json.dumps({"jsonrpc": "2.0", "id": 1, "method": "Events.subscribe", "params": {"kinds": ["x"]}}).encode()
        )
        assert answer["error"]["code"] == -32602
