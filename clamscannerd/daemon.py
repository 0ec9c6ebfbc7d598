"""Composition root of [daemon]: what is built, in which order it starts and stops. No logic of its own.

Start: monitor client, state (locked, recovered), vault checked, engines (in the background), runner, server, READY.
Stop (SIGTERM, SIGINT): no new calls, scans parked, the step at hand ended, then everything closed in reverse.
SIGHUP: read the configuration again; what cannot change at run time says so in the log.
"""

import logging
import math
import os
import signal
import socket
import stat
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import trio

from clamscannerd import __version__, systemd
from clamscannerd import config as configuration
from clamscannerd import daemon_values as values
from clamscannerd.config import Config
from clamscannerd.engine.sessions import STOP_S, Engines, PrivateEngine, open_engines
from clamscannerd.engine.unit import UnitEngine
from clamscannerd.errors import ClamscannerdError, ConfigError, MonitorLost, StateError
from clamscannerd.launch_engine import engine_places
from clamscannerd.model import Account, TaskKind
from clamscannerd.pipeline import probe
from clamscannerd.pipeline.disinfect import DisinfectTurn
from clamscannerd.pipeline.engineview import EngineView
from clamscannerd.pipeline.link import one_of
from clamscannerd.pipeline.restore import RestoreTurn
from clamscannerd.pipeline.scan import ScanJobs, ScanLimits
from clamscannerd.pipeline.tasks import TaskJobs
from clamscannerd.rpc.methods import build
from clamscannerd.rpc.server import Server
from clamscannerd.service.accounts import Accounts
from clamscannerd.service.admins import Admins
from clamscannerd.service.context import Context
from clamscannerd.spawn import Spawner, open_spawner
from clamscannerd.state.live import Live
from clamscannerd.state.runner import Runner
from clamscannerd.state.store import Store, open_store
from clamscannerd.state.vault import Vault
from clamscannerd.stop import Stop

log = logging.getLogger(__name__)

_BACKLOG = 4_096  # the kernel cuts it to net.core.somaxconn: clients wait there while the daemon is busy
_EXPIRE_S = 3_600.0  # items are kept for days: an hour more is no matter
_STOP_S = 9.5  # from SIGTERM to the end, of the 10 s that the contract gives
_REST_S = 1.5  # of them, for what comes after the step at hand: parking it, ending the engine, closing the database
_LEAVE_S = 9.8  # then we leave, whatever hangs: a disk that does not answer holds a thread, and no time limit ends that


