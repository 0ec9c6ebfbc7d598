"""[as started] What the private engines need to be started later, made while the launcher may still be root.

Each has a name: `builtin` is the one with the built-in signatures, `1` to `8` have the real ones, as many as fit the
machine (engine/fitting.py). Places, where /run/clamscannerd and /var/lib/clamscannerd stand for the configured
directories of socket and state:

    /run/clamscannerd-engine/          root's: NAME.conf, builtin/ with the built-in signatures, why (for health)
    /run/clamscannerd-engine/run/      the engines', 2750, group clamscannerd: sockets inherit the group, 0660
    /var/lib/clamscannerd-engine/tmp/  the engines' alone, a tmpfs where memory permits; never /run, which is small

In a user's daemon all of them stand in STATE/engine. The configuration lies out of the engines' own reach: clamd has
options that run commands. Each has a socket of its own, so that no engine answers a ping of another.

Where systemd runs them (clamscannerd-engine@.service), an instance of that unit stands for each, by its name. Then
there is only this, and nothing for the monitor to start:

    /run/clamscannerd-engine/          root's: NAME.conf, builtin/, why, and NAME.sock, which systemd listens on
    /run/clamscannerd-engine/log/NAME/  the engine's: clamd.log
    /run/clamscannerd-engine/tmp/      a tmpfs that only this instance sees

How many there are, the daemon sees by the files of configuration.

A private engine that cannot be had is no reason not to start: the system's clamd may do. Then None is set up, the
reason is said once, and the monitor refuses ENGINE_START. Rejected: one directory for socket, configuration and
temporary files (whoever owns a directory can replace what others own in it); telling the daemon the number in SETUP's
way (it is the daemon that survives a change of it, where units run the engines).
"""

import contextlib
import os
import pwd
import stat
from typing import NamedTuple

from clamscannerd import orders
from clamscannerd.config import Config
from clamscannerd.engine import fitting, private
from clamscannerd.errors import ClamscannerdError, ConfigError
from clamscannerd.launch_files import Ids, available_bytes, make_directory, mount_tmpfs, write_file

ENGINE_USER = "clamscannerd-engine"

_PLENTY_BYTES = 4 << 30
"""MemAvailable from which there is a tmpfs."""

_TMPFS_MAX_BYTES = 2 << 30
"""libclamav's own bound for what one file unpacks to is far below it; the engines share it."""

_SOCKET_PATH_MAX = 107


def name(job: int) -> str:
    """Of an engine, in paths and units. `job`: of orders.ENGINE_JOBS."""
    return "builtin" if job == orders.BUILTIN_ENGINE else str(job)


class EnginePlaces(NamedTuple):
    """Where the private engines' things are. By job, as orders.ENGINE_JOBS has them."""

    base: str
    run: str
    temporary: str

    @property
    def builtin(self) -> str:
        return f"{self.base}/builtin"

    @property
    def why(self) -> str:
        """The file that says why there are so many."""
        return f"{self.base}/why"

    def conf(self, job: int) -> str:
        return f"{self.base}/{name(job)}.conf"

    def socket(self, job: int) -> str:
        """The address to give to engine/sessions.py."""
        return f"{self.run}/{name(job)}.sock"

    def unit_socket(self, job: int) -> str:
        """The same, where systemd listens."""
        return f"{self.base}/{name(job)}.sock"

    def signatures(self) -> tuple[int, ...]:
        """Jobs of the engines with real signatures that are set up: 1 at least, so that whoever starts it is refused
        with the reason."""
        number = 1
        while number < orders.MAX_ENGINES and os.path.exists(self.conf(number + 1)):
            number += 1
        return tuple(range(1, number + 1))

    def have_units(self) -> bool:
        """Whether systemd listens."""
        return all(_is_socket(self.unit_socket(job)) for job in (orders.BUILTIN_ENGINE, 1))


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
    if system and os.geteuid() != 0 and engine_places(config, system=True).have_units():
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


class Units(NamedTuple):
    """What prepare_units() has decided. `changed`: names of engines whose configuration is another now."""

    engines: int
    changed: list[str]


