"""What tests of the vault's way back do with an account of a running daemon: files, items, tasks."""

import os
import stat
import subprocess
from pathlib import Path
from typing import Any

from tests.fakes.accounts import Person
from tests.fakes.realclamd import EICAR
from tests.fakes.running import PeerClient, RunningDaemon, wait_for

LOG = b".clamavconnector.disinfection.log"


def afresh(person: Person, daemon: RunningDaemon) -> Person:
    """Nothing in the home, nothing in the vault."""
    subprocess.run(["find", person.home, "-mindepth", "1", "-delete"], check=True)
    with daemon.client(person.uid) as client:
        if left := [item["id"] for item in items(client)]:
            client.call("Quarantine.delete", {"ids": left})
    return person


def put(person: Person, name: bytes | str, content: bytes = EICAR, mode: int = 0o644, mtime_ns: int = 10**18) -> Path:
    """A file of the account, by root."""
    path = os.path.join(os.fsencode(person.home), os.fsencode(name))
    os.makedirs(os.path.dirname(path), exist_ok=True)
    Path(os.fsdecode(path)).write_bytes(content)
    os.chmod(path, mode)
    here = path
    while here != os.fsencode(person.home):
        os.chown(here, person.uid, person.gid)
        here = os.path.dirname(here)
    os.utime(path, ns=(mtime_ns, mtime_ns))
    return Path(os.fsdecode(path))


def tree(person: Person) -> dict[bytes, tuple[bytes, int, int, int, bytes]]:
    """Every file but the log: content, mode, mtime, owner, one extended attribute."""
    found = {}
    for folder, _, names in os.walk(os.fsencode(person.home)):
        for name in names:
            path = os.path.join(folder, name)
            if name != LOG:
                status = os.lstat(path)
                value = os.getxattr(path, "user.origin") if "user.origin" in os.listxattr(path) else b""
                content = Path(os.fsdecode(path)).read_bytes()
                found[path] = (content, stat.S_IMODE(status.st_mode), status.st_mtime_ns, status.st_uid, value)
    return found


def take(client: PeerClient, action: str = "quarantine") -> str:
    """Scan, and take everything away; the task's id."""
    client.scan()
    task_id: str = client.good("disinfect_files", {"actions": {}, "others": action})["task_id"]
    assert client.wait_disinfection()[-1]["state"] == "success"
    return task_id


def items(client: PeerClient, **params: object) -> list[dict[str, Any]]:
    answer: dict[str, Any] = client.call("Quarantine.list", {"limit": 1000, **params})
    listed: list[dict[str, Any]] = answer["items"]
    return listed


def ended(client: PeerClient, task_id: str) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        task: dict[str, Any] = client.call("Task.get", {"task_id": task_id})
        return task if task["state"] == "done" else None

    return wait_for(look, "the task to end")


def restore(client: PeerClient, ids: list[int], **params: object) -> list[dict[str, Any]]:
    task_id = client.call("Quarantine.restore", {"ids": ids, **params})["task_id"]
    details: list[dict[str, Any]] = ended(client, task_id)["details"]
    return details


def states(details: list[dict[str, Any]]) -> list[str]:
    return [record["state"] for record in details]
