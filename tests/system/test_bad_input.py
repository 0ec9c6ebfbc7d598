"""What cannot be done gets a clear sentence, and then nothing has changed: vault, home and list of infected files.

Ids that are unknown, foreign or named twice: test_restore. A locked and a growing mailbox, and one of over 4 GiB:
tests/component/test_worker_mailbox and beside it. Full disks of a home: test_worker_restore.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.accounts import Person, throw_away
from tests.fakes.realclamd import EICAR
from tests.fakes.restoring import afresh, ended, items, put, restore, states, take, tree
from tests.fakes.running import RpcError, RunningDaemon

BOX = (
    b"From a@example.org Mon Jan  1 00:00:00 2024\nSubject: one\n\nhello\n\n"
    b"From c@example.org Mon Jan  1 00:00:00 2024\nSubject: bad\n\n" + (EICAR + b"\n") * 20 + b"\n"
)


@pytest.fixture(scope="module")
def _person() -> Iterator[Person]:
    with throw_away("bad_input_a") as person:
        yield person


@pytest.fixture(scope="module")
def daemon() -> Iterator[RunningDaemon]:
    with RunningDaemon() as running:
        yield running


@pytest.fixture
def anna(_person: Person, daemon: RunningDaemon) -> Person:
    return afresh(_person, daemon)


def test_an_expired_item_is_not_found_by_anybody(anna: Person) -> None:
    put(anna, "bad")
    with RunningDaemon(config="[vault]\nkeep_deleted = 0.001\n") as daemon, daemon.client(anna.uid) as client:
        task_id = take(client, "delete")
        assert items(client) == []
        for method, params in (
            ("Quarantine.show", {"id": 1}),
            ("Quarantine.restore", {"ids": [1], "force": True}),
            ("Quarantine.delete", {"ids": [1]}),
        ):
            with pytest.raises(RpcError, match="cannot find item 1 in the vault of this account") as refused:
                client.call(method, params)
            assert refused.value.kind == "not_found"
        with pytest.raises(RpcError, match="nothing that the task took away is in the vault"):
            client.call("Task.undo", {"task_id": task_id, "force": True})
        assert [task["kind"] for task in client.call("Task.list", {"limit": 9})["tasks"]] == ["disinfect"]
    assert tree(anna) == {}


def test_one_bad_id_among_good_ones_restores_none(daemon: RunningDaemon, anna: Person) -> None:
    put(anna, "bad")
    with daemon.client(anna.uid) as client:
        take(client)
        (item,) = items(client)
        for ids, kind in (([item["id"], 2**62], "not_found"), ([item["id"], item["id"]], "invalid_params")):
            for method in ("restore", "delete"):
                with pytest.raises(RpcError) as refused:
                    client.call(f"Quarantine.{method}", {"ids": ids})
                assert refused.value.kind == kind
        assert items(client) == [item]
    assert tree(anna) == {}


def test_a_file_where_a_directory_is_wanted_is_an_error_and_both_stay(daemon: RunningDaemon, anna: Person) -> None:
    put(anna, "bad")
    put(anna, "notes.txt", b"my notes")
    before = None
    with daemon.client(anna.uid) as client:
        take(client)
        before, kept = tree(anna), items(client)
        for to in ("notes.txt", "notes.txt/deeper", f"{anna.home}/notes.txt"):
            step, _ = restore(client, [kept[0]["id"]], to=to, force=True)
            assert (step["state"], "a link or a file is in the way to it" in step["message"]) == ("error", True)
        assert items(client) == kept
        assert client.good("list_infected_files") == []
    assert tree(anna) == before


def test_a_way_out_of_the_home_is_no_way(daemon: RunningDaemon, anna: Person, tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    put(anna, "bad")
    with daemon.client(anna.uid) as client:
        take(client)
        Path(anna.home, "out").symlink_to(tmp_path)
        (item,) = items(client)
        step, _ = restore(client, [item["id"]], to="out", force=True)
        assert (step["state"], "a link or a file is in the way to it" in step["message"]) == ("error", True)
        assert items(client) == [item]
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("max_bytes_per_account = 100", "the vault of this account is full"),
        ("max_items_per_account = 0", "the vault of this account is full"),
        ('min_free = "100%"', "the file system of the vault would have less than 100% free"),
    ],
)
def test_a_vault_without_room_leaves_everything_where_it_is(anna: Person, config: str, words: str) -> None:
    """Small ones, which go as a group; a large one; a mailbox, whose message is not replaced."""
    for number in range(3):
        put(anna, f"small{number}", EICAR + bytes(100))
    put(anna, "large", EICAR + os.urandom(1 << 20))
    put(anna, "box", BOX)
    before = tree(anna)
    with RunningDaemon(config=f"[vault]\n{config}\n") as daemon:
        with daemon.client(anna.uid) as client:
            client.scan()
            listed = client.good("list_infected_files")
            assert len(listed) == 5
            for action in ("quarantine", "delete"):
                *steps, done = client.disinfect({f"{anna.home}/box": "cleanse_mailbox"}, action)
                assert (states(steps), done["state"]) == (["error"] * 5, "error")
                assert all(words in step["message"] for step in steps)
                assert tree(anna) == before
                assert client.good("list_infected_files") == listed
            assert items(client) == []
        with daemon.client() as root:
            answer = root.call("Quarantine.verify")
            assert (answer["items"], answer["stray_count"]) == (0, 0)


def test_undoing_what_was_undone_or_never_was_is_refused(daemon: RunningDaemon, anna: Person) -> None:
    path = put(anna, "bad")
    with daemon.client(anna.uid) as client:
        task_id = take(client)
        ended(client, client.call("Task.undo", {"task_id": task_id, "force": True})["task_id"])
        before = tree(anna)
        for wrong, kind in ((task_id, "refused"), ("ffffffff/5a9ec8dd4c345d", "not_found")):
            with pytest.raises(RpcError) as refused:
                client.call("Task.undo", {"task_id": wrong, "force": True})
            assert refused.value.kind == kind
        assert tree(anna) == before
    assert path.read_bytes() == EICAR
