"""Row R5: the state on a small file system that fills up: refused when asked, and by itself as before when it has room.

What was under way when the disk filled up waits, and ends as it should: each file has its outcome once, and each
content is in the home or in the vault.
"""

import os
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.fakes.accounts import Person, have_service_users, throw_away
from tests.fakes.aftermath import Processes, check_log, leftovers, vault
from tests.fakes.manifest import contents
from tests.fakes.realclamd import MARKER
from tests.fakes.running import PeerClient, RpcError, RunningDaemon, wait_for
from tests.integration.people import clear, fill, held_in_mid_scan, put
from tests.rows import Amount, Figure

SIZE = 64 << 20
LOW = 8 << 20  # less than state.min_free, and more than the vault's share
BACK_S = 60.0


@pytest.fixture(scope="module")
def _person() -> Iterator[Person]:
    have_service_users()
    with throw_away("r5_a") as person:
        yield person


@pytest.fixture
def alice(_person: Person) -> Person:
    clear(_person)
    return _person


class SmallDisk:
    """A tmpfs for the state of a daemon that is not started yet."""

    def __init__(self, daemon: RunningDaemon) -> None:
        self.place = daemon.state
        self._ballast = self.place / "ballast"
        self.place.mkdir(mode=0o700)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=700", "small", self.place], check=True)

    def leave(self, free: int) -> None:
        """Fill it up until so many bytes are free: 0 is until nothing more goes in."""
        with self._ballast.open("ab", buffering=0) as file:
            for size in (1 << 20, 4096):
                while (status := os.statvfs(self.place)).f_bavail * status.f_frsize >= free + size:
                    try:
                        file.write(bytes(size))
                    except OSError:  # others write there too, and then it is full before we know
                        break

    def make_room(self) -> None:
        self._ballast.unlink(missing_ok=True)

    def close(self) -> None:
        subprocess.run(["umount", "-l", self.place], check=True)


@pytest.fixture
def running() -> Iterator[tuple[RunningDaemon, SmallDisk]]:
    daemon = RunningDaemon()
    disk = SmallDisk(daemon)
    try:
        daemon.start()
        yield daemon, disk
    finally:
        if daemon.process is not None and daemon.process.poll() is None:
            daemon.stop()
        disk.close()
        daemon.close()


def refusal(client: PeerClient, func: str, params: dict[str, object]) -> str:
    """Of one of the six calls: one sentence."""
    result = client.uapi(func, params)
    assert result["status"] == 0, "a full disk was not noticed"
    (error,) = result["errors"]
    return str(error)


@pytest.mark.row("R5")
@pytest.mark.fails_with("room-not-asked-for")
def test_a_full_disk_is_refused_when_asked_and_nothing_has_changed(
    running: tuple[RunningDaemon, SmallDisk], alice: Person, figure: Figure
) -> None:
    daemon, disk = running
    paths = [put(alice, f"bad{number}", MARKER + b" %d" % number) for number in range(4)]
    home: dict[str, object] = {"scan_type": "home"}
    disinfect: dict[str, object] = {"actions": {}, "others": "quarantine"}
    with daemon.client(alice.uid) as client:
        client.scan()
        client.disinfect({"bad0": "quarantine"})
        (item,) = client.call("Quarantine.list")["items"]
        task_id = client.call("Task.list")["tasks"][0]["task_id"]
        before, listed = contents(alice.home), client.good("list_infected_files")
        for free in (LOW, 0):
            disk.leave(free)
            for func, params, verb in (
                ("start_scan", home, "start the scan"),
                ("disinfect_files", disinfect, "disinfect"),
            ):
                words = f"cannot {verb}: the file system of the daemon's state is full: {free >> 20} MiB are free"
                assert refusal(client, func, params).startswith(words)
            for method, asked in (
                ("Quarantine.restore", {"ids": [item["id"]], "force": True}),
                ("Task.undo", {"task_id": task_id, "force": True}),
            ):
                with pytest.raises(RpcError, match=r"^cannot .*: the file system of the daemon's state is full") as no:
                    client.call(method, asked)
                assert no.value.kind == "refused"
            assert client.good("list_infected_files") == listed, "what needs no room is answered"
            assert client.call("Quarantine.list")["items"] == [item]
        assert contents(alice.home) == before
        disk.make_room()
        pid = daemon.pid
        assert client.scan()["infected_file_count"] == 3
        assert client.disinfect({}, "quarantine")[-1]["state"] == "success"
        assert daemon.pid == pid
        assert not any(path.exists() for path in paths)
    assert "Traceback" not in daemon.log()
    figure("8 calls refused, all taken on again at once")


