"""One engine: is it there, does it scan, what is it, and one session from it. [daemon, trio]

                     connects                  PONG and a scan
    starting, lost ------------> loading -------------------------> ready
        ^                           |                                 |
        |   silent for too long,    |        no answer in time        |
        +--- or it is gone ---------+ <-------------------------------+
        +------------ gone, or speaks nonsense, or does not scan -----+

A check is a session of its own: connect, IDSESSION and PING, then an empty INSTREAM. PING alone proves too little:
clamd with a broken database answers it and ends every session at its first file. INSTREAM because it needs no fd of a
file, which an AppArmor profile might refuse to let pass. PING is answered while all of clamd's threads are busy, the
INSTREAM is not: so a ready engine whose scan is late is busy, not lost.

`since` of an engine that is not ready is when it stopped being ready, whatever it went through after that: an
engine that comes and goes is lost for as long as nobody could use it.

An engine on another machine is asked in the same way, over TCP. Nobody can look at its database, so its `generation`
has a "?" where a digest of the files would stand: what is not signed officially may change there unseen.
"""

import logging
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Literal

import msgspec
import trio

from clamscannerd.addresses import is_remote
from clamscannerd.engine import clamdconf, control
from clamscannerd.engine.clamproto import HANDSHAKE, HANDSHAKE_REPLY, INSTREAM, INSTREAM_END, Reply, ReplyKind, Session
from clamscannerd.engine.dialing import open_socket
from clamscannerd.errors import ConfigError, EngineLost, RemoteProtocolError
from clamscannerd.model import EngineInfo

Kind = Literal["starting", "loading", "ready", "lost"]

_RECEIVE_BYTES = 4096
_SETTLE_S = 60.0  # beyond SelfCheck, for the loading itself: a minute loads the official database on slow disks

log = logging.getLogger(__name__)


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What a clamd.conf tells of one engine."""

    max_file_size: int
    max_threads: int
    read_timeout_s: float
    self_check_s: float
    database: str
    blind: tuple[str, ...]
    cure: tuple[str, ...]
    shutdown: bool
    settings: str = ""


class Timeouts(msgspec.Struct, frozen=True, kw_only=True):
    """`first_ping_s`: for an engine that may be loading its database; `ping_s`: for one that was ready."""

    first_ping_s: float
    ping_s: float


class EngineState(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of an engine, or of all of them together.

    `since`: epoch seconds, see the module, to be shown; `steady_since`: the same moment on time.monotonic, for how long
    it has been so, which no step of the clock changes.
    `signatures`: False on the built-in test signature, where OK means nothing.
    `max_file_size`: a larger file is too big and not sent. `reason`: one sentence while not ready, else "".
    `generation`: changes whenever what a verdict rests on may have changed; verdicts kept under another one are void.
    `read_timeout_s`: the engine ends a session that gets no new command for so long, scans running or not.
    `cure`: lines of clamd.conf with which nothing of `info.blind` would be left; none where the file is not known.
    `settings`: a digest of all in its clamd.conf that may make a difference to a verdict; "": they are not known.
    `shutdown`: whoever can connect to it can end it, as far as is known.
    """

    kind: Kind
    since: float
    steady_since: float
    info: EngineInfo
    signatures: bool
    max_file_size: int
    max_threads: int
    shared: bool
    address: str
    reason: str
    generation: str
    read_timeout_s: float
    cure: tuple[str, ...] = ()
    shutdown: bool = True
    settings: str = ""

    @property
    def remote(self) -> bool:
        """Reached over TCP."""
        return is_remote(self.address)

    def warnings(self) -> tuple[str, ...]:
        """Sentences for the `warnings` of answers: what verdicts of this engine do not cover."""
        if not self.signatures:
            return ("Only the EICAR test signature is loaded: no file is called clean.", *self.info.blind)
        return self.info.blind


