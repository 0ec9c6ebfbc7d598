"""As root: accounts that go, and whose uids others get; homes that are replaced; both at rest and during a job.

What was said of the old account is not said of, or to, the new one. A worker is stopped by SIGSTOP while its account
goes, so that nothing depends on which of the two is faster; a step that had begun then is ended, and no other begins.
"""

import itertools
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.accounts import Person, succeeded, throw_away
from tests.fakes.aftermath import LOG_NAME, children, leftovers
from tests.fakes.manifest import manifest, names
from tests.fakes.own_calls import OWN_CALLS
from tests.fakes.realclamd import MARKER
from tests.fakes.restoring import items, put, take
from tests.fakes.running import PeerClient, RpcError, RunningDaemon, wait_for
from tests.rows import Figure

LARGE = 100 << 10
"""Over what goes in a group: each file is a step by itself."""

NUMBERS = itertools.count()
BEGUN = {10: 3 * 64, LARGE: 1}
"""Steps that can be under way when the account goes, by size of the files: three groups, or one."""


@pytest.fixture(scope="module")
def daemon() -> Iterator[RunningDaemon]:
    with RunningDaemon(config="[tasks]\nmax_active = 1\n") as running:
        yield running


@pytest.fixture
def alice() -> Iterator[Person]:
    """Another name each time: one of the same uid and name is the same account."""
    with throw_away(f"leaves{next(NUMBERS)}") as account:
        yield account


@pytest.fixture
def bob() -> Iterator[Person]:
    with throw_away(f"stays{next(NUMBERS)}") as account:
        yield account


def kind_of(client: PeerClient, method: str, params: dict[str, Any]) -> str:
    """Of the error; "" when there is a result."""
    try:
        client.call(method, params)
    except RpcError as error:
        return error.kind
    return ""


def check_knows_nothing(client: PeerClient, item: int, task: str) -> None:
    """Everything that a new account can ask for."""
    for func in ("get_scan_status", "list_infected_files"):
        (error,) = client.uapi(func)["errors"]
        assert error.endswith("no scan of this account is known: start one first")
    assert client.uapi("disinfect_files", {"actions": {"bad": "delete"}, "others": "delete"})["status"] == 0
    assert client.good("check_disinfection_status")["status"] == "none"
    assert client.call("Quarantine.list") == {"items": [], "total": 0}
    assert client.call("Quarantine.verify")["items"] == 0
    assert client.call("Task.list") == {"tasks": []}
    for method, params in (
        ("Quarantine.show", {"id": item}),
        ("Quarantine.restore", {"ids": [item], "force": True}),
        ("Quarantine.delete", {"ids": [item]}),
        ("Task.get", {"task_id": task}),
        ("Task.undo", {"task_id": task, "force": True}),
        ("Scan.cancel", {}),
    ):
        assert kind_of(client, method, params) == "not_found", method


def check_admin_sees(root: PeerClient, user: str, item: int, task: str) -> None:
    """And can do nothing in a home on the strength of it."""
    named = {"user": user}
    assert [one["id"] for one in root.call("Quarantine.list", named)["items"]] == [item]
    assert root.call("Quarantine.show", {**named, "id": item})["id"] == item
    assert root.call("Task.list", named)["tasks"][0]["task_id"] == task
    assert root.call("Task.get", {**named, "task_id": task})["state"] == "done"
    assert root.good("get_scan_status", named)["scan_complete"] == 1
    assert len(root.good("list_infected_files", named)) == 1
    assert root.good("check_disinfection_status", named)["status"] == "done"
    for method, params in (
        ("ClamScanner.get_scan_paths", {}),
        ("ClamScanner.start_scan", {"scan_type": "home"}),
        ("ClamScanner.disinfect_files", {"actions": {}, "others": "delete"}),
        ("Quarantine.restore", {"ids": [item], "force": True}),
        ("Task.undo", {"task_id": task, "force": True}),
    ):
        assert kind_of(root, method, {**params, **named}) == "unknown_account", method


@pytest.mark.row("A20")
@pytest.mark.fails_with("kept-across-passwd")
@pytest.mark.parametrize("same_home", [False, True])
def test_a_new_name_behind_a_uid_inherits_nothing(
    daemon: RunningDaemon, alice: Person, bob: Person, same_home: bool, figure: Figure
) -> None:
    """Asked at once, and by connections of both; the last answer to the old account is as fresh as can be."""
    put(alice, "bad", MARKER)
    with daemon.client(alice.uid) as old, daemon.client() as root, daemon.client(bob.uid) as other:
        task = take(old)
        (item,) = (one["id"] for one in items(old))
        put(alice, "bad", MARKER)
        old.scan()
        with succeeded(alice, f"comes{next(NUMBERS)}", same_home=same_home) as carol:
            if not same_home:
                put(carol, "bad", MARKER)
            before = manifest(carol.home)
            with daemon.client(carol.uid) as new:
                check_knows_nothing(new, item, task)
                for client, user in ((new, alice.name), (other, alice.name), (other, carol.name)):
                    for method, params in OWN_CALLS.items():
                        assert kind_of(client, method, {**params, "user": user}) == "denied"
                for method, params in OWN_CALLS.items():
                    assert kind_of(old, method, params) == "unknown_account", "the old one's connection"
                check_admin_sees(root, alice.name, item, task)
                assert manifest(carol.home) == before
                new.scan()
                assert [one["file"] for one in new.good("list_infected_files")] == [f"{carol.home}/bad"]
                assert items(new) == []
    figure(f"uid reused, {'the same' if same_home else 'another'} home")


