"""[as started] The command `clamscannerd`: set up what the unit would have, fork the monitor, drop, become the daemon.

The process that systemd, a shell or a test starts becomes the daemon: main PID, exit code, LISTEN_PID, WATCHDOG_PID
and NotifyAccess=main fit without anybody passing them on. It is started in one of three ways:

    as root                  makes directories and the private engine's files, then does what follows
    by the unit              as the service's user with CAP_SETUID, CAP_SETGID and CAP_KILL: the directories are there;
                             the monitor keeps the three, this process clears them
    by an ordinary user      the same program for that one uid: nothing to drop, no root needed

The monitor is forked first, before anything but the standard library is imported, so that it stays small and holds
no third-party code; it waits for one message. The daemon's own imports come after the drop.

Rejected: the monitor as main process and the daemon as its child (READY and socket activation fail: tried); two
programs or two units (nothing would start both for a test or a user); dropping in daemon.py (it has imported too much).
"""

import argparse
import contextlib
import fcntl
import os
import pwd
import resource
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from clamscannerd import __version__, monitor, orders, rights
from clamscannerd.errors import ClamscannerdError, ConfigError

if TYPE_CHECKING:
    from clamscannerd.config import Config
    from clamscannerd.launch_files import Ids

SERVICE_USER = "clamscannerd"

WORKER_CODE = "from clamscannerd.worker.drop import run; run()"

_IO_PRIORITIES = {"best-effort": 2 << 13 | 7, "idle": 3 << 13}
"""By scans.io_class, as ioprio_set(2) takes them: of best-effort's eight levels the last."""

_CPU_POLICIES = {"normal": os.SCHED_OTHER, "batch": os.SCHED_BATCH, "idle": os.SCHED_IDLE}
"""By scans.cpu_class."""

_FILES_AS_ROOT = 65_536
"""Hard RLIMIT_NOFILE: server.max_connections of 20,000 as often again for sessions, vault and what is to come."""

_FILES_AT_HAND = 32_768
"""So large the kernel makes our table of fds (256 kB) while there is one thread. When it grows beside others, who opens
the next one waits for all processors: 10 to 20 ms at each doubling, on the daemon's loop."""

_NICE = -5
"""The daemon's own, as its unit has it. Beside twenty scans on two cores, with none, the kernel took the processor from
the loop 1,400 times in 4 s, and it waited for it for 1.3 s of these; so it is 700 times and 0.9 s."""


def main(argv: list[str] | None = None) -> int:
    """The exit code: 0, 1 for a fault, 2 for usage, 78 for configuration. In the forked child: the monitor's."""
    arguments = _parse(argv)
    try:
        system = _is_system()
        if arguments.check_config:
            _load(arguments.config, system=system)
            sys.stdout.write("the configuration is valid\n")
            return 0
        _have_standard_fds()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        if (pid := os.fork()) == 0:
            ours.close()
            return monitor.serve(theirs)
        theirs.close()
        file = os.path.abspath(arguments.config) if arguments.config is not None else None
        try:
            config = _prepare(file, ours, system=system)
        except ConfigError as error:
            if not _socket_is_given():
                raise
            ours.close()  # there will be no workers: the monitor leaves
            os.waitpid(pid, 0)
            return _refuse_calls(error, file, system=system)
        from pathlib import Path

        from clamscannerd import daemon  # after the drop: the largest import, with no rights to lose

        return daemon.main(config, ours, system=system, path=None if file is None else Path(file))
    except ClamscannerdError as error:
        _say(str(error))
        return error.exit_code


def _refuse_calls(error: ConfigError, file: str | None, *, system: bool) -> int:
    """Clients wait on systemd's socket, and are to hear the reason. Raises ConfigError where nobody can be become."""
    if system:
        _drop(*_service(system=system))
    os.umask(0o077)
    os.chdir("/")
    from clamscannerd import daemon_broken

    return daemon_broken.main(error, lambda: _load(file, system=system))


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="clamscannerd", description="Let every user have their own files scanned by ClamAV and disinfected."
    )
    parser.add_argument("--config", metavar="FILE", help="configuration in place of the usual file")
    parser.add_argument("--check-config", action="store_true", help="read the configuration, say what is wrong, leave")
    parser.add_argument("--version", action="version", version=f"clamscannerd {__version__}")
    return parser.parse_args(argv)


def _is_system() -> bool:
    """Whether this is the daemon for all accounts: root's, or the unit's. Raises ClamscannerdError for half of it."""
    held = rights.permitted() & rights.MONITOR_CAPS
    if held == rights.MONITOR_CAPS:
        return True
    if held or os.geteuid() == 0:
        raise ClamscannerdError("cannot start workers: of CAP_KILL, CAP_SETGID and CAP_SETUID only some are here")
    if os.geteuid() == _uid_of(SERVICE_USER):
        raise ClamscannerdError(
            f"cannot start workers as {SERVICE_USER} without CAP_KILL, CAP_SETGID and CAP_SETUID: start the daemon as"
            " root, by its unit, or as an ordinary user for that user's own files"
        )
    return False


def _uid_of(name: str) -> int:
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        return -1


def _load(file: str | None, *, system: bool) -> "Config":
    from pathlib import Path

    from clamscannerd import config as configuration

    path = None if file is None else Path(file)
    return configuration.load(path, system=system)


