"""Composition root of [daemon]: what is built, in which order it starts and stops. No logic of its own.

Start: monitor client, state (locked, recovered), vault checked, engines (in the background), runner, server, READY.
Stop (SIGTERM, SIGINT): no new calls, scans parked, the step at hand ended, then everything closed in reverse.
SIGHUP, Daemon.reload: read the configuration again; what cannot change now says so. A broken one changes nothing.
Upgrade: a worker that says it is of another version means that another is installed. No job starts then, and when none
runs any more the daemon ends with EXIT_RESTART, for its unit to start it anew. Not by exec: what the unit or root gave
at the start is given up, and only they can give it again.
"""

import logging
import math
import os
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path

import trio

from clamscannerd import __version__, daemon_upkeep, events, systemd
from clamscannerd import config as configuration
from clamscannerd import daemon_values as values
from clamscannerd.config import Config
from clamscannerd.daemon_engines import private_engines, why
from clamscannerd.daemon_health import Health
from clamscannerd.daemon_health_kept import Kept
from clamscannerd.daemon_listen import listeners
from clamscannerd.daemon_notify import Notifier
from clamscannerd.daemon_selftest import tester
from clamscannerd.daemon_status import Status
from clamscannerd.engine.sessions import Engines, open_engines
from clamscannerd.engine.unit import UnitEngines
from clamscannerd.errors import (
    EXIT_RESTART,
    ClamscannerdError,
    ConfigError,
    MonitorLost,
    StateError,
)
from clamscannerd.model import TaskKind
from clamscannerd.pipeline.cached import VerdictCache
from clamscannerd.pipeline.disinfect import DisinfectTurn
from clamscannerd.pipeline.link import one_of
from clamscannerd.pipeline.probe import Looks
from clamscannerd.pipeline.restore import RestoreTurn
from clamscannerd.pipeline.scan import ScanJobs
from clamscannerd.pipeline.tasks import TaskJobs
from clamscannerd.rpc.methods import build
from clamscannerd.rpc.rounds import Rounds
from clamscannerd.rpc.server import Server
from clamscannerd.service.accounts import Accounts
from clamscannerd.service.admins import Admins, People
from clamscannerd.service.context import Context
from clamscannerd.spawn import Spawner, open_spawner
from clamscannerd.state.live import Live
from clamscannerd.state.runner import Runner
from clamscannerd.state.store import Store, open_store
from clamscannerd.state.vault import Vault
from clamscannerd.stop import Stop

log = logging.getLogger(__name__)

_STOP_S = 9.5  # from SIGTERM to the end, of the 10 s that the contract gives
_REST_S = 1.5  # of them, for what comes after the step at hand: parking it, ending the engine, closing the database
_LEAVE_S = 9.8  # then we leave, whatever hangs: a disk that does not answer holds a thread, and no time limit ends that
RESTART_AFTER_S = 60.0
"""Not sooner after its own start is it started anew: should versions never meet, that is a restart a minute."""


def main(config: Config, monitor: socket.socket, *, system: bool, path: Path | None = None) -> int:
    """The daemon's life after launch.py gave up its rights; returns the exit code. `path`: for SIGHUP."""
    log_to_journal_or_stderr()
    daemon = _Daemon(config, system=system, path=path)
    try:
        daemon_upkeep.collect_rarely()
        daemon_upkeep.give_way_often()
        trio.run(daemon.run, monitor, strict_exception_groups=True)
    except ClamscannerdError as error:
        log.critical("%s", error)
        return error.exit_code
    return daemon.exit_code


def log_to_journal_or_stderr() -> None:
    """With fields where there is a journal. For the process as a whole, once."""
    handler = systemd.journal_handler()
    words = "%(message)s"
    if handler is None:
        handler, words = logging.StreamHandler(sys.stderr), "%(levelname)s %(name)s: %(message)s"
    handler.setFormatter(logging.Formatter(words))
    handler.addFilter(events.EventLimit())
    logging.basicConfig(handlers=[handler], level=logging.INFO)