def prepare_units(config: Config, running: int) -> Units:
    """As root, for the units of the engines: their configuration. `running`: so many have signatures in memory.

    Raises ClamscannerdError.
    """
    places = engine_places(config, system=True)
    if config.engine.sockets not in ("auto", "private"):
        _drop_beyond(places, 1)
        return Units(1, [])
    root = Ids(0, 0)
    make_directory(places.base, 0o755, root)
    _write_builtin(places, root)
    fits = _fitting(config, running=running, reload_twice=_reload_twice(places))
    changed = []
    for job in range(fits.engines + 1):
        paths = private.PrivatePaths(
            socket=places.unit_socket(job),
            temporary=config.engine.temporary or f"{places.base}/tmp",  # noqa: S108  root's directory
            database=_database(config, places, job),
            log=f"{places.base}/log/{name(job)}/clamd.log",
        )
        if write_file(places.conf(job), _conf(config, paths, fits, job).encode()):
            changed.append(name(job))
    _drop_beyond(places, fits.engines)
    write_file(places.why, fits.reason.encode())
    return Units(fits.engines, changed)


def _reload_twice(places: EnginePlaces) -> bool:
    try:
        with open(places.conf(1), encoding="utf-8", errors="surrogateescape") as stream:
            return private.reloads_twice(stream.read())
    except OSError:
        return False


def _fitting(config: Config, *, running: int = 0, reload_twice: bool = False) -> fitting.Fitting:
    room = fitting.Room(
        cores=len(os.sched_getaffinity(0)),
        available_bytes=available_bytes(),
        database_bytes=_database_bytes(config.engine.database),
        running=running,
        reload_twice=reload_twice,
    )
    return fitting.fit(config.engine.private_engines, room, max_threads=config.engine.max_threads)


def _database_bytes(directory: str) -> int:
    sizes: list[tuple[str, int]] = []
    with contextlib.suppress(OSError), os.scandir(directory) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                if entry.is_file():
                    sizes.append((entry.name, entry.stat().st_size))
    has_signatures = private.has_signatures(file for file, _ in sizes)
    return fitting.database_bytes((size for _, size in sizes), has_signatures=has_signatures)


def _database(config: Config, places: EnginePlaces, job: int) -> str:
    return places.builtin if job == orders.BUILTIN_ENGINE else config.engine.database


def _drop_beyond(places: EnginePlaces, engines: int) -> None:
    """Those of a start with more of them: the daemon goes by these files. The last one first."""
    for job in range(orders.MAX_ENGINES, engines, -1):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(places.conf(job))


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
    if any(len(os.fsencode(places.socket(job))) > _SOCKET_PATH_MAX for job in orders.ENGINE_JOBS):
        raise ClamscannerdError(f"cannot make a socket in {places.run}: the path is too long")
    me = Ids(os.geteuid(), os.getegid())
    if system and me.uid != 0:
        # The unit's tmpfiles made these, and root's alone is the configuration: is it there?
        _check_there(places)
    else:
        make_directory(places.base, 0o755, me)
        make_directory(places.run, 0o2750, Ids(owner.uid, service.gid))
        _write_builtin(places, me)
        _write_confs(config, places)
        own = not config.engine.temporary
        _make_temporary(places.temporary, me, owner, own=own, system=system)
    jobs = (orders.BUILTIN_ENGINE, *places.signatures())
    commands = tuple(
        (os.fsencode(config.engine.clamd), b"--foreground", b"--config-file=" + os.fsencode(places.conf(job)))
        for job in jobs
    )
    clear = tuple(b"" if config.engine.temporary else os.fsencode(_temporary(places, job)) for job in jobs)
    return orders.Engine(owner.uid, owner.gid, config.engine.nice, clear, commands)


def _write_confs(config: Config, places: EnginePlaces) -> None:
    fits = _fitting(config)
    for job in range(fits.engines + 1):
        paths = private.PrivatePaths(
            socket=places.socket(job),
            temporary=config.engine.temporary or _temporary(places, job),
            database=_database(config, places, job),
        )
        write_file(places.conf(job), _conf(config, paths, fits, job).encode())
    _drop_beyond(places, fits.engines)
    write_file(places.why, fits.reason.encode())


def _temporary(places: EnginePlaces, job: int) -> str:
    """Made, and emptied, by the engine's own user before it becomes clamd (monitor.py)."""
    return f"{places.temporary}/{name(job)}"


def _check_there(places: EnginePlaces) -> None:
    needed = [places.run, places.temporary, *map(places.conf, (orders.BUILTIN_ENGINE, 1))]
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


def _conf(config: Config, paths: private.PrivatePaths, fits: fitting.Fitting, job: int) -> str:
    return private.clamd_conf(
        paths,
        max_file_size=config.engine.max_file_size,
        max_threads=config.engine.max_threads if job == orders.BUILTIN_ENGINE else fits.threads,
        max_scan_time_s=config.engine.max_scan_time_s,
        concurrent_reload=fits.concurrent_reload,
    )
