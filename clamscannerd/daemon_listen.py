"""The sockets that clients connect to: systemd's, or one of our own. [daemon]"""

import os
import socket
import stat

from clamscannerd import systemd
from clamscannerd.errors import ClamscannerdError

_BACKLOG = 4_096  # the kernel cuts it to net.core.somaxconn: clients wait there while the daemon is busy


def listeners(path: str) -> list[socket.socket]:
    """systemd's sockets, or one of our own at `path`. Raises ClamscannerdError."""
    given = systemd.listeners()
    if given:
        return given
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path)
        sock.bind(path)
        os.chmod(path, 0o666)  # noqa: S103  every local user may call; who calls is the kernel's word
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        raise ClamscannerdError(f"cannot listen on {path}: {error.strerror}") from None
    return [sock]


def _remove_stale(path: str) -> None:
    """A socket that nobody serves any more. One that answers is another daemon's."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise ClamscannerdError(f"cannot listen on {path}: it is no socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe_sock:
        probe_sock.settimeout(1)
        try:
            probe_sock.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
    raise ClamscannerdError(f"cannot listen on {path}: another daemon serves it")