class Member:
    """One engine at one address. `load_limits` reads its configuration (blocking); `changed` is told of a new state."""

    def __init__(
        self,
        address: str,
        *,
        shared: bool,
        signatures: bool,
        timeouts: Timeouts,
        load_limits: Callable[[], Limits],
        changed: Callable[[], None],
        limits: Limits,
    ) -> None:
        self.timeouts = timeouts  # replaced by a reload
        self._load_limits = load_limits
        self._changed = changed
        self.gone = False
        """Nobody listened at the last check: not loading, not silent."""
        self.checks = 0
        self.failures = 0
        self.state = EngineState(
            kind="starting",
            since=time.time(),
            steady_since=time.monotonic(),
            info=EngineInfo(blind=limits.blind),
            signatures=signatures,
            max_file_size=limits.max_file_size,
            max_threads=limits.max_threads,
            shared=shared,
            address=address,
            reason=f"The engine at {address} was not asked yet.",
            generation="",
            read_timeout_s=limits.read_timeout_s,
        )

    async def check(self) -> None:
        """Ask once; the answer is in `state`. Takes up to `first_ping_s` for an engine that is not ready."""
        self.checks += 1
        address, was_ready = self.state.address, self.state.kind == "ready"
        patience_s = self.timeouts.ping_s if was_ready else self.timeouts.first_ping_s
        with ExitStack() as stack:
            try:
                with trio.fail_after(patience_s):
                    sock = stack.enter_context(await self._connect())
                    await _shake_hands(sock, address)
                await self._prove_scanning(sock, patience_s)
                version, fingerprint, limits = await trio.to_thread.run_sync(self._inspect, abandon_on_cancel=True)
            except EngineLost as error:
                # Our own, just started: its socket appears when it does.
                starts = self.gone and self.state.kind == "starting" and not self.state.shared
                self._fail("starting" if starts else "lost", str(error))
            except trio.TooSlowError:
                silent = f"cannot use clamd at {address}: no answer for {patience_s:g} s"
                self._fail("loading" if was_ready else "lost", silent)
            else:
                self._be_ready(version, fingerprint, limits)

    async def open_session(self) -> socket.socket:
        """A blocking socket on which clamd answered within IDSESSION; the next command has FIRST_ID."""
        try:
            with trio.fail_after(self.timeouts.ping_s), ExitStack() as stack:
                sock = stack.enter_context(await open_socket(self.state.address))
                await _shake_hands(sock, self.state.address)
                stack.pop_all()
        except trio.TooSlowError:
            cause = f"no answer for {self.timeouts.ping_s:g} s"
            raise EngineLost(f"cannot open a session to clamd at {self.state.address}: {cause}") from None
        sock.settimeout(None)
        return sock

    def lose(self, reason: str) -> None:
        """It is known to have ended."""
        self.gone = True
        self._set("lost", reason)

    async def _connect(self) -> socket.socket:
        was_gone = self.gone or self.state.kind == "starting"
        self.gone = True
        sock = await open_socket(self.state.address)
        self.gone = False
        if was_gone:
            self._set("loading", f"The engine at {self.state.address} does not answer yet.")
        return sock

    async def _prove_scanning(self, sock: socket.socket, patience_s: float) -> None:
        """One empty scan. A late one is no fault of an engine that answers PING: the next check sees."""
        address = self.state.address
        with trio.move_on_after(patience_s):
            reply = await scan_content(sock, address, b"")
            if reply.kind is not ReplyKind.OK:
                raise EngineLost(f"cannot use clamd at {address}: an empty scan answers {reply.text!r}")
            return
        if self.state.kind != "ready":
            raise EngineLost(f"cannot use clamd at {address}: it answers PING but no scan for {patience_s:g} s")

    def _inspect(self) -> tuple[control.Version, control.Fingerprint, Limits]:
        """In a thread: what it says it is, and what its files say."""
        limits = self._load_limits()
        version = control.version(self.state.address, self.timeouts.ping_s)
        if self.state.remote:
            return version, control.Fingerprint(digest="?"), limits
        return version, control.fingerprint(limits.database), limits

    def _be_ready(self, version: control.Version, fingerprint: control.Fingerprint, limits: Limits) -> None:
        settled = time.time() > fingerprint.newest + limits.self_check_s + _SETTLE_S
        info = EngineInfo(
            version=version.version,
            database=version.database,
            database_time=version.database_time,
            blind=limits.blind,
            max_file_size=limits.max_file_size,
        )
        old = self.state
        self._become(
            msgspec.structs.replace(
                old,
                kind="ready",
                since=old.since if old.kind == "ready" else time.time(),
                steady_since=old.steady_since if old.kind == "ready" else time.monotonic(),
                info=info,
                max_file_size=limits.max_file_size,
                max_threads=limits.max_threads,
                reason="",
                generation=f"{version.version}/{version.database}/{fingerprint.digest}/{int(settled)}",
                read_timeout_s=limits.read_timeout_s,
                cure=limits.cure,
                shutdown=limits.shutdown,
                settings=limits.settings,
            )
        )

    def _fail(self, kind: Kind, reason: str) -> None:
        self.failures += 1
        self._set(kind, reason)

    def _set(self, kind: Kind, reason: str) -> None:
        state = msgspec.structs.replace(self.state, kind=kind, reason=reason)
        if self.state.kind == "ready":
            state = msgspec.structs.replace(state, since=time.time(), steady_since=time.monotonic())
        self._become(state)

    def _become(self, state: EngineState) -> None:
        old, self.state = self.state, state
        if state == old:
            return
        if state.kind != old.kind:
            # The daemon says aloud what holds for all engines together; this is each by itself.
            log.debug("engine at %s is %s: %s", state.address, state.kind, state.reason or state.info.version)
        self._changed()


