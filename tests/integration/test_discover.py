"""Every example of rpc.discover makes its call against a real daemon, and the answer is as the document says.

Ids are the daemon's: those of an example are replaced by the real ones, and nothing else of it.
"""

import copy
import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest

from tests.fakes.accounts import Person
from tests.fakes.realclamd import EICAR
from tests.fakes.running import PeerClient, RunningDaemon, wait_for
from tests.integration.people import no_engine, put

Json = dict[str, Any]
NEED_ONE_THAT_WAITS = ("Scan.pause", "Scan.resume", "Scan.cancel")


class Examples:
    """Those of one daemon. `user` is the client that calls for itself, `admin` one of an administrator."""

    def __init__(self, user: PeerClient, admin: PeerClient) -> None:
        self._user, self._admin = user, admin
        document: Json = user.call("rpc.discover")
        self.rows: dict[str, Json] = {row["name"]: row for row in document["methods"]}
        self.tried: set[str] = set()
        # More keys are allowed in an answer than are told; here that would be a key that nobody described.
        self._components = copy.deepcopy(document["components"])
        for name, schema in self._components["schemas"].items():
            if "properties" in schema and name != "Envelope":
                schema["additionalProperties"] = False

    def run(self, method: str, **real: object) -> Any:
        """All examples of a method; the last answer, of the six calls its `data`."""
        row = self.rows[method]
        self.tried.add(method)
        caller = self._admin if row["x-access"] == "admin" else self._user
        answer: Any = None
        for example in row["examples"]:
            given = {param["name"]: param["value"] for param in example["params"]}
            answer = caller.call(method, given | {name: real[name] for name in given.keys() & real.keys()})
            schema = {"allOf": [row["result"]["schema"]], "components": self._components}
            jsonschema.Draft7Validator(schema).validate(json.loads(json.dumps(answer)))
            if method.startswith("ClamScanner."):
                assert answer["result"]["status"] == 1, answer["result"]["errors"]
                answer = answer["result"]["data"]
        assert row["examples"], f"{method} has no example"
        return answer


@pytest.fixture(scope="module")
def daemon(_people: object) -> Iterator[RunningDaemon]:
    with RunningDaemon() as daemon:
        yield daemon


def task_end(user: PeerClient, task_id: str) -> None:
    wait_for(lambda: user.call("Task.get", {"task_id": task_id})["state"] == "done", "the task to end")


def test_every_example_works_as_the_document_says(daemon: RunningDaemon, alice: Person) -> None:
    for name in ("a", "b", "c"):
        put(alice, f"public_html/{name}.com", EICAR)
    with daemon.client(alice.uid) as user, daemon.client() as admin:
        examples = Examples(user, admin)
        examples.run("ClamScanner.get_scan_paths")
        examples.run("ClamScanner.start_scan")
        scan_id = user.wait_scan()["scan_id"]
        examples.run("ClamScanner.get_scan_status")
        examples.run("Scan.get", scan_id=scan_id)
        assert len(examples.run("ClamScanner.list_infected_files")) == 3
        task_id = examples.run("ClamScanner.disinfect_files")["task_id"]
        user.wait_disinfection()
        examples.run("ClamScanner.check_disinfection_status")
        items = [item["id"] for item in examples.run("Quarantine.list")["items"]]
        examples.run("Quarantine.show", id=items[0])
        task_end(user, examples.run("Quarantine.restore", ids=items[:1])["task_id"])
        assert examples.run("Quarantine.delete", ids=items[1:2]) == {"deleted": 1}
        examples.run("Task.get", task_id=task_id)
        task_end(user, examples.run("Task.undo", task_id=task_id)["task_id"])
        entry_id = examples.run("Ignore.add")["id"]
        examples.run("Ignore.list")
        assert examples.run("Ignore.remove", id=entry_id) == {"removed": entry_id}
        with daemon.client(alice.uid) as listener:  # nothing else is asked there
            Examples(listener, admin).run("Events.subscribe")
        for method in examples.rows.keys() - examples.tried - {"Events.subscribe", *NEED_ONE_THAT_WAITS}:
            examples.run(method)


def test_the_examples_about_a_scan_that_waits_work(alice: Person) -> None:
    with no_engine() as daemon, daemon.client(alice.uid) as user, daemon.client() as admin:
        user.good("start_scan", {"scan_type": "home"})
        examples = Examples(user, admin)
        ends = [examples.run(method)["state"] for method in NEED_ONE_THAT_WAITS]
        assert ends == ["paused", "queued", "cancelled"]


def test_anybody_may_ask_and_only_administrators_for_another(daemon: RunningDaemon, alice: Person) -> None:
    with daemon.client(alice.uid) as user:
        line = b'{"jsonrpc":"2.0","id":1,"method":"rpc.discover"}'
        assert user.raw(line)["result"]["openrpc"].startswith("1.3.")
        denied = user.raw(line.replace(b"}", b',"params":{"user":"root"}}'))
    assert denied["error"]["data"]["kind"] == "denied"
