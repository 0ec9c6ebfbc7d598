"""As root: malware where an engine does not look, and whether the files that hide it are called clean.

Each hiding place holds MARKER, which both engines know. What a scan says of it must be true: found; or not scanned,
with the reason; or, of an engine that somebody else configured, that it is blind to such things. The engines: our
private clamd, and one with the very settings of Debian's package.
"""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.fakes import archives
from tests.fakes.accounts import Person, throw_away
from tests.fakes.aftermath import rows
from tests.fakes.archives import MIB
from tests.fakes.debianclamd import debian_clamd
from tests.fakes.realclamd import MARKER
from tests.fakes.running import PeerClient, RunningDaemon, acting_as, wait_for
from tests.integration.people import clear, fill, held_in_mid_scan, started_by_monitor
from tests.rows import Amount, Figure

SCAN_S = 120.0
FILES = 500
CONFIG = "[engine]\nping_timeout_s = 60\n"
MAILBOX = b"From ann@example.org Thu Jan  1 00:00:00 2026\nSubject: one\n\n"


class Hidden(NamedTuple):
    """`content`, then zeros up to `size`. What the private engine says of it, and the shared one: found, a reason, or
    the words of the sentence that says that it is blind to it."""

    content: Callable[[], bytes]
    private: str
    debian: str
    size: int = 0


IN_ARCHIVES = "Files over 25 MiB inside archives"
UNPACKED = "Archives are looked at up to 100 MiB unpacked"
HIDDEN = {
    "plain": Hidden(lambda: MARKER, "found", "found"),
    "plain.zip": Hidden(lambda: archives.zipped(("bad", MARKER)), "found", "found"),
    "over-25M": Hidden(lambda: MARKER, "found", "too_big", (25 * MIB) + 1),
    "over-100M": Hidden(lambda: MARKER, "too_big", "too_big", (100 * MIB) + 1),
    "1TiB": Hidden(lambda: MARKER, "too_big", "too_big", 1 << 40),
    "1TiB.mbox": Hidden(lambda: MAILBOX + MARKER, "too_big", "too_big", 1 << 40),
    "encrypted.zip": Hidden(lambda: archives.encrypted_zip(MARKER), "encrypted", "Encrypted archives pass as clean"),
    "encrypted.pdf": Hidden(lambda: archives.encrypted_pdf(MARKER), "encrypted", "Encrypted documents pass as clean"),
    "member-30M.zip": Hidden(lambda: archives.big_member(30 * MIB, MARKER), "found", IN_ARCHIVES),
    "member-120M.zip": Hidden(lambda: archives.big_member(120 * MIB, MARKER), "limit", IN_ARCHIVES),
    "members-120M.zip": Hidden(
        lambda: archives.zipped(*((f"m{n}", bytes(20 * MIB)) for n in range(6)), ("last", MARKER)), "limit", UNPACKED
    ),
    "bomb-3G.zip": Hidden(lambda: archives.bomb(300, MARKER), "limit", IN_ARCHIVES),
    "members-10100.zip": Hidden(
        lambda: archives.many_members(10_100, MARKER), "limit", "Archives are looked at up to 10000 files"
    ),
    "nested-25.zip": Hidden(lambda: archives.nested(25, MARKER), "limit", "nested deeper than 16"),
}


@pytest.fixture(scope="module")
def alice() -> Iterator[Person]:
    with throw_away("hides") as account:
        yield account


@pytest.fixture
def hidden(alice: Person) -> None:
    """All of it in A's home, and one file that is clean."""
    clear(alice)
    contents = {name: one.content() for name, one in HIDDEN.items()}
    with acting_as(alice.uid):
        for name, content in contents.items():
            with Path(alice.home, name).open("wb") as stream:
                stream.write(content)
                stream.truncate(max(HIDDEN[name].size, len(content)))
        Path(alice.home, "fine").write_bytes(b"fine")


class Engine(NamedTuple):
    daemon: RunningDaemon
    pid: Callable[[], int]


@contextmanager
def private() -> Iterator[Engine]:
    with RunningDaemon(config=CONFIG) as daemon:
        yield Engine(daemon, lambda: started_by_monitor(daemon, "clamd")[0])


@contextmanager
def debian() -> Iterator[Engine]:
    daemon = RunningDaemon()
    try:
        with debian_clamd(daemon.directory / "clamd") as clamd:
            text = CONFIG.replace("[engine]\n", f'[engine]\nclamd_conf = "{clamd.conf_path}"\n')
            daemon.write_config(text, f'["{clamd.socket_path}"]')
            daemon.start()
            yield Engine(daemon, lambda: clamd.pid)
    finally:
        daemon.close()


def outcomes(daemon: RunningDaemon, scan: int) -> dict[str, str]:
    """By name: "found", or why it was not scanned. What is not in it was called clean."""
    told = dict(rows(daemon, "SELECT path, reason FROM not_scanned WHERE scan = ?", scan))
    told |= {path: "found" for (path,) in rows(daemon, "SELECT path FROM finding WHERE scan = ?", scan)}
    return {os.fsdecode(path): outcome for path, outcome in told.items()}


