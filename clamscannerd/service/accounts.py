"""Who may be served: passwd entries, and the rules for them that need no look into a home. [daemon]

passwd may be LDAP: look-ups run in a thread, with a time limit; a few threads at most can hang there. What the home
itself must be is checked by the worker (worker/beneath.py), which is that user. Answers are kept for a few seconds for
calls, and not across a change of /etc/passwd: a uid that is given to somebody else must not bring them what was said
of the one before. What is asked for again when it is nearly too old is looked up beside, so that who polls every second
or two waits for no look-up. Jobs look afresh when they start and ask again before each step; the worker's own drop
looks too.
"""

import grp
import os
import pwd
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import NamedTuple, Protocol, TypeVar

import trio

from clamscannerd.errors import SpawnRefused, TimedOut, UnknownAccount
from clamscannerd.model import Account, Frozen

T = TypeVar("T")

_LOCAL = "/etc/passwd"
_FRESH_S = 5.0  # a new entry of LDAP is seen within this, one of _LOCAL at once; polls cost no look-up each
_AGES_AT = 0.6  # of that; then it is looked up again beside
_KEPT = 4_096  # entries; then the memory starts over
_THREADS = 4  # look-ups at once: when LDAP hangs, no more threads hang with it
_NOBODY = 65_534
_NO_UID = 2**32 - 1


class Entry(Frozen, frozen=True, kw_only=True):
    """An account that may be served, with the names of its groups (for who may use a scan type)."""

    account: Account
    groups: frozenset[str]


