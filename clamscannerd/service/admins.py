"""Who is an administrator: the names of server.admins as uids. [daemon]

passwd may be LDAP, and slower to come up than this daemon: a name that is not known is asked for again and again.
"""

import logging
from collections.abc import Sequence

import trio

from clamscannerd.errors import TimedOut
from clamscannerd.service.accounts import Accounts

log = logging.getLogger(__name__)

_AGAIN_S = 60.0  # one look-up a minute for a name that is misspelt costs nobody anything


class Admins:
    """One per daemon. `uids`: root always, and those of `names` that passwd knows."""

    def __init__(self, names: Sequence[str], accounts: Accounts) -> None:
        self.names = tuple(names)  # replaced by a reload, then look_up()
        self.uids = frozenset({0})
        self._accounts = accounts
        self._known: dict[str, int] = {}
        self._said: dict[str, str] = {}

    async def look_up(self) -> None:
        """All of them at once; one that does not answer in time stays what it was."""
        names = self.names
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
            self._known = found
            self.uids = frozenset({0, *found.values()})

    async def follow(self) -> None:
        """For ever: look again for those who are missing."""
        while True:
            await trio.sleep(_AGAIN_S)
            if len(self._known) < len(set(self.names)):
                await self.look_up()
