"""Many users and many connections at once: accounts without homes, sockets by the thousand.

Fifty accounts by useradd take a quarter of a minute, so their lines go into passwd here, in one write, under the lock
that useradd and its like take as well (lckpwdf); they are taken out in the same way, and nothing else of the file is
touched. Such an account can ask and be answered; what needs a home is refused to it.
"""

import fcntl
import os
import pwd
import resource
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path

from tests.fakes.accounts import NOLOGIN, PREFIX
from tests.fakes.running import END_TIMEOUT_S, acting_as

_PASSWD = Path("/etc/passwd")
_LOCK = Path("/etc/.pwd.lock")
_FIRST_UID = 30_000
_SPARE_FDS = 1_000
_NAME = f"{PREFIX}crowd_"


@contextmanager
def crowd(count: int) -> Iterator[list[int]]:
    """So many uids that passwd knows."""
    taken = {entry.pw_uid for entry in pwd.getpwall() if not entry.pw_name.startswith(_NAME)}
    uids = list(islice((uid for uid in range(_FIRST_UID, 60_000) if uid not in taken), count))
    ours = [f"{_NAME}{uid}:x:{uid}:{uid}::/nonexistent/{_NAME}{uid}:{NOLOGIN}\n" for uid in uids]
    _change(lambda lines: [*_others(lines), *ours])
    try:
        yield uids
    finally:
        _change(_others)


def _others(lines: list[str]) -> list[str]:
    """Without ours, those of a run that was killed among them."""
    return [line for line in lines if not line.startswith(_NAME)]


def _change(how: Callable[[list[str]], list[str]]) -> None:
    with _LOCK.open("ab") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)
        lines = _PASSWD.read_text().splitlines(keepends=True)
        new = _PASSWD.with_name("passwd.csd-test")
        new.write_text("".join(how(lines)))
        shutil.copystat(_PASSWD, new)
        new.replace(_PASSWD)


@contextmanager
def room_for(sockets: int) -> Iterator[None]:
    """So many open files more for this process, and for the daemon that it starts."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    need = sockets + _SPARE_FDS
    if before[0] != resource.RLIM_INFINITY and before[0] < need:
        resource.setrlimit(resource.RLIMIT_NOFILE, (need, max(need, before[1])))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@contextmanager
def connections(path: str, uid: int, count: int) -> Iterator[list[socket.socket]]:
    """So many of this user. They are taken in when the kernel has room for them in the backlog, not before."""
    with ExitStack() as stack:
        made = []
        with acting_as(uid):
            for _ in range(count):
                sock = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
                sock.settimeout(END_TIMEOUT_S)
                sock.connect(path)
                made.append(sock)
        yield made


def open_files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def memory_kb(pid: int, what: str) -> int:
    """A line of /proc/PID/status: VmHWM (the most it ever had), VmRSS, RssAnon."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition(f"\n{what}:")[2].split()[0])
