"""Quarantine.*: what an account has in the vault, and what becomes of it. [daemon]

An id that never was, is another account's or has expired gives one and the same NotFound: nothing can be learned by
trying. Restoring is a task (pipeline/restore.py); deleting touches no home and is done at once.
"""

import time
from collections.abc import Sequence
from typing import Any

import msgspec

from clamscannerd.errors import InvalidParams, NotFound, Refused
from clamscannerd.model import PATH_MAX_BYTES, Account, Action, Item, is_beneath
from clamscannerd.rpc.names import from_wire
from clamscannerd.service.context import Context
from clamscannerd.service.status import shown
from clamscannerd.state.store_values import ItemEntry
from clamscannerd.state.vault_out import ItemLost

MAX_IDS = 10_000
"""Items in one call: one transaction, and a list that an answer can name."""

NAMED = 100
"""Items named in the answer of verify; all are counted."""

_PAGE = 200  # items of a verify asked of the index at once

STATES = {
    "quarantined": Action.QUARANTINE,
    "deleted": Action.DELETE,
    "mailbox-cleansed": Action.CLEANSE_MAILBOX,
}
"""What an item's state can be, in the words of the log: how it came here."""
_STATE_OF = {action: state for state, action in STATES.items()}


class ItemEngine(msgspec.Struct, frozen=True, kw_only=True):
    """As `engine` of get_scan_status: whose scan found it, with which signatures."""

    version: str
    database: int


