"""Throw-away accounts for tests that run as root, and the service's own system users."""

import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

SERVICE_USERS = ("clamscannerd", "clamscannerd-engine")
PREFIX = "csd_test_"
NOLOGIN = "/usr/sbin/nologin"


class Person(NamedTuple):
    """A passwd entry and what the account may: `groups` as os.getgrouplist gives them."""

    name: str
    uid: int
    gid: int
    home: str
    groups: tuple[int, ...]


def have_service_users() -> None:
    """As the package makes them; they stay, as they do on a machine that has the package."""
    for name in SERVICE_USERS:
        try:
            pwd.getpwnam(name)
        except KeyError:
            _run("useradd", "--system", "--user-group", "--no-create-home", "--shell", NOLOGIN, name)


@contextmanager
def throw_away(name: str, *groups: str) -> Iterator[Person]:
    """An account with a 0700 home of its own, in these further groups; removed afterwards, files and all."""
    name = PREFIX + name
    _remove(name)  # of a run that was killed
    for group in groups:
        subprocess.run(["groupadd", "--force", PREFIX + group], check=True)
    further = ["--groups", ",".join(PREFIX + group for group in groups)] if groups else []
    _run("useradd", "--create-home", "--user-group", "--shell", "/bin/bash", *further, name)
    try:
        entry = pwd.getpwnam(name)
        os.chmod(entry.pw_dir, 0o700)
        all_groups = tuple(sorted(os.getgrouplist(name, entry.pw_gid)))
        yield Person(name, entry.pw_uid, entry.pw_gid, entry.pw_dir, all_groups)
    finally:
        _remove(name)
        for group in groups:
            _run("groupdel", PREFIX + group)


def _remove(name: str) -> None:
    try:
        home = pwd.getpwnam(name).pw_dir
    except KeyError:
        return
    _run("userdel", "--force", name)
    shutil.rmtree(home, ignore_errors=True)


def _run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)
