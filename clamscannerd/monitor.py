"""[monitor] The only process that keeps privileges: it starts and kills workers, and private engines, nothing else.

What it believes: one SETUP message, sent by the launcher while that is still root (or the unit's own process), fixes
every program, argument, engine uid and the lowest uid there may be. After it the sender is the daemon, which may have
been hijacked: all that it can still ask for is the fixed worker program under an account's uid, or a fixed engine.
Groups are not asked for at all: the worker looks them up before it drops (worker/drop.py). Uid 0, 65534, -1, those
below the lowest, and for a user's daemon every uid but its own are refused here, whatever the daemon thinks.

Runs as the service's user with CAP_SETUID, CAP_SETGID, CAP_KILL and no others, not dumpable, without a second thread.
It reads fixed binary messages and no JSON, and opens no file of a user. There are no recovery paths: a message that
is unknown, misshapen, or comes with the wrong number of fds ends it, and with it workers, engine and daemon. EOF is
the order to leave. Signals of a terminal are ignored: Ctrl-C goes to the whole group, and the daemon decides.

A worker is exec'd under the service's uid, with the capabilities, and drops them itself: after the change of uid
there is no exec any more, which leaves it non-dumpable. The other way round its user reached 80 of 80 workers
through /proc/PID/mem. Each is watched by a pidfd: a pid may be used again, a pidfd means one process for ever.

Rejected: a fork server with everything imported (one address space layout, and secrets, for all accounts); dropping
between fork and exec; setfsuid in the daemon; a shell, a PATH look-up or an argument that the daemon chooses.
"""

import contextlib
import errno
import fcntl
import os
import resource
import select
import signal
import socket
import struct
from collections.abc import Callable
from typing import NamedTuple, NoReturn

from clamscannerd import orders, rights

CHANNEL_FD, LOCK_FD = 3, 4
"""Where a worker finds its end of the job's channel and the account's lock."""

MAX_WORKERS = 256
"""Far above scans.max_active and tasks.max_active together; what a hijacked daemon could fork is bounded.

Those that were killed are none of them: one that hangs in the kernel must not take the place of another account's."""

MAX_CHILDREN = 448
"""With those that were killed and hang. The unit's TasksMax=512 is for the daemon and its threads as well."""

_WORKER_LIMITS = (
    (resource.RLIMIT_CORE, 0),  # it holds contents of files
    (resource.RLIMIT_NOFILE, 256),  # sessions, files in flight, one directory per level is not among them
    (resource.RLIMIT_AS, 1 << 30),  # 24 MB are expected; a runaway must not take the machine's memory
)
_CPU_GRACE_S = 5  # from SIGXCPU to the kernel's SIGKILL: at the same number there would be no SIGXCPU to tell it by
_ENVIRONMENT = {b"LC_ALL": b"C.UTF-8", b"PATH": b"/usr/bin:/bin"}
_ENGINE_PATIENCE_MS = 3_000  # at the end; clamd leaves within one when idle, and nobody may wait longer than 10 s
_APPARMOR_EXEC = "/proc/self/attr/apparmor/exec"
_APPARMOR_PROFILE = b"exec clamscannerd-engine"


def serve(channel: socket.socket) -> int:
    """Be the monitor until EOF on `channel`; the exit code. What it raises is final."""
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)
    rights.set_name(b"csd-monitor")
    # Sockets that systemd handed to the daemon are none of ours, and would outlive it here.
    os.closerange(3, channel.fileno())
    os.closerange(channel.fileno() + 1, os.sysconf("SC_OPEN_MAX"))
    os.chdir("/")
    data, fds = receive(channel)
    if not data:  # the configuration was wrong: nothing ever began
        return 0
    if fds:
        raise orders.MalformedMessage("fds with SETUP")
    setup = orders.decode_setup(data)
    if setup.system:
        rights.become(setup.uid, setup.gid, (), keep=rights.MONITOR_CAPS)
    else:
        rights.set_capabilities(0)
        rights.harden()
    monitor = _Monitor(channel, setup)
    try:
        monitor.run()
    finally:
        monitor.end()
    return 0


class _Child(NamedTuple):
    job: int
    pid: int
    pidfd: int