def _prepare(file: str | None, channel: socket.socket, *, system: bool) -> "Config":
    """From the rights we were started with to the daemon's, with everything made on the way that needs them."""
    config = _load(file, system=system)
    from clamscannerd.launch_engine import prepare_engine
    from clamscannerd.launch_files import make_directory

    _raise_fd_limit()
    _come_before_workers()
    service, groups = _service(system=system)
    if system:
        _check_kernel()
        _check_reachable()
    os.umask(0o022)
    directories = {config.state.directory: 0o700}
    if not _socket_is_given():
        directories[os.path.dirname(config.server.socket)] = 0o755 if system else 0o700
    for directory, mode in directories.items():
        make_directory(directory, mode, service)
    if not config.cache.directory.startswith(config.state.directory + "/"):  # there the daemon makes it itself
        with contextlib.suppress(ClamscannerdError):  # a scan says that it cannot keep verdicts, and goes on
            make_directory(config.cache.directory, 0o700, service)
    engine, why = prepare_engine(config, service, system=system)
    if engine is None and why:
        _say(f"no private engine: {why}")
    worker = (sys.executable, "-I", "-c", WORKER_CODE)
    setup = orders.Setup(
        system=system,
        uid=service.uid,
        gid=service.gid,
        min_uid=config.accounts.min_uid,
        worker_nice=config.scans.nice,
        worker_io_priority=_IO_PRIORITIES[config.scans.io_class],
        worker_cpu_policy=_CPU_POLICIES[config.scans.cpu_class],
        worker_cpu_s=int(config.scans.job_cpu_s),
        worker=tuple(map(os.fsencode, worker)),
        engine=engine,
    )
    channel.send(setup.encode())
    if system:
        _drop(service, groups)
    os.umask(0o077)
    os.chdir("/")
    for directory in directories:
        if not os.access(directory, os.X_OK):
            raise ClamscannerdError(f"cannot enter {directory}: a directory above it is shut to {SERVICE_USER}")
    return config


def _drop(service: "Ids", groups: list[int]) -> None:
    try:
        rights.become(*service, groups)
    except (OSError, rights.RightsError) as error:
        raise ClamscannerdError(f"cannot become {SERVICE_USER}: {error}") from None


def _service(*, system: bool) -> tuple["Ids", list[int]]:
    """Who the daemon is to be, with its groups: for root the service's user, else whoever we are."""
    from clamscannerd.launch_files import Ids

    if not system or os.geteuid() != 0:
        return Ids(os.geteuid(), os.getegid()), os.getgroups()
    try:
        entry = pwd.getpwnam(SERVICE_USER)
    except KeyError:
        raise ConfigError(
            f"cannot start: there is no user {SERVICE_USER}"
            f" (useradd --system --user-group --no-create-home --shell /usr/sbin/nologin {SERVICE_USER})"
        ) from None
    return Ids(entry.pw_uid, entry.pw_gid), os.getgrouplist(SERVICE_USER, entry.pw_gid)


def _check_kernel() -> None:
    """With fs.suid_dumpable = 1 the kernel opens processes that changed their uid to that uid: all workers."""
    with open("/proc/sys/fs/suid_dumpable", encoding="ascii") as stream:
        if stream.read().strip() == "1":
            raise ClamscannerdError("cannot start workers safely: fs.suid_dumpable is 1 (sysctl -w fs.suid_dumpable=0)")


def _check_reachable() -> None:
    """Workers execute the interpreter and import the package as users that may be in no group of ours."""
    from clamscannerd.launch_files import out_of_reach

    if found := out_of_reach():
        path, shut = found
        raise ClamscannerdError(
            f"cannot start workers: {path} is out of their reach, other users cannot enter {shut}"
            f" (chmod o+x {shut}, or install elsewhere, say in /opt)"
        )


def _socket_is_given() -> bool:
    """Whether systemd hands the listening socket over: then its directory is systemd's too."""
    from clamscannerd import systemd

    return systemd.listens()


def _come_before_workers() -> None:
    """Where root starts us without the unit; what somebody has set on purpose stays."""
    if os.geteuid() == 0 and os.getpriority(os.PRIO_PROCESS, 0) == 0:
        with _tolerated():
            os.setpriority(os.PRIO_PROCESS, 0, _NICE)


def _raise_fd_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < _FILES_AS_ROOT and os.geteuid() == 0:
        with _tolerated():  # not without CAP_SYS_RESOURCE, as in containers
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, _FILES_AS_ROOT))
            hard = _FILES_AS_ROOT
    with _tolerated():
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _FILES_AT_HAND if soft == resource.RLIM_INFINITY else min(soft, _FILES_AT_HAND)
    with _tolerated():
        os.close(fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, most - 1))


@contextmanager
def _tolerated() -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError):  # ValueError is what Python makes of EPERM here
        return


def _have_standard_fds() -> None:
    """Started with fd 0, 1 or 2 closed, the next open would become a standard stream, and be inherited by workers."""
    while (fd := os.open("/dev/null", os.O_RDWR)) < 3:
        os.dup2(fd, fd, inheritable=True)
    os.close(fd)


def _say(text: str) -> None:
    os.write(2, f"clamscannerd: {text}\n".encode(errors="backslashreplace"))
