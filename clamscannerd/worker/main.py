"""Serve one job, then leave. [worker] Runs after drop.py has dropped, checked and sealed this process."""

import contextlib
import functools
import os
import select
import socket
import sys
import traceback
from types import TracebackType
from typing import Final

from clamscannerd import __version__
from clamscannerd.errors import EngineLost, RemoteProtocolError
from clamscannerd.model import Verdict
from clamscannerd.worker import beneath, scan
from clamscannerd.worker.actions import Actor
from clamscannerd.worker.channel import Channel, DaemonGone
from clamscannerd.worker.cleanse import cleanse
from clamscannerd.worker.feed import Feed
from clamscannerd.worker.group import Groups
from clamscannerd.worker.look import look
from clamscannerd.worker.lookwire import Look, Looked
from clamscannerd.worker.mailscan import Engine, Survey
from clamscannerd.worker.mailwire import Cleanse
from clamscannerd.worker.messages import (
    MAX_TEXT,
    Act,
    ActGroup,
    ActJob,
    Fault,
    GroupStored,
    Hello,
    Log,
    LogFailed,
    NeedSession,
    NoSession,
    Probe,
    Probed,
    ScanJob,
    Sessions,
    Sync,
    Synced,
)
from clamscannerd.worker.rescan import rescan_file
from clamscannerd.worker.restore import Restorer
from clamscannerd.worker.restorewire import Restore, RestoreJob
from clamscannerd.worker.selftest import self_test
from clamscannerd.worker.testwire import SelfTest
from clamscannerd.worker.userlog import UserLog

PRELOAD: Final = ("encodings.unicode_escape",)
"""For drop.py: what Python would import when it is first used, which the seal forbids. clamproto prints with it."""

_SURVEY_WINDOW: Final = 4  # messages at the engine: beside scans, which have their shares
_RESCAN_LIMIT_S: Final = 3600.0  # far above any file deadline: the daemon's own limits come first


def serve(channel_fd: int, home: bytes, uid: int, seals: dict[str, int]) -> int:
    """The worker's whole life; returns its exit code. The daemon's end closing is a quiet end."""
    channel = Channel(socket.socket(fileno=channel_fd))
    sys.excepthook = functools.partial(_tell, channel)  # still uncaught: the process ends with 1
    with contextlib.suppress(DaemonGone):
        _job(channel, home, uid, seals)
    return 0


def _tell(channel: Channel, _kind: type[BaseException], error: BaseException, _trace: TracebackType | None) -> None:
    """A worker has no stderr of the daemon's: its traceback goes up as a message, for the daemon's log."""
    with contextlib.suppress(DaemonGone):
        channel.send(Fault(text="".join(traceback.format_exception(error))[-MAX_TEXT:]))


def _job(channel: Channel, home: bytes, uid: int, seals: dict[str, int]) -> None:
    kernel = beneath.Kernel()
    home_fd, home_error = -1, ""
    try:
        home_fd = beneath.open_home(home, uid)
        kernel.probe(home_fd)
    except beneath.HomeRefused as refusal:
        home_error = str(refusal)[:MAX_TEXT]
    seals = {**seals, "openat2": int(kernel.openat2)}
    channel.send(Hello(version=__version__, seals=seals, home_error=home_error))
    command, fds = channel.receive()
    match command:
        case Probe():
            channel.send(Probed(exists=tuple(_is_directory(kernel, home_fd, path) for path in command.paths)))
        case SelfTest() if len(fds) == 1:
            channel.send(self_test(kernel, home_fd, command, fds[0]))
        case Look():
            channel.send(Looked(places=tuple(look(kernel, home_fd, path) for path in command.paths)))
        case ScanJob():
            scan.scan(channel, kernel, home_fd, len(home), command, fds)
        case ActJob():
            _act(channel, kernel, home_fd, command)
        case RestoreJob():
            _restore(channel, kernel, home_fd, command)
        case _:
            raise RemoteProtocolError(f"cannot begin with {type(command).__name__}")
    _wait_for_end(channel)


