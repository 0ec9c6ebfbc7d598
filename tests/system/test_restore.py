"""What the vault gives back: restore, undo, delete, verify, for accounts of one system daemon, as root."""

import os
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from clamscannerd.client import Client, Unreachable
from tests.fakes.accounts import Person, throw_away
from tests.fakes.realclamd import EICAR, EICAR_NAME, MARKER, ndb
from tests.fakes.restoring import LOG, afresh, ended, items, put, restore, states, take, tree
from tests.fakes.running import RpcError, RunningDaemon, acting_as, wait_for

NAMES = [b"n" * 255, b" ", b"-rf", b"new\n", b"\xff\xfe\x80", b"back\\slash", b"same"]


@pytest.fixture(scope="module")
def daemon() -> Iterator[RunningDaemon]:
    with RunningDaemon() as running:
        yield running


@pytest.fixture(scope="module")
def _people() -> Iterator[tuple[Person, Person]]:
    with throw_away("restore_a") as first, throw_away("restore_b") as second:
        yield first, second


@pytest.fixture
def anna(_people: tuple[Person, Person], daemon: RunningDaemon) -> Person:
    return afresh(_people[0], daemon)


@pytest.fixture
def bert(_people: tuple[Person, Person], daemon: RunningDaemon) -> Person:
    return afresh(_people[1], daemon)


def test_all_comes_back_as_it_was(daemon: RunningDaemon, anna: Person) -> None:
    """300 files of one base name and every odd name: content, mode, mtime, attributes."""
    for number in range(300):
        put(anna, f"d{number}/bad.php", EICAR + b"%d" % number, 0o600 + number % 64, 10**18 + number)
    for name in NAMES:
        os.setxattr(put(anna, name, EICAR + name, 0o4755), "user.origin", name)
    put(anna, "large", EICAR + os.urandom(1 << 20))
    put(anna, "larger", os.urandom(17 << 20) + EICAR)
    before = {path: (*facts[:1], facts[1] & 0o777, *facts[2:]) for path, facts in tree(anna).items()}
    with daemon.client(anna.uid) as client:
        take(client)
        assert tree(anna) == {}
        listed = items(client)
        assert len(listed) == len(before)
        details = restore(client, [item["id"] for item in listed], force=True)
        assert set(states(details[:-1])) == {"restored"}
        assert details[-1]["message"] == f"{len(before)} restored"
        assert tree(anna) == before
        assert items(client) == []
        assert client.call("Quarantine.verify") == {
            "items": 0,
            "intact": 0,
            "damaged": [],
            "damaged_count": 0,
            "strays": None,
            "stray_count": None,
        }


def test_undo_puts_back_what_a_task_took_and_leaves_its_log_alone(daemon: RunningDaemon, anna: Person) -> None:
    put(anna, "a")
    put(anna, "b/c")
    before = tree(anna)
    with daemon.client(anna.uid) as client:
        client.scan()
        task_id = client.good("disinfect_files", {"actions": {"a": "delete"}, "others": "quarantine"})["task_id"]
        records = client.wait_disinfection()
        log = Path(anna.home, os.fsdecode(LOG)).read_bytes()
        assert [item["state"] for item in items(client)] == ["deleted", "quarantined"]
        assert [item["file"] for item in items(client, state="deleted")] == [f"{anna.home}/a"]

        undone = ended(client, client.call("Task.undo", {"task_id": task_id, "force": True})["task_id"])
        assert (undone["kind"], undone["undoes"], undone["steps"]) == ("undo", task_id, 2)
        assert states(undone["details"]) == ["restored", "restored", "success"]
        assert {record["signature"] for record in undone["details"][:-1]} == {EICAR_NAME}
        assert tree(anna) == before
        assert client.good("check_disinfection_status")["details"] == records
        assert Path(anna.home, os.fsdecode(LOG)).read_bytes() == log
        kinds = [task["kind"] for task in client.call("Task.list", {"limit": 2})["tasks"]]
        assert kinds == ["undo", "disinfect"]
        for again in (task_id, undone["task_id"]):
            with pytest.raises(RpcError, match="cannot undo") as refused:
                client.call("Task.undo", {"task_id": again})
            assert refused.value.kind == "refused"


