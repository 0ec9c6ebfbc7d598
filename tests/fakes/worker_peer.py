"""The daemon's end of a worker's channel, by hand: a real worker process under the test's own uid."""

import array
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Self, TypeVar

from clamscannerd.engine.clamproto import HANDSHAKE, HANDSHAKE_REPLY
from clamscannerd.worker.messages import MAX_MESSAGE_BYTES, Hello, Message, Progress, Reply, decode_reply, encode

M = TypeVar("M", bound=Message)
_CODE = """
import os, sys
from clamscannerd.worker import main
sys.exit(main.serve(int(sys.argv[1]), os.fsencode(sys.argv[2]), os.getuid(), {}))
"""


def clamd_session(path: str) -> socket.socket:
    """A session as the daemon opens it."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.connect(path)
    sock.sendall(HANDSHAKE)
    assert sock.recv(100) == HANDSHAKE_REPLY
    return sock


class WorkerPeer:
    """Starts the worker; `hello` is its first message. Ends it on exit."""

    def __init__(self, home: Path | bytes, *, wrapper: Sequence[str] = (), code: str = _CODE) -> None:
        self.sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.settimeout(60)
        with theirs:
            self.process = subprocess.Popen(
                [*wrapper, sys.executable, "-c", code, str(theirs.fileno()), os.fsdecode(home)],
                pass_fds=[theirs.fileno()],
            )

    def __enter__(self) -> Self:
        self.hello = self.expect(Hello)
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()
        self.process.wait(30)

    def send(self, message: Message, fds: Sequence[int] = ()) -> None:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self.sock.sendmsg([encode(message)], rights)

    def receive(self) -> Reply:
        data = self.sock.recv(MAX_MESSAGE_BYTES)
        assert data, "the worker closed its channel"
        return decode_reply(data)

    def expect(self, kind: type[M]) -> M:
        reply = self.receive()
        assert isinstance(reply, kind), reply
        return reply

    def until(self, kind: type[M]) -> tuple[list[Reply], M]:
        """Everything but Progress up to the first message of `kind`, and that."""
        seen: list[Reply] = []
        while True:
            reply = self.receive()
            if isinstance(reply, kind):
                return seen, reply
            if not isinstance(reply, Progress):
                seen.append(reply)
