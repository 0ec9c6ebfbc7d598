"""The socket's server in the daemon: accept, peer credentials, limits per uid, calls. trio; one nursery a connection.

One bad client never takes the daemon down and never blocks another account: hence an accept loop of our own
(an exception in a handler of trio.serve_listeners ends the whole server), limits that are judged before anything is
kept, and one of the product's two `except Exception`, in `_contain`: around each call, and around each connection for
faults of our own. What is refused at accept gets one line written without waiting, and is closed.

Who the peer is, and whose word its calls are: speaker.py. What a client sends of open files the kernel closes: nothing
here receives control messages.

Limits and methods are replaced whole on reload: limits per uid and methods count from the next call on, limits of a
stream from the next connection on.

At the end who is still connected hears `shutting_down` before the connection is closed: an answer to nothing that was
asked, as for a connection that is refused. Who connects from then on waits in the listener's backlog.
"""

import errno
import logging
import os
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import TypeVar

import msgspec
import trio

from clamscannerd.errors import (
    CallError,
    ClamscannerdError,
    ConfigError,
    Refused,
    ShuttingDown,
    StateError,
    TooManyCalls,
    TooManyConnections,
)
from clamscannerd.model import Peer
from clamscannerd.rpc import jsonrpc
from clamscannerd.rpc.access import ROOT_UID, Decision, decide
from clamscannerd.rpc.rounds import Rounds, Turns
from clamscannerd.rpc.speaker import People, Speaker, peer_of
from clamscannerd.rpc.table import Call, Method, Methods, Stream, bind, find, names_user
from clamscannerd.rpc.unsent import SMALL_BYTES, Held, Unsent
from clamscannerd.rpc.wire import Wire, WireLimits

log = logging.getLogger(__name__)
T = TypeVar("T")

GRACE_S = 2.0
"""For calls in flight at the end: every call answers at once or within one look-up; the daemon has 10 s in all."""

ACCEPT_PAUSE_S = 0.1
"""Without a free fd the waiting client stays readable: without a pause the loop would spin."""

NO_LISTENER = frozenset((errno.EBADF, errno.EINVAL, errno.ENOTSOCK, errno.EOPNOTSUPP))
"""Accepting can never succeed again. Anything else (EMFILE, a client already gone) is a trouble that passes."""


class ServerLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Defaults and reasons: config.Server, field by field."""

    max_connections: int = 20_000
    max_connections_per_uid: int = 32
    max_calls_per_uid: int = 64
    max_message_bytes: int = 1 << 20
    max_batch: int = 100
    max_depth: int = 32
    line_timeout_s: float = 10.0
    idle_timeout_s: float = 600.0
    write_timeout_s: float = 30.0

    def wire(self) -> WireLimits:
        """What one stream needs of it."""
        messages = jsonrpc.Limits(
            max_message_bytes=self.max_message_bytes, max_batch=self.max_batch, max_depth=self.max_depth
        )
        return WireLimits(
            messages=messages,
            line_timeout_s=self.line_timeout_s,
            idle_timeout_s=self.idle_timeout_s,
            write_timeout_s=self.write_timeout_s,
        )


class Statistics(msgspec.Struct, frozen=True, kw_only=True):
    """Now, and since the start (`_total`)."""

    connections: int
    connections_total: int
    connections_refused_total: int
    uids: int
    calls: int
    calls_total: int
    calls_refused_total: int
    """Answered with an error of the caller's making, or of a limit."""
    faults_total: int
    """Answered -32603, or a connection lost to a fault of ours: each has a traceback in the log."""


class _Usage:
    """What one uid has open. Exists from its first connection to its last."""

    __slots__ = ("calls", "connections", "heavy", "turns", "unsent")

    def __init__(self, rounds: Rounds) -> None:
        self.connections = 0
        self.calls = 0
        self.heavy = trio.Lock()
        self.turns = Turns(rounds)
        self.unsent = Unsent()


class _Client(msgspec.Struct, frozen=True, kw_only=True):
    id: int
    peer: Peer
    usage: _Usage
    speaker: Speaker
    streams: list[Stream]
    """Asked for on this connection, and not begun yet."""