def scanned(engine: Engine, account: Person) -> tuple[dict[str, Any], dict[str, str]]:
    with engine.daemon.client(account.uid) as client:
        status = client.scan(timeout_s=SCAN_S)
        assert status["state"] == "done", client.uapi("get_scan_status")["warnings"]
        assert set(status["engine"]["blind"]) <= set(client.uapi("list_infected_files")["warnings"] or ())
    told = outcomes(engine.daemon, status["scan_id"])
    assert status["total_file_count"] == len(HIDDEN) + 1
    not_scanned = sum(outcome != "found" for outcome in told.values())
    assert status["scanned_file_count"] == len(HIDDEN) + 1 - not_scanned == status["total_file_count"] - not_scanned
    assert sum(status["not_scanned"].values()) == not_scanned
    return status, told


@pytest.mark.row("A9")
@pytest.mark.fails_with("limits-are-clean", "encrypted-is-clean")
@pytest.mark.usefixtures("hidden")
def test_our_own_engine_is_blind_to_nothing_and_calls_no_hiding_place_clean(alice: Person, figure: Figure) -> None:
    with private() as engine:
        status, told = scanned(engine, alice)
    assert told == {name: one.private for name, one in HIDDEN.items()}
    assert status["engine"]["blind"] == []
    figure(f"{len(HIDDEN)} hiding places, private engine: 0 clean")


@pytest.mark.row("A9")
@pytest.mark.fails_with("blind-to-nothing", "size-unasked")
@pytest.mark.usefixtures("hidden")
def test_debians_engine_is_said_to_be_blind_to_what_it_passes_over(alice: Person, figure: Figure) -> None:
    with debian() as engine:
        status, told = scanned(engine, alice)
    passed = HIDDEN.keys() - told.keys()
    for name, outcome in told.items():
        assert outcome in ("found", HIDDEN[name].debian), name
    for name in passed:
        assert any(HIDDEN[name].debian in sentence for sentence in status["engine"]["blind"]), name
    figure(f"shared one with Debian's settings: {len(passed)} clean, each announced")


CHANGES = ("rewritten", "grown", "cut", "replaced")


def change(path: Path, how: str, spare: Path) -> None:
    """One that leaves the time of the last writing as it is, where it can be had so."""
    before = path.stat()
    if how == "grown":
        with path.open("ab") as stream:
            stream.write(b"more")
    elif how == "cut":
        os.truncate(path, 2)
    else:
        spare.write_bytes(path.read_bytes().upper())
        if how == "rewritten":
            path.write_bytes(spare.read_bytes())
        os.utime(path if how == "rewritten" else spare, ns=(before.st_atime_ns, before.st_mtime_ns))
        if how == "replaced":
            spare.rename(path)
        else:
            spare.unlink()


def is_stopped(pid: int) -> bool:
    return all(
        path.read_text().rpartition(")")[2].split()[0] == "T" for path in Path(f"/proc/{pid}/task").glob("*/stat")
    )


def is_waiting(pid: int) -> bool:
    """Whether it is in poll(2), asleep."""
    number = {"x86_64": "7", "aarch64": "73"}[os.uname().machine]
    return Path(f"/proc/{pid}/syscall").read_text().split()[0] == number


def open_beneath(pid: int, home: str) -> set[Path]:
    files = (os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd"))
    return {Path(file) for file in files if file.startswith(f"{home}/d") and "/f" in file}


def changed_under_the_engine(engine: Engine, client: PeerClient, account: Person) -> int:
    """A scan of FILES files, whose engine is stopped while its worker has some of them open; these change. How many."""
    clear(account)
    fill(account, FILES)
    with held_in_mid_scan(engine.daemon, client, account) as worker:
        pid = engine.pid()
        os.kill(pid, signal.SIGSTOP)
        try:
            wait_for(lambda: is_stopped(pid), "the engine to stop")
            os.kill(worker, signal.SIGCONT)
            wait_for(lambda: is_waiting(worker), "the worker to wait for the engine")
            files = sorted(open_beneath(worker, account.home))
            with acting_as(account.uid):
                for number, path in enumerate(files):
                    change(path, CHANGES[number % len(CHANGES)], Path(account.home, "spare"))
        finally:
            os.kill(pid, signal.SIGCONT)
    status = client.wait_scan()
    assert (status["state"], status["infected_file_count"]) == ("done", 0)
    assert status["not_scanned"] == {"changed": len(files)}
    assert status["scanned_file_count"] + len(files) == status["total_file_count"]
    told = outcomes(engine.daemon, status["scan_id"])
    assert told == {str(path.relative_to(account.home)): "changed" for path in files}
    return len(files)


@pytest.mark.row("A9")
@pytest.mark.fails_with("no-second-look")
@pytest.mark.parametrize("running", [private, debian])
def test_a_file_that_changes_while_the_engine_has_it_is_not_clean(
    alice: Person, running: Callable[[], AbstractContextManager[Engine]], amount: Amount, figure: Figure
) -> None:
    rounds, files = amount(quick=2, long=50), 0
    with running() as engine, engine.daemon.client(alice.uid) as client:
        for _ in range(rounds):
            files += changed_under_the_engine(engine, client, alice)
    assert files >= rounds * len(CHANGES)
    figure(f"{files:,} files changed while scanned ({running.__name__}): 0 clean")
