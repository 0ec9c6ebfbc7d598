"""What the kernel says about a worker, against what a worker has to be: for tests that run as root."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple, Self

from tests.fakes.accounts import Person

THREE = 1 << 5 | 1 << 6 | 1 << 7
"""CAP_KILL, CAP_SETGID, CAP_SETUID: the unit's, and so the most that a bounding set may hold."""

MOST_SESSIONS = 8


class Look(NamedTuple):
    """One process as it was for a moment: its fds first, its state after them."""

    fds: dict[int, str]
    status: dict[str, str]
    dumpable: bool
    marks: frozenset[int]
    """Fds that are O_PATH: nothing can be read by them."""

    @classmethod
    def at(cls, pid: int) -> Self | None:
        """None when it is gone. By a directory fd, which stays with this process whoever gets its number."""
        try:
            place = os.open(f"/proc/{pid}", os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            return None
        try:
            fds = {int(name): _link(f"/proc/self/fd/{place}/fd/{name}") for name in _names(place)}
            marks = frozenset(fd for fd in fds if _flags(f"/proc/self/fd/{place}/fdinfo/{fd}") & os.O_PATH)
            status = Path(f"/proc/self/fd/{place}/status").read_text()
            owner = os.stat("mem", dir_fd=place).st_uid
        except (FileNotFoundError, ProcessLookupError):
            return None
        finally:
            os.close(place)
        lines = (line.partition(":") for line in status.splitlines())
        return cls(fds, {key: value.strip() for key, _, value in lines}, owner != 0, marks)

    def has_opened(self, home: str) -> bool:
        """Whether it works in this home already: then it is past its drop and its seal, or never will be.

        By something that can be read: the seal itself marks the home (O_PATH) for Landlock, before the filter is on.
        """
        open_there = [target for fd, target in self.fds.items() if fd not in self.marks]
        return any(target == home or target.startswith(f"{home}/") for target in open_there)


def _names(place: int) -> list[str]:
    fd = os.open("fd", os.O_RDONLY | os.O_DIRECTORY, dir_fd=place)
    try:
        return os.listdir(fd)
    finally:
        os.close(fd)


def _flags(path: str) -> int:
    try:
        return int(Path(path).read_text().split("flags:")[1].split()[0], 8)
    except FileNotFoundError:  # closed meanwhile
        return os.O_PATH


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except FileNotFoundError:  # closed meanwhile
        return ""


def rights_of(status: dict[str, str], account: Person) -> list[str]:
    """What is wrong with the state of a worker of this account."""
    wanted: dict[str, list[int]] = {
        "Uid": [account.uid] * 4,
        "Gid": [account.gid] * 4,
        "Groups": list(account.groups),
        "NoNewPrivs": [1],
        "Seccomp": [2],
        "Threads": [1],
    }
    actual = {key: list(map(int, status[key].split())) for key in wanted}
    actual["Groups"].sort()
    for key in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
        wanted[key], actual[key] = [0], [int(status[key], 16)]
    wanted["CapBnd"], actual["CapBnd"] = [0], [int(status["CapBnd"], 16) & ~THREE]
    return [f"{key} is {actual[key]}, not {wanted[key]}" for key in wanted if actual[key] != wanted[key]]


def fds_of_job(fds: dict[int, str], home: str, locks: Iterable[str], vault: str, stderr: str) -> list[str]:
    """What no worker at a job may have open: beyond its five, files of its home, messages, sessions, and an item."""
    first = [("/dev/null",), ("/dev/null",), (stderr, "/dev/null"), ("socket:",), ("/dev/null", *locks)]
    wrong = [f"{fd} is {fds.get(fd)}" for fd in range(5) if not fds.get(fd, "gone").startswith(first[fd])]
    rest = {fd: target for fd, target in fds.items() if fd > 4 and target}
    own = (f"{home}/", "/memfd:message", "/memfd:item", f"{vault}/", "socket:")
    wrong += [f"{fd} is {target}" for fd, target in rest.items() if target != home and not target.startswith(own)]
    sessions = sum(target.startswith("socket:") for target in rest.values())
    return wrong + [f"{sessions} sessions"] * (sessions > MOST_SESSIONS)
