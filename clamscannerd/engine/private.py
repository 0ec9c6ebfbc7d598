"""The private clamd: the text of its clamd.conf, and the built-in test signature. Pure. [as started]

The launcher writes these files as root before rights are given up; the monitor, or a unit of its own, runs
`clamd -F -c FILE` as the engine's user. Two kinds share everything but their database: "signatures" loads the system's,
"builtin" a directory that holds `builtin_signatures()` and nothing else, so that a fresh machine shows that finding
works, and calls no file clean.

What is set and why (measured with 1.4.6):

- AlertExceedsMax, AlertEncrypted, and MaxFileSize equal to MaxScanSize: only then is nothing passed over in
  silence; with MaxFileSize below MaxScanSize a trimmed archive member is OK. Hence clamdconf.blind() is ().
- No User line: it is started as its user already. No LocalSocketGroup either, as that user is in no other group: the
  socket's directory is setgid, mode 2750, and the socket inherits its group (tried: mode 0660, group of the directory).
- ReadTimeout 3600: a session without a new command for so long is ended, *even while its scans run*. Its clients are
  the daemon and sealed workers; a dead one is noticed by EOF, so there is nothing that a short time-out would be for.
- IdleTimeout is the life of idle threads, not of sessions. It matters once: with ConcurrentDatabaseReload off a reload
  waits until the last idle thread has gone, 30 s by default, and PING waits too; so it is 1 then.
- ConcurrentDatabaseReload on by default: the memory of two databases (1.3 GB more) for the half minute of a
  reload. Off saves that, but scans stand still, and a database that fails to load leaves a clamd that answers PING and
  ends each session at its first file. The launcher may turn it off where memory is short.
- SelfCheck 60: freshclam knows nothing of this engine, so it looks for itself; new signatures serve within a minute.
- MaxQueue bounds connections as well as queued files: clamd stops accepting above it. At least 100, its default.
- ExitOnOOM: an engine out of memory ends and is started again, instead of answering errors until somebody looks.
- MaxThreads 1 where there are several engines (fitting.py): MaxQueue is then what waits for that one thread.
- No TCP, no PidFile. LogFile beside the socket, bounded; stdout (it logs there as well) is /dev/null: clamd writes
  names of infected files as they are, and one with a newline would forge lines in the daemon's log or the journal.
- 1.4 has no EnableShutdownCommand (tried: it refuses to start). Whoever may connect can send SHUTDOWN, and even inside
  a session (clamproto). The socket is the daemon's group's alone; an engine that ended is started again.
- StreamMaxLength equals MaxFileSize, for INSTREAM; PCREMaxFileSize too, or large files would miss those signatures.
"""

from collections.abc import Iterable

import msgspec

from clamscannerd.engine.clamdconf import HARD_MAX_FILE_BYTES
from clamscannerd.errors import ConfigError

_DETECTING = frozenset(
    {"cvd", "cld", "cud", "db", "hdb", "hsb", "mdb", "msb", "ndb", "ldb", "sdb", "cdb", "idb", "imp"}
    | {"zmd", "rmd", "yar", "yara"}
)
"""Endings of what finds malware. clamd loads more: allow lists (fp, sfp, ign, ign2, wdb), potentially unwanted
applications (hdu, ndu ...), file types (ftm), certificates (crb), passwords (pwdb), bytecode (cbc), settings (cfg, cat,
info, ioc). A directory of those alone would call everything clean."""

_NOT_ENOUGH = frozenset({"bytecode", "safebrowsing"})
"""Official databases that come beside main and daily and are none without them."""

EICAR = b"X5O!P%@AP[4\\PZX54(P^)7CC)7}$" + b"EICAR-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*"  # whole nowhere in this file
_PLAIN_BYTES_MIN = 0x20


class PrivatePaths(msgspec.Struct, frozen=True, kw_only=True):
    """Places of one private engine, absolute. `temporary` is its alone and emptied before each start.

    `log`: "" is beside the socket.
    """

    socket: str
    temporary: str
    database: str
    log: str = ""


def clamd_conf(
    paths: PrivatePaths,
    *,
    max_file_size: int,
    max_threads: int,
    max_scan_time_s: float,
    concurrent_reload: bool = True,
) -> str:
    """The text of clamd.conf. Raises ConfigError for a path that clamd could not read back."""
    size = min(max_file_size, HARD_MAX_FILE_BYTES)
    options = {
        "Foreground": "yes",
        "LocalSocket": _quoted(paths.socket),
        "LocalSocketMode": "660",
        "FixStaleSocket": "yes",
        "LogFile": _quoted(paths.log or paths.socket.removesuffix(".sock") + ".log"),
        "LogFileMaxSize": "1M",
        "LogTime": "yes",
        "DatabaseDirectory": _quoted(paths.database),
        "TemporaryDirectory": _quoted(paths.temporary),
        "MaxFileSize": str(size),
        "MaxScanSize": str(size),
        "StreamMaxLength": str(size),
        "PCREMaxFileSize": str(size),
        "MaxScanTime": str(round(max_scan_time_s * 1000)),
        "AlertExceedsMax": "yes",
        "AlertEncrypted": "yes",
        "HeuristicScanPrecedence": "no",
        "AllowAllMatchScan": "no",
        "MaxThreads": str(max_threads),
        "MaxQueue": str(max(100, 2 * max_threads)),
        "MaxConnectionQueueLength": "200",
        "CommandReadTimeout": "30",
        "ReadTimeout": "3600",
        "IdleTimeout": "30" if concurrent_reload else "1",
        "SelfCheck": "60",
        "ConcurrentDatabaseReload": "yes" if concurrent_reload else "no",
        "ExitOnOOM": "yes",
    }
    lines = ["# Written at each start of clamscannerd; the reasons are in clamscannerd/engine/private.py."]
    lines += (f"{name} {value}" for name, value in options.items())
    return "\n".join(lines) + "\n"


def reloads_twice(text: str) -> bool:
    """Whether the clamd with this clamd.conf of ours holds two databases during a reload."""
    return "ConcurrentDatabaseReload yes\n" in text


def builtin_signatures() -> dict[str, bytes]:
    """File name -> content of the database that holds only the EICAR test file.

    At offset 0 of a file of any type, as EICAR's definition says, whatever follows (a newline, blanks), and so also in
    archives and attachments; a page that quotes it is not the test file. clamd reports Eicar-Test-Signature.UNOFFICIAL.
    """
    return {"clamscannerd-test.ndb": f"Eicar-Test-Signature:0:0:{EICAR.hex()}\n".encode()}


def has_signatures(names: Iterable[str]) -> bool:
    """Whether a database directory with these entries holds anything that finds malware."""
    for name in names:
        stem, dot, ending = name.rpartition(".")
        if dot and stem and ending in _DETECTING and stem not in _NOT_ENOUGH:
            return True
    return False


def _quoted(path: str) -> str:
    if not path.startswith("/") or '"' in path or any(ord(char) < _PLAIN_BYTES_MIN for char in path):
        raise ConfigError(f"cannot write clamd's configuration: a path that it cannot read: {path!r}")
    return f'"{path}"' if " " in path else path
