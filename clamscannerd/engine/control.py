"""clamd's control plane through pyclamd: ping, version, stats, reload; and which clamd the system has. [daemon]

Everything here blocks and is called only through trio.to_thread.run_sync. Addresses are "/path" or "tcp://host:port".

pyclamd 0.4.0 opens one connection a command and tries a receive five times, so each gets a fifth of the time-out. Its
constructor makes a connection only to drop it, and leaks the socket of one that is refused: `_client` goes
around it, and closes what a failed command leaves open. Rejected: pyclamd for scanning (no FILDES, no sessions).

The version names the official database only: with other signatures it is just "ClamAV 1.4.6", whatever is loaded,
and STATS does not tell databases apart either. So `fingerprint` looks at the database directory: its
signature files but daily.*, whose changes the version tells. clamd loads a change up to SelfCheck later and nobody can
ask it when, hence `newest`: what was scanned before `newest` + SelfCheck may have been scanned without it.
"""

import contextlib
import hashlib
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pyclamd

from clamscannerd.engine import clamdconf
from clamscannerd.errors import ConfigError, EngineLost

_TRIES = 5  # of pyclamd, for each receive
_WANTS = "/etc/systemd/system"
_BOOTED = "/run/systemd/system"  # sd_booted(3)
_VERSION = re.compile(r"ClamAV ([^/\s]+)(?:/([0-9]{1,9})/(.+))?")


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """`database`: number of the official daily database, 0 without; `database_time`: epoch seconds, 0.0 without."""

    version: str
    database: int = 0
    database_time: float = 0.0


class Fingerprint(msgspec.Struct, frozen=True, kw_only=True):
    """A database directory: `digest` changes with its files, "" where it cannot be read; `newest`: epoch seconds."""

    digest: str = ""
    newest: float = 0.0


def ping(address: str, timeout_s: float) -> None:
    """Returns when clamd has answered. Raises EngineLost."""
    with _client(address, timeout_s, "ping") as client:
        client.ping()


def version(address: str, timeout_s: float) -> Version:
    """What VERSION says. Raises EngineLost."""
    with _client(address, timeout_s, "ask the version of") as client:
        answer = client.version()
    if not isinstance(answer, str):  # what is no UTF-8 pyclamd hands on as bytes
        raise EngineLost(f"cannot use clamd at {address}: its version is {answer[:100]!r}")
    return parse_version(answer)


def stats(address: str, timeout_s: float) -> str:
    """What STATS says: lines for people. Raises EngineLost."""
    with _client(address, timeout_s, "ask the statistics of") as client:
        return str(client.stats()).strip("\0\n ")


def reload(address: str, timeout_s: float) -> None:
    """Make clamd load its database again; returns before it has. Raises EngineLost."""
    with _client(address, timeout_s, "reload") as client:
        answer = client.reload()
    if answer != "RELOADING":
        raise EngineLost(f"cannot reload clamd at {address}: it answered {answer!r}")


def parse_version(text: str) -> Version:
    """`ClamAV 1.4.3/27400/Mon Nov 23 09:26:44 2026`, the end only with official signatures. Raises EngineLost.

    The time is clamd's local time without a zone; clamd is taken to be in ours.
    """
    match = _VERSION.fullmatch(text.strip("\0\n "))
    if match is None:
        raise EngineLost(f"cannot use clamd: its version is {text[:100]!r}")
    number, database, when = match.groups()
    if database is None:
        return Version(version=number)
    try:
        moment = time.mktime(time.strptime(when, "%a %b %d %H:%M:%S %Y"))
    except (ValueError, OverflowError):
        moment = 0.0
    return Version(version=number, database=int(database), database_time=moment)


def read_conf(path: str) -> clamdconf.ClamdConf:
    """The clamd.conf at `path`. Raises ConfigError."""
    try:
        text = Path(path).read_text(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    return clamdconf.read(text)


def system_socket(clamd_conf: str) -> str | None:
    """The Unix socket of the clamd that `clamd_conf` configures; None without one, or without such a file."""
    try:
        return read_conf(clamd_conf).local_socket
    except ConfigError:
        return None


def same_socket(one: str, other: str) -> bool:
    """Whether two paths are one socket: Debian writes /var/run where it means /run."""
    return os.path.realpath(one) == os.path.realpath(other)


def system_clamd_enabled() -> bool:
    """Whether systemd runs this machine and starts clamav-daemon, or its socket, at boot.

    By the links that `systemctl enable` makes: no process is needed to see them.
    """
    if not os.path.isdir(_BOOTED):
        return False
    links = Path(_WANTS).glob("*.wants/clamav-daemon.*")
    return any(link.suffix in (".service", ".socket") for link in links)


def database_names(directory: str) -> tuple[str, ...]:
    """The entries of a database directory; none where it cannot be read."""
    try:
        return tuple(sorted(os.listdir(directory)))
    except OSError:
        return ()


def fingerprint(directory: str) -> Fingerprint:
    """The state of the signature files in `directory` but daily.*: names, sizes, times."""
    digest, newest, files = hashlib.sha256(), 0.0, 0
    for name in database_names(directory):
        if name.startswith("daily.") or "." not in name or name.endswith((".dat", ".tmp")):
            continue
        try:
            status = os.stat(os.path.join(directory, name))
        except OSError:
            continue
        files += 1
        newest = max(newest, status.st_ctime)
        digest.update(f"{name!r} {status.st_size} {status.st_mtime_ns} {status.st_ino}\n".encode())
    return Fingerprint(digest=digest.hexdigest()[:16], newest=newest) if files else Fingerprint()


class _UnixClamd(pyclamd.ClamdUnixSocket):  # type: ignore[misc]  # pyclamd has no types
    def __init__(self, path: str, timeout_s: float) -> None:
        """Not the parent's: no connection before there is a command."""
        self.unix_socket = path
        self.timeout = timeout_s


class _NetworkClamd(pyclamd.ClamdNetworkSocket):  # type: ignore[misc]
    def __init__(self, host: str, port: int, timeout_s: float) -> None:
        self.host = host
        self.port = port
        self.timeout = timeout_s


@contextlib.contextmanager
def _client(address: str, timeout_s: float, verb: str) -> Iterator[Any]:
    """A pyclamd client whose failures are EngineLost and whose socket is closed."""
    client: _UnixClamd | _NetworkClamd
    if address.startswith("tcp://"):
        host, _, port = address.removeprefix("tcp://").rpartition(":")
        if not host or not port.isascii() or not port.isdigit():
            raise EngineLost(f"cannot {verb} clamd at {address}: expected tcp://host:port")
        client = _NetworkClamd(host.strip("[]"), int(port), timeout_s / _TRIES)
    else:
        client = _UnixClamd(address, timeout_s / _TRIES)
    try:
        yield client
    except OSError as error:
        raise EngineLost(f"cannot {verb} clamd at {address}: {_cause(error)}") from None
    finally:
        sock = getattr(client, "clamd_socket", None)
        if sock is not None:
            sock.close()


def _cause(error: OSError) -> str:
    """pyclamd wraps errors in its own, once or twice, without a number."""
    while isinstance(error.__context__, OSError):
        error = error.__context__
    return error.strerror or str(error)
