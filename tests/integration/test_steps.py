"""The loop of a daemon with much to show: no answer, however long, holds up the others (tests/fakes/steps.py says how
that is seen). Every other test sees to it as well, with the little that its daemon has to show."""

import os

import pytest

from tests.fakes.accounts import Person
from tests.fakes.realclamd import MARKER
from tests.fakes.running import RunningDaemon, acting_as
from tests.integration.people import put

FILES = 150
DEEP = "/".join(["\udcff" * 250] * 12)
"""Escapes of four characters, each byte of them: what an account can do to have its names take long."""


def fill(person: Person) -> None:
    first = put(person, DEEP + "/first", MARKER)
    with acting_as(person.uid):
        directory = os.open(first.parent, os.O_RDONLY)
        for number in range(FILES):
            with open(os.open(f"{number:05}", os.O_WRONLY | os.O_CREAT, dir_fd=directory), "wb") as stream:
                stream.write(MARKER + b" %d" % number)
        os.close(directory)


@pytest.mark.fails_with("status-blocks-the-loop", "long-list-at-once")
def test_no_step_of_the_loop_holds_up_the_others(alice: Person) -> None:
    fill(alice)
    with RunningDaemon() as daemon, daemon.client(alice.uid) as client, daemon.client(0) as root:
        root.call("rpc.discover")
        client.scan()
        found = [one["file"] for one in client.good("list_infected_files")]
        assert len(found) == FILES + 1
        many = {f"/none/{number}": "ignore" for number in range(4_000)}
        client.good("disinfect_files", {"actions": {found[0]: "ignore", **many}})
        client.wait_disinfection()
        for method in ("Scan.list", "Task.list", "Quarantine.list"):
            client.call(method)
        for method in ("Daemon.health", "Daemon.metrics", "Daemon.reload"):
            root.call(method)
