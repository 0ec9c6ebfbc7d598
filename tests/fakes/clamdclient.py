"""A synchronous client of clamd sessions for the tests, on engine/clamproto.py: for the fake clamd and the real one."""

import array
import os
import socket

from clamscannerd.engine import clamproto


def open_session(path: str, timeout_s: float = 10.0) -> socket.socket:
    """A session as engine/sessions.py hands it out: HANDSHAKE is done, the next id is clamproto.FIRST_ID."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(timeout_s)
        sock.connect(path)
        sock.sendall(clamproto.HANDSHAKE)
        answer = sock.recv(4096)
        assert answer == clamproto.HANDSHAKE_REPLY, f"no PONG but {answer!r}"
    except BaseException:
        sock.close()
        raise
    return sock


def send_fd(sock: socket.socket, session: clamproto.Session, fd: int) -> int:
    """One FILDES; the id it will be answered under."""
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
    assert sock.sendmsg([clamproto.FILDES_MESSAGE], rights) == len(clamproto.FILDES_MESSAGE)
    return session.sent()


def send_content(sock: socket.socket, session: clamproto.Session, content: bytes) -> int:
    """One FILDES of a file in memory; the id it will be answered under."""
    fd = os.memfd_create("content", os.MFD_CLOEXEC)
    try:
        os.write(fd, content)
        return send_fd(sock, session, fd)
    finally:
        os.close(fd)


def receive(sock: socket.socket, session: clamproto.Session, count: int) -> list[clamproto.Reply]:
    """The next `count` replies; fewer if clamd ends the session in good order."""
    replies: list[clamproto.Reply] = []
    while len(replies) < count:
        data = sock.recv(65_536)
        if not data:
            session.receive_eof()
            break
        replies += session.receive_data(data)
    return replies
