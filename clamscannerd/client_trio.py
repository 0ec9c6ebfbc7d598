"""A client of the socket for trio programs: calls, and events as they come. In whatever process uses it.

    async with open_client() as client:
        await client.call("ClamScanner.start_scan", {"scan_type": "home"})
        async with open_client() as other, aclosing(other.events(["Scan.finding", "Scan.done"])) as events:
            async for event in events:
                print(event.method, event.params)

Names, errors and limits are those of client.py, which needs no event loop; this file is of its own because trio's
import costs more than a call. One call after the other on a connection; one that tells events does nothing else. Who
wants a time limit says so around it (trio.fail_after): a connection that was cancelled within a call is given up.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import count

import trio

from clamscannerd.client import CHUNK_BYTES, LIMITS, Event, RemoteError, Unreachable, find, subscription
from clamscannerd.errors import RemoteProtocolError
from clamscannerd.rpc import jsonrpc


class TrioClient:
    """A connection to the daemon. Made by `open_client`."""

    def __init__(self, stream: trio.SocketStream, socket_path: str) -> None:
        self.socket_path = socket_path
        self._stream = stream
        self._ids = count(1)
        self._asking = trio.Lock()
        self._connection = jsonrpc.Connection(limits=LIMITS)
        self._come: list[jsonrpc.Event] = []

    async def call(self, method: str, params: Mapping[str, object] | Sequence[object] = ()) -> object:
        """The `result` of the answer. Raises RemoteError, Unreachable or RemoteProtocolError."""
        given: jsonrpc.Params = dict(params) if isinstance(params, Mapping) else list(params)
        async with self._asking:
            answered = False
            try:
                result = await self._ask(method, given)
                answered = True
            except RemoteError:
                answered = True
                raise
            finally:
                if not answered:  # a late answer must not be taken for the next one's
                    await trio.aclose_forcefully(self._stream)
        return result

    async def events(
        self, kinds: Sequence[str] | None = None, *, user: str | None = None
    ) -> AsyncGenerator[Event, None]:
        """What Events.subscribe tells, for as long as the daemon lives. Raises as `call` does. `user`: whose, for
        administrators."""
        await self.call("Events.subscribe", subscription(kinds, user))
        while True:
            match event := await self._next():
                case jsonrpc.Notification(params=dict() as params):
                    yield Event(event.method, params)
                case jsonrpc.ErrorResponse(error=error):
                    raise RemoteError(error.code, error.message, error.data)
                case _:
                    raise self._unusable(event)

    async def _ask(self, method: str, params: jsonrpc.Params) -> object:
        request_id = next(self._ids)
        try:
            await self._stream.send_all(jsonrpc.encode_request(request_id, method, params or None))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise self._broken("it closed the connection") from None
        while True:
            match event := await self._next():
                case jsonrpc.Response(id=got, result=result) if got == request_id:
                    return result
                case jsonrpc.ErrorResponse(id=got, error=error) if got == request_id or got is None:
                    raise RemoteError(error.code, error.message, error.data)
                case jsonrpc.Notification():
                    continue
                case _:
                    raise self._unusable(event)

    async def _next(self) -> jsonrpc.Event:
        while not self._come:
            try:
                data = await self._stream.receive_some(CHUNK_BYTES)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                data = b""
            if not data:
                raise self._broken("it closed the connection")
            self._come = self._connection.receive_data(data)
        return self._come.pop(0)

    def _broken(self, cause: str) -> Unreachable:
        return Unreachable(f"cannot reach clamscannerd at {self.socket_path}: {cause}")

    def _unusable(self, event: jsonrpc.Event) -> RemoteProtocolError:
        return RemoteProtocolError(f"cannot use what {self.socket_path} says: {type(event).__name__}")


@asynccontextmanager
async def open_client(socket_path: str | None = None) -> AsyncIterator[TrioClient]:
    """A connection for the block. `socket_path`: None finds the daemon as the contract says ("Wire").

    Raises Unreachable.
    """
    sock, path = await trio.to_thread.run_sync(find, socket_path)
    sock.setblocking(False)  # noqa: FBT003  its own name for it
    async with trio.SocketStream(trio.socket.from_stdlib_socket(sock)) as stream:
        yield TrioClient(stream, path)