@pytest.mark.row("A20")
@pytest.mark.fails_with("admins-for-ever")
def test_the_rights_of_an_administrator_stay_with_the_name(alice: Person, bob: Person) -> None:
    with RunningDaemon(config=f'[server]\nadmins = ["{alice.name}"]\n') as daemon, daemon.client(alice.uid) as old:
        assert old.call("Task.list", {"user": bob.name}) == {"tasks": []}
        assert kind_of(old, "Daemon.reload", {}) == ""
        with succeeded(alice, f"comes{next(NUMBERS)}", same_home=True) as carol, daemon.client(carol.uid) as new:
            for client in (new, old):
                assert kind_of(client, "Task.list", {"user": bob.name}) in ("denied", "unknown_account")
                assert kind_of(client, "Daemon.reload", {}) in ("denied", "unknown_account")
            assert new.call("Task.list") == {"tasks": []}


@contextmanager
def urgent() -> Iterator[None]:
    """Ahead of all that the machine has to do meanwhile: a task takes a second."""
    before, how = os.sched_getscheduler(0), os.sched_getparam(0)
    os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(1))
    try:
        yield
    finally:
        os.sched_setscheduler(0, before, how)


@contextmanager
def worker_stopped(daemon: RunningDaemon, account: Person, records: int) -> Iterator[None]:
    """The account's worker stands still, as soon as its task has so many records; it goes on after the block."""
    log = Path(account.home, LOG_NAME)

    def has_begun() -> bool:
        return records == 0 or (log.exists() and log.read_bytes().count(b"\n") >= records)

    with urgent():
        pid = wait_for(lambda: worker_of(daemon, account), "the worker")
        pidfd = os.pidfd_open(pid)
        wait_for(has_begun, "the task to begin")
        signal.pidfd_send_signal(pidfd, signal.SIGSTOP)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGCONT)
        os.close(pidfd)


def worker_of(daemon: RunningDaemon, account: Person) -> int | None:
    """One that has become the account."""
    (monitor,) = children(daemon.pid)
    for pid in children(monitor):
        with suppress(FileNotFoundError, ProcessLookupError):
            status = Path(f"/proc/{pid}/status").read_text()
            if "Name:\tcsd-worker\n" in status and f"\nUid:\t{account.uid}\t" in status:
                return pid
    return None


def ask(client: PeerClient, action: str = "delete") -> str:
    """All that a scan finds is to go; the task's id."""
    client.scan()
    task_id: str = client.good("disinfect_files", {"actions": {}, "others": action})["task_id"]
    return task_id


def records_of(root: PeerClient, user: str, task_id: str) -> list[dict[str, Any]]:
    """As an administrator sees it, at its end."""

    def done() -> dict[str, Any] | None:
        task: dict[str, Any] = root.call("Task.get", {"user": user, "task_id": task_id})
        return task if task["state"] == "done" else None

    details: list[dict[str, Any]] = wait_for(done, "the task to end")["details"]
    return details


@pytest.mark.row("A20")
@pytest.mark.fails_with("never-confirmed")
@pytest.mark.parametrize(("size", "files"), [(10, 1_000), (LARGE, 60)])
def test_a_task_ends_with_its_account(
    daemon: RunningDaemon, alice: Person, size: int, files: int, figure: Figure
) -> None:
    """Removed in its midst; the newcomer has the very files. What had begun is ended, nothing else is touched."""
    for number in range(files):
        put(alice, f"f{number:04}", MARKER + b" %06d" % number + bytes(size))
    with ExitStack() as stack, daemon.client() as root:
        with daemon.client(alice.uid) as client:
            task = ask(client)
        with worker_stopped(daemon, alice, 1):
            carol = stack.enter_context(succeeded(alice, f"comes{next(NUMBERS)}", same_home=True))
            standing = infected_in(carol)
        details = records_of(root, alice.name, task)
        left = infected_in(carol)
        assert len(left) >= len(standing) - BEGUN[size], "steps were begun for an account that was gone"
        assert len(left) > 0
        *steps, end = details
        assert (len(steps), end["state"]) == (files, "error")
        gone = [step for step in steps if step["state"] == "deleted"]
        assert len(gone) == files - len(left)
        assert all("is no longer the user it was" in step["message"] for step in steps if step not in gone)
        assert leftovers(carol.home) == []
        with daemon.client(carol.uid) as client:
            assert (items(client), client.call("Task.list")) == ([], {"tasks": []})
        assert root.call("Quarantine.list", {"user": alice.name})["total"] == len(gone)
    figure(f"removed after {len(gone)} of {files} steps")