def test_what_is_still_detected_needs_force(daemon: RunningDaemon, anna: Person) -> None:
    put(anna, "bad")
    with daemon.client(anna.uid) as client:
        task_id = take(client)
        undone = ended(client, client.call("Task.undo", {"task_id": task_id})["task_id"])
        step, last = undone["details"]
        assert (step["state"], step["signature"], last["state"]) == ("no-action", EICAR_NAME, "info")
        assert tree(anna) == {}
        assert [item["id"] for item in items(client)] == [step["item"]]


def test_what_is_no_longer_detected_comes_back_without_force(anna: Person) -> None:
    with RunningDaemon() as daemon, daemon.client(anna.uid) as client:
        path = put(anna, "marked", MARKER)
        take(client)
        (item,) = items(client)
        daemon.stop()
        (daemon.database / "test.ndb").write_bytes(ndb("Eicar-Test", EICAR))
        daemon.start()
        with daemon.client(anna.uid) as later:
            details = restore(later, [item["id"]])
        assert (states(details), "message" in details[0]) == (["restored", "success"], False)
        assert path.read_bytes() == MARKER


def test_to_names_another_directory(daemon: RunningDaemon, anna: Person) -> None:
    put(anna, "d/bad")
    with daemon.client(anna.uid) as client:
        take(client)
        occupied = put(anna, "d/bad", b"new work")
        (item,) = items(client)
        details = restore(client, [item["id"]], force=True)
        assert "taken" in details[0]["message"]
        assert states(details) == ["error", "error"]
        details = restore(client, [item["id"]], to=f"{anna.home}/back/again", force=True)
        assert details[0]["file"] == f"{anna.home}/back/again/bad"
    assert occupied.read_bytes() == b"new work"
    assert Path(anna.home, "back/again/bad").read_bytes() == EICAR
    assert stat.S_IMODE(Path(anna.home, "back").stat().st_mode) == 0o700


def test_another_account_finds_nothing(daemon: RunningDaemon, anna: Person, bert: Person) -> None:
    put(anna, "bad")
    with daemon.client(anna.uid) as client:
        task_id = take(client)
        (item,) = items(client)
        assert client.call("Quarantine.show", {"id": item["id"]})["mode"] == "0644"
    put(bert, "bad")
    with daemon.client(bert.uid) as client:
        take(client)
        for method, params in (
            ("Quarantine.show", {"id": item["id"]}),
            ("Quarantine.restore", {"ids": [item["id"]]}),
            ("Quarantine.delete", {"ids": [item["id"]]}),
            ("Task.undo", {"task_id": task_id}),
            ("Task.get", {"task_id": task_id}),
            ("Quarantine.show", {"id": 2**62}),
            ("Quarantine.restore", {"ids": [2**62]}),
        ):
            with pytest.raises(RpcError) as refused:
                client.call(method, params)
            assert refused.value.kind == "not_found"
        with pytest.raises(RpcError) as refused:
            client.call("Quarantine.list", {"user": anna.name})
        assert refused.value.kind == "denied"
    with daemon.client() as root:
        assert [shown["id"] for shown in items(root, user=anna.name)] == [item["id"]]


@pytest.mark.parametrize(
    ("method", "params", "words"),
    [
        ("restore", {"ids": []}, "no item is named"),
        ("restore", {"ids": [1, 1]}, "named twice"),
        ("restore", {"ids": [0]}, "ids"),
        ("restore", {"ids": ["1"]}, "ids"),
        ("restore", {"ids": [1], "to": ""}, "names no directory"),
        ("restore", {"ids": [1], "to": "/etc"}, "not in the home"),
        ("restore", {"ids": [1], "to": "a/../../b"}, "straight down"),
        ("restore", {"ids": [1], "to": "a\u0000b"}, "NUL"),
        ("restore", {"ids": [1], "to": "a\\qb"}, "backslash"),
        ("restore", {"ids": [1], "to": "a/" * 3000}, "longer than"),
        ("restore", {"ids": [1], "force": 1}, "force"),
        ("delete", {"ids": []}, "no item is named"),
        ("delete", {"ids": [1, 1]}, "named twice"),
        ("delete", {}, "missing"),
        ("show", {"id": -1}, "id"),
        ("list", {"state": "lost"}, "unknown state"),
        ("list", {"limit": 0}, "limit"),
        ("list", {"offset": -1}, "offset"),
    ],
)
def test_bad_input_gets_a_clear_sentence(
    daemon: RunningDaemon, anna: Person, method: str, params: dict[str, object], words: str
) -> None:
    with daemon.client(anna.uid) as client, pytest.raises(RpcError, match=words) as refused:
        client.call(f"Quarantine.{method}", params)
    assert refused.value.kind == "invalid_params"