class _Monitor:
    """Children by job; `run` until EOF."""

    def __init__(self, channel: socket.socket, setup: orders.Setup) -> None:
        self._channel = channel
        self._setup = setup
        self._children: dict[int, _Child] = {}
        self._killed: set[int] = set()  # jobs of children that have SIGKILL, and have not ended
        self._poll = select.poll()
        self._poll.register(channel, select.POLLIN)

    def run(self) -> None:
        while True:
            for fd, _ in self._poll.poll():
                if fd != self._channel.fileno():
                    child = next(child for child in self._children.values() if child.pidfd == fd)
                    self._tell(orders.EXITED, child.job, self._reap(child))
                    continue
                data, fds = receive(self._channel)
                if not data:
                    return
                self._obey(orders.decode(data, orders.TO_MONITOR), fds)

    def _obey(self, message: orders.Message, fds: list[int]) -> None:
        if len(fds) != (2 if message.verb == orders.SPAWN else 0):
            raise orders.MalformedMessage(f"{len(fds)} fds with verb {message.verb}")
        if message.verb == orders.SPAWN:
            if message.job in self._children:
                raise orders.MalformedMessage(f"job {message.job} twice")
            self._spawn(message, fds)
            for fd in fds:
                os.close(fd)
        elif message.verb == orders.ENGINE_START:
            self._start_engine(message.job)
        elif message.verb == orders.PING:
            self._tell(orders.PONG, message.job)
        elif message.job in self._children:  # it may have ended just now
            signum = signal.SIGKILL if message.verb == orders.KILL else signal.SIGTERM
            signal.pidfd_send_signal(self._children[message.job].pidfd, signum)
            if signum == signal.SIGKILL:
                self._killed.add(message.job)

    def _tell(self, verb: int, job: int, value: int = 0, text: str = "") -> None:
        # The daemon may be gone already: the next read says so.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._channel.send(orders.Message(verb, job, value, text.encode()[: orders.MAX_TEXT_BYTES]).encode())

    def _spawn(self, message: orders.Message, fds: list[int]) -> None:
        setup, uid = self._setup, message.value
        if why := orders.refusal(setup, uid):
            self._tell(orders.REFUSED, message.job, errno.EPERM, why)
        elif len(self._children) - len(self._killed) >= MAX_WORKERS:
            self._tell(orders.REFUSED, message.job, errno.EAGAIN, f"{MAX_WORKERS} workers are running")
        elif len(self._children) >= MAX_CHILDREN:
            self._tell(orders.REFUSED, message.job, errno.EAGAIN, f"{len(self._killed)} killed workers do not end")
        else:
            mode = b"system" if setup.system else b"user"
            words = (*setup.worker, b"%d" % uid, message.text, mode, b"%d" % os.getpid())
            self._start(message.job, words, lambda: _be_worker(setup, fds))

    def _start_engine(self, job: int) -> None:
        engine = self._setup.engine
        if engine is None:
            self._tell(orders.REFUSED, job, errno.ENOENT, "no private engine is set up")
        elif job in self._children:
            self._tell(orders.REFUSED, job, errno.EBUSY, "it is running")
        elif job >= len(engine.commands):
            self._tell(orders.REFUSED, job, errno.ENOENT, f"{len(engine.commands)} private engines are set up")
        else:
            system, parent = self._setup.system, os.getpid()
            self._start(job, engine.commands[job], lambda: _be_engine(engine, job, parent, system=system))

    def _start(self, job: int, words: tuple[bytes, ...], prepare: Callable[[], None]) -> None:
        try:
            pid = os.fork()
        except OSError as error:
            self._tell(orders.REFUSED, job, error.errno or errno.EAGAIN, f"fork: {error.strerror}")
            return
        if pid == 0:
            _exec(words, prepare)
        child = _Child(job, pid, os.pidfd_open(pid))
        self._children[job] = child
        self._poll.register(child.pidfd, select.POLLIN)
        self._tell(orders.STARTED, job, pid)

    def _reap(self, child: _Child) -> int:
        _, status = os.waitpid(child.pid, 0)
        self._poll.unregister(child.pidfd)
        os.close(child.pidfd)
        del self._children[child.job]
        self._killed.discard(child.job)
        return status

    def end(self) -> None:
        """Workers at once (each job is durable), engines politely: they remove their sockets and files."""
        self._poll.unregister(self._channel)
        self._channel.close()  # should the daemon live, it knows now
        for child in self._children.values():
            polite = child.job in orders.ENGINE_JOBS
            signal.pidfd_send_signal(child.pidfd, signal.SIGTERM if polite else signal.SIGKILL)
        while self._children and (ready := self._poll.poll(_ENGINE_PATIENCE_MS)):
            for child in [child for child in self._children.values() if (child.pidfd, select.POLLIN) in ready]:
                self._reap(child)
        for child in self._children.values():  # not reaped here: one that hangs in the kernel would keep us
            signal.pidfd_send_signal(child.pidfd, signal.SIGKILL)