class _Daemon:
    def __init__(self, config: Config, *, system: bool, path: Path | None) -> None:
        self._config = self._started_with = config
        self._stop = Stop()
        self._system = system
        self._path = path
        self._state = Path(config.state.directory)
        self._own = () if system else daemon_upkeep.own_state(self._state)
        self._end = trio.Event()
        self._reloading = trio.Lock()
        self._rounds = Rounds()
        self.exit_code = 0

    async def run(self, monitor: socket.socket) -> None:
        """Until a signal or a fault that nothing can go on after."""
        config = self._config
        with one_of(MonitorLost, StateError, ConfigError, ClamscannerdError):
            async with (
                open_spawner(monitor) as spawner,
                open_store(self._state, values.store_limits(config), self._stop) as store,
            ):
                private = private_engines(spawner, config, self._stop, system=self._system)
                self._engine_is_unit = isinstance(private, UnitEngines)
                async with open_engines(values.engine_settings(config), private, self._stop) as engines:
                    await self._serve(spawner, store, engines)

    async def _serve(self, spawner: Spawner, store: Store, engines: Engines) -> None:
        config = self._config
        self._store, self._engines = store, engines
        self._vault = vault = Vault(self._state / "vault", store, values.vault_limits(config), self._stop)
        locks = self._state / "locks"
        locks.mkdir(mode=0o700, exist_ok=True)
        await vault.clean()  # before any job: from then on what is half done is somebody's work
        recovered = await store.recover()
        if recovered.scans or recovered.tasks:
            log.info("going on with %d scans and %d tasks", len(recovered.scans), len(recovered.tasks))
        self._view = view = values.engine_view(config, engines)
        live = Live()
        self._cache = VerdictCache(Path(config.cache.directory), values.cache_settings(config), view)
        only_uid = None if self._system else os.geteuid()
        self._accounts = Accounts(
            min_uid=config.accounts.min_uid,
            timeout_s=config.accounts.lookup_timeout_s,
            only_uid=only_uid,
            rounds=self._rounds,
        )
        self._scans = ScanJobs(
            store=store,
            live=live,
            spawner=spawner,
            engines=view,
            limits=values.scan_limits(config, self._own),
            stop=self._stop,
            cache=self._cache,
        )
        self._tasks = TaskJobs(
            store=store,
            vault=vault,
            spawner=spawner,
            engines=view,
            limits=values.task_limits(config),
            turns={TaskKind.DISINFECT: DisinfectTurn, TaskKind.RESTORE: RestoreTurn, TaskKind.UNDO: RestoreTurn},
            confirm=self._accounts.confirm,
            stop=self._stop,
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
            suspended=spawner.suspended,
        )
        self._spawner = spawner
        spawner.max_stuck = config.accounts.max_stuck
        spawner.freed = self._runner.wake
        await self._build_service(spawner, store, engines, live)
        await self._live(spawner, store, vault, engines)

    async def _build_service(self, spawner: Spawner, store: Store, engines: Engines, live: Live) -> None:
        config = self._config
        kept = Kept(store, self._vault, lambda: self._config.state.min_free)
        troubles, keeps = lambda: self._status.troubles(), lambda: self._cache.enabled
        health = Health(engines, self._accounts, kept, troubles, keeps, self._why)
        looks = Looks(spawner, self._runner.outdated.set)
        self._context = Context(
            store=store,
            vault=self._vault,
            live=live,
            jobs=self._runner,
            accounts=self._accounts,
            engine=engines.state,
            probe=looks.exist,
            look=looks.places,
            settings=values.settings(config, self._own),
            reload=self._reload,
            health=health.checks,
            self_test=tester(spawner, engines, self._runner.outdated),
            suspended=spawner.suspended,
            statistics=lambda: {
                "server": self._server.statistics(),
                "runner": self._runner.statistics(),
                "engines": engines.statistics(),
                "store": store.statistics(),
                "vault": self._vault.statistics(),
                "processes": spawner.statistics(),
            },
        )
        self._notifier = Notifier(store, self._accounts.resolve, engines.state, config, self._context.ignores)
        self._admins = Admins(config.server.admins, self._accounts)
        await self._admins.look_up()
        self._server = Server(
            build(self._context),
            limits=values.server_limits(config),
            admins=lambda: self._admins.uids,
            people=People(self._accounts, self._admins),
            rounds=self._rounds,
        )

    def _why(self) -> str:
        return why(self._started_with, system=self._system)

    async def _live(self, spawner: Spawner, store: Store, vault: Vault, engines: Engines) -> None:
        served = listeners(self._config.server.socket)
        self._status = status = Status(self._runner.statistics, engines.state)
        self._runner.changed = status.changed
        self._runner.moved = self._notifier.beside(self._context.live.note)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._bound_the_end)
                nursery.start_soon(store.wait_broken)
                nursery.start_soon(self._runner.serve)
                nursery.start_soon(self._follow_engines, engines)
                nursery.start_soon(self._scans.watch_others)
                nursery.start_soon(daemon_upkeep.keep_vault, vault)
                nursery.start_soon(daemon_upkeep.keep_cache, self._cache, lambda: self._config.cache.keep)
                nursery.start_soon(self._admins.follow)
                nursery.start_soon(self._accounts.keep_fresh)
                nursery.start_soon(self._notifier.serve)
                nursery.start_soon(systemd.watchdog, daemon_upkeep.watched(spawner, store))
                nursery.start_soon(self._end_when_outdated)
                await nursery.start(self._heed_signals)
                await nursery.start(self._server.serve, [trio.socket.from_stdlib_socket(sock) for sock in served])
                log.info("clamscannerd %s serves on %s", __version__, self._config.server.socket)
                systemd.notify(READY="1", STATUS=status.line())
                if systemd.is_told():
                    nursery.start_soon(status.follow)
                await self._end.wait()
                status.note("end", "stopping")
                systemd.notify(STOPPING="1", STATUS=status.line())
                self._begin_stop()
                await self._drain()
                nursery.cancel_scope.cancel()
        finally:
            for sock in served:
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
            daemon_upkeep.leave_after(_LEAVE_S)

    async def _drain(self) -> None:
        self._server.stop()
        self._tasks.stopping.set()
        await self._runner.drain(min(self._config.tasks.drain_s, self._stop.left(_STOP_S) - _REST_S))

    async def _heed_signals(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            async with trio.open_nursery() as nursery:
                task_status.started()
                async for number in signals:
                    if number != signal.SIGHUP:
                        log.info("stopping: %s", signal.Signals(number).name)
                        self._end.set()
                    elif not self._end.is_set():
                        nursery.start_soon(self._reload_by_signal)  # a name service that hangs holds up no stop

    async def _reload_by_signal(self) -> None:
        with suppress(ConfigError):  # said, in the log and in STATUS
            await self._reload()

    async def _end_when_outdated(self) -> None:
        began = trio.current_time()
        await self._runner.outdated.wait()
        self._status.note("version", "another version is installed: a new start when nothing runs")
        await trio.sleep_until(began + RESTART_AFTER_S)
        await self._runner.wait_idle()
        who = "by its unit" if systemd.is_told() else "which has to be done by hand: no unit started it"
        log.warning("another version is installed: ending with code %d to be started anew, %s", EXIT_RESTART, who)
        self.exit_code = EXIT_RESTART
        self._end.set()

    async def _reload(self) -> list[str]:
        """What can change at run time changes; the keys of what cannot. A broken file changes nothing: ConfigError."""
        async with self._reloading:
            systemd.reloading()
            refused, late = "", list[str]()
            try:
                new = configuration.load(self._path, system=self._system)
                late = values.at_next_start(self._started_with, new, engine_is_unit=self._engine_is_unit)
                self._adopt(new)
                await self._admins.look_up()
                log.info("configuration read again")
            except ConfigError as error:
                log.error("keeping the old configuration: %s", error)
                refused = f"the new configuration is refused, the old one stays: {error.public}"
                raise
            finally:
                for key in late:
                    log.warning("a change of %s takes effect at the next start", key)
                self._status.trouble("configuration", refused)
                self._status.note("late", f"changed for the next start: {', '.join(late)}" if late else "")
                systemd.notify(READY="1", STATUS=self._status.line())
            return late

    def _adopt(self, new: Config) -> None:
        self._config = new
        self._store.limits = values.store_limits(new)
        self._engines.reload(values.engine_settings(new, None if self._engine_is_unit else self._started_with))
        self._server.limits = values.server_limits(new)
        self._admins.names = new.server.admins
        self._context.settings = values.settings(new, self._own)
        self._runner.slots = values.slots(new)
        self._scans.limits = values.scan_limits(new, self._own)
        self._tasks.limits = values.task_limits(new)
        self._vault.reload(values.vault_limits(new))
        self._accounts.min_uid = new.accounts.min_uid
        self._spawner.max_stuck = new.accounts.max_stuck
        self._runner.gone_after_s = new.accounts.gone_after_s
        self._accounts.timeout_s = new.accounts.lookup_timeout_s
        values.adopt_view(self._view, new)
        self._scans.shares.divide()
        self._cache.reload(values.cache_settings(new))
        self._notifier.adopt(new)
        self._runner.wake()

    async def _follow_engines(self, engines: Engines) -> None:
        state, lost, said = engines.state(), False, ("", "")
        while True:
            words = state.reason or f"clamd {state.info.version}/{state.info.database}"
            if (state.kind, words) == said:
                pass  # what is not told here changed: its settings, or the clock
            elif state.kind == "ready":
                log.info("engine ready: %s", words, extra={"MESSAGE_ID": events.ENGINE_BACK} if lost else None)
                lost = False
            elif state.kind == "lost" and not lost:
                log.warning("engine lost: %s", words, extra={"MESSAGE_ID": events.ENGINE_LOST})
                lost = True
            else:
                log.info("engine %s: %s", state.kind, words)
            said = state.kind, words
            self._runner.wake()
            self._scans.shares.divide()  # its threads may be more, or fewer
            self._status.changed()
            self._context.live.note_all()
            state = await engines.wait_changed(state)
