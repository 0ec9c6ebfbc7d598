"""Throw-away accounts for tests that run as root, and the service's own system users."""

import ctypes
import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

SERVICE_USERS = ("clamscannerd", "clamscannerd-engine")
PREFIX = "csd_test_"
NOLOGIN = "/usr/sbin/nologin"
_PASSWD = Path("/etc/passwd")


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
    groups = tuple(f"{name}_{group}" for group in groups)  # nobody else's: other runs make accounts meanwhile
    for group in groups:
        subprocess.run(["groupadd", "--force", group], check=True)
    further = ["--groups", ",".join(groups)] if groups else []
    _run("useradd", "--create-home", "--user-group", "--shell", "/bin/bash", *further, name)
    try:
        entry = pwd.getpwnam(name)
        os.chmod(entry.pw_dir, 0o700)
        all_groups = tuple(sorted(os.getgrouplist(name, entry.pw_gid)))
        yield Person(name, entry.pw_uid, entry.pw_gid, entry.pw_dir, all_groups)
    finally:
        _remove(name)
        for group in groups:
            _run("groupdel", group)


def _remove(name: str) -> None:
    try:
        home = pwd.getpwnam(name).pw_dir
    except KeyError:  # but its files may be there, if it was killed while they were removed
        home = f"/home/{name}"
    else:
        _run("userdel", "--force", name)
    if os.path.basename(home) == name:  # else a test that was killed had given it another
        shutil.rmtree(home, ignore_errors=True)


@contextmanager
def succeeded(person: Person, name: str, *, same_home: bool) -> Iterator[Person]:
    """The account is removed, whatever runs under its uid, and the uid goes to another name: with a home of its own, or
    with the old one, which stays as it is. Both are gone afterwards, homes and all."""
    name = PREFIX + name
    _remove(name)
    _run("userdel", "--force", person.name)
    home = ["--no-create-home", "--home-dir", person.home] if same_home else ["--create-home"]
    try:
        _run("useradd", "--uid", str(person.uid), "--user-group", "--shell", "/bin/bash", *home, name)
        entry = pwd.getpwnam(name)
        yield Person(name, entry.pw_uid, entry.pw_gid, entry.pw_dir, (entry.pw_gid,))
    finally:
        _remove(name)
        shutil.rmtree(person.home)


@contextmanager
def entry_changed(person: Person, *, home: str | None = None, uid: int | None = None) -> Iterator[None]:
    """passwd says another home, or uid, of the account meanwhile: also what useradd would refuse."""
    before = pwd.getpwnam(person.name)
    _rewrite(person.name, before.pw_uid if uid is None else uid, before.pw_dir if home is None else home)
    try:
        yield
    finally:
        _rewrite(person.name, before.pw_uid, before.pw_dir)


def _rewrite(name: str, uid: int, home: str) -> None:
    """One line of /etc/passwd, as vipw does it: under the lock of the tools, in place of the old file at once."""
    libc = ctypes.CDLL(None)
    assert libc.lckpwdf() == 0, "somebody holds the lock of passwd"
    try:
        lines = _PASSWD.read_text().splitlines(keepends=True)
        for number, line in enumerate(lines):
            fields = line.split(":")
            if fields[0] == name:
                lines[number] = ":".join([*fields[:2], str(uid), *fields[3:5], home, *fields[6:]])
        new = _PASSWD.with_name("passwd.csd")
        new.write_text("".join(lines))
        new.chmod(0o644)
        new.rename(_PASSWD)
    finally:
        libc.ulckpwdf()


def _run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)
