"""A5, as root: an account that puts something else where the log of its disinfections is to be written.

At the log's own name, and at the one under which a fresh log is written before it takes that name. Each task is timed
against two of the same account, just before, with nothing in the way.
"""

import errno
import json
import os
import stat
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.accounts import Person, throw_away
from tests.fakes.aftermath import LOG_NAME, check_log, leftovers
from tests.fakes.manifest import Entry, contents, manifest
from tests.fakes.realclamd import MARKER
from tests.fakes.restoring import afresh, items
from tests.fakes.running import PeerClient, RunningDaemon
from tests.fakes.swapping import link, put
from tests.fakes.volumes import fill, small_disk, with_quota
from tests.rows import Figure

FILES = 15
SLOWER_S = 2.0
NAMES = (LOG_NAME, f"{LOG_NAME}.new")
KINDS = ("link", "dangling link", "fifo", "hard link", "root's file", "9 MB")


@pytest.fixture(scope="module")
def daemon() -> Iterator[RunningDaemon]:
    with RunningDaemon() as running:
        yield running


@pytest.fixture(scope="module")
def _people() -> Iterator[tuple[Person, Person]]:
    with throw_away("log_a") as alice, throw_away("log_b") as bob:
        yield alice, bob


@pytest.fixture
def alice(_people: tuple[Person, Person], daemon: RunningDaemon) -> Person:
    return afresh(_people[0], daemon)


@pytest.fixture
def victims(_people: tuple[Person, Person], daemon: RunningDaemon) -> Path:
    """B's directory, which everybody may change, with a file of B and one of root."""
    bob = afresh(_people[1], daemon)
    Path(bob.home).chmod(0o711)
    tree = Path(bob.home, "tree")
    put(bob, tree / "file", b"B's\n")
    (tree / "root").write_bytes(b"root's\n")
    tree.chmod(0o777)
    (tree / "file").chmod(0o666)
    (tree / "root").chmod(0o600)
    return tree


def put_files(account: Person) -> list[list[Path]]:
    """Those of three tasks, with names so long that a page does not hold the log of one."""
    paths = [Path(account.home, f"{number:02}{'x' * 230}") for number in range(3 * FILES)]
    for number, path in enumerate(paths):
        put(account, path, MARKER + b" %d" % number)
    return [paths[:FILES], paths[FILES : 2 * FILES], paths[2 * FILES :]]


def task(client: PeerClient, paths: list[Path]) -> tuple[float, list[dict[str, Any]]]:
    """Quarantine these, which were found: how long the task took, and its details."""
    began = time.monotonic()
    details = client.disinfect({str(path): "quarantine" for path in paths})
    return time.monotonic() - began, details


def but_links(entries: dict[bytes, Entry]) -> dict[bytes, tuple[object, ...]]:
    """Without what a further name of a file changes in it."""
    return {path: entry._replace(links=0, ctime_ns=0) for path, entry in entries.items()}


def put_in_the_way(account: Person, place: Path, kind: str, victims: Path) -> None:
    place.unlink(missing_ok=True)
    match kind:
        case "link":
            link(victims / "file", place)
        case "dangling link":
            link(victims / "new", place)
        case "fifo":
            os.mkfifo(place)
        case "directory":
            put(account, place / "inner", b"inner")
        case "9 MB":
            place.write_bytes(b'{"id": 1}\n' * 900_000)
        case _:
            place.hardlink_to(victims / ("root" if "root" in kind else "file"))
            return
    os.chown(place, account.uid, account.gid, follow_symlinks=False)