class Passwd(NamedTuple):
    """One state of the local file: the tools replace it whole, and in place is a new mtime."""

    ino: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def now(cls) -> "Passwd":
        try:
            status = os.stat(_LOCAL)
        except OSError:  # the tools leave no such moment; an answer that was found in one counts for nothing later
            return cls(0, 0, 0, 0)
        return cls(status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


class Rounds(Protocol):
    """Of trio's loop (rpc/rounds.py)."""

    @property
    def number(self) -> int: ...


class Moments:
    """What time it is, and what the local file is like: looked up once each time that trio's loop goes round, as a call
    asks twice and there may be many. `rounds`: counts how often it went round; without it each look is a new one.

    What is answered in one round was asked before it began; so nobody is told what was true before they asked.
    """

    def __init__(self, rounds: Rounds | None) -> None:
        self._rounds = rounds
        self._round = -1
        self._now = (0.0, Passwd(0, 0, 0, 0))

    def now(self) -> tuple[float, Passwd]:
        if self._rounds is None or self._round != self._rounds.number:
            self._now = trio.current_time(), Passwd.now()
            self._round = -1 if self._rounds is None else self._rounds.number
        return self._now


class _Known(NamedTuple):
    """`asked`, `when`: before and after the look-up."""

    asked: float
    when: float
    passwd: Passwd
    entry: Entry | str

    def is_fresh(self, now: float, passwd: Passwd) -> bool:
        return now - self.when < _FRESH_S and self.passwd == passwd

    def ages(self, now: float) -> bool:
        return now - self.when >= _FRESH_S * _AGES_AT


class Accounts:
    """`only_uid`: a user's own daemon serves that uid alone, whatever min_uid says."""

    def __init__(self, *, min_uid: int, timeout_s: float, only_uid: int | None, rounds: Rounds | None = None) -> None:
        self.min_uid = min_uid  # replaced by a reload
        self.timeout_s = timeout_s  # likewise
        self._only_uid = only_uid
        self._threads = trio.CapacityLimiter(_THREADS)
        self._moments = Moments(rounds)
        self._known: dict[int | str, _Known] = {}
        self._names: dict[int, _Known] = {}
        self._ageing: dict[tuple[str, int | str], Callable[[], Awaitable[object]]] = {}  # to be looked up again
        self._some_age = trio.Event()

    async def keep_fresh(self) -> None:
        """Until cancelled: looks up again what is asked for, before it is too old. Without it who asks then looks."""
        while True:
            await self._some_age.wait()
            self._some_age = trio.Event()
            while self._ageing:
                look = self._ageing.pop(next(iter(self._ageing)))
                # Whatever it is, who asks next looks, and is told. (RuntimeError: no thread could be started.)
                with suppress(UnknownAccount, TimedOut, RuntimeError, MemoryError):
                    await look()

    def _look_again_soon(self, kind: str, key: int | str, look: Callable[[], Awaitable[object]]) -> None:
        if len(self._ageing) < _KEPT:
            self._ageing[kind, key] = look
            self._some_age.set()

    async def by_uid(self, uid: int, *, fresh: bool = False) -> Entry:
        """Raises UnknownAccount with the rule that refuses it, TimedOut when passwd does not answer."""
        look = partial(self._get, uid, partial(pwd.getpwuid, uid))
        if not fresh and (entry := self._remembered(uid, look)) is not None:
            return entry
        return await look()

    async def by_name(self, name: str) -> Entry:
        """The same for a name that an administrator gave."""
        if "\0" in name:
            raise UnknownAccount("cannot serve this account: there is no such user")
        look = partial(self._get, name, partial(pwd.getpwnam, name))
        return self._remembered(name, look) or await look()

    async def resolve(self, uid: int, name: str) -> Account:
        """For a job: the account as passwd has it now. UnknownAccount when another name stands behind the uid."""
        try:
            return _named(await self.by_uid(uid, fresh=True), name)
        except TimedOut as error:
            raise TimeoutError(str(error)) from None

    async def confirm(self, account: Account) -> None:
        """For a job before each step: the uid is still this user's. UnknownAccount, or SpawnRefused: nobody can say."""
        try:
            _named(await self.by_uid(account.uid), account.name)
        except TimedOut as error:
            raise SpawnRefused(str(error)) from None

    async def name_of(self, uid: int) -> str:
        """Who stands behind a uid, served or not; "": nobody. Raises TimedOut."""
        known = self._names.get(uid)
        now, state = self._moments.now()
        if known is None or not known.is_fresh(now, state):
            return await self._look_up_name(uid)
        if known.ages(now):
            self._look_again_soon("name", uid, partial(self._look_up_name, uid))
        return str(known.entry)

    async def _look_up_name(self, uid: int) -> str:
        def work() -> str:
            try:
                return pwd.getpwuid(uid).pw_name
            except (KeyError, OverflowError, ValueError):
                return ""

        asked, passwd = trio.current_time(), Passwd.now()
        name = await self._in_time(work)
        self._learn_name(uid, _Known(asked, trio.current_time(), passwd, name))
        return name

    def _learn_name(self, uid: int, known: _Known) -> None:
        _keep(self._names, uid, known)
        self._ageing.pop(("name", uid), None)

    def _remembered(self, key: int | str, look: Callable[[], Awaitable[Entry]]) -> Entry | None:
        known = self._known.get(key)
        now, state = self._moments.now()
        if known is None or not known.is_fresh(now, state) or not isinstance(known.entry, Entry):
            return None
        if known.ages(now):
            self._look_again_soon("account", key, look)
        return known.entry

    async def _get(self, key: int | str, look: Callable[[], pwd.struct_passwd]) -> Entry:
        def work() -> Entry:
            try:
                found = look()
            except (KeyError, OverflowError, ValueError):
                raise UnknownAccount("cannot serve this account: there is no such user") from None
            return self._judge(found)

        asked, passwd = trio.current_time(), Passwd.now()  # what changes during the look-up makes the answer old
        try:
            entry = await self._in_time(work)
        except UnknownAccount:
            self._known.pop(key, None)
            raise
        if (old := self._known.get(key)) is not None and old.entry == entry:
            entry = old.entry  # service/polls.py knows an account by its object
        now = trio.current_time()
        _keep(self._known, key, _Known(asked, now, passwd, entry))
        self._ageing.pop(("account", key), None)
        if key == entry.account.uid:  # of several names of a uid only this way round it is the one that counts
            self._learn_name(entry.account.uid, _Known(asked, now, passwd, entry.account.name))
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
            if uid == 0:
                raise UnknownAccount("cannot serve this account: root has no scans of its own, and may name any user")
            raise UnknownAccount(f"cannot serve this account: uid {uid} is not one of a person (see accounts.min_uid)")
        if not home.startswith(b"/") or not home.strip(b"/"):
            raise UnknownAccount("cannot serve this account: its home directory is not an absolute path below /")
        if {b".", b".."} & set(home.split(b"/")):
            raise UnknownAccount("cannot serve this account: its home directory has . or .. in its path")
        plain = _plain(home)
        for other in pwd.getpwall():
            if other.pw_uid != uid and _plain(os.fsencode(other.pw_dir)) == plain:
                raise UnknownAccount("cannot serve this account: another user has the same home directory")
        account = Account(uid=uid, gid=found.pw_gid, name=found.pw_name, home=b"/" + home.strip(b"/"))
        return Entry(account=account, groups=_groups(found))


def _named(entry: Entry, name: str) -> Account:
    if entry.account.name != name:
        raise UnknownAccount(f"uid {entry.account.uid} is no longer the user it was")
    return entry.account


def _keep(known: dict[T, _Known], key: T, value: _Known) -> None:
    if (other := known.get(key)) is not None and other.asked > value.asked:
        return
    if len(known) >= _KEPT:
        known.clear()
    known[key] = value


def _plain(home: bytes) -> bytes:
    """One spelling of a path, without a look at it: `//`, and `.` or `..` in somebody else's entry."""
    return b"/" + os.path.normpath(home).lstrip(b"/")


def _groups(found: pwd.struct_passwd) -> frozenset[str]:
    names = set()
    for gid in os.getgrouplist(found.pw_name, found.pw_gid):
        try:
            names.add(grp.getgrgid(gid).gr_name)
        except KeyError:  # a group without a name cannot be named in the configuration either
            continue
    return frozenset(names)
