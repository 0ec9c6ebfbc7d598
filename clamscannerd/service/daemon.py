"""Daemon.*: what administrators can do with the daemon itself. [daemon]"""

from typing import Literal

from clamscannerd.errors import UnknownAccount
from clamscannerd.model import Account
from clamscannerd.service.context import Context


async def reload(context: Context) -> dict[str, object]:
    """Answers when the new configuration is in force: what SIGHUP does, with its outcome. Raises ConfigError."""
    return {"at_next_start": await context.reload()}


async def health(context: Context, peer_uid: int, user: str | None, *, everybody: bool) -> dict[str, object]:
    """What is right and what is not, the worst first, each with its cure: the caller's home, or everybody's.

    A peer that has no files to scan, such as a monitoring program's user, hears what holds for all.
    """
    whose: Account | Literal["all"] | None = "all"
    if not everybody:
        try:
            whose = (await context.entry(peer_uid, user)).account
        except UnknownAccount:
            if user is not None:
                raise
            whose = None
    checks = await context.health(whose)
    return {"grade": checks[0].grade, "checks": checks}
