"""clamscannerd.toml -> a frozen Config: every path, limit and time-out, with its default and its reason.

Read by [as started] before rights are given up and by [daemon] on reload; handed on as values, never imported by
the code that uses them. Main file first, then conf.d/*.toml beside it in name order: tables merge, values replace.
An unknown key or a wrong value is a ConfigError that names file, key and what was expected.

Values with units (config_units.py) are held as numbers: seconds, bytes, a share of 1.
"""

import math
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import msgspec

from clamscannerd import globs
from clamscannerd.config_cache import Cache, cache_place
from clamscannerd.config_engine import Engine, check_addresses, check_private
from clamscannerd.config_notify import Notify
from clamscannerd.config_units import Duration, Section, Share, Size, units
from clamscannerd.errors import ConfigError
from clamscannerd.model import PATH_MAX_BYTES

SYSTEM_FILE = Path("/etc/clamscannerd/clamscannerd.toml")
SYSTEM_STATE = "/var/lib/clamscannerd"
SYSTEM_OUTBOX = "/var/lib/clamscannerd-outbox"
"""tmpfiles.d makes it. Not in the state directory: see notify/outbox.py."""

_LONGEST_S = 36_500 * 86_400
"""A hundred years: beyond some thousands there is no date any more."""

_MOST_IN_FLIGHT = 64
"""A single scan may have them all, and each is an open file of a worker, which may have 256. More gain nothing."""

_MOST_IGNORED = 1_000
"""Entries of an account: what compares them with findings is given two seconds, and that is no longer enough."""

_MOST_CPU_S = 86_400 * 365
"""A limit of the kernel's, in whole seconds; a year of it is none."""

_EXCLUDE_MAX_BYTES = 16 << 10
"""Of all patterns: they go to each worker in one message, and are kept with each scan."""

_SOCKET_PATH_MAX = 107
"""sockaddr_un without its final NUL."""

_WAITS = frozenset(
    {"server.line_timeout_s", "server.idle_timeout_s", "server.write_timeout_s", "accounts.lookup_timeout_s"}
    | {"engine.first_ping_timeout_s", "engine.ping_timeout_s", "engine.check_interval_s"}
    | {"scans.file_deadline_s", "scans.silence_s", "scans.deadline_s", "tasks.step_timeout_s", "scans.file_cpu_s"}
    | {"notify.hook_timeout_s"}
)
"""Where 0 would refuse everything, or make a loop without a pause. Elsewhere it is a wish like any other."""

_PLACES = frozenset(
    {"server.socket", "state.directory", "engine.clamd_conf", "engine.clamd", "engine.database", "engine.temporary"}
    | {"notify.outbox", "cache.directory"}
)


