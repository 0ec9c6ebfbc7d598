"""A scriptable clamd for the tests: real sockets, real fds, and every kind of misbehaviour on request.

One thread accepts and each connection has its own, so it serves synchronous clients and trio alike. What it answers
when nothing is scripted is what clamd 1.4.6 answers; tests/component/test_engine_contract.py runs against both.
Verdicts go by content: EICAR and MARKER (tests/fakes/realclamd.py) are found, all else is OK; `verdicts` adds more.

    with FakeClamd() as clamd:
        clamd.faults[3] = Fault.CLOSE            # at the third file since the start, whoever sends it
        clamd.content_faults[b"bad"] = Fault.ERROR
        sock = open_session(clamd.socket_path)   # clamdclient.py: as engine/sessions.py hands it out
        number = send_content(sock, session := Session(), EICAR)
        assert receive(sock, session, 1)[0].id == number
"""

import array
import contextlib
import os
import re
import shutil
import socket
import stat
import tempfile
import threading
from collections.abc import Callable
from enum import Enum, auto
from types import TracebackType
from typing import Self

from clamscannerd.engine import clamproto
from tests.fakes.realclamd import EICAR, EICAR_NAME, MARKER, MARKER_NAME

_READ_BYTES = 1 << 20
_JOIN_S = 10.0
_IN_SESSION = (b"FILDES", b"INSTREAM", b"PING", b"VERSION", b"STATS", b"END")


class Fault(Enum):
    """What happens to one file. But for SILENCE, DELAY and REORDER the session is of no use afterwards."""

    GARBAGE = auto()  # bytes that are no reply
    PARTIAL = auto()  # half of the right reply, then the end
    SILENCE = auto()  # no reply to this one, the others go on
    DOUBLED = auto()  # the right reply twice
    FOREIGN = auto()  # the right reply under an id that was never sent
    CLOSE = auto()  # the end, without a reply
    ERROR = auto()  # "Can't allocate memory ERROR"
    DELAY = auto()  # the reply comes after `release()`
    REORDER = auto()  # the reply comes after the next one
    ENDLESS = auto()  # a reply that never ends
    TIMED_OUT = auto()  # COMMAND READ TIMED OUT and the end, as after ReadTimeout


