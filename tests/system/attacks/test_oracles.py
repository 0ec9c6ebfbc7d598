"""As root: what A can learn of B by asking. Whether something of B's exists or not, the answer is the same, byte for
byte but for what A said itself, and takes as long.

B's home can be passed through and B's files can be read by everybody, so that no mode stands in the way of whoever
looks; and A has links to all of it.
"""

import json
import os
import re
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.fakes.accounts import Person, throw_away
from tests.fakes.aftermath import rows
from tests.fakes.manifest import manifest
from tests.fakes.own_calls import OWN_CALLS
from tests.fakes.realclamd import MARKER
from tests.fakes.restoring import items, put, take
from tests.fakes.running import PeerClient, RunningDaemon, wait_for
from tests.rows import Amount, Figure

HERE, GONE = "here.one", "gone.one"
"""The last component of what exists, and of what does not: of one length."""

WITHIN, WITHIN_S = 0.05, 50e-6
ROUNDS = 12
"""Noise goes away with more samples, a difference does not."""


class Pair(NamedTuple):
    """One request about what is B's, and one about what is not there. `own`: what stands for either in an answer."""

    name: str
    method: str
    there: dict[str, Any]
    missing: dict[str, Any]
    own: tuple[str, str]


class Victim(NamedTuple):
    """What B has: the same could be asked for by anybody who guesses it."""

    person: Person
    item: int
    task: str
    scan: int


@pytest.fixture(scope="module")
def daemon() -> Iterator[RunningDaemon]:
    types = 'message = "B\'s alone"\npaths = ["."]\nusers = ["csd_test_oracle_b"]\n'
    with RunningDaemon(config=f"[scan_types.only_b]\n{types}") as running:
        yield running


@pytest.fixture(scope="module")
def bob(daemon: RunningDaemon) -> Iterator[Victim]:
    with throw_away("oracle_b") as account:
        put(account, "taken", MARKER)
        with daemon.client(account.uid) as client:
            task = take(client)
            put(account, HERE, MARKER)
            put(account, f"dir/{HERE}/file", MARKER)
            scan = client.scan()["scan_id"]
            (item,) = items(client)
        Path(account.home).chmod(0o711)
        Path(account.home, "dir").chmod(0o777)
        yield Victim(account, item["id"], task, scan)


@pytest.fixture(scope="module")
def alice(daemon: RunningDaemon, bob: Victim) -> Iterator[Person]:
    """Has something on her list, something in her vault, and links to what is B's."""
    with throw_away("oracle_a") as account:
        put(account, "taken", MARKER)
        with daemon.client(account.uid) as client:
            take(client)
            put(account, "own", MARKER)
            client.scan()
        Path(account.home, "to_b").symlink_to(f"../{Path(bob.person.home).name}")
        Path(account.home, "to_root").symlink_to("/proc/self/root")
        yield account


def spelled(alice: Person, bob: Person) -> dict[str, str]:
    """Ways to name what is B's, up to the last component."""
    return {
        "absolute": bob.home,
        "without the slash": bob.home[1:],
        "by the parent": f"../{Path(bob.home).name}",
        "from A's home by the parent": f"{alice.home}/../{Path(bob.home).name}",
        "through a link": "to_b",
        "through a link, absolute": f"{alice.home}/to_b",
        "through /proc": f"/proc/self/root{bob.home}",
        "through a link to /proc": f"to_root{bob.home}",
        "with NUL": f"{bob.home}/\0/..",
        "of A's name with NUL": f"own\0/{bob.home}",
    }


def path_pairs(alice: Person, bob: Person, item: int) -> list[Pair]:
    pairs = []
    for way, start in spelled(alice, bob).items():
        wanted: list[tuple[str, list[dict[str, Any]]]] = [
            ("disinfect_files", [{"actions": {f"{start}/{name}": "delete"}} for name in (HERE, GONE)]),
            ("start_scan", [{"scan_type": f"{start}/{name}"} for name in (HERE, GONE)]),
        ]
        for method, (there, missing) in wanted:
            pairs.append(Pair(f"{method}, {way}", f"ClamScanner.{method}", there, missing, (HERE, GONE)))
        if "link" not in way and way != "without the slash":  # that would be in A's home, and a task: below
            there, missing = ({"ids": [item], "to": f"{start}/dir/{name}"} for name in (HERE, GONE))
            pairs.append(Pair(f"place, {way}", "Quarantine.restore", there, missing, (HERE, GONE)))
    return pairs


