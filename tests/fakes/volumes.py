"""Homes on file systems of their own that have no room: a quota that is used up, a disk without inodes or blocks.

Each is mounted over an account's home while the context lasts. The quota is a btrfs qgroup on a loop device: the one
kind that needs nothing of the kernel but btrfs.
"""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.fakes.accounts import Person
from tests.fakes.running import wait_for

QUOTA_BYTES = 1 << 20
IMAGE_BYTES = 128 << 20  # btrfs wants 109 MiB


@contextmanager
def with_quota(account: Person) -> Iterator[None]:
    with tempfile.NamedTemporaryFile(dir="/var/tmp", prefix="csd-quota-") as image:
        image.truncate(IMAGE_BYTES)
        _run("mkfs.btrfs", "--quiet", "--mixed", image.name)
        with _mounted(account, "-o", "loop", image.name):
            _run("btrfs", "quota", "enable", account.home)
            _run("btrfs", "qgroup", "limit", str(QUOTA_BYTES), account.home)
            yield


@contextmanager
def small_disk(account: Person, limit: str) -> Iterator[None]:
    """`limit`: an option of tmpfs."""
    with _mounted(account, "-t", "tmpfs", "-o", limit, "none"):
        yield


@contextmanager
def _mounted(account: Person, *words: str) -> Iterator[None]:
    _run("mount", *words, account.home)
    try:
        os.chown(account.home, account.uid, account.gid)
        os.chmod(account.home, 0o700)
        yield
    finally:
        wait_for(lambda: _unmounted(account.home), "the last worker to let go of the home")


def _unmounted(place: str) -> bool:
    return subprocess.run(["umount", place], check=False, capture_output=True).returncode == 0


def fill(account: Person, number: int) -> None:
    """As the account, until the system says no with this errno."""
    pid = os.fork()
    if pid == 0:
        os._exit(_fill(account, number))
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def _fill(account: Person, number: int) -> int:
    try:
        os.setgroups([])
        os.setgid(account.gid)
        os.setuid(account.uid)
        at = 0
        while True:  # large ones, then as many empty ones as there are inodes
            for size in (4096, 0):
                fd = os.open(Path(account.home, f"filling{at}"), os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)
                at += size == 0
                os.write(fd, b"x" * size)
                os.close(fd)
    except OSError as error:
        return 0 if error.errno == number else 1


def _run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)
