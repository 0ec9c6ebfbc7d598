"""Where the daemon's socket is, and a connection to it. In whatever process uses a client.

Apart from client.py and on little of the standard library, so that ctl/start.py can ask one question without paying for
the import of anything else.
"""

import os
import socket
import stat
from collections.abc import Iterator

from clamscannerd.errors import ClamscannerdError

ENVIRONMENT = "CLAMSCANNERD_SOCKET"
SYSTEM_SOCKET = "/run/clamscannerd/clamscannerd.sock"
TIMEOUT_S = 60.0
"""One call. The daemon answers in milliseconds; a slow passwd (LDAP) and a busy machine get their time."""


class Unreachable(ClamscannerdError):
    """Nobody answers at the socket, or the connection broke before the answer was there."""

    kind = "unreachable"
    exit_code = 2


def find(socket_path: str | None = None, timeout_s: float = TIMEOUT_S) -> tuple[socket.socket, str]:
    """A connected socket and its path. Tries the system's daemon, then the user's own, unless a path is given, here or
    in the environment. Raises Unreachable."""
    given = socket_path or os.environ.get(ENVIRONMENT)
    problems: list[tuple[str, OSError]] = []
    for path in [given] if given else list(_places()):
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(timeout_s)
            connection.connect(path)
        except OSError as problem:
            connection.close()
            problems.append((path, problem))
        else:
            return connection, path
    # A socket that refuses says more than one that is not there.
    path, error = next((p for p in problems if not isinstance(p[1], FileNotFoundError)), problems[0])
    hint = "is it running? (systemctl status clamscannerd)"
    raise Unreachable(f"cannot reach clamscannerd at {path}: {cause_of(error)}; {hint}") from None


def _places() -> Iterator[str]:
    yield SYSTEM_SOCKET
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        yield os.path.join(runtime, "clamscannerd", "clamscannerd.sock")
        return
    directory = f"/tmp/clamscannerd-{os.getuid()}"  # noqa: S108  its owner and mode are looked at
    try:
        facts = os.lstat(directory)
    except OSError:
        return
    # Anybody may make a directory of this name, and would then answer in the daemon's place.
    if stat.S_ISDIR(facts.st_mode) and facts.st_uid == os.getuid() and not facts.st_mode & 0o077:
        yield os.path.join(directory, "clamscannerd.sock")


def cause_of(error: OSError) -> str:
    cause = error.strerror or str(error) or type(error).__name__
    return cause[:1].lower() + cause[1:]