def limits_of(conf: clamdconf.ClamdConf, *, remote: bool = False) -> Limits:
    """What a clamd.conf means for scanning. `remote`: contents are streamed, and StreamMaxLength bounds them too."""
    most = clamdconf.max_file_size(conf)
    if remote and conf.stream_max_length:
        most = min(most, conf.stream_max_length)
    return Limits(
        max_file_size=most,
        max_threads=conf.max_threads,
        read_timeout_s=conf.read_timeout_s,
        self_check_s=conf.self_check_s,
        database=conf.database_directory,
        blind=clamdconf.blind(conf),
        cure=clamdconf.cure(conf),
        shutdown=conf.enable_shutdown,
        settings="" if remote else conf.settings,  # of a copy: it does not say when they change
    )


def shared_limits(address: str, clamd_conf: str, confs: Mapping[str, str]) -> Limits:
    """Limits of somebody else's clamd, from the file that configures it; cautious ones where that is not known.

    `confs`: files by address, of engines whose file is not `clamd_conf`; of another machine's engine it is a copy.
    """
    remote, path = is_remote(address), confs.get(address, clamd_conf)
    try:
        conf = control.read_conf(path)
    except ConfigError as error:
        cause = str(error)
    else:
        own = conf.local_socket is not None and control.same_socket(conf.local_socket, address)
        if address in confs or (own and not remote):
            return limits_of(conf, remote=remote)
        cause = f"{path} is of another clamd"
    if remote and address not in confs:
        cause = "engine.confs does not name a copy of its clamd.conf"
    assumed = limits_of(clamdconf.ClamdConf(max_file_size=clamdconf.ASSUMED_MAX_FILE_BYTES), remote=remote)
    unknown = f"The settings of the clamd at {address} are not known ({cause}): they are taken to be clamd's defaults."
    return msgspec.structs.replace(assumed, blind=(unknown, *assumed.blind), cure=(), settings="")


def limits_in(clamd_conf: str, otherwise: Limits) -> Limits:
    """Limits of an engine that is ours, from the file that root made for it; `otherwise` while there is none.

    The file may be a moment ahead of the engine, which is restarted for it. That does no harm: what is over the limit
    that the engine still has comes back as just that, and is not scanned.
    """
    try:
        return limits_of(control.read_conf(clamd_conf))
    except ConfigError:
        return otherwise


async def answers(path: str) -> None:
    """Returns when the clamd at `path` has answered PING within a session. Raises EngineLost."""
    with ExitStack() as stack:
        await _shake_hands(stack.enter_context(await open_socket(path)), path)


async def scan_content(sock: socket.socket, address: str, content: bytes) -> Reply:
    """What the engine says of some bytes, over a session on which nothing was scanned yet. Raises EngineLost."""
    session = Session()
    number = session.sent()
    chunk = len(content).to_bytes(4, "big") + content if content else b""
    await _send(sock, INSTREAM + chunk + INSTREAM_END, address)
    try:
        while True:
            for reply in session.receive_data(await _receive(sock, address, "it answers PING but does not scan")):
                if reply.id != number:
                    raise EngineLost(f"cannot use clamd at {address}: it answers what nobody asked: {reply.text!r}")
                return reply
    except RemoteProtocolError as error:
        raise EngineLost(f"cannot use clamd at {address}: {error}") from None


async def _shake_hands(sock: socket.socket, address: str) -> None:
    """IDSESSION and PING, and not one byte more than the PONG."""
    await _send(sock, HANDSHAKE, address)
    answer = b""
    while len(answer) < len(HANDSHAKE_REPLY):
        answer += await _receive(sock, address, "it closed the connection")
        if not HANDSHAKE_REPLY.startswith(answer):
            raise EngineLost(f"cannot use clamd at {address}: it answered PING with {answer[:100]!r}")


async def _send(sock: socket.socket, data: bytes, address: str) -> None:
    while data:
        try:
            data = data[sock.send(data) :]
        except BlockingIOError:
            await trio.lowlevel.wait_writable(sock)
        except OSError as error:
            raise EngineLost(f"cannot write to clamd at {address}: {error.strerror}") from None


async def _receive(sock: socket.socket, address: str, if_closed: str) -> bytes:
    """At least one byte."""
    while True:
        try:
            data = sock.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            await trio.lowlevel.wait_readable(sock)
        except OSError as error:
            raise EngineLost(f"cannot read from clamd at {address}: {error.strerror}") from None
        else:
            if not data:
                raise EngineLost(f"cannot use clamd at {address}: {if_closed}")
            return data
