"""Mailboxes of accounts of one system daemon, as root: the six calls, undo, and kill -9 at every mutating call."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.accounts import Person, throw_away
from tests.fakes.mailboxes import Letter, Mailbox, Variant, render
from tests.fakes.realclamd import MARKER, MARKER_NAME
from tests.fakes.running import PeerClient, RunningDaemon, wait_for


@pytest.fixture(scope="module")
def daemon() -> Iterator[RunningDaemon]:
    with RunningDaemon() as running:
        yield running


@pytest.fixture(scope="module")
def _anna() -> Iterator[Person]:
    with throw_away("mailbox_a") as person:
        yield person


@pytest.fixture
def anna(_anna: Person) -> Person:
    subprocess.run(["find", _anna.home, "-mindepth", "1", "-delete"], check=True)
    return _anna


def inbox(*infected: int, letters: int = 9) -> Mailbox:
    """Letters of which those of these numbers are infected."""
    made = []
    for number in range(1, letters + 1):
        headers = (b"From: a@example.org", b"Subject: letter %d" % number, b"Message-ID: <%d@example.org>" % number)
        body = [b"line %d of %d" % (line, number) for line in range(30)]
        if number in infected:
            body.insert(10, MARKER)
        made.append(Letter(headers=headers, body=tuple(body), infected=number in infected))
    return render(made, Variant.MBOXRD)


def put(person: Person, box: Mailbox, name: str = "mail/inbox") -> Path:
    path = Path(person.home, name)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(box.data)
    for owned in (path.parent, path):
        os.chown(owned, person.uid, person.gid)
    os.utime(path, ns=(10**18, 10**18 + 10**9))
    return path


def masked(data: bytes, box: Mailbox) -> bytes:
    """Zeros where infected messages are or were."""
    rest = bytearray(data)
    for (start, end), infected in zip(box.spans, box.infected, strict=True):
        if infected:
            rest[start:end] = bytes(end - start)
    return bytes(rest)


def items(client: PeerClient) -> list[dict[str, Any]]:
    answer: dict[str, Any] = client.call("Quarantine.list", {"limit": 1000})
    found: list[dict[str, Any]] = answer["items"]
    return found


def wait_task(client: PeerClient, task_id: str) -> dict[str, Any]:
    def ended() -> dict[str, Any] | None:
        task: dict[str, Any] = client.call("Task.get", {"task_id": task_id})
        return task if task["state"] == "done" else None

    return wait_for(ended, "the task to end")


def test_a_mailbox_is_listed_cleansed_and_undone_to_the_last_byte(daemon: RunningDaemon, anna: Person) -> None:
    box = inbox(2, 5, 9)
    path = put(anna, box)
    before = path.stat()
    with daemon.client(anna.uid) as client:
        client.scan()
        (found,) = client.good("list_infected_files")
        assert [(one["number"], one["start"], one["end"]) for one in found["messages"]] == [
            (number, *box.spans[number - 1]) for number in (2, 5, 9)
        ]
        assert found["messages"][0] | {"start": 0, "end": 0} == {
            "number": 2,
            "start": 0,
            "end": 0,
            "message_id": "<2@example.org>",
            "subject": "letter 2",
            "from": "a@example.org",
            "date": "",
            "virus_type": MARKER_NAME,
        }
        task_id = client.good("disinfect_files", {"actions": {str(path): "cleanse_mailbox"}})["task_id"]
        step, done = client.wait_disinfection()
        assert (step["state"], done["state"]) == ("mailbox-cleansed", "success")
        kept = [str(one["id"]) for one in items(client)]
        assert step["message"] == f"3 messages replaced by a notice: items {', '.join(kept)}"
        after = path.stat()
        assert (after.st_ino, after.st_size, after.st_uid) == (before.st_ino, before.st_size, before.st_uid)
        assert after.st_mtime_ns == before.st_mtime_ns
        assert masked(path.read_bytes(), box) == masked(box.data, box)
        assert MARKER not in path.read_bytes()
        assert client.good("list_infected_files") == []
        assert client.scan()["infected_files"] == []
        undo = client.call("Task.undo", {"task_id": task_id, "force": True})["task_id"]
        records = wait_task(client, undo)["details"]
        assert [one["state"] for one in records] == ["restored"] * 3 + ["success"]
        assert path.read_bytes() == box.data
        assert items(client) == []
        (again,) = client.good("list_infected_files")
        assert again["messages"] == found["messages"]
        assert again["message_count"] == found["message_count"] == 9
        step, done = client.disinfect({str(path): "cleanse_mailbox"})
        assert (step["state"], done["state"]) == ("mailbox-cleansed", "success"), "without another scan"
        assert masked(path.read_bytes(), box) == masked(box.data, box)
        assert MARKER not in path.read_bytes()
    assert os.listdir(path.parent) == ["inbox"]


def test_what_is_no_mailbox_is_an_error_and_untouched(daemon: RunningDaemon, anna: Person) -> None:
    path = Path(anna.home, "a.php")
    path.write_bytes(b"just " + MARKER)
    os.chown(path, anna.uid, anna.gid)
    with daemon.client(anna.uid) as client:
        client.scan()
        step, done = client.disinfect({str(path): "cleanse_mailbox"})
    assert (step["state"], done["state"]) == ("error", "error")
    assert step["message"] == "cannot cleanse it: it is no mailbox (mbox)"
    assert path.read_bytes() == b"just " + MARKER


def test_a_maildir_file_names_its_message(daemon: RunningDaemon, anna: Person) -> None:
    path = Path(anna.home, "1700000000.M1P1.host:2,S")
    path.write_bytes(b"From: a@b\nTo: c@d\nMessage-ID: <7@x>\nSubject: seven\n\n" + MARKER)
    os.chown(path, anna.uid, anna.gid)
    with daemon.client(anna.uid) as client:
        client.scan()
        (found,) = client.good("list_infected_files")
    assert (found["message_id"], found["subject"]) == ("<7@x>", "seven")
    assert not {"messages", "message_count"} & found.keys()


@pytest.mark.parametrize("kept", [1, 60, 120])
def test_killed_while_it_is_cleansed_it_ends_right(daemon: RunningDaemon, anna: Person, kept: int) -> None:
    """kill -9 of the daemon with so many messages in the vault; its monitor ends the worker. The worker's own points
    are walked one by one in tests/component/test_worker_mailbox_again.py."""
    box = inbox(*range(1, 121), letters=150)
    path = put(anna, box)
    with daemon.client(anna.uid) as client:
        if old := [one["id"] for one in items(client)]:
            client.call("Quarantine.delete", {"ids": old})
        client.scan()
        client.good("disinfect_files", {"actions": {str(path): "cleanse_mailbox"}})
        wait_for(lambda: len(items(client)) >= kept, "messages in the vault")
    daemon.kill()
    daemon.start()
    with daemon.client(anna.uid) as client:
        step, done = client.wait_disinfection()
        assert (step["state"], done["state"]) == ("mailbox-cleansed", "success")
        assert len(items(client)) == 120
        assert client.call("Quarantine.verify")["damaged"] == []
    assert MARKER not in path.read_bytes()
    assert masked(path.read_bytes(), box) == masked(box.data, box)
    assert os.listdir(path.parent) == ["inbox"]


def ctl(daemon: RunningDaemon, person: Person, *words: str) -> tuple[int, list[str], str]:
    """clamscannerctl as that user types it into a script: exit code, lines, trouble."""
    run = subprocess.run(
        [Path(sys.executable).with_name("clamscannerctl"), "--socket", daemon.socket_path, *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        user=person.uid,
        group=person.gid,
        extra_groups=[],
        cwd="/",
    )
    return run.returncode, run.stdout.splitlines(), run.stderr


def test_the_command_line_spares_the_mailbox_unless_it_is_told_otherwise(daemon: RunningDaemon, anna: Person) -> None:
    box = inbox(2, 5, letters=6)
    path, lone = put(anna, box), Path(anna.home, "mail", "1700000000.M1P1.host:2,S")
    lone.write_bytes(b"From: a@b\nTo: c@d\nSubject: seven\n\n" + MARKER)
    os.chown(lone, anna.uid, anna.gid)
    with daemon.client(anna.uid) as client:
        client.scan()
    code, out, err = ctl(daemon, anna, "disinfect", "delete", str(path), "--wait")
    assert (code, out) == (2, [])
    assert f"cannot delete {path} with all its 6 messages unasked: say --yes" in err
    assert path.read_bytes() == box.data

    code, out, err = ctl(daemon, anna, "disinfect", "delete", "--all", "--wait")
    assert code == 0
    assert err.startswith("clamscannerctl: 1 mailbox is cleansed: ")
    assert sorted(line.split()[0] for line in out[:2]) == ["deleted:", "mailbox-cleansed:"]
    assert masked(path.read_bytes(), box) == masked(box.data, box)
    assert not lone.exists()

    with daemon.client(anna.uid) as client:
        (shown, *_) = items(client)
        put(anna, box)
        client.scan()
    _, lines, _ = ctl(daemon, anna, "quarantine", "show", str(shown["id"]))
    assert any(line.startswith("  found by:   ClamAV ") for line in lines)
    code, out, err = ctl(daemon, anna, "disinfect", "quarantine", "--all", "--whole", "--yes", "--wait")
    assert (code, err) == (0, "")
    assert out[0].startswith(f"quarantined: {path}")
    assert not path.exists()