class ItemShown(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a list. `task_id` is null once the task was pruned, `engine` when it is not known."""

    id: int
    file: str
    state: str
    size: int
    sha256: str
    signature: str
    engine: ItemEngine | None
    kept_at: float
    expires_at: float
    task_id: str | None


class ItemWhole(ItemShown, frozen=True, kw_only=True):
    """All that is known. `mode`: permission bits as chmod writes them. `scan_id` is null once the task was pruned."""

    owner: int
    group: int
    mode: str
    mtime: float
    xattrs_size: int
    scan_id: int | None


class Items(msgspec.Struct, frozen=True, kw_only=True):
    items: list[ItemShown]
    total: int


class Deleted(msgspec.Struct, frozen=True, kw_only=True):
    deleted: int


class Verified(msgspec.Struct, frozen=True, kw_only=True):
    """`damaged`: items whose content is gone or is not what was kept. `strays`: contents without an item, for
    administrators who ask about the whole vault; null else. Lists end at NAMED."""

    items: int
    intact: int
    damaged: list[int]
    damaged_count: int
    strays: list[str] | None
    stray_count: int | None


async def list_items(context: Context, account: Account, state: str | None, limit: int, offset: int) -> Items:
    """Oldest first."""
    actions = tuple(STATES.values()) if state is None else (_action(state),)
    total, entries = await context.store.item_entries(account.uid, account.name, actions, limit, offset, time.time())
    return Items(items=[ItemShown(**_common(account, entry)) for entry in entries], total=total)


def _action(state: str) -> Action:
    try:
        return STATES[state]
    except KeyError:
        raise InvalidParams(f"cannot list items: unknown state {state[:100]!r} (known: {', '.join(STATES)})") from None


async def show_item(context: Context, account: Account, item_id: int) -> ItemWhole:
    entry = await context.store.item_entry(account.uid, account.name, item_id, time.time())
    if entry is None:
        raise NotFound(f"cannot find item {item_id} in the vault of this account", id=item_id)
    meta = entry.meta
    return ItemWhole(
        **_common(account, entry),
        owner=meta.owner,
        group=meta.group,
        mode=f"{meta.mode & 0o7777:04o}",
        mtime=meta.mtime_ns / 1e9,
        xattrs_size=len(meta.xattrs),
        scan_id=entry.scan_id or None,
    )


def _common(account: Account, entry: ItemEntry) -> dict[str, Any]:
    item = entry.item
    return {
        "id": item.id,
        "file": shown(account.home, item.path),
        "state": _STATE_OF[item.action],
        "size": item.size,
        "sha256": item.sha256.hex(),
        "signature": item.signature,
        "engine": ItemEngine(version=item.engine, database=item.database) if item.engine else None,
        "kept_at": item.kept_at,
        "expires_at": item.expires_at,
        "task_id": entry.task_public_id or None,
    }


async def restore(
    context: Context, account: Account, asked_by: int, ids: Sequence[int], to: str | None, *, force: bool
) -> dict[str, str]:
    """Make the task durable and answer its id."""
    _check_ids("restore", ids)
    directory = None if to is None else directory_of(account.home, to)
    await context.need_room("restore")
    if why := context.suspended(account.uid):
        raise Refused(f"cannot start the restore: {why}")
    task = await context.store.add_restore(account, ids, directory, force=force, asked_by=asked_by, now=time.time())
    context.queued(account)
    return {"task_id": task.public_id}


def directory_of(home: bytes, to: str) -> bytes:
    """`to` as bytes beneath the home, b"" for the home itself. InvalidParams: it is not in the home, or no path."""
    try:
        path = from_wire(to)
    except ValueError as error:
        raise InvalidParams(f"cannot restore: {error}") from None
    if b"\0" in path:
        raise InvalidParams("cannot restore: a directory's name has no NUL")
    if path.startswith(b"/"):
        if path.rstrip(b"/") != home and not path.startswith(home + b"/"):
            raise InvalidParams(f"cannot restore: {to[:PATH_MAX_BYTES]} is not in the home directory")
        path = path[len(home) :].lstrip(b"/")
    path = path.rstrip(b"/")
    if not path or path == b".":
        if not to:
            raise InvalidParams('cannot restore: "to" names no directory ("." is the home directory)')
        return b""
    if not is_beneath(path):
        raise InvalidParams('cannot restore: "to" must lead straight down from the home directory, without . or ..')
    if len(path) > PATH_MAX_BYTES - 256:  # a name still has to fit
        raise InvalidParams(f"cannot restore: the directory's path is longer than {PATH_MAX_BYTES - 256} bytes")
    return path


def _check_ids(verb: str, ids: Sequence[int]) -> None:
    if not ids:
        raise InvalidParams(f"cannot {verb}: no item is named")
    if len(ids) > MAX_IDS:
        raise InvalidParams(f"cannot {verb} {len(ids)} items at once: {MAX_IDS} at most")
    seen: set[int] = set()
    for item_id in ids:
        if item_id in seen:
            raise InvalidParams(f"cannot {verb}: item {item_id} is named twice")
        seen.add(item_id)


async def delete(context: Context, account: Account, ids: Sequence[int]) -> Deleted:
    """For good. All of them or none."""
    _check_ids("delete", ids)
    gone = await context.store.delete_items(account, ids, time.time())
    await context.vault.discard(gone)
    return Deleted(deleted=len(gone))


async def verify(context: Context, account: Account | None) -> Verified:
    """Read every content of the account and compare it; None: of the whole vault, strays included."""
    owner = None if account is None else (account.uid, account.name)
    if owner in context.verifying:
        raise Refused("cannot verify the vault: it is being verified already")
    context.verifying.add(owner)
    try:
        async with context.verify_slots:
            seen, damaged = await _read_all(context, owner)
            report = await context.vault.survey() if owner is None else None
    finally:
        context.verifying.discard(owner)
    return Verified(
        items=seen,
        intact=seen - len(damaged),
        damaged=damaged[:NAMED],
        damaged_count=len(damaged),
        strays=None if report is None else list(report.strays),
        stray_count=None if report is None else report.stray_count,
    )


async def _read_all(context: Context, owner: tuple[int, str] | None) -> tuple[int, list[int]]:
    """How many items were read, and which of them are damaged."""
    damaged: list[int] = []
    seen = after = 0
    while items := await context.store.kept_items(owner, after, _PAGE):
        for item in items:
            seen += 1
            if not await _is_intact(context, item):
                damaged.append(item.id)
        after = items[-1].id
    return seen, damaged


async def _is_intact(context: Context, item: Item) -> bool:
    """One that was restored, deleted or expired since the page was read is no fault."""
    try:
        async with context.vault.open_item(item) as outgoing:
            while await outgoing.read():
                pass
    except ItemLost:
        return await context.store.get_item(item.id) is None
    return True