@pytest.mark.row("R5")
@pytest.mark.fails_with("full-disk-gives-up")
def test_what_was_under_way_when_the_disk_filled_up_goes_on_by_itself(
    running: tuple[RunningDaemon, SmallDisk], alice: Person, amount: Amount, figure: Figure
) -> None:
    """A disinfection, and a scan after it, each with the disk full in its middle."""
    daemon, disk = running
    files = amount(quick=400, long=10_000)
    bodies = [MARKER + b" %d" % number for number in range(files)]
    for number, body in enumerate(bodies):
        put(alice, f"d{number // 100:03}/f{number:05}", body)
    with daemon.client(alice.uid) as client:
        client.good("start_scan", {"scan_type": "home"})
        wait_for(lambda: client.good("get_scan_status")["infected_file_count"] > files // 10, "findings")
        first = full_for_a_while(daemon, disk)
        status = client.wait_scan(BACK_S)
        assert (status["state"], status["infected_file_count"]) == ("done", files)
        client.good("disinfect_files", {"actions": {}, "others": "quarantine"})
        wait_for(lambda: client.good("check_disinfection_status")["details"], "steps")
        second = full_for_a_while(daemon, disk)
        details = client.wait_disinfection(amount(quick=60, long=300))
    steps = Counter(record["state"] for record in details if record["type"] == "step")
    assert steps.total() == files
    assert steps.keys() <= {"quarantined", "error"}, "without room a file stays where it is"
    assert Counter(item.content for item in vault(daemon)) + contents(alice.home) >= Counter(bodies)
    assert sum(content.startswith(MARKER) for content in contents(alice.home).elements()) == steps["error"]
    assert len(vault(daemon)) == steps["quarantined"]
    check_log(alice.home, details)
    assert leftovers(alice.home) == []
    assert daemon.process is not None
    assert daemon.process.poll() is None
    assert "Traceback" not in daemon.log()
    words = ", ".join(f"{count:,} {state}" for state, count in sorted(steps.items()))
    figure(f"{first + second} writes refused in mid-work, then {words}")


def full_for_a_while(daemon: RunningDaemon, disk: SmallDisk) -> int:
    """No byte free, until that was felt or nothing more is written; how often the log speaks of it."""
    before, began = len(daemon.log()), time.monotonic()
    disk.leave(0)
    wait_for(lambda: "full" in daemon.log()[before:] or time.monotonic() - began > 3, "the full disk to be felt", 10)
    disk.make_room()
    return daemon.log()[before:].count("full")


@pytest.mark.row("R5")
@pytest.mark.fails_with("fault-without-words")
def test_a_start_on_a_full_disk_is_refused_in_a_sentence_and_loses_nothing(
    running: tuple[RunningDaemon, SmallDisk], alice: Person
) -> None:
    """With a scan to go on with, and no room to note that it does: nor any in the log, which is empty."""
    daemon, disk = running
    before = killed_in_mid_scan_and_full(daemon, disk, alice, log_emptied=True)
    daemon.start(wait=False)
    assert daemon.process is not None
    assert daemon.process.wait(30) == 1
    said = daemon.log()[before:]
    assert f"cannot open state {daemon.state}/state.db: disk I/O error (the file system is full)" in said
    assert "Traceback" not in said
    disk.make_room()
    daemon.start()
    ends_well(daemon, alice)


@pytest.mark.row("R5")
@pytest.mark.fails_with("room-not-asked-for")
def test_a_start_on_a_full_disk_with_room_in_its_log_waits_for_more(
    running: tuple[RunningDaemon, SmallDisk], alice: Person
) -> None:
    """What the log held goes into the file, and the few pages that this frees are enough to begin with."""
    daemon, disk = running
    before = killed_in_mid_scan_and_full(daemon, disk, alice, log_emptied=False)
    daemon.start()
    with daemon.client(alice.uid) as client:
        assert "is full" in refusal(client, "start_scan", {"scan_type": "home"})
    disk.make_room()
    ends_well(daemon, alice)
    assert "Traceback" not in daemon.log()[before:]


def killed_in_mid_scan_and_full(daemon: RunningDaemon, disk: SmallDisk, person: Person, *, log_emptied: bool) -> int:
    """How long the daemon's log is by then."""
    fill(person, 300, infected=[200])
    with daemon.client(person.uid) as client, held_in_mid_scan(daemon, client, person):
        processes = Processes(daemon)
        daemon.kill()
    processes.wait_gone()
    if log_emptied:
        connection = sqlite3.connect(daemon.state / "state.db")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.close()
    disk.leave(0)
    return len(daemon.log())


def ends_well(daemon: RunningDaemon, person: Person) -> None:
    with daemon.client(person.uid) as client:
        status = client.wait_scan()
    assert (status["state"], status["infected_file_count"], status["resumed"]) == ("done", 1, 1)
