"""A client of the socket: one connection, one call after the other, no event loop. In whatever process uses it.

The command line and the tests use it, and so can a panel:

    with Client() as client:
        answer = client.call("ClamScanner.start_scan", {"scan_type": "home"})
        for event in client.events(["Scan.finding", "Scan.done"]):
            print(event.method, event.params)

In trio programs: client_trio.py.

Framing and limits are rpc/jsonrpc.py's, the same class that the daemon reads with. A client trusts its daemon, so its
limits are wide; they are there so that a wrong socket cannot fill the memory. Who is asking is not said: the kernel
tells the daemon. Rejected: trio in this file (its import costs more than the call), a method per call (methods are
data; a newer daemon has more of them than this file would know).
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import count
from types import TracebackType
from typing import NamedTuple, Self

from clamscannerd.client_socket import ENVIRONMENT, SYSTEM_SOCKET, TIMEOUT_S, Unreachable, cause_of, find
from clamscannerd.errors import ClamscannerdError, RemoteProtocolError
from clamscannerd.rpc import jsonrpc
from clamscannerd.rpc.names import from_wire, to_wire

__all__ = [
    "ENVIRONMENT",
    "SYSTEM_SOCKET",
    "Client",
    "Event",
    "RemoteError",
    "Unreachable",
    "find",
    "from_wire",
    "to_wire",
]

CHUNK_BYTES = 1 << 16
LIMITS = jsonrpc.Limits(
    max_message_bytes=512 << 20,  # 100,000 findings whose paths are as long as Linux allows
    max_containers=4_000_000,  # those findings, each with its messages
)


class RemoteError(ClamscannerdError):
    """The daemon answered with a JSON-RPC error. `code`, `kind` and `data()` are the daemon's."""

    exit_code = 2

    def __init__(self, code: int, message: str, data: object = None) -> None:
        super().__init__(message)
        self.answer = jsonrpc.Error(code=code, message=message, data=data)
        kind = data.get("kind") if isinstance(data, Mapping) else None
        # Beside the class variables of the same names: one way to ask an error for its kind, here and in the daemon.
        vars(self).update(code=code, kind=kind if isinstance(kind, str) else "error")

    def data(self) -> dict[str, object]:
        data = self.answer.data
        return {"kind": self.kind, **(data if isinstance(data, dict) else {})}


class Event(NamedTuple):
    """One notification: `method` is its kind, clamscannerd-rpc(7) has the `params` of each."""

    method: str
    params: dict[str, object]


def subscription(kinds: Sequence[str] | None, user: str | None) -> dict[str, object]:
    """Parameters of Events.subscribe."""
    given = {"kinds": None if kinds is None else list(kinds), "user": user}
    return {name: value for name, value in given.items() if value is not None}


class Client:
    """A connection to the daemon. Not for several threads at once."""

    def __init__(self, socket_path: str | None = None, *, timeout_s: float = TIMEOUT_S) -> None:
        """Connects. `socket_path`: None finds the daemon as the contract says ("Wire"). Raises Unreachable."""
        self._timeout_s = timeout_s
        self._ids = count(1)
        self._connection = jsonrpc.Connection(limits=LIMITS)
        self._come: list[jsonrpc.Event] = []
        self._socket, self.socket_path = find(socket_path, timeout_s)

    def call(self, method: str, params: Mapping[str, object] | Sequence[object] = ()) -> object:
        """The `result` of the answer. Raises RemoteError, Unreachable or RemoteProtocolError."""
        given: jsonrpc.Params = dict(params) if isinstance(params, Mapping) else list(params)
        request_id = next(self._ids)
        line = jsonrpc.encode_request(request_id, method, given or None)
        deadline = time.monotonic() + self._timeout_s
        try:
            self._send(line, deadline)
            return self._answer(request_id, deadline)
        except TimeoutError:
            self.close()  # a late answer must not be taken for the next one's
            raise self._broken(f"no answer within {self._timeout_s:g} s") from None
        except OSError as error:
            self.close()
            raise self._broken(cause_of(error)) from None

    def events(self, kinds: Sequence[str] | None = None, *, user: str | None = None) -> Iterator[Event]:
        """What Events.subscribe tells, as it comes, for as long as the daemon lives. Raises as `call` does.

        `user`: whose, for administrators. Waits for ever between two events. Nothing else is asked on this connection.
        """
        self.call("Events.subscribe", subscription(kinds, user))
        try:
            while True:
                yield from self._told()
                self._read(None)
        except OSError as error:
            self.close()
            raise self._broken(cause_of(error)) from None

    def _told(self) -> Iterator[Event]:
        while self._come:
            match event := self._come.pop(0):
                case jsonrpc.Notification(params=dict() as params):
                    yield Event(event.method, params)
                case jsonrpc.ErrorResponse(error=error):
                    raise RemoteError(error.code, error.message, error.data)
                case _:
                    self.close()
                    raise RemoteProtocolError(f"cannot use what {self.socket_path} says: {_wrong(event)}")

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _send(self, line: bytes, deadline: float) -> None:
        self._socket.settimeout(_left(deadline))
        # If the daemon has hung up: what it said before that (idle too long, say) is still to be read.
        with suppress(BrokenPipeError, ConnectionResetError):
            self._socket.sendall(line)

    def _answer(self, request_id: int, deadline: float) -> object:
        while True:
            while self._come:
                event = self._come.pop(0)
                match event:
                    case jsonrpc.Response(id=got, result=result) if got == request_id:
                        return result
                    case jsonrpc.ErrorResponse(id=got, error=error) if got == request_id or got is None:
                        raise RemoteError(error.code, error.message, error.data)
                    case jsonrpc.Notification():
                        pass  # of a subscription that was given up; not an answer
                    case _:
                        self.close()
                        raise RemoteProtocolError(f"cannot use what {self.socket_path} answers: {_wrong(event)}")
            self._read(_left(deadline))

    def _read(self, timeout_s: float | None) -> None:
        self._socket.settimeout(timeout_s)
        data = self._socket.recv(CHUNK_BYTES)
        if not data:
            self.close()
            raise self._broken("it closed the connection")
        self._come = self._connection.receive_data(data)

    def _broken(self, cause: str) -> Unreachable:
        return Unreachable(f"cannot reach clamscannerd at {self.socket_path}: {cause}")


def _wrong(event: jsonrpc.Event) -> str:
    if isinstance(event, jsonrpc.Invalid | jsonrpc.TooLarge):
        return event.error.message
    return f"not the answer to what was asked ({type(event).__name__})"


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
