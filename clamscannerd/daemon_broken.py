"""In place of daemon.py where systemd's socket is there and the configuration is broken. [daemon, without a monitor]

Left alone, clients would hang in the socket's backlog, and nobody would learn why. So every call is answered with
`misconfigured` and the reason, which STATUS says as well; no state is opened, and nothing is done for anybody.

When the configuration is mended, SIGHUP or Daemon.reload ends this with EXIT_RESTART, for the unit to start the real
one: the rights that a daemon begins with are given up here too. Without a socket from systemd nobody is there to start
anything: then a broken configuration is exit code 78, as for any command.
"""

import logging
import signal
from collections.abc import Callable

import msgspec
import trio

from clamscannerd import daemon, systemd
from clamscannerd.errors import EXIT_RESTART, ConfigError
from clamscannerd.rpc.access import Rule
from clamscannerd.rpc.server import Server, ServerLimits
from clamscannerd.rpc.table import Call, Method, table

log = logging.getLogger(__name__)


class _NoParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


def main(error: ConfigError, load: Callable[[], object]) -> int:
    """Until a signal or a mended configuration; the exit code. `load`: reads it again, raises ConfigError."""
    daemon.log_to_journal_or_stderr()
    log.critical("every call is refused: %s", error)
    broken = _Broken(error, load)
    trio.run(broken.run, strict_exception_groups=True)
    return broken.exit_code


class _Broken:
    def __init__(self, error: ConfigError, load: Callable[[], object]) -> None:
        self._load = load
        self._end = trio.Event()
        self._public = error.public
        reload = Method(name="Daemon.reload", params=_NoParams, rule=Rule.ADMIN, handler=self._answer_reload)
        self._server = Server(table(reload), limits=ServerLimits(), admins=frozenset)
        self.exit_code = 0
        self._refuse(error)

    async def run(self) -> None:
        served = systemd.listeners()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(systemd.watchdog, {})
            await nursery.start(self._heed_signals)
            await nursery.start(self._server.serve, [trio.socket.from_stdlib_socket(sock) for sock in served])
            systemd.notify(READY="1", STATUS=self._status())
            await self._end.wait()
            systemd.notify(STOPPING="1")
            self._server.stop()
            nursery.cancel_scope.cancel()
        for sock in served:
            sock.close()

    async def _heed_signals(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            task_status.started()
            async for number in signals:
                if number == signal.SIGHUP:
                    self._reload()
                else:
                    log.info("stopping: %s", signal.Signals(number).name)
                    self._end.set()

    async def _answer_reload(self, _call: Call, _: _NoParams) -> object:
        error = self._reload()
        if error is not None:
            raise error
        return {"at_next_start": [], "restarting": True}

    def _reload(self) -> ConfigError | None:
        systemd.reloading()
        try:
            self._load()
        except ConfigError as error:
            log.error("every call is still refused: %s", error)
            self._refuse(error)
            systemd.notify(READY="1", STATUS=self._status())
            return error
        log.warning("the configuration is mended: ending with code %d to be started anew", EXIT_RESTART)
        self.exit_code = EXIT_RESTART
        systemd.notify(READY="1")
        self._end.set()
        return None

    def _refuse(self, error: ConfigError) -> None:
        self._public = error.public
        self._server.refusal = ConfigError(f"cannot take the call: the configuration is broken: {error.public}")

    def _status(self) -> str:
        return f"misconfigured, every call is refused: {self._public}"
