"""Whose word a connection's calls are, for as long as it lives. [daemon]

The peer is SO_PEERCRED's uid, read once at accept. Its pid is never used: it may be another process by now.

The kernel says which uid connected, and says it for ever. But a uid can go to somebody else meanwhile, and then an
open connection, which can be handed on to any process, would speak for the newcomer. So the name behind the uid is
looked up when the connection comes, and each call is refused once there is another. What administrators may do counts
by their names, too: those are looked up again before a call of theirs is decided.
"""

import socket
import struct
from contextlib import suppress
from typing import Protocol

import trio

from clamscannerd.errors import TimedOut, UnknownAccount
from clamscannerd.model import Peer
from clamscannerd.rpc.access import ROOT_UID, Rule

UNKNOWN_UID = 0xFFFF_FFFF


def peer_of(sock: trio.socket.SocketType) -> Peer | None:
    """Who is at the other end; None where the kernel cannot say: whom nobody knows, nobody serves."""
    layout = struct.Struct("iII")  # struct ucred: pid_t, uid_t, gid_t
    try:
        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, layout.size)
    except OSError:
        return None
    if len(credentials) != layout.size:
        return None
    _, uid, gid = layout.unpack(credentials)
    return None if uid == UNKNOWN_UID else Peer(uid=uid, gid=gid)


class People(Protocol):
    """Who stands behind uids: passwd. Both raise TimedOut."""

    async def name_of(self, uid: int) -> str:
        """Empty: nobody."""

    async def admins(self) -> frozenset[int]:
        """The uids of administrators as of now."""


class Speaker:
    """One connection's. `people`: None where nothing depends on who asks."""

    def __init__(self, people: People | None, uid: int) -> None:
        self._people = people
        self._uid = uid
        self._name: str | None = None  # None: it could not be looked up, and nobody can say later whose it was

    @property
    def name(self) -> str | None:
        return self._name

    async def learn(self) -> None:
        """At accept, before the first call."""
        if self._people is not None:
            with suppress(TimedOut):
                self._name = await self._people.name_of(self._uid)

    async def decide(self, rule: Rule, admins: frozenset[int]) -> frozenset[int]:
        """Before a call: the uids of administrators, which were `admins` lately. Raises UnknownAccount, TimedOut."""
        if self._people is None or self._uid == ROOT_UID:
            return admins
        if rule is not Rule.ANYONE and self._name != await self._people.name_of(self._uid):
            raise UnknownAccount("cannot take the call: the user of this connection is another by now: connect again")
        return await self._people.admins() if self._uid in admins else admins
