"""What is restored by force is listed as infected again, and the next disinfection acts on it. As root."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.accounts import Person, throw_away
from tests.fakes.realclamd import EICAR, EICAR_NAME
from tests.fakes.restoring import afresh, ended, items, put, restore, take, tree
from tests.fakes.running import PeerClient, RunningDaemon


@pytest.fixture(scope="module")
def daemon() -> Iterator[RunningDaemon]:
    with RunningDaemon() as running:
        yield running


@pytest.fixture(scope="module")
def _person() -> Iterator[Person]:
    with throw_away("relisted_a") as person:
        yield person


@pytest.fixture
def anna(_person: Person, daemon: RunningDaemon) -> Person:
    return afresh(_person, daemon)


def listed(client: PeerClient) -> dict[str, str]:
    return {found["file"]: found["virus_type"] for found in client.good("list_infected_files")}


def test_it_is_on_the_list_and_can_be_taken_again_without_a_scan(daemon: RunningDaemon, anna: Person) -> None:
    """Small files go in a group, which knows its files by the identity that the restore told."""
    paths = [put(anna, name, EICAR + name.encode()) for name in ("www/a.php", "www/b.php", "c")]
    before = tree(anna)
    with daemon.client(anna.uid) as client:
        for _ in range(2):
            task_id = take(client)
            assert listed(client) == {}
            undone = ended(client, client.call("Task.undo", {"task_id": task_id, "force": True})["task_id"])
            assert {record["message"] for record in undone["details"][:-1]} == {
                f"restored by force: {EICAR_NAME} is detected in it; it is listed as infected again"
            }
            assert listed(client) == {str(path): EICAR_NAME for path in paths}
            assert tree(anna) == before
            status = client.good("get_scan_status")
            assert (status["infected_file_count"], len(status["infected_files"])) == (3, 3)
        records = client.disinfect({}, "delete")
        assert [record["state"] for record in records] == ["deleted"] * 3 + ["success"]
        assert (listed(client), tree(anna)) == ({}, {})


def test_put_elsewhere_it_is_listed_there_and_the_scan_s_own_numbers_stay(daemon: RunningDaemon, anna: Person) -> None:
    put(anna, "bad")
    with daemon.client(anna.uid) as client:
        take(client)
        (item,) = items(client)
        restore(client, [item["id"]], to="kept", force=True)
        assert listed(client) == {f"{anna.home}/kept/bad": EICAR_NAME}
        status = client.good("get_scan_status")
        assert (status["infected_file_count"], status["infected_files"]) == (1, [f"{anna.home}/bad"])
        (step, _) = client.disinfect({f"{anna.home}/kept/bad": "quarantine"})
        assert (step["state"], "message" in step) == ("quarantined", False)
        assert client.scan()["infected_file_count"] == 0


def test_gone_by_the_time_it_is_acted_on_it_is_no_action(daemon: RunningDaemon, anna: Person) -> None:
    path = put(anna, "bad")
    with daemon.client(anna.uid) as client:
        task_id = take(client)
        ended(client, client.call("Task.undo", {"task_id": task_id, "force": True})["task_id"])
        path.write_bytes(b"mended by its owner")
        os.chown(path, anna.uid, anna.gid)
        (step, _) = client.disinfect({}, "quarantine")
        assert step["state"] == "no-action"
        assert listed(client) == {}
    assert path.read_bytes() == b"mended by its owner"


def test_the_engine_of_the_scan_is_told_with_the_item(daemon: RunningDaemon, anna: Person) -> None:
    put(anna, "small")
    put(anna, "large", EICAR + os.urandom(1 << 20))
    with daemon.client(anna.uid) as client:
        take(client)
        engine = client.good("get_scan_status")["engine"]
        expected = {"version": engine["version"], "database": engine["database"]}
        assert expected["version"]
        for item in items(client):
            assert item["engine"] == expected
            assert client.call("Quarantine.show", {"id": item["id"]})["engine"] == expected
    assert not Path(anna.home, "small").exists()