def receive(channel: socket.socket) -> tuple[bytes, list[int]]:
    """One message and its fds, close-on-exec; b"" at EOF. Anything cut off raises MalformedMessage."""
    room = socket.CMSG_SPACE(2 * struct.calcsize("i"))
    try:
        data, control, flags, _ = channel.recvmsg(orders.MAX_MESSAGE_BYTES, room, socket.MSG_CMSG_CLOEXEC)
    except ConnectionResetError:  # the daemon ended with messages unread
        return b"", []
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        raise orders.MalformedMessage("more bytes or fds than any message has")
    fds: list[int] = []
    for level, kind, words in control:
        if (level, kind) != (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            raise orders.MalformedMessage(f"control message {level}, {kind}")
        fds += [fd for (fd,) in struct.iter_unpack("i", words)]
    return data, fds


def _exec(words: tuple[bytes, ...], prepare: Callable[[], None]) -> NoReturn:
    """In the child: become the program, or exit with a status that says why not. Never returns into the monitor."""
    status = rights.EXIT_EXEC
    try:
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(signum, signal.SIG_DFL)
        os.setsid()
        null = os.open("/dev/null", os.O_RDWR)
        os.dup2(null, 0)
        os.dup2(null, 1)
        if os.isatty(2):  # nobody's process gets hold of an administrator's terminal
            os.dup2(null, 2)
        os.umask(0o077)
        prepare()
        os.execve(words[0], words, _ENVIRONMENT)  # noqa: S606  a shell is what must not be here
    except rights.RightsError as error:
        status = rights.EXIT_RIGHTS
        os.write(2, f"clamscannerd: {error}\n".encode())
    except OSError as error:
        os.write(2, b"clamscannerd: cannot start %s: %s\n" % (words[0], str(error).encode()))
    finally:
        os._exit(status)


def _be_worker(setup: orders.Setup, fds: list[int]) -> None:
    # First out of the way of the two places, then onto them: they may be each other's, or one of our own.
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, LOCK_FD + 1) for fd in fds]
    for fd, place in zip(high, (CHANNEL_FD, LOCK_FD), strict=True):
        os.dup2(fd, place)
    os.closerange(LOCK_FD + 1, os.sysconf("SC_OPEN_MAX"))
    for limit, value in _WORKER_LIMITS:
        _limit(limit, value, value)
    _limit(resource.RLIMIT_CPU, setup.worker_cpu_s, setup.worker_cpu_s + _CPU_GRACE_S)
    _renice(setup.worker_nice)
    rights.set_io_priority(setup.worker_io_priority)
    if setup.worker_cpu_policy != os.SCHED_OTHER:
        os.sched_setscheduler(0, setup.worker_cpu_policy, os.sched_param(0))


def _limit(limit: int, soft: int, hard: int) -> None:
    most = resource.getrlimit(limit)[1]
    if most != resource.RLIM_INFINITY:
        soft, hard = min(soft, most), min(hard, most)
    resource.setrlimit(limit, (soft, hard))


def _renice(nice: int) -> None:
    os.nice(max(0, nice - os.nice(0)))


def _be_engine(engine: orders.Engine, job: int, parent: int, *, system: bool) -> None:
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _renice(engine.nice)
    if system:
        rights.become(engine.uid, engine.gid, ())
    else:
        rights.harden()
    if not rights.die_with_parent(signal.SIGKILL, parent):
        os._exit(rights.EXIT_ORPHAN)
    if place := engine.clear[job]:  # what a killed engine left, removed by the user whose it is
        import shutil

        shutil.rmtree(place, ignore_errors=True)
        os.makedirs(place, 0o700, exist_ok=True)
    if os.path.exists(_APPARMOR_EXEC):
        _confine()


def _confine() -> None:
    """Debian's profile attaches to /usr/sbin/clamd by path and refuses our directories: name our own instead.

    Not tried yet on a kernel with AppArmor. Without our profile loaded the engine starts under whatever attaches.
    """
    try:
        with open(_APPARMOR_EXEC, "wb", buffering=0) as stream:
            stream.write(_APPARMOR_PROFILE)
    except OSError as error:
        os.write(2, b"clamscannerd: the engine runs without its AppArmor profile: %s\n" % str(error.strerror).encode())
