"""A real Server on a real Unix socket, and raw clients for it: lines of bytes, no client library in between."""

import contextlib
import json
import os
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator
from typing import Any

import trio

from clamscannerd.rpc.server import Server, ServerLimits
from clamscannerd.rpc.table import Methods

PLAIN_UID = os.geteuid() or 65_534
"""Root is always an administrator: where tests run as root, clients connect as somebody else."""

ANSWER_TIMEOUT_S = 20


class RawClient:
    """One connection. Every wait has a limit, so that a missing answer is a failure and not a hang."""

    def __init__(self, sock: socket.socket) -> None:
        self.stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
        self._rest = b""

    async def send(self, data: bytes) -> None:
        with trio.fail_after(ANSWER_TIMEOUT_S):
            await self.stream.send_all(data)

    async def line(self) -> Any:
        """The next line's value; EOFError at the end."""
        with trio.fail_after(ANSWER_TIMEOUT_S):
            parts = [self._rest]  # a line may have 32 MB: what has come is neither searched nor copied again
            while b"\n" not in parts[-1]:
                chunk = await self.stream.receive_some(1 << 20)
                if not chunk:
                    self._rest = b"".join(parts)
                    raise EOFError
                parts.append(bytes(chunk))
        end, _, self._rest = parts.pop().partition(b"\n")
        return json.loads(b"".join([*parts, end]))

    async def lines_to_end(self) -> list[Any]:
        lines = []
        with contextlib.suppress(EOFError):
            while True:
                lines.append(await self.line())
        assert self._rest == b""
        return lines

    async def call(self, method: str, params: object = None, request_id: object = 1) -> Any:
        await self.send(request(method, params, request_id))
        return await self.line()

    async def kind(self, method: str, params: object = None) -> str:
        """The `kind` of the error that this call is answered with, "" for a result."""
        answer = await self.call(method, params)
        return str(answer["error"]["data"]["kind"]) if "error" in answer else ""

    async def end(self) -> None:
        """No more from this side (half-close)."""
        await self.stream.send_eof()


def request(method: str, params: object = None, request_id: object = 1) -> bytes:
    message = {"jsonrpc": "2.0", "id": request_id, "method": method}
    return json.dumps(message if params is None else message | {"params": params}).encode() + b"\n"


class Place:
    """A running server and the way to it."""

    def __init__(self, server: Server, path: str, nursery: trio.Nursery) -> None:
        self.server = server
        self.nursery = nursery
        self._path = path
        self._clients: list[RawClient] = []

    def connect(self, *, uid: int = PLAIN_UID) -> RawClient:
        """The kernel notes the effective uid of the one who connects."""
        sock = socket.socket(socket.AF_UNIX)
        with _as_uid(uid):
            sock.connect(self._path)
        client = RawClient(sock)
        self._clients.append(client)
        return client

    def close(self) -> None:
        for client in self._clients:
            client.stream.socket.close()


@contextlib.contextmanager
def _as_uid(uid: int) -> Iterator[None]:
    before = os.geteuid()
    if uid != before:
        os.seteuid(uid)
    try:
        yield
    finally:
        if uid != before:
            os.seteuid(before)


@contextlib.asynccontextmanager
async def open_place(
    methods: Methods,
    limits: ServerLimits | None = None,
    admins: frozenset[int] = frozenset(),
    *,
    grace_s: float = 5.0,
) -> AsyncIterator[Place]:
    """Not in tmp_path: that is closed to the other uid, and its name can be too long for a socket."""
    server = Server(methods, limits=limits or ServerLimits(), admins=lambda: admins, grace_s=grace_s)
    with tempfile.TemporaryDirectory(prefix="rpc-") as directory, trio.socket.socket(socket.AF_UNIX) as listener:
        path = os.path.join(directory, "s")
        os.chmod(directory, 0o711)  # noqa: S103  the other uid has to get in
        await listener.bind(path)
        os.chmod(path, 0o666)  # noqa: S103
        listener.listen(128)
        async with trio.open_nursery() as nursery:
            await nursery.start(server.serve, [listener])
            place = Place(server, path, nursery)
            try:
                yield place
            finally:
                server.stop()
                place.close()
    assert server.statistics().connections == server.statistics().calls == server.statistics().uids == 0
