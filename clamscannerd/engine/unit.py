"""The private engines where systemd starts them: clamscannerd-engine@.socket, one for each. [daemon, trio]

The first connection starts the clamd behind a socket, and no restart of the daemon stops it: that is what the units are
for. So there is next to nothing to do here. An engine that ends is started again by its unit (Restart=), or by the next
connection; one that hangs is reported as lost, as the daemon has no right to end another unit. How many there are to
be, clamscannerd-prepare.service decides at each start and reload: their number is looked for again and again.

At the change-over to real signatures the one with the test signature is told to leave, by clamd's own SHUTDOWN. If the
daemon forgets that there is one, because it is restarted just then, the unit ends it (PartOf= in its drop-in).

Rejected: a polkit rule that lets the daemon manage the units (its user would get more from the bus than from all of
its own rights); one socket for all (an engine would answer a ping that is meant for another).
"""

import logging
from collections.abc import Callable, Sequence
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
    """privately.PrivateEngine over a socket that systemd listens on."""

    def __init__(self, address: str, conf: str) -> None:
        self.address = address
        self.conf = conf
        """clamscannerd-prepare.service writes it anew before each reload, and has the engine restarted for it."""

    async def start(self) -> None:
        """The next connection does it."""
        await trio.lowlevel.checkpoint()

    async def stop(self) -> None:
        """It stays, for the daemon that comes after this one."""
        await trio.lowlevel.checkpoint()

    def running(self) -> bool:
        """As far as we know: whoever connects finds it running, or has it started."""
        return True

    async def dismiss(self) -> None:
        """Another kind takes its place."""
        try:
            with trio.fail_after(_PATIENCE_S), closing(await open_socket(self.address)) as sock:
                sock.send(SHUTDOWN)  # of a new connection: its buffer takes ten bytes
                await trio.lowlevel.wait_readable(sock)
        except (EngineLost, OSError, trio.TooSlowError) as error:
            log.warning("cannot end the engine at %s: %s", self.address, str(error) or "no answer")


class UnitEngines:
    """privately.PrivateEngines. Each as (address, file of configuration); `signatures` says which there are now."""

    def __init__(self, builtin: tuple[str, str], signatures: Callable[[], Sequence[tuple[str, str]]]) -> None:
        self._builtin = UnitEngine(*builtin)
        self._signatures = signatures
        self._known: dict[tuple[str, str], UnitEngine] = {}

    def of(self, kind: PrivateKind) -> Sequence[UnitEngine]:
        if kind == "builtin":
            return (self._builtin,)
        return [self._known.setdefault(one, UnitEngine(*one)) for one in self._signatures()]
