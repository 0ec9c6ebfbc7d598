"""The private engine where systemd starts it: clamscannerd-engine@.socket, one socket for each kind. [daemon, trio]

The first connection starts the clamd behind a socket, and no restart of the daemon stops it: that is what the units are
for. So there is next to nothing to do here. An engine that ends is started again by its unit (Restart=), or by the next
connection; one that hangs is reported as lost, as the daemon has no right to end another unit.

At the change-over to real signatures the one with the test signature is told to leave, by clamd's own SHUTDOWN. If the
daemon forgets that there is one, because it is restarted just then, the unit ends it (PartOf= in its drop-in).

Rejected: a polkit rule that lets the daemon manage the units (its user would get more from the bus than from all of
its own rights); one socket for both kinds (the old engine would answer a ping that is meant for the new one).
"""

import logging
from collections.abc import Mapping
from contextlib import closing

import trio

from clamscannerd.engine.dialing import open_socket
from clamscannerd.engine.privately import PrivateKind
from clamscannerd.errors import EngineLost

SHUTDOWN = b"zSHUTDOWN\0"
_PATIENCE_S = 2.0
"""clamd takes the order at once or hangs; it leaves by itself when its scans have ended."""

log = logging.getLogger(__name__)


class UnitEngine:
    """engine/sessions.PrivateEngine over sockets that systemd listens on. `sockets`, `confs`: paths by kind."""

    def __init__(self, sockets: Mapping[PrivateKind, str], confs: Mapping[PrivateKind, str]) -> None:
        self._sockets = dict(sockets)
        self._confs = dict(confs)
        self._kind: PrivateKind | None = None

    async def start(self, kind: PrivateKind) -> None:
        """The next connection does it."""
        former, self._kind = self._kind, kind
        if former is not None and former != kind:
            await self._end(former)
        else:
            await trio.lowlevel.checkpoint()

    async def stop(self) -> None:
        """It stays, for the daemon that comes after this one."""
        await trio.lowlevel.checkpoint()

    def address(self, kind: PrivateKind) -> str:
        return self._sockets[kind]

    def conf(self, kind: PrivateKind) -> str:
        """clamscannerd-prepare.service writes it anew before each reload, and has the engine restarted for it."""
        return self._confs[kind]

    def running(self) -> bool:
        """As far as we know: whoever connects finds it running, or has it started."""
        return True

    async def _end(self, kind: PrivateKind) -> None:
        path = self._sockets[kind]
        try:
            with trio.fail_after(_PATIENCE_S), closing(await open_socket(path)) as sock:
                sock.send(SHUTDOWN)  # of a new connection: its buffer takes ten bytes
                await trio.lowlevel.wait_readable(sock)
        except (EngineLost, OSError, trio.TooSlowError) as error:
            log.warning("cannot end the engine at %s: %s", path, str(error) or "no answer")