class Server:
    """Serves `methods` on listeners. `admins`: uids of administrators as last known; `people`: as of now.
    `rounds`: counted while it serves."""

    def __init__(
        self,
        methods: Methods,
        *,
        limits: ServerLimits,
        admins: Callable[[], frozenset[int]],
        people: People | None = None,
        rounds: Rounds | None = None,
        grace_s: float = GRACE_S,
    ) -> None:
        self.methods = methods
        self.limits = limits
        self._admins = admins
        self._people = people
        self._grace_s = grace_s
        self._usage: dict[int, _Usage] = {}
        self._connections = self._connections_total = self._connections_refused = 0
        self._calls = self._calls_total = self._calls_refused = self._faults = 0
        self._lines_under_way = 0
        self._ending = trio.Lock()
        self._rounds = rounds or Rounds()
        self.refusal: ClamscannerdError | None = None
        """What is answered to every call that is not in the table, whatever it is; None: that there is no such."""
        self._stopping = trio.Event()
        self._quiet = trio.Event()  # set once stopping and no line is under way

    def statistics(self) -> Statistics:
        return Statistics(
            connections=self._connections,
            connections_total=self._connections_total,
            connections_refused_total=self._connections_refused,
            uids=len(self._usage),
            calls=self._calls,
            calls_total=self._calls_total,
            calls_refused_total=self._calls_refused,
            faults_total=self._faults,
        )

    def stop(self) -> None:
        """No new client, no new call; `serve` returns when the calls in flight are answered, or after the grace."""
        self._stopping.set()
        self._note_busy(0)

    async def serve(
        self,
        listeners: Sequence[trio.SocketListener | trio.socket.SocketType],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Until `stop()`; a cancellation is taken as one. The listening sockets stay open: they are the caller's."""
        trio.lowlevel.add_instrument(self._rounds)
        try:
            await self._serve(listeners, task_status)
        finally:
            trio.lowlevel.remove_instrument(self._rounds)

    async def _serve(
        self,
        listeners: Sequence[trio.SocketListener | trio.socket.SocketType],
        task_status: trio.TaskStatus[None],
    ) -> None:
        async with trio.open_nursery() as front:
            # Out of a cancellation's reach, so that clients get their grace; `_accept_all` hears of it and stops us.
            with trio.CancelScope(shield=True):
                async with trio.open_nursery() as clients:
                    front.start_soon(self._accept_all, listeners, clients)
                    task_status.started()
                    await self._stopping.wait()
                    front.cancel_scope.cancel()
                    with trio.move_on_after(self._grace_s):
                        await self._quiet.wait()
                    clients.cancel_scope.cancel()

    async def _accept_all(
        self, listeners: Sequence[trio.SocketListener | trio.socket.SocketType], clients: trio.Nursery
    ) -> None:
        try:
            async with trio.open_nursery() as accepting:
                for listener in listeners:
                    sock = listener.socket if isinstance(listener, trio.SocketListener) else listener
                    accepting.start_soon(self._accept, sock, clients)
        finally:
            self.stop()

    async def _accept(self, listener: trio.socket.SocketType, clients: trio.Nursery) -> None:
        pausing = False
        while True:
            try:
                sock, _ = await listener.accept()
            except OSError as error:
                if error.errno in NO_LISTENER:
                    raise
                if not pausing:  # once a shortage, not ten times a second
                    log.warning("cannot accept clients for now: %s", error)
                pausing = True
                await trio.sleep(ACCEPT_PAUSE_S)
                continue
            pausing = False
            self._admit(sock, clients)

    def _admit(self, sock: trio.socket.SocketType, clients: trio.Nursery) -> None:
        # No await: what is counted here is given back by the task that is started here.
        peer = peer_of(sock)
        if peer is None:
            self._connections_refused += 1
            sock.close()
            return
        if problem := self._connection_problem(peer.uid):
            self._connections_refused += 1
            refusal = TooManyConnections(f"cannot take the connection: {problem}")
            with suppress(OSError):  # non-blocking, and a fresh socket has room for a line; gone already is fine, too
                os.write(sock.fileno(), jsonrpc.encode_error(None, refusal.code, str(refusal), refusal.data()))
            sock.close()
            return
        usage = self._usage.get(peer.uid)
        if usage is None:
            usage = self._usage[peer.uid] = _Usage(self._rounds)
        usage.connections += 1
        self._connections += 1
        self._connections_total += 1
        speaker = Speaker(self._people, peer.uid)
        client = _Client(id=self._connections_total, peer=peer, usage=usage, speaker=speaker, streams=[])
        clients.start_soon(self._serve_client, sock, client)

    def _connection_problem(self, uid: int) -> str:
        limits = self.limits
        if self._connections >= limits.max_connections:
            return f"{limits.max_connections} are open"
        usage = self._usage.get(uid)
        if usage and usage.connections >= limits.max_connections_per_uid and not self._is_admin(uid):
            return f"{limits.max_connections_per_uid} of this user are open"
        return ""

    def _is_admin(self, uid: int) -> bool:
        return uid == ROOT_UID or uid in self._admins()

    async def _serve_client(self, sock: trio.socket.SocketType, client: _Client) -> None:
        def limited() -> bool:
            return not self._is_admin(client.peer.uid)

        async def talk() -> None:
            wire = Wire(
                *(trio.SocketStream(sock), self.limits.wire(), client.streams),
                answer=partial(self._answer, client),
                hold=partial(Held, client.usage.unsent, limited=limited),
                note_busy=self._note_busy,
                heavy=client.usage.heavy,
                turns=client.usage.turns,
                ending=self._ending,
            )
            ended = False
            try:
                await client.speaker.learn()
                await wire.run()
                ended = True
            finally:
                if self._stopping.is_set() and not ended:  # cut off by `serve`
                    end = ShuttingDown("cannot keep the connection: the daemon is stopping")
                    wire.say_nowait(jsonrpc.encode_error(None, end.code, str(end), end.data()))

        try:
            await self._contain(client, "the connection", talk())
        finally:
            sock.close()
            self._connections -= 1
            client.usage.connections -= 1
            if not client.usage.connections:
                del self._usage[client.peer.uid]

    def _note_busy(self, change: int) -> None:
        self._lines_under_way += change
        if self._stopping.is_set() and not self._lines_under_way:
            self._quiet.set()

    async def _contain(self, client: _Client, what: str, body: Awaitable[T]) -> T | None:
        """None: it failed. The one place in rpc/ where a fault of ours ends: in the log, and nowhere else."""
        try:
            return await body
        except Exception:
            self._faults += 1
            log.exception("cannot serve %s of uid %d (connection %d)", what[:80], client.peer.uid, client.id)
            return None

    async def _answer(self, client: _Client, event: jsonrpc.Member | jsonrpc.Batch, held: Held) -> bytes | None:
        """The answer to one line. Members of a batch one after the other: they count as one call at a time."""
        if not isinstance(event, jsonrpc.Batch):
            return await self._answer_member(client, event, held)
        answers = [await self._answer_member(client, member, held) for member in event.members]
        wanted = [answer for answer in answers if answer is not None]
        return jsonrpc.encode_batch(wanted) if wanted else None

    async def _answer_member(self, client: _Client, member: jsonrpc.Member, held: Held) -> bytes | None:
        answer: bytes | None
        if isinstance(member, jsonrpc.Request):
            answer = await self._contain(client, member.method, self._answer_call(client, member.id, member, held))
            if answer is None:
                problem = "cannot answer the call: a fault of the daemon, see its log"
                answer = jsonrpc.encode_error(member.id, jsonrpc.INTERNAL_ERROR, problem, {"kind": "internal"})
        elif isinstance(member, jsonrpc.Notification):
            await self._contain(client, member.method, self._answer_call(client, None, member, held))
            answer = None
        elif isinstance(member, jsonrpc.Invalid):
            error = member.error
            answer = jsonrpc.encode_error(member.id, error.code, error.message, error.data)
        else:
            problem = "Invalid Request: nothing was asked from this side"
            answer = jsonrpc.encode_error(None, jsonrpc.INVALID_REQUEST, problem, {"kind": "invalid_request"})
        held.take(len(answer or b""))
        return answer

    async def _answer_call(
        self, client: _Client, request_id: jsonrpc.Id, asked: jsonrpc.Request | jsonrpc.Notification, held: Held
    ) -> bytes:
        try:
            if client.usage.unsent.held_bytes and (problem := held.problem_before_call()):
                raise TooManyCalls(f"cannot take the call: {problem}")
            answer = jsonrpc.encode_response(request_id, await self._call(client, asked.method, asked.params))
            if len(answer) > SMALL_BYTES and (problem := held.problem_with(len(answer))):
                raise TooManyCalls(f"cannot keep the answer: {problem}")
            return answer
        except (CallError, ConfigError, Refused) as error:
            self._calls_refused += 1
            return jsonrpc.encode_error(request_id, error.code, str(error), error.data())
        except StateError as error:  # a full disk, somebody's lock: it may pass, and is no fault to be traced
            log.error("cannot serve call %r of uid %d: %s", asked.method[:80], client.peer.uid, error)
            problem = "cannot answer the call: the daemon's state cannot be used now, see its log"
            return jsonrpc.encode_error(request_id, error.code, problem, error.data())

    async def _call(self, client: _Client, name: str, params: jsonrpc.Params) -> object:
        """One call's result. Access is decided before parameters are judged: who may not call learns nothing."""
        usage, most = client.usage, self.limits.max_calls_per_uid
        if self._stopping.is_set():
            raise ShuttingDown("cannot take the call: the daemon is stopping")
        if usage.calls >= most and not self._is_admin(client.peer.uid):
            raise TooManyCalls(f"cannot take the call: {most} of this user are in flight")
        usage.calls += 1
        self._calls += 1
        self._calls_total += 1
        try:
            if self.refusal is not None and name not in self.methods:
                raise self.refusal
            method = find(self.methods, name)
            user_named = params is not None and names_user(params)
            decision = await self._judge(client, method, user_named=user_named)
            user, values = None, method.nothing
            if params is not None or values is None:
                user, values = bind(method, params)
            call = Call(
                peer=client.peer,
                connection_id=client.id,
                user=user,
                is_admin=decision.is_admin,
                push=client.streams.append,
                confirm=partial(self._judge, client, method, user_named=user_named),
                alike=(client.peer, client.speaker.name, user_named),
            )
            return await method.handler(call, values)
        finally:
            usage.calls -= 1
            self._calls -= 1

    async def _judge(self, client: _Client, method: Method, *, user_named: bool) -> Decision:
        admins = await client.speaker.decide(method.rule, self._admins())
        return decide(client.peer, method.rule, admins=admins, user_named=user_named)
