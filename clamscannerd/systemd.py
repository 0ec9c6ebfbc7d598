"""What the daemon says to systemd, and gets from it. [daemon] Without systemd all of this is silently nothing.

systemd-python does the protocol; it is imported only where there is something to say, for it costs start-up time.
"""

import logging
import os
import socket
from collections.abc import Awaitable, Callable

import trio

log = logging.getLogger(__name__)


def notify(state: str) -> None:
    """READY=1, STATUS=..., STOPPING=1, RELOADING=1, WATCHDOG=1."""
    if os.environ.get("NOTIFY_SOCKET"):
        from systemd import daemon

        daemon.notify(state)


def listeners() -> list[socket.socket]:
    """Listening Unix sockets that systemd handed over; none without socket activation."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    from systemd import daemon

    return [socket.socket(fileno=fd) for fd in daemon.listen_fds()]


async def watchdog(alive: Callable[[], Awaitable[None]]) -> None:
    """WATCHDOG=1 twice in each period, but only when `alive` returned: loop, database and monitor all answer."""
    usec = os.environ.get("WATCHDOG_USEC")
    if not usec or os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return
    period_s = int(usec) / 1e6 / 2
    while True:
        with trio.move_on_after(period_s) as patience:
            await alive()
            notify("WATCHDOG=1")
            await trio.sleep_forever()
        if not patience.cancelled_caught:
            log.error("watchdog: the check ended by itself")
