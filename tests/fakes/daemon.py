"""A scripted daemon for tests of the client and the command line: a thread on a Unix socket that answers from a table.

`answers[method]` is a list of answers; each call takes the next one and the last one stays. An answer is the
JSON-RPC result, a `Failure` (a JSON-RPC error), bytes (sent as they are, for misbehaviour) or None (the connection is
closed without an answer). Envelopes of the six calls are made by `envelope()` and checked against the contract's
schema, so that a test cannot teach the client a form that the daemon never gives.
"""

import json
import socket
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import jsonschema

SCHEMA = json.loads(Path(__file__).parents[1].joinpath("uapi.schema.json").read_text())

Json = dict[str, Any]


class Failure(NamedTuple):
    """A JSON-RPC error."""

    code: int
    message: str
    kind: str


def envelope(
    func: str, data: object = None, *, errors: list[str] | None = None, warnings: list[str] | None = None
) -> Json:
    """UAPI's answer to one of the six, checked. With `errors` it is `status` 0."""
    status = 0 if errors else 1
    result = {"data": data, "errors": errors, "messages": None, "metadata": {}, "status": status, "warnings": warnings}
    answer = {"apiversion": 3, "func": func, "module": "ClamScanner", "result": result}
    jsonschema.validate(answer, SCHEMA)
    if status:
        jsonschema.validate(data, {"$ref": f"#/$defs/{func}", "$defs": SCHEMA["$defs"]})
    return answer


class FakeDaemon:
    """Answers one connection at a time, in order. `calls` is what was asked: (method, params)."""

    def __init__(self, path: Path, answers: Mapping[str, list[Any]], *, greeting: bytes = b"") -> None:
        self.path = str(path)
        self.calls: list[tuple[str, Any]] = []
        self._answers = {method: list(rows) for method, rows in answers.items()}
        self._greeting = greeting
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(self.path)
        self._listener.listen()
        self._connection: socket.socket | None = None
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for end in (self._listener, self._connection):
            try:
                if end is not None:
                    end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # it is gone already
        self._thread.join()
        self._listener.close()

    def asked(self, method: str) -> list[Any]:
        """The parameters of each call of `method`."""
        return [params for name, params in self.calls if name == method]

    def _run(self) -> None:
        while True:
            try:
                self._connection, _ = self._listener.accept()
            except OSError:
                return
            with self._connection, self._connection.makefile("rb") as lines:
                try:
                    self._connection.sendall(self._greeting)
                    while (line := lines.readline()) and (answer := self._answer(json.loads(line))) is not None:
                        self._connection.sendall(answer)
                except OSError:
                    pass  # the client has left

    def _answer(self, request: Json) -> bytes | None:
        method = request["method"]
        self.calls.append((method, request.get("params")))
        rows = self._answers.get(method, [Failure(-32601, f"no method {method}", "method_not_found")])
        answer = rows.pop(0) if len(rows) > 1 else rows[0]
        if answer is None or isinstance(answer, bytes):
            return answer
        reply: Json = {"jsonrpc": "2.0", "id": request["id"]}
        if isinstance(answer, Failure):
            reply["error"] = {"code": answer.code, "message": answer.message, "data": {"kind": answer.kind}}
        else:
            reply["result"] = answer
        return json.dumps(reply).encode() + b"\n"
