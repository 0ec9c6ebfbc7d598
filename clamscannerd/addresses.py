"""Addresses of engines, as engine.sockets has them: "/path" or "tcp://host:port". Pure.

A host is a name, an IPv4 address, or an IPv6 address in brackets. Used by config.py (what is written) and by
engine/ (where to connect). Rejected: urllib.parse, which takes "tcp://a b:1" and "tcp://user@host:1".
"""

import re
from typing import NamedTuple

EXPECTED = '"/path" or "tcp://host:port"'

_TCP = re.compile(r"tcp://(?:\[([0-9A-Fa-f:.%a-z]+)\]|([A-Za-z0-9_.-]{1,253})):([0-9]{1,5})")
_MOST_PORT = 65_535


class HostPort(NamedTuple):
    """`host` without brackets."""

    host: str
    port: int


def is_remote(address: str) -> bool:
    """Whether it is reached over TCP: no open file passes there, contents are streamed."""
    return not address.startswith("/")


def host_port(address: str) -> HostPort | None:
    """Where a "tcp://" address leads; None for any other, or a wrong one."""
    match = _TCP.fullmatch(address)
    if match is None or not 0 < int(match[3]) <= _MOST_PORT:
        return None
    return HostPort(match[1] or match[2], int(match[3]))


def fits(address: str) -> bool:
    """Whether it is an address at all."""
    return host_port(address) is not None or (address.startswith("/") and "\0" not in address)
