"""[root, by the unit] What the launcher makes when it is root itself, for a unit that starts it without being root.

`python -m clamscannerd.launch_prepare [FILE]` is clamscannerd-prepare.service: places and configuration of the
private engine follow from clamscannerd.toml, and only root may write them. It makes them and leaves; nothing stays.

Rejected: tmpfiles.d (knows no configuration, and cannot size a tmpfs); starting the unit as root (its bounding set
would need chown, mount and more for the whole life of the service); ExecStartPre=+ (in systemd 252 its mount stays in
the service's mount namespace, although its documentation reads otherwise).
"""

import os
import pwd
import sys
from pathlib import Path

from clamscannerd import config as configuration
from clamscannerd.errors import ClamscannerdError, ConfigError
from clamscannerd.launch import SERVICE_USER
from clamscannerd.launch_engine import prepare_engine
from clamscannerd.launch_files import Ids, make_directory


def main(argv: list[str]) -> int:
    """The exit code: 0, 1 for a fault, 2 for usage, 78 for configuration."""
    if len(argv) > 1 or os.geteuid() != 0:
        sys.stderr.write("usage, as root: python -m clamscannerd.launch_prepare [FILE]\n")
        return 2
    try:
        _prepare(Path(argv[0]).absolute() if argv else None)
    except ClamscannerdError as error:
        sys.stderr.write(f"clamscannerd: {error}\n")
        return error.exit_code
    return 0


def _prepare(file: Path | None) -> None:
    config = configuration.load(file, system=True)
    try:
        entry = pwd.getpwnam(SERVICE_USER)
    except KeyError:
        raise ConfigError(f"cannot start: there is no user {SERVICE_USER}") from None
    service = Ids(entry.pw_uid, entry.pw_gid)
    os.umask(0o022)
    directory = os.path.dirname(config.server.socket)
    if not os.path.isdir(directory):  # with a socket unit it is there, and systemd's
        make_directory(directory, 0o755, service)
    make_directory(config.state.directory, 0o700, service)
    engine, why = prepare_engine(config, service, system=True)
    if engine is None:
        sys.stderr.write(f"clamscannerd: no private engine: {why}\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