@pytest.mark.row("A5")
@pytest.mark.fails_with("log-opened-in-place")
@pytest.mark.parametrize("kind", KINDS)
def test_what_stands_in_the_way_of_the_log_is_replaced_and_never_written(
    daemon: RunningDaemon, alice: Person, victims: Path, figure: Figure, kind: str
) -> None:
    with daemon.client(alice.uid) as client:
        *others, paths = put_files(alice)
        client.scan()
        normal_s = max(task(client, other)[0] for other in others)
        before = but_links(manifest(victims))
        for name in NAMES:
            put_in_the_way(alice, Path(alice.home, name), kind, victims)
        took_s, details = task(client, paths)
    assert took_s <= normal_s + SLOWER_S
    assert but_links(manifest(victims)) == before
    assert [step["state"] for step in details] == [*["quarantined"] * FILES, "success"]
    check_log(alice.home, details)
    log = Path(alice.home, LOG_NAME).lstat()
    assert (log.st_mode, log.st_uid, log.st_nlink) == (stat.S_IFREG | 0o600, alice.uid, 1)
    assert not os.path.lexists(Path(alice.home, NAMES[1]))
    figure(f"{kind} {took_s - normal_s:+.2f} s")


@pytest.mark.row("A5")
@pytest.mark.fails_with("log-trouble-untold")
@pytest.mark.parametrize("name", NAMES, ids=["log", "fresh log"])
def test_a_directory_in_the_place_of_the_log_costs_one_warning(
    daemon: RunningDaemon, alice: Person, victims: Path, figure: Figure, name: str
) -> None:
    place = Path(alice.home, name)
    with daemon.client(alice.uid) as client:
        *others, paths = put_files(alice)
        client.scan()
        normal_s = max(task(client, other)[0] for other in others)
        put_in_the_way(alice, place, "directory", victims)
        took_s, details = task(client, paths)
    assert took_s <= normal_s + SLOWER_S
    assert Counter(step["state"] for step in details) == {"quarantined": FILES, "warning": 1, "success": 1}
    assert sum("cannot write the log" in step.get("message", "") for step in details) == 1
    assert (place / "inner").read_bytes() == b"inner"
    figure(f"directory {took_s - normal_s:+.2f} s")


@pytest.mark.row("A5")
@pytest.mark.fails_with("log-torn")
@pytest.mark.parametrize("lacking", ["quota", "inodes", "blocks"])
def test_a_log_that_there_is_no_room_for_costs_one_warning(
    daemon: RunningDaemon, alice: Person, figure: Figure, lacking: str
) -> None:
    """Nor is a file lost: where the quota does not even let a file be renamed, it stays."""
    homes: dict[str, Callable[[], AbstractContextManager[None]]] = {
        "quota": lambda: with_quota(alice),
        "inodes": lambda: small_disk(alice, f"nr_inodes={5 * FILES}"),
        "blocks": lambda: small_disk(alice, "size=1m"),
    }
    with ExitStack() as stack:
        stack.enter_context(homes[lacking]())
        client = stack.enter_context(daemon.client(alice.uid))
        *others, paths = put_files(alice)
        client.scan()
        normal_s = max(task(client, other)[0] for other in others)
        client.call("Quarantine.delete", {"ids": [item["id"] for item in items(client)]})
        Path(alice.home, LOG_NAME).unlink()
        fill(alice, errno.EDQUOT if lacking == "quota" else errno.ENOSPC)
        if lacking == "blocks":
            for path in paths:  # so that what is taken away makes no room
                stack.enter_context(path.open())
            Path(alice.home, "filling0").unlink()  # for the beginning of the log alone
        took_s, details = task(client, paths)
        assert took_s <= normal_s + SLOWER_S
        states = [step["state"] for step in details]
        left = contents(alice.home)
        assert states.count("warning") == 1
        assert sum("cannot write the log" in step.get("message", "") for step in details) == 1
        assert states.count("quarantined") == len(items(client)) == FILES - sum(MARKER in one for one in left)
        assert lacking == "quota" or states.count("quarantined") == FILES
        log = Path(alice.home, LOG_NAME)
        assert log.exists() == (lacking == "blocks")
        if log.exists():
            lines = log.read_text().splitlines(keepends=True)
            assert lines[-1].endswith("\n")
            assert [json.loads(line) for line in lines] == details[: len(lines)]
            assert 0 < len(lines) < FILES
        assert leftovers(alice.home) == []
        figure(f"{lacking} {took_s - normal_s:+.2f} s")