def _is_directory(kernel: beneath.Kernel, home_fd: int, path: bytes) -> bool:
    if home_fd < 0:
        return False
    try:
        fd = kernel.open_dir(home_fd, path)
    except OSError:
        return False
    os.close(fd)
    return True


def _act(channel: Channel, kernel: beneath.Kernel, home_fd: int, job: ActJob) -> None:
    def rescan(fd: int, path: bytes) -> tuple[Verdict, str]:
        return _rescan(channel, job, fd, path)

    actor = Actor(channel, kernel, home_fd, rescan)
    groups = Groups(channel, kernel, home_fd)
    session = functools.partial(_session_fd, channel)
    engine = Engine(rescan, Survey(session, _SURVEY_WINDOW, job.file_deadline_s), job.max_file_size, job.file_cpu_s)
    log = UserLog(home_fd)
    while True:
        command, _ = channel.receive()
        match command:
            case ActGroup():
                groups.take(command)
            case GroupStored():
                groups.end(command)
            case Act() if not groups:
                actor.act(command)
            case Cleanse() if not groups:
                cleanse(channel, kernel, home_fd, engine, command)
            case Log():
                failed_before = bool(log.failure)
                (log.start if command.fresh else log.append)(command.lines)
                if log.failure and not failed_before:
                    channel.send(LogFailed(message=log.failure))
            case Sync() if not groups:
                channel.send(Synced())
            case _:
                raise RemoteProtocolError(f"cannot take {type(command).__name__} during a task")


def _restore(channel: Channel, kernel: beneath.Kernel, home_fd: int, job: RestoreJob) -> None:
    def rescan(fd: int, path: bytes) -> tuple[Verdict, str]:
        return _rescan(channel, job, fd, path)

    restorer = Restorer(channel, kernel, home_fd, rescan)
    while True:
        command, fds = channel.receive()
        if not isinstance(command, Restore) or len(fds) != 1:
            raise RemoteProtocolError(f"cannot take {type(command).__name__} with {len(fds)} fds during a restore")
        restorer.restore(command, fds[0])


def _rescan(channel: Channel, job: ActJob | RestoreJob, fd: int, path: bytes) -> tuple[Verdict, str]:
    """A session for this one file: one kept over a long task would run into clamd's idle time-out."""
    if os.fstat(fd).st_size > job.max_file_size:
        return Verdict.NOT_SCANNED, "it is over the engine's size limit now"
    try:
        session, command = _session(channel, "a file is to be scanned again")
    except EngineLost as error:
        return Verdict.NOT_SCANNED, str(error)
    feed = Feed(_RESCAN_LIMIT_S, lambda flight, _: flight.close())
    feed.adopt(session)
    try:
        verdict, reason, signature = rescan_file(feed, fd, path, job.file_deadline_s)
    finally:
        feed.close()
    if verdict is Verdict.CLEAN and not command.clean_allowed:
        return Verdict.NOT_SCANNED, "no signatures are loaded"
    return verdict, signature or (reason.value if reason else "")


def _session(channel: Channel, reason: str) -> tuple[int, Sessions]:
    """A fresh session and what holds for it. EngineLost: there is none; the text says why."""
    channel.send(NeedSession(reason=reason))
    command, fds = channel.receive()
    if isinstance(command, NoSession):
        raise EngineLost(command.reason)
    if not isinstance(command, Sessions) or not fds:
        raise RemoteProtocolError("cannot scan again: no session came")
    return fds[0], command


def _session_fd(channel: Channel) -> int:
    return _session(channel, "messages of a mailbox are to be scanned")[0]


def _wait_for_end(channel: Channel) -> None:
    """The daemon closes its end when it has read everything."""
    poll = select.poll()
    poll.register(channel.fileno(), select.POLLIN)
    while True:
        poll.poll()
        channel.receive()