def test_deleted_items_are_gone_for_good(daemon: RunningDaemon, anna: Person) -> None:
    put(anna, "small")
    put(anna, "large", EICAR + os.urandom(1 << 20))
    with daemon.client(anna.uid) as client:
        take(client)
        ids = [item["id"] for item in items(client)]
        with pytest.raises(RpcError) as refused:
            client.call("Quarantine.delete", {"ids": [*ids, 2**62]})
        assert (refused.value.kind, len(items(client))) == ("not_found", 2)
        assert client.call("Quarantine.delete", {"ids": ids}) == {"deleted": 2}
        assert items(client) == []
        with pytest.raises(RpcError) as refused:
            client.call("Quarantine.restore", {"ids": ids})
        assert refused.value.kind == "not_found"


def test_verify_tells_damage_and_strays(anna: Person) -> None:
    with RunningDaemon() as daemon:
        put(anna, "bad", EICAR + os.urandom(1 << 20))
        put(anna, "good", EICAR + os.urandom(1 << 20))
        with daemon.client(anna.uid) as client:
            take(client)
            files = sorted((daemon.state / "vault").rglob("*.item"))
            with files[0].open("r+b") as stream:
                stream.write(b"!")
            answer = client.call("Quarantine.verify")
            assert (answer["items"], answer["intact"], answer["damaged_count"]) == (2, 1, 1)
            assert answer["strays"] is None
            details = restore(client, answer["damaged"], force=True)
            assert states(details) == ["error", "error"]
            assert len(items(client)) == 2
        stray = files[0].with_name(f"{files[0].name[:2]}{'0' * 30}.item")
        stray.write_bytes(b"")
        with daemon.client() as root:
            answer = root.call("Quarantine.verify")
        assert (answer["items"], answer["damaged_count"], answer["stray_count"]) == (2, 1, 1)
        assert daemon.process is not None
        assert daemon.process.poll() is None
        with daemon.client(anna.uid) as client:
            client.call("Quarantine.delete", {"ids": [item["id"] for item in items(client)]})


def test_one_job_at_a_time(anna: Person) -> None:
    """A restore under way (it waits for an engine that is not there) keeps scans and disinfections out."""
    with RunningDaemon() as daemon:
        put(anna, "bad")
        with daemon.client(anna.uid) as client:
            take(client)
            (item,) = items(client)
        daemon.stop()
        daemon.write_config(sockets='["/nonexistent/clamd"]')
        daemon.start(engine=False)
        with daemon.client(anna.uid) as client:
            client.call("Quarantine.restore", {"ids": [item["id"]]})
            assert "a restore of this account" in client.uapi("start_scan", {"scan_type": "home"})["errors"][0]
            with pytest.raises(RpcError, match="a restore of this account"):
                client.call("Quarantine.restore", {"ids": [item["id"]]})
            with pytest.raises(RpcError, match="being restored"):
                client.call("Quarantine.delete", {"ids": [item["id"]]})
        daemon.kill()  # a stop would give the step its 8 s


POINTS = {
    "fdatasync": (1, 2, 3, 5, 7, 9),
    "sendmsg": (1, 2, 3),
    "recvmsg": (1, 2, 4),
    "memfd_create": (1,),
    "openat": (1, 2),
    "unlink": (1,),
    "fsync": (1,),
}