def infected_in(account: Person) -> set[bytes]:
    return {name for name, content in names(account.home).items() if content.startswith(MARKER)}


@pytest.mark.row("A20")
@pytest.mark.fails_with("never-confirmed", "another-name-will-do")
def test_a_task_that_waits_is_not_begun_for_a_newcomer(daemon: RunningDaemon, alice: Person, bob: Person) -> None:
    """Behind one of another account: one task runs at a time here."""
    put(alice, "bad", MARKER)
    for number in range(30):
        put(bob, f"f{number:03}", MARKER + bytes(LARGE))
    with ExitStack() as stack:
        root, other, client = (stack.enter_context(daemon.client(uid)) for uid in (None, bob.uid, alice.uid))
        client.scan()
        ask(other)
        with worker_stopped(daemon, bob, 0):
            task = client.good("disinfect_files", {"actions": {}, "others": "delete"})["task_id"]
            carol = stack.enter_context(succeeded(alice, f"comes{next(NUMBERS)}", same_home=True))
            before = manifest(carol.home)
        (step, _) = records_of(root, alice.name, task)
        assert (step["state"], "is no longer the user it was" in step["message"]) == ("error", True)
        assert manifest(carol.home) == before
        other.wait_disinfection()


@pytest.mark.row("A20")
@pytest.mark.fails_with("kept-across-passwd")
def test_a_scan_tells_the_newcomer_nothing(daemon: RunningDaemon, alice: Person) -> None:
    """Its worker still goes through what was the old one's; the new one's own scan waits for it, and runs."""
    for number in range(300):
        put(alice, f"f{number:03}", MARKER)
    with ExitStack() as stack, daemon.client(alice.uid) as client:
        client.good("start_scan", {"scan_type": "home"})
        with worker_stopped(daemon, alice, 0):
            client.good("get_scan_status")
            carol = stack.enter_context(succeeded(alice, f"comes{next(NUMBERS)}", same_home=False))
            new = stack.enter_context(daemon.client(carol.uid))
            assert new.uapi("get_scan_status")["status"] == 0
        put(carol, "own", MARKER)
        new.scan()
        assert [one["file"] for one in new.good("list_infected_files")] == [f"{carol.home}/own"]


@pytest.mark.row("A20")
@pytest.mark.fails_with("clean-is-taken")
@pytest.mark.parametrize("action", ["delete", "quarantine"])
def test_what_was_found_in_a_home_is_not_looked_for_in_another_one(
    daemon: RunningDaemon, alice: Person, action: str
) -> None:
    """The old home was moved away; in the new one clean files have the names, sizes and times of infected ones."""
    away = Path(f"{alice.home}.away")
    for name in ("bad", "large"):
        put(alice, name, MARKER + bytes(0 if name == "bad" else LARGE))
    try:
        with daemon.client(alice.uid) as client:
            client.scan()
            os.rename(alice.home, away)
            os.mkdir(alice.home, 0o700)
            os.chown(alice.home, alice.uid, alice.gid)
            for name in ("bad", "large"):
                put(alice, name, b"C" * (away / name).stat().st_size)
            old, new = manifest(away), names(alice.home)
            *steps, _ = client.disinfect({}, action)
            assert [step["state"] for step in steps] == ["no-action", "no-action"]
            assert items(client) == []
            assert {
                name: content for name, content in names(alice.home).items() if name != os.fsencode(LOG_NAME)
            } == new
            assert manifest(away) == old
    finally:
        subprocess.run(["rm", "-rf", str(away)], check=True)


@pytest.mark.row("A20")
@pytest.mark.fails_with("home-by-path")
def test_a_home_that_is_replaced_during_a_task_is_not_acted_on(daemon: RunningDaemon, alice: Person) -> None:
    """Each path starts at the directory that was opened when the job began."""
    away = Path(f"{alice.home}.away")
    for number in range(60):
        put(alice, f"f{number:03}", MARKER + bytes(LARGE))
    try:
        with daemon.client(alice.uid) as client:
            ask(client)
            with worker_stopped(daemon, alice, 1):
                os.rename(alice.home, away)
                os.mkdir(alice.home, 0o700)
                os.chown(alice.home, alice.uid, alice.gid)
                for number in range(60):
                    put(alice, f"f{number:03}", MARKER + bytes(LARGE))
                before = manifest(alice.home)
            client.wait_disinfection()
            assert manifest(alice.home) == before
            assert len(items(client)) == 60
    finally:
        subprocess.run(["rm", "-rf", str(away)], check=True)
