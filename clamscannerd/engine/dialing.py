"""A connection to a clamd, over a Unix socket or TCP, with a deadline that is the caller's. [daemon, trio]

A nonblocking connect to a Unix socket whose backlog is full says EAGAIN and never becomes writable *connected*; so the
connect is tried again until the caller's deadline (trio's own would take it for connected).

Over TCP a host that vanishes says nothing: keep-alive ends such a connection in half a minute, and TCP_USER_TIMEOUT in
DEAD_S where something was being sent, whoever holds it by then. A clamd that is stopped has a kernel that answers for
it: that is for health.py to see. Addresses of a name are tried one after the other, each for its share of CONNECT_S:
engines are few, and near.

Rejected: trio.open_tcp_stream (its stream hides the socket that goes down to a worker).
"""

import errno
import os
import socket
from contextlib import ExitStack

import trio

from clamscannerd.addresses import HostPort, host_port
from clamscannerd.errors import EngineLost

CONNECT_S = 10.0  # three SYNs: 1, 2 and 4 s apart
DEAD_S = 120  # a clamd whose threads are all busy reads nothing for so long at times, and that counts here too
_IDLE_S, _PROBE_S, _PROBES = 15, 5, 3
_PAUSE_S = 0.02


async def open_socket(address: str) -> socket.socket:
    """A nonblocking socket connected to `address`; waits while a listener's backlog is full. Raises EngineLost."""
    if address.startswith("/"):
        return await _open_unix(address)
    place = host_port(address)
    if place is None:  # the configuration refuses it before
        raise EngineLost(f"cannot connect to clamd at {address}: no such kind of address")
    return await _open_tcp(address, place)


async def _open_unix(path: str) -> socket.socket:
    with ExitStack() as stack:
        sock = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK))
        while True:
            try:
                sock.connect(path)
            except BlockingIOError:
                await trio.sleep(_PAUSE_S)
            except OSError as error:
                raise EngineLost(f"cannot connect to clamd at {path}: {error.strerror or error}") from None
            else:
                await trio.lowlevel.checkpoint()
                stack.pop_all()
                return sock


async def _open_tcp(address: str, place: HostPort) -> socket.socket:
    try:
        found = await trio.socket.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM)
    except OSError as error:  # gaierror is one
        raise EngineLost(f"cannot find the host of clamd at {address}: {error.strerror or error}") from None
    cause = "the name has no address"
    for family, kind, protocol, _, target in found:
        with trio.move_on_after(CONNECT_S / len(found)) as patience:
            try:
                return await _connected(family, kind, protocol, target)
            except OSError as error:
                cause = error.strerror or str(error)
        if patience.cancelled_caught:
            cause = os.strerror(errno.ETIMEDOUT)
    raise EngineLost(f"cannot connect to clamd at {address}: {cause}")


async def _connected(family: int, kind: int, protocol: int, target: tuple[object, ...]) -> socket.socket:
    """Raises OSError."""
    with ExitStack() as stack:
        sock = stack.enter_context(socket.socket(family, kind | socket.SOCK_NONBLOCK, protocol))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # a command and its first chunk do not wait
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _IDLE_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _PROBE_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _PROBES)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, DEAD_S * 1000)
        try:
            sock.connect(target)
        except BlockingIOError:
            await trio.lowlevel.wait_writable(sock)
            if code := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                raise OSError(code, os.strerror(code)) from None
        else:
            await trio.lowlevel.checkpoint()
        stack.pop_all()
        return sock
