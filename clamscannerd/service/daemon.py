"""Daemon.*: what administrators can do with the daemon itself. [daemon]"""

import time
from typing import Literal

from clamscannerd.errors import StateError, UnknownAccount
from clamscannerd.model import Account, Check, Grade
from clamscannerd.service.context import Context


async def reload(context: Context) -> dict[str, object]:
    """Answers when the new configuration is in force: what SIGHUP does, with its outcome. Raises ConfigError."""
    return {"at_next_start": await context.reload()}


async def health(context: Context, peer_uid: int, user: str | None, *, everybody: bool) -> dict[str, object]:
    """What is right and what is not, the worst first, each with its cure: the caller's home, or everybody's.

    A peer that has no files to scan, such as a monitoring program's user, hears what holds for all.
    """
    whose: Account | Literal["all"] | None = "all" if everybody else await _asker(context, peer_uid, user)
    checks = await context.health(whose)
    return {"grade": checks[0].grade, "checks": checks}


async def self_test(context: Context, peer_uid: int, user: str | None, *, everybody: bool) -> Check:
    """Have the EICAR test file scanned as scans are: for the caller's account; for an administrator who names none, for
    the account whose scan was asked for last. The engine alone, where there is no account."""
    return await context.self_test(await _scanned_last(context) if everybody else await _asker(context, peer_uid, user))


async def verify(context: Context) -> Check:
    """Read the whole database and say whether it is as it should be."""
    started = time.monotonic()
    async with context.database_slot:
        try:
            await context.store.verify()
        except StateError as error:
            cure = "stop the daemon, keep a copy of state.directory, and put a backup of all of it in its place"
            return Check(id="database", grade=Grade.ERROR, message=f"{error}.", cure=cure)
    took_s = time.monotonic() - started
    return Check(id="database", grade=Grade.OK, message=f"The database is whole: read in {took_s:.1f} s.")


async def _asker(context: Context, peer_uid: int, user: str | None) -> Account | None:
    """Whom a call is for; None: a peer who names nobody and has no files to scan."""
    try:
        return (await context.entry(peer_uid, user)).account
    except UnknownAccount:
        if user is not None:
            raise
        return None


async def _scanned_last(context: Context) -> Account | None:
    found = await context.store.last_account()
    try:
        return None if found is None else await context.accounts.resolve(*found)
    except (UnknownAccount, TimeoutError):
        return None
