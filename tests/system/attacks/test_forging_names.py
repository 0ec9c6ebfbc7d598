"""As root: files whose names forge lines, records, verdicts and fields, through all that ever shows a name.

Each infected file has a content of its own, so that "the right file" can be said of every answer. Beside them stand
the files that the names speak of: clean, and nobody is to say anything about them, or to touch them.
"""

import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clamscannerd import events
from tests.fakes.accounts import Person, throw_away
from tests.fakes.aftermath import check_log, rows, vault
from tests.fakes.hostile import decoded, paths
from tests.fakes.journal import Journal
from tests.fakes.realclamd import MARKER, MARKER_NAME
from tests.fakes.restoring import LOG, afresh, items, put, restore
from tests.fakes.running import PeerClient, RunningDaemon
from tests.rows import Amount, Figure

VICTIMS = (b"victim", b"x")
CTL = str(Path(sys.executable).with_name("clamscannerctl"))
LINE = re.compile(r"(DEBUG|INFO|WARNING|ERROR) clamscannerd[.a-z_]*: .*")
ENTRIES = events.MOST_A_MINUTE // 2 - 5
"""Files of which one scan and one disinfection are told in full."""

FIELDS = {"MESSAGE", "MESSAGE_ID", "PRIORITY", "LOGGER", "CODE_FILE", "CODE_LINE", "CODE_FUNC", "SYSLOG_IDENTIFIER"}
OUR_FIELDS = {f"CLAMSCANNERD_{name}" for name in ("UID", "SCAN_ID", "TASK_ID", "PATH", "SIGNATURE", "OUTCOME")}
PATIENCE_S = 300.0


@pytest.fixture(scope="module")
def alice() -> Iterator[Person]:
    with throw_away("forges") as account:
        yield account


def lay(account: Person, names: list[bytes]) -> dict[bytes, bytes]:
    """Infected files, and the clean ones that they speak of. Content by path beneath the home."""
    contents = {name: MARKER + b" number %d" % number for number, name in enumerate(names)}
    for name, content in [*contents.items(), *((victim, b"clean") for victim in VICTIMS)]:
        put(account, name, content)
    return contents


def standing(account: Person) -> dict[bytes, bytes]:
    """Every file but the log, with its content, by path beneath the home."""
    home = os.fsencode(account.home)
    found = {}
    for folder, _, names in os.walk(home):
        for path in (os.path.join(folder, name) for name in names):
            with open(path, "rb") as stream:
                found[path[len(home) + 1 :]] = stream.read()
    found.pop(LOG, None)
    return found


def beneath(account: Person, text: str) -> bytes:
    """The path beneath the home of an absolute one in wire form."""
    path = decoded(text)
    assert path.startswith(os.fsencode(account.home) + b"/")
    return path[len(account.home) + 1 :]


def ctl(daemon: RunningDaemon, account: Person, *words: str) -> bytes:
    command = [CTL, "--socket", daemon.socket_path, *words]
    ids = {"user": account.uid, "group": account.gid}
    ended = subprocess.run(command, capture_output=True, check=False, timeout=PATIENCE_S, cwd="/", **ids)  # type: ignore[call-overload]
    assert ended.stderr == b""
    out: bytes = ended.stdout
    return out


def check_lists(daemon: RunningDaemon, client: PeerClient, account: Person, names: set[bytes]) -> list[str]:
    """What was found, by every way to ask; the names as the client was told."""
    listed = client.good("list_infected_files")
    assert {beneath(account, one["file"]) for one in listed} == names
    assert len(listed) == len(names)
    assert {one["virus_type"] for one in listed} == {MARKER_NAME}
    told = [one["file"] for one in listed]
    assert set(client.good("get_scan_status")["infected_files"]) <= set(told)
    assert {path for (path,) in rows(daemon, "SELECT path FROM finding WHERE state = 'standing'")} == names
    lines = ctl(daemon, account, "infected").decode("utf-8").removesuffix("\n").split("\n")
    ending = f": {MARKER_NAME} FOUND"
    assert all(line.isprintable() and line.endswith(ending) for line in lines)
    assert sorted(beneath(account, line.removesuffix(ending)) for line in lines) == sorted(names)
    answer = ctl(daemon, account, "infected", "--json")
    assert re.fullmatch(rb"[ -~]+\n", answer)
    assert json.loads(answer)["result"]["data"] == listed
    return told