def number_pairs(bob: Victim) -> list[Pair]:
    """And names of accounts, and of scan types. Numbers that never were have as many digits."""
    never = int("9" * len(str(bob.item)))
    task, no_task = bob.task, bob.task[:-1] + ("0" if bob.task[-1] != "0" else "1")
    texts = (str(bob.item), str(never))
    pairs = [
        Pair("item", "Quarantine.show", {"id": bob.item}, {"id": never}, texts),
        Pair("items to restore", "Quarantine.restore", {"ids": [bob.item]}, {"ids": [never]}, texts),
        Pair("items to delete", "Quarantine.delete", {"ids": [bob.item]}, {"ids": [never]}, texts),
        Pair("task", "Task.get", {"task_id": task}, {"task_id": no_task}, (task, no_task)),
        Pair("task to undo", "Task.undo", {"task_id": task}, {"task_id": no_task}, (task, no_task)),
        Pair("scan", "ClamScanner.get_scan_status", {"scan_id": bob.scan}, {"scan_id": 999_999}, ("-", "-")),
        Pair(
            "scan type of B's",
            "ClamScanner.start_scan",
            {"scan_type": "only_b"},
            {"scan_type": "only_c"},
            ("only_b", "only_c"),
        ),
    ]
    name, nobody = bob.person.name, bob.person.name[:-1] + "c"
    for method, params in OWN_CALLS.items():
        users = ({**params, "user": name}, {**params, "user": nobody})
        pairs.append(Pair(f"user of {method}", method, *users, (name, nobody)))
    return pairs


def asked(client: PeerClient, method: str, params: dict[str, Any]) -> tuple[bytes, float]:
    """The answer as it comes, and how long it took."""
    line = json.dumps({"jsonrpc": "2.0", "id": 7, "method": method, "params": params}).encode() + b"\n"
    began = time.perf_counter()
    client.sock.sendall(line)
    answer = b""
    while not answer.endswith(b"\n"):
        chunk = client.sock.recv(1 << 16)
        assert chunk, "the daemon closed the connection"
        answer += chunk
    return answer, time.perf_counter() - began


def check_same(client: PeerClient, pair: Pair) -> None:
    """And a refusal."""
    answers = []
    for params, own in zip((pair.there, pair.missing), pair.own, strict=True):
        answer, _ = asked(client, pair.method, params)
        answers.append(re.sub(rf"(?<![0-9A-Za-z]){re.escape(own)}(?![0-9A-Za-z])".encode(), b"*", answer))
    assert answers[0] == answers[1], pair.name
    answer = json.loads(asked(client, pair.method, pair.there)[0])
    assert "error" in answer or answer["result"]["result"]["status"] == 0, pair.name


def state_of(daemon: RunningDaemon, bob: Victim) -> tuple[object, ...]:
    """B's home, and all that is known of B."""
    name = bob.person.name
    whose = "JOIN account a ON a.id = t.account WHERE a.name = ?"
    tables = ("item", "task", "scan", "finding")
    known = [rows(daemon, f"SELECT t.* FROM {table} t {whose}", name) for table in tables]  # noqa: S608  our own words
    return manifest(bob.person.home), *known


def own_item(client: PeerClient) -> int:
    number: int = items(client)[0]["id"]
    return number


@pytest.mark.row("A6")
@pytest.mark.fails_with("paths-are-looked-at")
def test_a_path_of_anothers_gets_one_answer_whether_it_is_there_or_not(
    daemon: RunningDaemon, alice: Person, bob: Victim, figure: Figure
) -> None:
    before = state_of(daemon, bob)
    with daemon.client(alice.uid) as client:
        pairs = path_pairs(alice, bob.person, own_item(client))
        for pair in pairs:
            check_same(client, pair)
    assert state_of(daemon, bob) == before
    figure(f"{len(pairs)} pairs of paths")


@pytest.mark.row("A6")
@pytest.mark.fails_with("numbers-of-anybody", "numbers-are-told-apart")
def test_a_number_or_name_of_anothers_gets_one_answer_whether_it_is_there_or_not(
    daemon: RunningDaemon, alice: Person, bob: Victim, figure: Figure
) -> None:
    before = state_of(daemon, bob)
    with daemon.client(alice.uid) as client:
        pairs = number_pairs(bob)
        for pair in pairs:
            check_same(client, pair)
    assert state_of(daemon, bob) == before
    figure(f"{len(pairs)} pairs of numbers")


