"""Daemon.*: what administrators can do with the daemon itself. [daemon]"""

from clamscannerd.service.context import Context


async def reload(context: Context) -> dict[str, object]:
    """Answers when the new configuration is in force: what SIGHUP does, with its outcome. Raises ConfigError."""
    return {"at_next_start": await context.reload()}
