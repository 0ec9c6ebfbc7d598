"""Who may be served: passwd entries, and the rules for them that need no look into a home. [daemon]

passwd may be LDAP: look-ups run in a thread, with a time limit; a few threads at most can hang there. What the home
itself must be is checked by the worker (worker/beneath.py), which is that user. Answers are kept for a few seconds for
calls; jobs look afresh, and the worker's own drop looks once more.
"""

import grp
import os
import pwd
from collections.abc import Callable
from typing import TypeVar

import trio

from clamscannerd.errors import TimedOut, UnknownAccount
from clamscannerd.model import Account, Frozen

T = TypeVar("T")

_FRESH_S = 5.0  # a new password entry is seen within this; polls cost no look-up each
_KEPT = 4_096  # entries; then the memory starts over
_THREADS = 4  # look-ups at once: when LDAP hangs, no more threads hang with it
_NOBODY = 65_534
_NO_UID = 2**32 - 1


class Entry(Frozen, frozen=True, kw_only=True):
    """An account that may be served, with the names of its groups (for who may use a scan type)."""

    account: Account
    groups: frozenset[str]


class Accounts:
    """`only_uid`: a user's own daemon serves that uid alone, whatever min_uid says."""

    def __init__(self, *, min_uid: int, timeout_s: float, only_uid: int | None) -> None:
        self.min_uid = min_uid  # replaced by a reload
        self.timeout_s = timeout_s  # likewise
        self._only_uid = only_uid
        self._threads = trio.CapacityLimiter(_THREADS)
        self._known: dict[int | str, tuple[float, Entry]] = {}

    async def by_uid(self, uid: int, *, fresh: bool = False) -> Entry:
        """Raises UnknownAccount with the rule that refuses it, TimedOut when passwd does not answer."""
        return await self._get(uid, lambda: pwd.getpwuid(uid), fresh=fresh)

    async def by_name(self, name: str) -> Entry:
        """The same for a name that an administrator gave."""
        if "\0" in name:
            raise UnknownAccount("cannot serve this account: there is no such user")
        return await self._get(name, lambda: pwd.getpwnam(name), fresh=False)

    async def resolve(self, uid: int, name: str) -> Account:
        """For a job: the account as passwd has it now. UnknownAccount when another name stands behind the uid."""
        try:
            account = (await self.by_uid(uid, fresh=True)).account
        except TimedOut as error:
            raise TimeoutError(str(error)) from None
        if account.name != name:
            raise UnknownAccount(f"uid {uid} is no longer the user it was")
        return account

    async def _get(self, key: int | str, look: Callable[[], pwd.struct_passwd], *, fresh: bool) -> Entry:
        known = self._known.get(key)
        if known is not None and not fresh and trio.current_time() - known[0] < _FRESH_S:
            return known[1]

        def work() -> Entry:
            try:
                found = look()
            except (KeyError, OverflowError, ValueError):
                raise UnknownAccount("cannot serve this account: there is no such user") from None
            return self._judge(found)

        entry = await self._in_time(work)
        if len(self._known) >= _KEPT:
            self._known.clear()
        self._known[key] = (trio.current_time(), entry)
        return entry

    async def uid_of(self, name: str) -> int | None:
        """Of any user, served or not; None: there is none of this name. Raises TimedOut."""

        def work() -> int | None:
            try:
                return pwd.getpwnam(name).pw_uid
            except (KeyError, ValueError):
                return None

        return await self._in_time(work)

    async def homes(self) -> list[bytes]:
        """Of all who may be served, as far as passwd lists them: LDAP may choose not to. Raises TimedOut."""

        def work() -> list[bytes]:
            entries = pwd.getpwall()
            if self._only_uid is not None:
                return [os.fsencode(entry.pw_dir) for entry in entries if entry.pw_uid == self._only_uid]
            served = (entry for entry in entries if entry.pw_uid >= self.min_uid and entry.pw_uid != _NOBODY)
            return [os.fsencode(entry.pw_dir) for entry in served]

        return await self._in_time(work)

    async def _in_time(self, work: Callable[[], T]) -> T:
        try:
            with trio.fail_after(self.timeout_s):
                return await trio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=self._threads)
        except trio.TooSlowError:
            raise TimedOut(f"cannot look up the account: no answer within {self.timeout_s:g} s") from None

    def _judge(self, found: pwd.struct_passwd) -> Entry:
        """[thread] The rules of the architecture, each with its own sentence."""
        uid, home = found.pw_uid, os.fsencode(found.pw_dir)
        if self._only_uid is not None:
            if uid != self._only_uid:
                raise UnknownAccount(f"cannot serve this account: this daemon serves uid {self._only_uid} alone")
        elif uid < self.min_uid or uid in (0, _NOBODY, _NO_UID):
            raise UnknownAccount(f"cannot serve this account: uid {uid} is not one of a person (see accounts.min_uid)")
        if not home.startswith(b"/") or not home.strip(b"/"):
            raise UnknownAccount("cannot serve this account: its home directory is not an absolute path below /")
        for other in pwd.getpwall():
            if other.pw_uid != uid and os.fsencode(other.pw_dir).rstrip(b"/") == home.rstrip(b"/"):
                raise UnknownAccount("cannot serve this account: another user has the same home directory")
        account = Account(uid=uid, gid=found.pw_gid, name=found.pw_name, home=b"/" + home.strip(b"/"))
        return Entry(account=account, groups=_groups(found))


def _groups(found: pwd.struct_passwd) -> frozenset[str]:
    names = set()
    for gid in os.getgrouplist(found.pw_name, found.pw_gid):
        try:
            names.add(grp.getgrgid(gid).gr_name)
        except KeyError:  # a group without a name cannot be named in the configuration either
            continue
    return frozenset(names)