def ended(client: PeerClient, task_id: str) -> list[dict[str, Any]]:
    def look() -> list[dict[str, Any]] | None:
        task: dict[str, Any] = client.call("Task.get", {"task_id": task_id})
        return task["details"] if task["state"] == "done" else None

    return wait_for(look, "the task to end")


@pytest.mark.row("A6")
@pytest.mark.fails_with("links-are-followed")
def test_what_a_link_leads_to_is_neither_reached_nor_told(daemon: RunningDaemon, alice: Person, bob: Victim) -> None:
    """Where a worker is to go through A's own links: to restore into, to act on, to scan."""
    before = state_of(daemon, bob)
    with daemon.client(alice.uid) as client:
        told = []
        for name in (HERE, GONE):
            restoring = {"ids": [own_item(client)], "to": f"to_b/dir/{name}", "force": True}
            (step, _) = ended(client, client.call("Quarantine.restore", restoring)["task_id"])
            told.append((step["state"], step["message"].replace(name, "*")))
        assert told[0] == told[1]
        assert told[0][0] == "error"

        told = []
        for name in (HERE, GONE):
            put(alice, f"box/{name}", MARKER)
            put(alice, f"leaf_{name}", MARKER)
            client.scan()
            os.rename(Path(alice.home, "box"), Path(alice.home, "gone_box"))
            Path(alice.home, "box").symlink_to(f"../{Path(bob.person.home).name}")
            Path(alice.home, f"leaf_{name}").unlink()
            Path(alice.home, f"leaf_{name}").symlink_to(f"../{Path(bob.person.home).name}/{name}")
            *steps, _ = client.disinfect({f"box/{name}": "delete", f"leaf_{name}": "quarantine"})
            told += [(step["state"], re.sub("[0-9a-f]{32}", "*", step["message"])) for step in steps]
            Path(alice.home, "box").unlink()
            Path(alice.home, f"leaf_{name}").unlink()
            (Path(alice.home, "gone_box") / name).unlink()
            Path(alice.home, "gone_box").rmdir()
        assert told[:2] == told[2:]
        assert {state for state, _ in told} == {"error"}

        counts = []
        for name in (HERE, GONE):
            Path(alice.home, "link").symlink_to(f"{bob.person.home}/{name}")
            status = client.scan()
            counts.append((status["total_file_count"], status["scanned_file_count"], status["not_scanned"]))
            Path(alice.home, "link").unlink()
        assert counts[0] == counts[1]
        assert [one["file"] for one in client.good("list_infected_files")] == [f"{alice.home}/own"]
    assert state_of(daemon, bob) == before


@pytest.mark.row("A6")
@pytest.mark.fails_with("slower-for-what-exists")
def test_an_answer_takes_as_long_whether_it_is_there_or_not(
    daemon: RunningDaemon, alice: Person, bob: Victim, amount: Amount, figure: Figure
) -> None:
    """Medians of samples that were taken in turns, each first as often as second."""
    number = amount(quick=60, long=1_000)
    worst = 0.0
    before = state_of(daemon, bob)
    with daemon.client(alice.uid) as client:
        pairs = [*path_pairs(alice, bob.person, own_item(client)), *number_pairs(bob)]
        for pair in pairs:
            difference = compare(client, pair, number)
            assert difference is not None, f"{pair.name}: the time tells"
            worst = max(worst, difference)
    assert state_of(daemon, bob) == before
    figure(f"{len(pairs)} pairs timed, {2 * number:,} samples each; medians differ by {worst * 1e6:.0f} us at most")


def compare(client: PeerClient, pair: Pair, number: int) -> float | None:
    """By how much the medians differ, as soon as that is within the bounds; None: it never was."""
    there: list[float] = []
    missing: list[float] = []
    for _ in range(ROUNDS):
        for turn in range(number):
            order = ((there, pair.there), (missing, pair.missing))
            for samples, params in order if turn % 2 else order[::-1]:
                samples.append(asked(client, pair.method, params)[1])
        medians = statistics.median(there), statistics.median(missing)
        difference = abs(medians[0] - medians[1])
        if difference <= max(WITHIN_S, WITHIN * min(medians)):
            return difference
    return None
