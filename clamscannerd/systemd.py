"""What we say to systemd, and get from it: sockets, READY, STATUS, WATCHDOG, the journal. [daemon], [as started]

Without systemd all of this is silently nothing. systemd-python does the protocols; it is imported only where there is
something to say, for it costs start-up time and memory. STATUS can be read by every local user, so nobody's names and
no paths go into it (daemon_status.py).

Rejected: sd_notify by hand (a dozen lines, but the barrier of abstract sockets and credentials is systemd's to know).
"""

import logging
import os
import socket
import stat
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress

from clamscannerd.errors import ClamscannerdError

log = logging.getLogger(__name__)

SOCKET_NAMES = frozenset({"clamscannerd.socket", "unknown"})
"""The names of sockets for clients: what the unit's has, and what a starter without names (systemd-socket-activate)
gives to all. Of another name is what we do not know the use of."""

_FIRST_FD = 3  # SD_LISTEN_FDS_START
_OURS = "CLAMSCANNERD_"
_PLAIN_FIELDS = frozenset({"MESSAGE_ID", "PRIORITY", "LOGGER", "CODE_FILE", "CODE_LINE", "CODE_FUNC"})
_KEPT_FIELDS = _PLAIN_FIELDS | {"SYSLOG_IDENTIFIER", "EXCEPTION_TEXT"}

Send = Callable[..., object]


def is_told() -> bool:
    """Whether there is a manager that listens."""
    return bool(os.environ.get("NOTIFY_SOCKET"))


def notify(**words: str) -> None:
    """notify(READY="1", STATUS="idle"). A manager that cannot be reached (it is being re-executed) costs nothing."""
    if not is_told():
        return
    from systemd import daemon

    # One line each: whatever a text came from, it cannot begin another assignment.
    lines = [f"{name}={_one_line(value)}" for name, value in words.items()]
    try:
        daemon.notify("\n".join(lines))
    except OSError as error:
        log.warning("cannot tell systemd %s: %s", lines, error.strerror)


def reloading() -> None:
    """READY="1" ends it."""
    notify(RELOADING="1", MONOTONIC_USEC=str(time.monotonic_ns() // 1000))


def listens() -> bool:
    """Whether systemd hands over a socket for clients: then its directory is systemd's as well."""
    return any(name in SOCKET_NAMES for name in _names())


def listeners() -> list[socket.socket]:
    """The listening sockets for clients that were handed over; none without socket activation. To be asked once.

    Raises ClamscannerdError for one that cannot be served.
    """
    names = _names()
    for variable in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        os.environ.pop(variable, None)
    found = []
    for fd, name in enumerate(names, start=_FIRST_FD):
        os.set_inheritable(fd, False)  # noqa: FBT003  no keyword there
        if name in SOCKET_NAMES:
            found.append(_client_socket(fd, name))
        else:
            log.warning("not used: systemd handed over %r, and only clamscannerd.socket is known here", name)
            os.close(fd)
    return found


def _names() -> list[str]:
    """Of all that was handed over to this process, by fd from 3 on (sd_listen_fds_with_names(3))."""
    given = os.environ.get("LISTEN_FDS", "")
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or not given.isdecimal():
        return []
    names = os.environ.get("LISTEN_FDNAMES", "").split(":")
    return names if len(names) == int(given) and any(names) else ["unknown"] * int(given)


def _client_socket(fd: int, name: str) -> socket.socket:
    """Who is asking is SO_PEERCRED's word, so nothing but a listening Unix stream socket will do."""
    problem = f"cannot serve fd {fd} ({name!r}), which systemd handed over: expected a listening Unix stream socket"
    with suppress(OSError):
        if stat.S_ISSOCK(os.fstat(fd).st_mode):
            sock = socket.socket(fileno=fd)
            fits = sock.family == socket.AF_UNIX and sock.type == socket.SOCK_STREAM
            if fits and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                return sock
            sock.detach()
    raise ClamscannerdError(problem)


async def watchdog(checks: "Mapping[str, Callable[[], Awaitable[None]]]") -> None:
    """WATCHDOG=1 twice in each period, after every check has returned; that we get here is the loop's own proof.

    `checks`: what must answer, by name. One that does not is named in the log, as what follows is a SIGABRT.
    """
    period_s = _watchdog_s() / 2
    if not period_s:
        return
    import trio

    while True:
        next_time = trio.current_time() + period_s
        for name, check in checks.items():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_complain, name, period_s)
                await check()
                nursery.cancel_scope.cancel()
        notify(WATCHDOG="1")
        await trio.sleep_until(next_time)


async def _complain(name: str, patience_s: float) -> None:
    import trio

    await trio.sleep(patience_s)
    log.error("no answer from the %s for %g s: the watchdog hears nothing until there is one", name, patience_s)


def _watchdog_s() -> float:
    """0.0 without one."""
    usec = os.environ.get("WATCHDOG_USEC", "")
    mine = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    return int(usec) / 1e6 if mine and usec.isdecimal() else 0.0


def journal_handler(send: Send | None = None) -> logging.Handler | None:
    """For logging, with fields; None where stderr does not go to the journal. `send`: for tests."""
    if send is None and os.environ.get("JOURNAL_STREAM") != _stream_id(2):
        return None
    from systemd import journal

    real = send or journal.send

    def lean(message: str, /, **fields: object) -> None:
        """JournalHandler hands on everything that a LogRecord has, arguments and own attributes included."""
        real(message, **{key: value for key, value in fields.items() if key in _KEPT_FIELDS or key.startswith(_OURS)})

    handler: logging.Handler = journal.JournalHandler(sender_function=lean, SYSLOG_IDENTIFIER="clamscannerd")
    return handler


def _stream_id(fd: int) -> str:
    """As systemd.exec(5) writes JOURNAL_STREAM."""
    facts = os.fstat(fd)
    return f"{facts.st_dev}:{facts.st_ino}"


def _one_line(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text)