class FakeClamd:
    """Listens on `socket_path`. Attributes may be changed at any time; they count from the next command on."""

    def __init__(self, socket_path: str | None = None) -> None:
        self._directory = tempfile.mkdtemp(prefix="fake-clamd-") if socket_path is None else None
        self.socket_path = f"{self._directory}/s" if socket_path is None else socket_path
        self.version = b"ClamAV 1.4.6"
        self.faults: dict[int, Fault] = {}
        """By number of the file, from 1, over all sessions."""
        self.content_faults: dict[bytes, Fault] = {}
        """By a part of the content."""
        self.verdicts: dict[bytes, str] = {EICAR: f"{EICAR_NAME} FOUND", MARKER: f"{MARKER_NAME} FOUND"}
        """By a part of the content: what stands after `fd[n]: `."""
        self.silent = False
        """Accepts and reads, and says nothing at all: a clamd that loads, or hangs."""
        self.broken_database = False
        """Answers PING and ends a session at its first scan, as clamd does whose reload failed."""
        self.nonsense: bytes | None = None
        """Sent in answer to the first bytes of every connection, instead of anything right."""
        self.contents: list[bytes] = []
        """What was scanned, in order of arrival."""
        self.commands: list[bytes] = []
        """Every command of every connection."""
        self._lock = threading.Lock()
        self._released = threading.Event()
        self._threads: list[threading.Thread] = []
        self._connections: set[socket.socket] = set()
        self._listener: socket.socket | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        assert self._listener is None, "the fake clamd is running already"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.socket_path)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(self.socket_path)
        listener.listen(64)
        self._listener = listener
        self._released.clear()
        self._spawn(self._accept, listener)

    def stop(self) -> None:
        """Like kill -9: everything is closed, the socket's file stays, connecting is refused."""
        listener, self._listener = self._listener, None
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)  # wakes accept()
        self._released.set()
        self.drop_all()
        for thread in self._threads:
            thread.join(_JOIN_S)
            assert not thread.is_alive(), "a thread of the fake clamd does not end"
        self._threads.clear()
        if listener is not None:
            listener.close()

    def close(self) -> None:
        self.stop()
        if self._directory is not None:
            shutil.rmtree(self._directory)

    def drop_all(self) -> None:
        """End every connection, go on listening."""
        with self._lock:
            for sock in self._connections:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

    def release(self) -> None:
        """Let every reply with Fault.DELAY go."""
        self._released.set()

    @property
    def open_connections(self) -> int:
        with self._lock:
            return len(self._connections)

    def _spawn(self, target: Callable[[socket.socket], None], sock: socket.socket) -> None:
        thread = threading.Thread(target=target, args=(sock,), daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            with self._lock:
                if self._listener is not listener:
                    sock.close()
                    return
                self._connections.add(sock)
            self._spawn(self._serve, sock)

    def _serve(self, sock: socket.socket) -> None:
        try:
            _Connection(self, sock).run()
        except OSError:
            return  # the client went away: clamd thinks nothing of it either
        finally:
            with self._lock:
                self._connections.discard(sock)
            sock.close()

    def plan(self, content: bytes, what: str) -> tuple[Fault | None, str]:
        """Note one file; its fault and its verdict. An empty stream is a health check and counts for nothing."""
        if not content and what == "stream":
            return None, "OK"
        with self._lock:
            self.contents.append(content)
            fault = self.faults.get(len(self.contents))
        for part, by_content in self.content_faults.items():
            if part in content:
                fault = by_content
        found = (verdict for part, verdict in self.verdicts.items() if part in content)
        return fault, next(found, "OK")

    @property
    def released(self) -> bool:
        return self._released.is_set()

    def wait_released(self) -> None:
        self._released.wait(60.0)


class _End(Exception):
    """Close this connection."""


class _Connection:
    """One connection, as clamd's receive thread sees it: commands in order, replies as they come."""

    def __init__(self, clamd: FakeClamd, sock: socket.socket) -> None:
        self._clamd = clamd
        self._sock = sock
        self._buffer = b""
        self._fds: list[int] = []
        self._session = False
        self._number = 0  # of the command within the session
        self._term = b"\0"
        self._held: list[bytes] = []
        self._late: list[bytes] = []

    def run(self) -> None:
        try:
            while self._receive():
                if self._clamd.nonsense is not None:
                    self._sock.sendall(self._clamd.nonsense)
                    raise _End
                while not self._clamd.silent and self._next_command():
                    pass
        except _End:
            self._flush_late()
        finally:
            for fd in self._fds:
                os.close(fd)

    def _receive(self) -> bool:
        """Bytes and fds; an fd never leaks into a child. False at the end."""
        while True:
            wait_s = 0.02 if self._late or self._clamd.silent else None  # until released, or no longer silent
            self._sock.settimeout(wait_s)
            try:
                data, parts, flags, _ = self._sock.recvmsg(65_536, socket.CMSG_SPACE(256), socket.MSG_CMSG_CLOEXEC)
            except TimeoutError:
                if self._clamd.released:
                    self._flush_late()
                if self._buffer and not self._clamd.silent:
                    return True
                continue
            finally:
                self._sock.settimeout(None)
            assert not flags & socket.MSG_CTRUNC, "fds were lost on the way"
            for level, kind, payload in parts:
                assert (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS)
                fds = array.array("i")
                fds.frombytes(payload)
                self._fds += fds
            self._buffer += data
            return bool(data)

    def _next_command(self) -> bool:
        """Carry out one command, if the buffer holds a whole one."""
        match = re.match(rb"z([^\0]*)\0|n([^\n]*)\n", self._buffer)
        if match is None:
            return False
        command: bytes = match[1] if match[1] is not None else match[2]
        end = match.end() + (command == b"FILDES")  # and the byte that carries the fd
        if len(self._buffer) < end:
            return False
        self._term = match[0][-1:]
        self._buffer = self._buffer[end:]
        self._clamd.commands.append(command)
        self._number += self._session
        self._execute(command)
        if not self._session:
            raise _End
        return True

    def _execute(self, command: bytes) -> None:
        if self._session and command not in _IN_SESSION:
            self._reply(b"Command invalid inside IDSESSION. ERROR")
            raise _End
        match command:
            case b"IDSESSION":
                self._session = True
            case b"PING":
                self._reply(b"PONG")
            case b"VERSION":
                self._reply(self._clamd.version)
            case b"STATS":
                self._reply(b"POOLS: 1\n\nSTATE: VALID PRIMARY\nQUEUE: 0 items\nEND")
            case b"RELOAD":
                self._reply(b"RELOADING")
            case b"FILDES":
                self._fildes()
            case b"INSTREAM":
                self._instream()
            case b"END" if self._session:
                raise _End
            case _:
                self._reply(b"UNKNOWN COMMAND")
                raise _End

    def _fildes(self) -> None:
        if not self._fds:
            self._reply(b"No file descriptor received. ERROR")
            raise _End
        fd = self._fds.pop(0)
        try:
            regular = stat.S_ISREG(os.fstat(fd).st_mode)
            self._scan(f"fd[{fd}]", _content(fd) if regular else None)
        finally:
            os.close(fd)

    def _instream(self) -> None:
        content = b""
        while size := int.from_bytes(self._take(4), "big"):
            content += self._take(size)
        self._scan("stream", content)

    def _take(self, size: int) -> bytes:
        while len(self._buffer) < size:
            if not self._receive():
                raise _End
        taken, self._buffer = self._buffer[:size], self._buffer[size:]
        return taken

    def _scan(self, what: str, content: bytes | None) -> None:
        if self._clamd.broken_database:
            raise _End
        fault, verdict = (None, "Not a regular file ERROR") if content is None else self._clamd.plan(content, what)
        right = f"{what}: {verdict}".encode()
        match fault:
            case None:
                self._reply(right)
            case Fault.GARBAGE:
                self._sock.sendall(b"\xff\xfe what is this\0")
            case Fault.PARTIAL:
                whole = self._framed(right)
                self._sock.sendall(whole[: len(whole) // 2])
                raise _End
            case Fault.SILENCE:
                return
            case Fault.DOUBLED:
                self._sock.sendall(2 * self._framed(right))
            case Fault.FOREIGN:
                self._sock.sendall(f"{self._number + 1000}: {what}: {verdict}\0".encode())
            case Fault.CLOSE:
                raise _End
            case Fault.ERROR:
                self._reply(f"{what}: Can't allocate memory ERROR".encode())
            case Fault.DELAY:
                self._late.append(self._framed(right))
            case Fault.REORDER:
                self._held.append(self._framed(right))
                return
            case Fault.ENDLESS:
                self._sock.sendall(b"x" * (2 * clamproto.MAX_REPLY_BYTES))
            case Fault.TIMED_OUT:
                self._sock.sendall(b"COMMAND READ TIMED OUT\n")
                raise _End
        while self._held:
            self._sock.sendall(self._held.pop(0))

    def _framed(self, text: bytes) -> bytes:
        number = b"%d: " % self._number if self._session else b""
        return number + text + self._term

    def _reply(self, text: bytes) -> None:
        self._sock.sendall(self._framed(text))

    def _flush_late(self) -> None:
        """What was delayed. The end of a session waits for it, as clamd waits for its threads."""
        if self._late:
            self._clamd.wait_released()
            late, self._late = self._late, []
            self._sock.sendall(b"".join(late))


def _content(fd: int) -> bytes:
    """All of the file, whatever its offset; nothing of one that cannot be read, as clamd does it."""
    content, place = b"", 0
    with contextlib.suppress(OSError):
        while part := os.pread(fd, _READ_BYTES, place):
            content += part
            place += len(part)
    return content