@pytest.mark.parametrize("call", POINTS)
def test_killed_anywhere_each_content_is_in_one_place(daemon: RunningDaemon, anna: Person, call: str) -> None:
    """strace kills the daemon before the N-th such call of one of its threads; then a start without it."""
    contents = {b"small": EICAR, b"large": EICAR + os.urandom(100_000)}
    killed = 0
    for number in POINTS[call]:
        for name, content in contents.items():
            put(anna, name, content)
        with daemon.client(anna.uid) as client:
            take(client)
            ids = [item["id"] for item in items(client)]
            latest = client.call("Task.list", {"limit": 1})["tasks"]
        with acting_as(anna.uid):
            doomed = Client(daemon.socket_path)
        with doomed, killing(daemon, call, number):
            lived = restore_if_it_lives(doomed, ids)
        if not lived:
            killed += 1
            daemon.kill()  # and wait for it
            daemon.start()
        with daemon.client(anna.uid) as client:
            tasks = client.call("Task.list", {"limit": 1})["tasks"]
            if tasks == latest:  # killed before it was answered: nothing was promised
                details = restore(client, ids, force=True)
            else:
                details = ended(client, tasks[0]["task_id"])["details"]
            assert states(details) == ["restored", "restored", "success"]
            assert len(client.good("list_infected_files")) == 2
            assert {os.path.basename(path): facts[0] for path, facts in tree(anna).items()} == contents
            assert items(client) == []
            assert client.call("Quarantine.verify")["items"] == 0
        with daemon.client() as root:
            assert root.call("Quarantine.verify")["stray_count"] == 0
        for path in tree(anna):
            os.unlink(path)
    assert killed


@contextmanager
def killing(daemon: RunningDaemon, call: str, number: int) -> Iterator[None]:
    """Whatever thread of the daemon makes the N-th `call` from now on, the daemon is killed before it."""
    inject = ["-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={number}"]
    words = ["strace", "-f", "-o", "/dev/null", *inject, "-p", str(daemon.pid)]
    with subprocess.Popen(words, stderr=subprocess.PIPE) as tracer:
        assert tracer.stderr is not None
        assert b"attached" in tracer.stderr.readline()
        try:
            yield
        finally:
            tracer.kill()  # what it traced goes on by itself; it would wait for a daemon that nobody has reaped


def restore_if_it_lives(client: Client, ids: list[int]) -> bool:
    """Until the restore has ended, or the daemon. Whether the daemon lives."""

    def look() -> bool:
        task = client.call("Task.get", {"task_id": task_id})
        return isinstance(task, dict) and task["state"] == "done"

    with suppress(Unreachable):
        answer = client.call("Quarantine.restore", {"ids": ids, "force": True})
        assert isinstance(answer, dict)
        task_id = answer["task_id"]
        return wait_for(look, "the restore to end")
    return False


BEFORE = b"From a@example.org Mon Jan  1 00:00:00 2024\nSubject: one\n\nhello\n\n"
INFECTED = b"From c@example.org Mon Jan  1 00:00:00 2024\nSubject: bad\n\n" + (EICAR + b"\n") * 20 + b"\n"


def test_a_message_goes_back_into_its_mailbox_or_becomes_a_file(daemon: RunningDaemon, anna: Person) -> None:
    path = put(anna, "mail/box", BEFORE + INFECTED + BEFORE)
    with daemon.client(anna.uid) as client:
        task_id = take(client, "cleanse_mailbox")
        assert EICAR not in path.read_bytes()
        (item,) = items(client, state="mailbox-cleansed")
        undone = ended(client, client.call("Task.undo", {"task_id": task_id, "force": True})["task_id"])
        assert states(undone["details"]) == ["restored", "success"]
        assert path.read_bytes() == BEFORE + INFECTED + BEFORE
        take(client, "cleanse_mailbox")
        (item,) = items(client)
        assert states(restore(client, [item["id"]], to=".", force=True)) == ["restored", "success"]
    assert Path(anna.home, f"box.message-{item['id']}").read_bytes() == INFECTED
    assert EICAR not in path.read_bytes()