class Server(Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    socket: str = ""  # "": the place that the contract names for root's and for a user's daemon
    admins: tuple[str, ...] = ("root",)  # may add "user" to any call; root always may
    max_connections: int = 20_000  # 10,000 idle panels and as many again; each costs about 10 kB and one fd
    max_connections_per_uid: int = 32  # a shell, a panel and some scripts; more is a leak in the client
    max_calls_per_uid: int = 64  # calls in flight: two for each of the connections
    max_message_bytes: int = 1 << 20  # 10,000 actions of 100 bytes; a larger selection says "others"
    max_batch: int = 100  # no user of the six calls needs more at once
    max_depth: int = 32  # the deepest lawful call has 4 levels
    line_timeout_s: float = 10.0  # a line begun must end: a local client writes a megabyte in milliseconds
    idle_timeout_s: float = 600.0  # longer than any polling pause of a panel
    write_timeout_s: float = 30.0  # a client that does not read its answers is let go


class State(Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    directory: str = ""  # "": /var/lib/clamscannerd, or $XDG_STATE_HOME/clamscannerd for a user's daemon
    keep_per_account: int = 100  # scans, and tasks, kept per account
    keep: Duration = Duration(180 * 86_400)
    max_findings_per_scan: int = 100_000  # a home with more is beyond file-by-file choice
    max_not_scanned_per_scan: int = 10_000  # paths kept; all are counted
    min_free: Size = Size(16 << 20)  # new jobs are refused below: a scan's findings, and its log of up to 8 MB, fit


class Accounts(Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    min_uid: int = 1000  # Debian's first account of a person
    lookup_timeout_s: float = 5.0  # passwd may be LDAP
    max_stuck: int = 8  # killed workers that hang in the kernel: two jobs with their retries; each costs a process
    gone_after_s: float = 240.0  # a job ends when passwd does not know its account for so long: LDAP may start late


class Scans(Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    max_active: int = 4  # at once; two keep a two-core engine busy, four hide slow disks
    in_flight: int = 0  # files at the engine over all scans; 0: min(MaxThreads, 4 x cores), 2/3 of a shared one
    file_deadline_s: float = 300.0  # from sending a file to its verdict; above engine.max_scan_time_s
    silence_s: float = 120.0  # a worker that says nothing for so long is killed
    deadline_s: float = 86_400.0  # one scan; a million files took minutes
    file_cpu_s: float = 300.0  # of a worker over one file: taking a mailbox apart goes at 100 MB/s, a sparse one at 400
    job_cpu_s: float = 3_600.0  # of one worker: a million files take it two minutes
    nice: int = 10  # of workers
    cpu_class: Literal["normal", "batch", "idle"] = "normal"  # idle: only while nobody else computes; may starve
    io_class: Literal["best-effort", "idle"] = "best-effort"  # idle: only while nobody else reads; may starve
    exclude: tuple[str, ...] = ()  # patterns as in .gitignore, relative to each home
    retries: int = 2  # workers that die under a job, before the job fails


class Tasks(Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    max_active: int = 4
    step_timeout_s: float = 900.0  # one file: the largest content to the vault and back
    drain_s: float = 8.0  # at SIGTERM the step at hand may take so long


class ScanType(Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    paths: tuple[str, ...]
    message: str
    users: tuple[str, ...] = ("*",)  # account names, or "*"
    groups: tuple[str, ...] = ()  # group names whose members may use it as well
    enabled: bool = True


class Vault(Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    keep_quarantined: Duration = Duration(90 * 86_400)  # more than 0: the vault has the only copy
    keep_deleted: Duration = Duration(7 * 86_400)  # 0: no copy of deleted files
    max_bytes_per_account: Size = Size(1 << 30)
    max_items_per_account: int = 100_000
    min_free: Share = Share(0.05)  # of the file system that holds the vault


class Ignore(Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    allowed: bool | tuple[Literal["path", "signature", "sha256"], ...] = True  # what entries may go by
    max_entries_per_account: int = 100  # each is compared with every finding that is shown


SCAN_TYPES: dict[str, ScanType] = {
    "home": ScanType(paths=(".",), message="Scan Entire Home Directory"),
    "mail": ScanType(paths=("mail", "Maildir"), message="Scan Mail"),
    "public_html": ScanType(paths=("public_html",), message="Scan Public Web Space"),
    "public_ftp": ScanType(paths=("public_ftp",), message="Scan Public FTP Space"),
}


class Config(Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    server: Server = Server()
    state: State = State()
    engine: Engine = Engine()
    accounts: Accounts = Accounts()
    scans: Scans = Scans()
    tasks: Tasks = Tasks()
    vault: Vault = Vault()
    cache: Cache = Cache()
    ignore: Ignore = Ignore()
    notify: Notify = Notify()
    scan_types: dict[str, ScanType] = {}  # noqa: RUF012  msgspec gives each its own


def load(path: Path | None, *, system: bool) -> Config:
    """The configuration in force, with defaults filled in.

    `path`: the main file (must exist); None: the usual place, where a missing file means all defaults.
    `system`: root's daemon, else an ordinary user's. Raises ConfigError.
    """
    main = path if path is not None else default_file(system=system)
    files = [main] if path is not None or _is_there(main) else []
    files += _names_in(main.parent / "conf.d")
    merged: dict[str, object] = {"scan_types": {name: _builtins(kind) for name, kind in SCAN_TYPES.items()}}
    origin: dict[str, Path] = {}
    for file in files:
        _merge(merged, _read(file), origin, file, "$")
    try:
        config = msgspec.convert(merged, Config, dec_hook=units, str_keys=True)
    except msgspec.ValidationError as error:
        raise _explain(error, origin, main) from None
    _check(config, origin, main)
    config = _fill(config, system=system)
    _check_places(config, origin, main)
    return config


def default_file(*, system: bool) -> Path:
    """Where the main file is looked for."""
    if system:
        return SYSTEM_FILE
    base = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return Path(base, "clamscannerd", "clamscannerd.toml")


def _is_there(file: Path) -> bool:
    """False only where it is not: a place that we may not look at is no place without a file."""
    try:
        file.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise _unreadable(file, error) from None
    return True


def _names_in(directory: Path) -> list[Path]:
    """Not Path.glob, which finds nothing in a directory that may not be read."""
    try:
        names = os.listdir(directory)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise _unreadable(directory, error) from None
    return [directory / name for name in sorted(names) if name.endswith(".toml")]


def _read(file: Path) -> dict[str, object]:
    try:
        with file.open("rb") as stream:
            return tomllib.load(stream)
    except OSError as error:
        raise _unreadable(file, error) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        where = re.search(r"\(at (line \d+, column \d+|end of document)\)", str(error))
        public = f"{file.name}: not TOML" + (f" at {where[1]}" if where else "")
        raise ConfigError(f"cannot read {file}: not TOML: {error}", public) from None


def _unreadable(file: Path, error: OSError) -> ConfigError:
    return ConfigError(f"cannot read {file}: {error.strerror}", f"{file.name} cannot be read: {error.strerror}")


def _builtins(kind: ScanType) -> dict[str, object]:
    return dict(msgspec.structs.asdict(kind))


def _merge(into: dict[str, object], new: Mapping[str, object], origin: dict[str, Path], file: Path, where: str) -> None:
    """Tables merge, values replace; `origin` remembers which file a key came from, for error messages."""
    for key, value in new.items():
        place = f"{where}.{key}"
        origin[place] = file
        old = into.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            _merge(old, value, origin, file, place)
        else:
            if isinstance(value, dict):
                fresh: dict[str, object] = {}
                _merge(fresh, value, origin, file, place)
                value = fresh
            into[key] = value


def _explain(error: msgspec.ValidationError, origin: Mapping[str, Path], main: Path) -> ConfigError:
    """msgspec's `<what> - at `$.table.key`` as a sentence with file and key."""
    what, _, where = str(error).partition(" - at ")
    place = where.strip("`") or "$"
    if unknown := re.fullmatch(r"Object contains unknown field `(.+)`", what):
        place, what = f"{place}.{unknown[1]}", "unknown key"
    elif missing := re.fullmatch(r"Object missing required field `(.+)`", what):
        place = next((key for key in _scan_types(origin) if f"{key}.{missing[1]}" not in origin), place)
    place = _spelled(place, origin)
    return _wrong(place, what[:1].lower() + what[1:], origin, main)


def _scan_types(origin: Mapping[str, Path]) -> list[str]:
    """Of those that the files add: the only tables with keys that have no default."""
    known = {f"$.scan_types.{name}" for name in SCAN_TYPES}
    return [key for key in origin if re.fullmatch(r"\$\.scan_types\.[^.]+", key) and key not in known]


def _spelled(place: str, origin: Mapping[str, Path]) -> str:
    """msgspec says `[...]` for any key of scan_types: find the one that was meant, where there is just one."""
    if "[...]" not in place:
        return place
    head, _, tail = place.partition("[...]")
    fits = [key for key in origin if key.startswith(head + ".") and key.endswith(tail) and key != head]
    return fits[-1] if len(set(fits)) == 1 else place


def _wrong(place: str, what: str, origin: Mapping[str, Path], main: Path) -> ConfigError:
    file = main
    probe = place.split("[", 1)[0]
    while probe not in origin and "." in probe:
        probe = probe.rpartition(".")[0]
    file = origin.get(probe, main)
    key = place.removeprefix("$.")
    return ConfigError(f"cannot use {file}: {key}: {what}", f"{file.name}: {key}: {what.partition(', got')[0]}")


def _check(config: Config, origin: Mapping[str, Path], main: Path) -> None:
    """What types alone do not say."""

    def need(fits: bool, key: str, expected: str) -> None:  # noqa: FBT001
        if not fits:
            raise _wrong(f"$.{key}", f"expected {expected}", origin, main)

    for section in ("server", "state", "engine", "scans", "tasks", "vault", "cache", "accounts", "ignore", "notify"):
        table = getattr(config, section)
        for key, value in msgspec.structs.asdict(table).items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                need(0 <= value < math.inf, f"{section}.{key}", "a number that is finite and not negative")
            if isinstance(value, Duration):
                need(value <= _LONGEST_S, f"{section}.{key}", "at most 36500d")
            if f"{section}.{key}" in _WAITS:
                need(value > 0, f"{section}.{key}", "more than 0: nothing can be done in no time")
            if f"{section}.{key}" in _PLACES:
                fits = value == "" or (value.startswith("/") and "\0" not in value)
                need(fits, f"{section}.{key}", f"an absolute path without NUL, got {value!r}")
    for key in ("max_connections", "max_connections_per_uid", "max_calls_per_uid", "max_batch", "max_depth"):
        need(getattr(config.server, key) >= 1, f"server.{key}", "at least 1")
    need(config.vault.keep_quarantined > 0, "vault.keep_quarantined", "more than 0: what is quarantined must be kept")
    need(config.server.max_message_bytes >= 4096, "server.max_message_bytes", "at least 4096")
    need(config.accounts.min_uid >= 1, "accounts.min_uid", "at least 1: root is never an account")
    need(config.accounts.max_stuck >= 1, "accounts.max_stuck", "at least 1")
    need(1 <= config.scans.job_cpu_s <= _MOST_CPU_S, "scans.job_cpu_s", f"1 to {_MOST_CPU_S}")
    need(config.scans.max_active >= 1, "scans.max_active", "at least 1")
    need(config.scans.in_flight <= _MOST_IN_FLIGHT, "scans.in_flight", f"at most {_MOST_IN_FLIGHT}")
    need(config.tasks.max_active >= 1, "tasks.max_active", "at least 1")
    need(0 <= config.scans.nice <= 19, "scans.nice", "0 to 19")
    need(0 <= config.engine.nice <= 19, "engine.nice", "0 to 19")
    need(config.engine.max_threads >= 1, "engine.max_threads", "at least 1")
    need(0 < config.engine.max_file_size <= 2 << 30, "engine.max_file_size", "at most 2G, clamd's own bound")
    for pattern in config.scans.exclude:
        fault = globs.fault(os.fsencode(pattern))
        need(not fault, "scans.exclude", f"patterns as in .gitignore, not one {fault}, got {pattern!r}")
    total = sum(len(os.fsencode(pattern)) + 1 for pattern in config.scans.exclude)
    need(total <= _EXCLUDE_MAX_BYTES, "scans.exclude", f"at most {_EXCLUDE_MAX_BYTES} bytes of patterns")
    most = config.ignore.max_entries_per_account
    need(most <= _MOST_IGNORED, "ignore.max_entries_per_account", f"at most {_MOST_IGNORED}")
    for key in ("minimum", "max_findings", "max_waiting", "hook_tries"):
        need(getattr(config.notify, key) >= 1, f"notify.{key}", "at least 1")
    check_private(config.engine, need)
    check_addresses(config.engine, need)
    for name, kind in config.scan_types.items():
        need(
            bool(re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", name)), f"scan_types.{name}", "a name of letters, digits, _ . -"
        )
        need(bool(kind.paths), f"scan_types.{name}.paths", "at least one path")
        for path in kind.paths:
            parts = path.split("/")
            fits = path == "." or (path != "" and not {"", ".", ".."} & set(parts) and "\0" not in path)
            need(fits, f"scan_types.{name}.paths", f'a path beneath the home, without "." and "..", got {path!r}')
            need(len(os.fsencode(path)) <= PATH_MAX_BYTES, f"scan_types.{name}.paths", "a path of at most 4,095 bytes")


def _check_places(config: Config, origin: Mapping[str, Path], main: Path) -> None:
    """Also of those that the environment names (XDG_...)."""
    for key, place in (("server.socket", config.server.socket), ("state.directory", config.state.directory)):
        if not os.path.isabs(place):
            raise _wrong(f"$.{key}", f"expected an absolute path, got {place!r}", origin, main)
    if len(os.fsencode(config.server.socket)) > _SOCKET_PATH_MAX:
        raise _wrong("$.server.socket", f"expected at most {_SOCKET_PATH_MAX} bytes", origin, main)


def _fill(config: Config, *, system: bool) -> Config:
    """The places that depend on who runs the daemon (contract: Wire, Starting it)."""
    server, state, notify, cache = config.server, config.state, config.notify, config.cache
    if not server.socket:
        server = msgspec.structs.replace(server, socket=default_socket(system=system))
    if not state.directory:
        base = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
        directory = SYSTEM_STATE if system else os.path.join(base, "clamscannerd")
        state = msgspec.structs.replace(state, directory=directory)
    if not cache.directory:
        usual = system and state.directory == SYSTEM_STATE
        cache = msgspec.structs.replace(cache, directory=cache_place(state.directory, usual=usual))
    if not notify.outbox:
        outbox = SYSTEM_OUTBOX if system else os.path.join(state.directory, "outbox")
        notify = msgspec.structs.replace(notify, outbox=outbox)
    return msgspec.structs.replace(config, server=server, state=state, notify=notify, cache=cache)


def default_socket(*, system: bool) -> str:
    """The socket's place when the file names none."""
    if system:
        return "/run/clamscannerd/clamscannerd.sock"
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime:
        return os.path.join(runtime, "clamscannerd", "clamscannerd.sock")
    return f"/tmp/clamscannerd-{os.getuid()}/clamscannerd.sock"  # noqa: S108  0700, owner checked before use
