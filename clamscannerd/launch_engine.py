"""[as started] What the private engine needs to be started later, made while the launcher may still be root.

Places, where /run/clamscannerd and /var/lib/clamscannerd stand for the configured directories of socket and state:

    /run/clamscannerd-engine/          root's: KIND.conf, builtin/ with the built-in signatures
    /run/clamscannerd-engine/run/      the engine's, 2750, group clamscannerd: sockets inherit the group, 0660
    /var/lib/clamscannerd-engine/tmp/  the engine's alone, a tmpfs where memory permits; never /run, which is small

In a user's daemon all of them stand in STATE/engine. The configuration lies out of the engine's own reach: clamd has
options that run commands. Two kinds have two sockets, so that the old one never answers a ping of the new engine.

Where systemd runs the engine (clamscannerd-engine@.service), an instance of that unit stands for a kind: 1 for the
signatures, as one per core is to come, and `builtin`. Then there is only this, and nothing for the monitor to start:

    /run/clamscannerd-engine/          root's: INSTANCE.conf, builtin/, and INSTANCE.sock, which systemd listens on
    /run/clamscannerd-engine/log/INSTANCE/  the engine's: clamd.log
    /run/clamscannerd-engine/tmp/      a tmpfs that only this instance sees

A private engine that cannot be had is no reason not to start: the system's clamd may do. Then None is set up, the
reason is said once, and the monitor refuses ENGINE_START. Rejected: one directory for socket, configuration and
temporary files (whoever owns a directory can replace what others own in it).
"""

import os
import pwd
import stat
from typing import Literal, NamedTuple

from clamscannerd import orders
from clamscannerd.config import Config
from clamscannerd.engine import private
from clamscannerd.errors import ClamscannerdError, ConfigError
from clamscannerd.launch_files import Ids, available_bytes, make_directory, mount_tmpfs, write_file

ENGINE_USER = "clamscannerd-engine"

_PLENTY_BYTES = 4 << 30
"""MemAvailable from which there is a tmpfs, and two databases at once: one takes 1.3 GB."""

_TMPFS_MAX_BYTES = 2 << 30
"""libclamav's own bound for what one file unpacks to is far below it; the threads share it."""

_SOCKET_PATH_MAX = 107

UNIT_INSTANCES: dict[Literal["signatures", "builtin"], str] = {"signatures": "1", "builtin": "builtin"}


class EnginePlaces(NamedTuple):
    """Where the private engine's things are."""

    base: str
    run: str
    temporary: str

    @property
    def builtin(self) -> str:
        return f"{self.base}/builtin"

    def conf(self, kind: str) -> str:
        return f"{self.base}/{kind}.conf"

    def socket(self, kind: str) -> str:
        """The address to give to engine/sessions.py."""
        return f"{self.run}/{kind}.sock"

    def unit_sockets(self) -> dict[Literal["signatures", "builtin"], str]:
        """What systemd listens on, by kind, if it does; else nothing."""
        sockets = {kind: f"{self.base}/{instance}.sock" for kind, instance in UNIT_INSTANCES.items()}
        return sockets if all(map(_is_socket, sockets.values())) else {}

    def unit_confs(self) -> dict[Literal["signatures", "builtin"], str]:
        """What prepare_units() writes, by kind."""
        return {kind: f"{self.base}/{instance}.conf" for kind, instance in UNIT_INSTANCES.items()}


def engine_places(config: Config, *, system: bool) -> EnginePlaces:
    """Pure: also the daemon asks it."""
    if system:
        base = os.path.dirname(config.server.socket).rstrip("/") + "-engine"
        temporary = config.state.directory.rstrip("/") + "-engine/tmp"
    else:
        base = os.path.join(config.state.directory, "engine")
        temporary = os.path.join(base, "tmp")
    return EnginePlaces(base, f"{base}/run", config.engine.temporary or temporary)


def prepare_engine(config: Config, service: Ids, *, system: bool) -> tuple[orders.Engine | None, str]:
    """Make the places and files; what the monitor is to be told, or None and the reason, "" if all is well.

    Raises ConfigError when root's daemon has no user for the engine.
    """
    if config.engine.sockets not in ("auto", "private"):
        return None, "not asked for"
    if system and os.geteuid() != 0 and engine_places(config, system=True).unit_sockets():
        return None, ""  # systemd starts it
    owner = _engine_user() if system else service
    if owner is None and os.geteuid() == 0:
        raise ConfigError(
            f"cannot start: there is no user {ENGINE_USER}"
            f" (useradd --system --user-group --no-create-home --shell /usr/sbin/nologin {ENGINE_USER})"
        )
    if owner is None:
        return None, f"there is no user {ENGINE_USER}"
    try:
        return _prepare(config, engine_places(config, system=system), service, owner, system=system), ""
    except ConfigError:
        raise
    except ClamscannerdError as error:
        return None, str(error)


