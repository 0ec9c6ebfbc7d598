"""[root, at installation] Where homes are that the unit's sandbox would keep read-only: a drop-in for them.

`python -m clamscannerd.launch_homes [FILE]` reads passwd, and writes `ReadWritePaths=` for the places of homes outside
of /home into /etc/systemd/system/clamscannerd.service.d/homes.conf, or removes that file when there are none. The
package does it at each installation and upgrade; after a new place for homes came up an administrator does
(clamscannerd(8)). A file without our first line is the administrator's own and stays as it is.

A place is the directory above a home, so that the next user in it is covered; the home itself where that directory
holds the system too. Homes in places of the system (/usr, /run, ...) are left out: nothing is to be written there.

Rejected: ReadWritePaths=/ (then there is no sandbox); finding out at run time (the sandbox is made before we run).
"""

import os
import pwd
import sys
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from clamscannerd import config as configuration
from clamscannerd.errors import ClamscannerdError
from clamscannerd.launch_files import Ids, make_directory, write_file

DROP_IN = "/etc/systemd/system/clamscannerd.service.d/homes.conf"
MARK = "# Written by clamscannerd's installation; it stays as it is once this line is gone."

COVERED = ("/home",)
"""In the unit itself."""

_SYSTEMS = frozenset(
    {"/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/nonexistent", "/proc", "/root", "/run"}
    | {"/sbin", "/sys", "/usr", "/var/cache", "/var/lib", "/var/log", "/var/spool"}
    | {"/tmp", "/var/tmp"}  # noqa: S108  names to be left out
)
"""No homes of people: packages put some of their users here. /tmp and /var/tmp are the service's own (PrivateTmp=)."""

_TOO_WIDE = frozenset({"/", "/media", "/mnt", "/opt", "/var", "/var/local"})
"""Directories with more than homes in them."""

_NOBODY = 65_534
_PLAIN_MIN = " "


def is_home(home: str) -> bool:
    """Whether that can be a home of a person: no place of the system, nor one that holds more than homes. Pure."""
    path = PurePosixPath("/" + home.lstrip("/"))
    if ".." in path.parts or str(path) in _TOO_WIDE or any(char < _PLAIN_MIN for char in home):
        return False
    return home.startswith("/") and not any(path.is_relative_to(place) for place in _SYSTEMS)


def places(homes: Iterable[str]) -> list[str]:
    """What has to be writable for these homes, beyond COVERED. Pure."""
    found: set[str] = set()
    for home in homes:
        path = PurePosixPath("/" + home.lstrip("/"))
        if not is_home(home) or any(path.is_relative_to(place) for place in COVERED):
            continue
        above = str(path.parent)
        found.add(str(path) if above in _TOO_WIDE else above)
    return sorted(place for place in found if not any(_beneath(place, other) for other in found))


def drop_in(found: Iterable[str]) -> str:
    """The text of the file."""
    lines = [MARK, "# Homes outside of /home; after a change: python -m clamscannerd.launch_homes.", "[Service]"]
    return "\n".join([*lines, *(f"ReadWritePaths={_quoted(place)}" for place in found)]) + "\n"


def _beneath(place: str, other: str) -> bool:
    return place != other and PurePosixPath(place).is_relative_to(other)


def _quoted(place: str) -> str:
    """As systemd.syntax(7) reads it back. "-": a disk that is not there is no reason not to start."""
    escaped = place.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"-{escaped}"'


def main(argv: list[str], file: str = DROP_IN) -> int:
    """The exit code: 0, 1 for a fault, 2 for usage, 78 for configuration."""
    if len(argv) > 1 or os.geteuid() != 0:
        sys.stderr.write("usage, as root: python -m clamscannerd.launch_homes [FILE]\n")
        return 2
    os.umask(0o022)
    try:
        config = configuration.load(Path(argv[0]).absolute() if argv else None, system=True)
        _update(places(_homes(config.accounts.min_uid)), file)
    except ClamscannerdError as error:
        sys.stderr.write(f"clamscannerd: {error}\n")
        return error.exit_code
    return 0


def _homes(min_uid: int) -> list[str]:
    """Of the accounts that are served. Those that passwd does not list, as LDAP may choose, are not known here."""
    return [
        os.path.normpath(entry.pw_dir)
        for entry in pwd.getpwall()
        if entry.pw_uid >= min_uid and entry.pw_uid != _NOBODY and os.path.isdir(entry.pw_dir)
    ]


def _update(found: list[str], file: str) -> None:
    path = Path(file)
    try:
        if path.exists() and not path.read_text(errors="replace").startswith(MARK):
            sys.stderr.write(f"clamscannerd: {file} is an administrator's own and stays as it is\n")
            return
        if not found:
            path.unlink(missing_ok=True)
            return
    except OSError as error:
        raise ClamscannerdError(f"cannot use {file}: {error.strerror}") from None
    make_directory(str(path.parent), 0o755, Ids(0, 0))
    if write_file(file, drop_in(found).encode()):
        sys.stdout.write(f"clamscannerd: homes are in {', '.join(found)} too: see {file}\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