def check_taken(daemon: RunningDaemon, account: Person, contents: dict[bytes, bytes], details: list[Any]) -> None:
    """Every file is dealt with as it was asked; nothing is said of anything else; the vault has the right contents."""
    *steps, done = details
    assert (done["type"], done["state"]) == ("done", "success")
    check_log(account.home, details)
    told = {beneath(account, step["file"]): step["state"] for step in steps}
    assert len(steps) == len(told)
    assert told == {name: outcome(place) for place, name in enumerate(contents)}
    assert {item.path: item.content for item in vault(daemon)} == contents
    assert standing(account) == dict.fromkeys(VICTIMS, b"clean")


def action(place: int) -> str:
    return ("quarantine", "delete")[place % 2]


def outcome(place: int) -> str:
    return ("quarantined", "deleted")[place % 2]


def through_all(daemon: RunningDaemon, account: Person, names: list[bytes], back: int) -> None:
    """Scan, list, act on each by the name that was told, and take so many of them back."""
    contents = lay(account, names)
    places = {name: place for place, name in enumerate(names)}
    with daemon.client(account.uid) as client:
        status = client.scan(timeout_s=PATIENCE_S)
        assert status["infected_file_count"] == len(names)
        assert status["total_file_count"] == len(names) + len(VICTIMS)
        assert status["not_scanned"] == {}
        told = check_lists(daemon, client, account, set(names))
        actions = {text: action(places[beneath(account, text)]) for text in told}
        assert client.uapi("disinfect_files", {"actions": actions})["warnings"] is None
        details = client.wait_disinfection(PATIENCE_S)
        check_taken(daemon, account, contents, details)
        kept = items(client)
        while len(kept) < len(names):
            kept += items(client, offset=len(kept))
        assert sorted(beneath(account, item["file"]) for item in kept) == sorted(names)
        chosen = random.Random(back).sample(kept, back)
        restored = restore(client, [item["id"] for item in chosen], force=True)
        assert [record["state"] for record in restored] == ["restored"] * back + ["success"]
        returned = {beneath(account, item["file"]) for item in chosen}
    there = {name: contents[name] for name in returned}
    assert standing(account) == there | dict.fromkeys(VICTIMS, b"clean")


@pytest.mark.row("A16")
@pytest.mark.fails_with(
    "backslash-not-doubled", "names-raw-on-the-terminal", "names-raw-in-the-log", "names-raw-in-the-record"
)
def test_names_that_forge_are_only_names(alice: Person, amount: Amount, figure: Figure) -> None:
    names = paths(amount(quick=500, long=5_000))
    with RunningDaemon() as daemon:
        through_all(daemon, afresh(alice, daemon), names, back=amount(quick=50, long=500))
        lines = daemon.log().splitlines()
    assert [line for line in lines if not (LINE.fullmatch(line) and line.isprintable())] == []
    figure(f"{len(names):,} names through scan, lists, log, vault and back: 0 forged")


@pytest.mark.row("A16")
@pytest.mark.fails_with("names-raw-in-the-journal")
def test_the_journal_has_an_entry_for_each_name_and_no_other(alice: Person, figure: Figure) -> None:
    names = paths(ENTRIES)
    daemon = RunningDaemon()
    with Journal(daemon.directory / "journal") as journal:
        daemon.program = journal.program
        try:
            daemon.start(engine=False)
            afresh(alice, daemon)
            contents = lay(alice, names)
            with daemon.client(alice.uid) as client:
                client.scan()
                client.good("disinfect_files", {"actions": {}, "others": "delete"})
                details = client.wait_disinfection()
            assert details[-1]["state"] == "success"
            found = journal.wait_of(len(names), MESSAGE_ID=events.INFECTION_FOUND)
            acted = journal.wait_of(len(names), MESSAGE_ID=events.ACTION_TAKEN)
            entries = journal.of()
        finally:
            daemon.close()
    uid = str(alice.uid)
    for told in (found, acted):
        assert sorted(beneath(alice, entry["CLAMSCANNERD_PATH"]) for entry in told) == sorted(contents)
        assert {(entry["CLAMSCANNERD_UID"], entry["CLAMSCANNERD_SIGNATURE"]) for entry in told} == {(uid, MARKER_NAME)}
    assert {entry["CLAMSCANNERD_OUTCOME"] for entry in acted} == {"deleted"}
    assert all(entry.keys() <= FIELDS | OUR_FIELDS for entry in entries)
    assert all(
        entry["MESSAGE"].isprintable() and entry["PRIORITY"] == "6" for entry in entries if entry in found + acted
    )
    about = [entry for entry in entries if "CLAMSCANNERD_UID" in entry]
    assert {entry["CLAMSCANNERD_UID"] for entry in about} == {uid}
    assert {entry.get("SYSLOG_IDENTIFIER") for entry in about} == {"clamscannerd"}
    figure(f"{len(found) + len(acted)} journal entries, each of its file")