def prepare_units(config: Config) -> list[str]:
    """As root, for the units of the engine: their configuration; the instances whose configuration is another now.

    Raises ClamscannerdError.
    """
    if config.engine.sockets not in ("auto", "private"):
        return []
    places = engine_places(config, system=True)
    root = Ids(0, 0)
    make_directory(places.base, 0o755, root)
    _write_builtin(places, root)
    changed = []
    for kind, instance in UNIT_INSTANCES.items():
        database = config.engine.database if kind == "signatures" else places.builtin
        paths = private.PrivatePaths(
            socket=f"{places.base}/{instance}.sock",
            temporary=config.engine.temporary or f"{places.base}/tmp",  # noqa: S108  root's directory
            database=database,
            log=f"{places.base}/log/{instance}/clamd.log",
        )
        if write_file(places.unit_confs()[kind], _conf(config, paths).encode()):
            changed.append(instance)
    return changed


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError:
        return False


def _write_builtin(places: EnginePlaces, owner: Ids) -> None:
    make_directory(places.builtin, 0o755, owner)
    for name, content in private.builtin_signatures().items():
        write_file(f"{places.builtin}/{name}", content)


def _engine_user() -> Ids | None:
    try:
        entry = pwd.getpwnam(ENGINE_USER)
    except KeyError:
        return None
    return Ids(entry.pw_uid, entry.pw_gid)


def _prepare(config: Config, places: EnginePlaces, service: Ids, owner: Ids, *, system: bool) -> orders.Engine:
    if not os.access(config.engine.clamd, os.X_OK):
        raise ClamscannerdError(f"cannot run {config.engine.clamd}: no such program")
    if any(len(os.fsencode(places.socket(kind))) > _SOCKET_PATH_MAX for kind in orders.ENGINE_KINDS):
        raise ClamscannerdError(f"cannot make a socket in {places.run}: the path is too long")
    me = Ids(os.geteuid(), os.getegid())
    databases = {"signatures": config.engine.database, "builtin": places.builtin}
    if system and me.uid != 0:
        # The unit's tmpfiles made these, and root's alone is the configuration: is it there?
        _check_there(places)
    else:
        make_directory(places.base, 0o755, me)
        make_directory(places.run, 0o2750, Ids(owner.uid, service.gid))
        _write_builtin(places, me)
        for kind, database in databases.items():
            paths = private.PrivatePaths(socket=places.socket(kind), temporary=places.temporary, database=database)
            write_file(places.conf(kind), _conf(config, paths).encode())
        own = not config.engine.temporary
        _make_temporary(places.temporary, me, owner, own=own, system=system)
    clear = b"" if config.engine.temporary else os.fsencode(places.temporary)
    commands = tuple(
        (os.fsencode(config.engine.clamd), b"--foreground", b"--config-file=" + os.fsencode(places.conf(kind)))
        for kind in orders.ENGINE_KINDS
    )
    return orders.Engine(owner.uid, owner.gid, config.engine.nice, clear, commands)


def _check_there(places: EnginePlaces) -> None:
    needed = [places.run, places.temporary, *map(places.conf, orders.ENGINE_KINDS)]
    if missing := [path for path in needed if not os.path.exists(path)]:
        raise ClamscannerdError(f"cannot use {missing[0]}: it does not exist, and only root could make it")


def _make_temporary(path: str, me: Ids, owner: Ids, *, own: bool, system: bool) -> None:
    if not own:
        if not os.path.isdir(path):  # an administrator's choice: made if it is missing, else left as it is
            make_directory(path, 0o700, owner)
        return
    if system:
        make_directory(os.path.dirname(path), 0o755, me)
    make_directory(path, 0o700, owner)
    memory = available_bytes()
    if system and memory >= _PLENTY_BYTES:
        mount_tmpfs(path, min(_TMPFS_MAX_BYTES, memory // 4), owner)


def _conf(config: Config, paths: private.PrivatePaths) -> str:
    return private.clamd_conf(
        paths,
        max_file_size=config.engine.max_file_size,
        max_threads=config.engine.max_threads,
        max_scan_time_s=config.engine.max_scan_time_s,
        concurrent_reload=available_bytes() >= _PLENTY_BYTES,
    )
