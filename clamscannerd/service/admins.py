"""Who is an administrator: the names of server.admins as uids. [daemon]

passwd may be LDAP, and slower to come up than this daemon: a name that is not known is asked for again and again. And a
uid may go to somebody else: before an administrator's word counts, the names are looked up again (`confirm`).
"""

import logging
import math
from collections.abc import Sequence

import trio

from clamscannerd.errors import TimedOut
from clamscannerd.service.accounts import Accounts, Passwd

log = logging.getLogger(__name__)

_AGAIN_S = 60.0  # one look-up a minute for a name that is misspelt costs nobody anything
_FRESH_S = 5.0  # as in accounts.py


class Admins:
    """One per daemon. `uids`: root always, and those of `names` that passwd knows."""

    def __init__(self, names: Sequence[str], accounts: Accounts) -> None:
        self.names = tuple(names)  # replaced by a reload, then look_up()
        self.uids = frozenset({0})
        self._accounts = accounts
        self._known: dict[str, int] = {}
        self._said: dict[str, str] = {}
        self._looked_up: tuple[float, Passwd | None] = (-math.inf, None)

    async def confirm(self) -> frozenset[int]:
        """`uids` as of now: not from before a change of /etc/passwd, and not from longer ago than LDAP may say."""
        when, passwd = self._looked_up
        if passwd != Passwd.now() or trio.current_time() - when >= _FRESH_S:
            await self.look_up()
        return self.uids

    async def look_up(self) -> None:
        """All of them at once; one that does not answer in time stays what it was."""
        names, looked_up = self.names, (trio.current_time(), Passwd.now())
        found: dict[str, int] = {}

        async def one(name: str) -> None:
            try:
                uid = await self._accounts.uid_of(name)
                problem = f"there is no user {name!r}" if uid is None else ""
            except TimedOut as error:
                uid, problem = self._known.get(name), f"{name!r}: {error}"
            if uid is not None:
                found[name] = uid
            if problem and problem != self._said.get(name):
                log.warning("server.admins: %s", problem)
            self._said[name] = problem

        async with trio.open_nursery() as nursery:
            for name in names:
                nursery.start_soon(one, name)
        if names is self.names:  # else a reload came between, and looks them up itself
            self._known, self._looked_up = found, looked_up
            self.uids = frozenset({0, *found.values()})

    async def follow(self) -> None:
        """For ever: look again for those who are missing."""
        while True:
            await trio.sleep(_AGAIN_S)
            if len(self._known) < len(set(self.names)):
                await self.look_up()


class People:
    """rpc/speaker.People over both."""

    def __init__(self, accounts: Accounts, admins: Admins) -> None:
        self.name_of = accounts.name_of
        self.admins = admins.confirm
