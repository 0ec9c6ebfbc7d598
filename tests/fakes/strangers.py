"""A client in a process of its own, whose ids are others than they seem, or others than they were.

    with Stranger.switched(path, connect_as=uid, then=other) as stranger:
        stranger.call("Task.list")                 # the answer as it is
    with Stranger.mapped(path, uid, SUBUID, inside=5) as stranger: ...

The file is the script as well, with nothing of the tests or the product in it: it connects, then carries lines from its
standard input to the socket and back.
"""

import ctypes
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

CLONE_NEWUSER = 0x10000000
MAPPED = 65_536
END_S = 60.0


class Stranger:
    """Lives as long as the context; `words`: what the script is told, `before`: a program to start it under."""

    def __init__(self, path: str, *words: str, before: tuple[str, ...] = ()) -> None:
        command = [*before, sys.executable, "-I", __file__, path, *words]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    @classmethod
    def switched(cls, path: str, *, connect_as: int, then: int) -> Self:
        """Connects under one uid, and is wholly another before it says anything."""
        return cls(path, "switched", str(connect_as), str(then))

    @classmethod
    def namespace_root(cls, path: str, uid: int, gid: int) -> Self:
        """Root of a user namespace that this uid made for itself."""
        drop = ("setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups", "unshare", "-U", "-r")
        return cls(path, "plain", before=drop)

    @classmethod
    def mapped(cls, path: str, uid: int, first: int, inside: int) -> Self:
        """In a user namespace of `uid` (0 inside) with uids from `first` on, as newuidmap gives them (1 inside, ...);
        connects as `inside`. -1: no map at all, everybody is 65534 inside."""
        stranger = cls(path, "mapped", str(uid), str(inside))
        assert stranger._line() == {"unshared": True}
        if inside >= 0:
            for kind in ("uid", "gid"):
                text = f"0 {uid} 1\n1 {first} {MAPPED}\n"
                Path(f"/proc/{stranger.process.pid}/{kind}_map").write_text(text)
        stranger._say("go")
        return stranger

    def __enter__(self) -> Self:
        self.seen: dict[str, Any] = self._line()  # its own ids as it sees them, once it is connected
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.communicate(timeout=END_S)

    def call(self, method: str, params: object = None) -> dict[str, Any]:
        request: dict[str, object] = {"jsonrpc": "2.0", "id": 1, "method": method}
        if params is not None:
            request["params"] = params
        self._say(json.dumps(request))
        return self._line()

    def _say(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def _line(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer


def _main(path: str, how: str, *words: str) -> None:
    sock = socket.socket(socket.AF_UNIX)
    if how == "mapped":
        uid, inside = map(int, words)
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        # A process that gave up root's ids is not dumpable, and then its maps are root's own to write: as it is.
        if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWUSER) != 0:
            raise OSError(ctypes.get_errno(), "unshare")
        _tell({"unshared": True})
        sys.stdin.buffer.readline()
        if inside >= 0:
            os.setresgid(inside, inside, inside)
            os.setresuid(inside, inside, inside)
    if how == "switched":
        os.seteuid(int(words[0]))
    sock.connect(path)
    if how == "switched":
        os.seteuid(0)
        os.setresuid(*[int(words[1])] * 3)
    _tell({"uid": os.getuid(), "euid": os.geteuid()})
    stream = sock.makefile("rwb")
    for line in sys.stdin.buffer:
        stream.write(line)
        stream.flush()
        sys.stdout.buffer.write(stream.readline())
        sys.stdout.flush()


def _tell(value: object) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    _main(*sys.argv[1:])