def main(config: Config, monitor: socket.socket, *, system: bool, path: Path | None = None) -> int:
    """The daemon's life after launch.py gave up its rights; returns the exit code. `path`: for SIGHUP."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    try:
        trio.run(_Daemon(config, system=system, path=path).run, monitor, strict_exception_groups=True)
    except ClamscannerdError as error:
        log.critical("%s", error)
        return error.exit_code
    return 0


def _private_engine(spawner: Spawner, config: Config, stop: Stop, *, system: bool) -> PrivateEngine:
    """systemd's where its units listen for it, else the monitor's."""
    sockets = engine_places(config, system=system).unit_sockets() if system else {}
    return UnitEngine(sockets) if sockets else _MonitorsEngine(spawner, config, stop, system=system)


class _MonitorsEngine:
    """engine/sessions.PrivateEngine over the monitor."""

    def __init__(self, spawner: Spawner, config: Config, stop: Stop, *, system: bool) -> None:
        self._spawner = spawner
        self._stop = stop
        self._places = engine_places(config, system=system)

    async def start(self, kind: Literal["signatures", "builtin"]) -> None:
        await self._spawner.start_engine(kind)

    async def stop(self) -> None:
        """One that hangs is killed within the time that sessions.py gives all of this."""
        engine = self._spawner.engine
        with trio.move_on_after(self._stop.left(STOP_S) / 2):
            await self._spawner.stop_engine()
            return
        if engine is not None:
            engine.kill_nowait()
            await engine.wait()

    def address(self, kind: Literal["signatures", "builtin"]) -> str:
        return self._places.socket(kind)

    def running(self) -> bool:
        return self._spawner.engine is not None


class _Daemon:
    def __init__(self, config: Config, *, system: bool, path: Path | None) -> None:
        self._config = self._started_with = config
        self._stop = Stop()
        self._system = system
        self._path = path
        self._state = Path(config.state.directory)

    async def run(self, monitor: socket.socket) -> None:
        """Until a signal or a fault that nothing can go on after."""
        config = self._config
        with one_of(MonitorLost, StateError, ConfigError, ClamscannerdError):
            async with (
                open_spawner(monitor) as spawner,
                open_store(self._state, values.store_limits(config), self._stop) as store,
                open_engines(
                    values.engine_settings(config),
                    _private_engine(spawner, config, self._stop, system=self._system),
                    self._stop,
                ) as engines,
            ):
                await self._serve(spawner, store, engines)

    async def _serve(self, spawner: Spawner, store: Store, engines: Engines) -> None:
        config = self._config
        self._vault = vault = Vault(self._state / "vault", store, values.vault_limits(config), self._stop)
        locks = self._state / "locks"
        locks.mkdir(mode=0o700, exist_ok=True)
        await vault.clean()  # before any job: from then on what is half done is somebody's work
        recovered = await store.recover()
        if recovered.scans or recovered.tasks:
            log.info("going on with %d scans and %d tasks", len(recovered.scans), len(recovered.tasks))
        self._view = view = EngineView(
            engines, cores=os.cpu_count() or 1, in_flight=config.scans.in_flight, wait_s=config.engine.wait_s
        )
        live = Live()
        self._scans = ScanJobs(
            store=store, live=live, spawner=spawner, engines=view, limits=self._scan_limits(), stop=self._stop
        )
        self._tasks = TaskJobs(
            store=store,
            vault=vault,
            spawner=spawner,
            engines=view,
            limits=values.task_limits(config),
            turns={TaskKind.DISINFECT: DisinfectTurn, TaskKind.RESTORE: RestoreTurn, TaskKind.UNDO: RestoreTurn},
            stop=self._stop,
        )
        only_uid = None if self._system else os.geteuid()
        self._accounts = Accounts(
            min_uid=config.accounts.min_uid, timeout_s=config.accounts.lookup_timeout_s, only_uid=only_uid
        )
        self._runner = Runner(
            store=store,
            locks=locks,
            slots=values.slots(config),
            run_scan=self._scans.run,
            run_task=self._tasks.run,
            fail_task=self._tasks.fail,
            resolve=self._accounts.resolve,
            engine_ready=lambda: engines.state().kind == "ready",
            gone_after_s=config.accounts.gone_after_s,
        )

        async def look(account: Account, paths: tuple[bytes, ...]) -> tuple[bool, ...]:
            return await probe.probe(spawner, account, paths)

        self._context = Context(
            store=store,
            vault=vault,
            live=live,
            jobs=self._runner,
            accounts=self._accounts,
            engine=engines.state,
            probe=look,
            settings=values.settings(config),
        )
        self._admins = Admins(config.server.admins, self._accounts)
        await self._admins.look_up()
        self._server = Server(
            build(self._context), limits=values.server_limits(config), admins=lambda: self._admins.uids
        )
        await self._live(spawner, store, vault, engines)

    async def _live(self, spawner: Spawner, store: Store, vault: Vault, engines: Engines) -> None:
        listeners = _listeners(self._config.server.socket)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._bound_the_end)
                nursery.start_soon(store.wait_broken)
                nursery.start_soon(self._runner.serve)
                nursery.start_soon(self._follow_engines, engines)
                nursery.start_soon(_keep_vault, vault)
                nursery.start_soon(self._admins.follow)
                nursery.start_soon(systemd.watchdog, _alive(spawner, store))
                await nursery.start(self._server.serve, [trio.socket.from_stdlib_socket(sock) for sock in listeners])
                log.info("clamscannerd %s serves on %s", __version__, self._config.server.socket)
                systemd.notify("READY=1")
                await self._wait_for_end()
                systemd.notify("STOPPING=1")
                self._begin_stop()
                await self._drain()
                nursery.cancel_scope.cancel()
        finally:
            for sock in listeners:
                sock.close()

    async def _bound_the_end(self) -> None:
        """Also of an end that is no stop: the monitor's, the database's."""
        try:
            await trio.sleep_forever()
        finally:
            self._begin_stop()

    def _begin_stop(self) -> None:
        if self._stop.deadline == math.inf:
            self._stop.begin(_STOP_S)
            _leave_after(_LEAVE_S)

    async def _drain(self) -> None:
        self._server.stop()
        self._tasks.stopping.set()
        await self._runner.drain(min(self._config.tasks.drain_s, self._stop.left(_STOP_S) - _REST_S))

    async def _wait_for_end(self) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            async with trio.open_nursery() as nursery:
                async for number in signals:
                    if number != signal.SIGHUP:
                        log.info("stopping: %s", signal.Signals(number).name)
                        nursery.cancel_scope.cancel()
                        return
                    nursery.start_soon(self._reload)

    async def _reload(self) -> None:
        """What can change at run time changes; a broken file changes nothing."""
        systemd.notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
        try:
            new = configuration.load(self._path, system=self._system)
        except ConfigError as error:
            log.error("keeping the old configuration: %s", error)
        else:
            for key in values.at_next_start(self._started_with, new):
                log.warning("a change of %s takes effect at the next start", key)
            self._adopt(new)
            await self._admins.look_up()
            log.info("configuration read again")
        systemd.notify("READY=1")

    def _adopt(self, new: Config) -> None:
        self._config = new
        self._server.limits = values.server_limits(new)
        self._admins.names = new.server.admins
        self._context.settings = values.settings(new)
        self._runner.slots = values.slots(new)
        self._scans.limits = self._scan_limits()
        self._tasks.limits = values.task_limits(new)
        self._vault.reload(values.vault_limits(new))
        self._accounts.min_uid = new.accounts.min_uid
        self._runner.gone_after_s = new.accounts.gone_after_s
        self._accounts.timeout_s = new.accounts.lookup_timeout_s
        self._view.in_flight = new.scans.in_flight
        self._view.wait_s = new.engine.wait_s
        self._scans.shares.budget_changed()
        self._runner.wake()

    async def _follow_engines(self, engines: Engines) -> None:
        state = engines.state()
        while True:
            words = state.reason or f"clamd {state.info.version}/{state.info.database}"
            systemd.notify(f"STATUS={state.kind}: {words}")
            log.info("engine %s: %s", state.kind, words)
            self._runner.wake()
            state = await engines.wait_changed(state)

    def _scan_limits(self) -> ScanLimits:
        config = self._config
        return ScanLimits(
            silence_s=config.scans.silence_s,
            deadline_s=config.scans.deadline_s,
            file_deadline_s=config.scans.file_deadline_s,
            retries=config.scans.retries,
            max_skipped=config.state.max_not_scanned_per_scan,
            excludes=() if self._system else _own_state(self._state),
        )


def _own_state(directory: Path) -> tuple[bytes, ...]:
    """A user's daemon keeps its state, with the vault, in that user's home: left out of scans.

    What is scanned is the home that passwd names, whatever sudo left in HOME.
    """
    import pwd

    try:
        home = os.path.realpath(pwd.getpwuid(os.geteuid()).pw_dir)
    except KeyError:  # nor will it be an account
        return ()
    state = Path(os.path.realpath(directory))
    return (os.fsencode(state.relative_to(home)),) if state.is_relative_to(home) else ()


def _alive(spawner: Spawner, store: Store) -> Callable[[], Awaitable[None]]:
    async def alive() -> None:
        with _said():
            await store.check()
        await spawner.ping()

    return alive


async def _keep_vault(vault: Vault) -> None:
    """At start compare contents with rows; then remove what is past its time, again and again."""
    with _said():
        report = await vault.survey()
        if report.stray_count or report.missing_count:
            log.error(
                "vault: %d contents without a row, %d items without a content", report.stray_count, report.missing_count
            )
    while True:
        with _said():
            await vault.expire(time.time())
        await trio.sleep(_EXPIRE_S)


@contextmanager
def _said() -> Iterator[None]:
    """A full disk, somebody's lock: the next round does it. What does not pass ends us by Store.wait_broken."""
    try:
        yield
    except StateError as error:
        log.error("%s", error)


def _leave_after(seconds: float) -> None:
    """For threads that hang. The monitor sees our end and ends the rest; the next start recovers as after a kill."""

    def leave() -> None:
        log.critical("cannot stop in time: leaving")
        os._exit(1)

    timer = threading.Timer(seconds, leave)
    timer.daemon = True
    timer.start()


def _listeners(path: str) -> list[socket.socket]:
    """systemd's sockets, or one of our own at `path`. Raises ClamscannerdError."""
    given = systemd.listeners()
    if given:
        return given
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path)
        sock.bind(path)
        os.chmod(path, 0o666)  # noqa: S103  every local user may call; who calls is the kernel's word
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        raise ClamscannerdError(f"cannot listen on {path}: {error.strerror}") from None
    return [sock]


def _remove_stale(path: str) -> None:
    """A socket that nobody serves any more. One that answers is another daemon's."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise ClamscannerdError(f"cannot listen on {path}: it is no socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe_sock:
        probe_sock.settimeout(1)
        try:
            probe_sock.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
    raise ClamscannerdError(f"cannot listen on {path}: another daemon serves it")
