"""Ignore.*: what an account wants listed as ignored. [daemon] What comes of it: ignoring.py."""

import binascii
import time
from typing import Literal

import msgspec

from clamscannerd.errors import InvalidParams, NotFound, Refused
from clamscannerd.globs import BadGlob, Glob, quoted
from clamscannerd.model import Account, IgnoreEntry, IgnoreKind
from clamscannerd.rpc.names import from_wire, to_wire
from clamscannerd.service.context import Context

_LONGEST_S = 36_500 * 86_400.0  # a hundred years, as in the configuration
_SIGNATURE_MAX_CHARS = 500  # so many of a signature are kept


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of the list. `value`: of a path the glob in wire form; `state`: whether it has an effect now."""

    id: int
    kind: IgnoreKind
    value: str
    note: str
    added_by: int
    added_at: float
    expires_at: float | None
    state: Literal["in_effect", "expired", "not_allowed"]


class Entries(msgspec.Struct, frozen=True, kw_only=True):
    """`allowed`: the kinds that the configuration allows; `most`: how many entries a list may have."""

    entries: list[Entry]
    total: int
    allowed: list[IgnoreKind]
    most: int


class Removed(msgspec.Struct, frozen=True, kw_only=True):
    removed: int


async def add(
    context: Context, account: Account, asked_by: int, kind: IgnoreKind, value: str, note: str, expires_at: float | None
) -> Entry:
    """Durable when it answers. Raises InvalidParams; Refused: not allowed, there already, or too many."""
    now = time.time()
    entry = IgnoreEntry(
        id=0,
        kind=kind,
        value=_value(account, kind, value),
        note=note,
        added_by=asked_by,
        added_at=now,
        expires_at=expires_at,
    )
    if expires_at is not None and not now < expires_at <= now + _LONGEST_S:
        raise InvalidParams("cannot add the entry: expires_at is not in the future, or more than 36,500 days away")
    if kind not in context.settings.ignore_kinds:
        raise Refused(f"cannot add the entry: the configuration does not allow to ignore by {kind} (ignore.allowed)")
    await context.need_room("add the entry")
    return _shown(context, await context.store.add_ignore(account, context.settings.max_ignore_entries, entry))


def _value(account: Account, kind: IgnoreKind, text: str) -> bytes:
    if kind is IgnoreKind.SHA256:
        try:
            value = binascii.unhexlify(text)
        except (binascii.Error, ValueError):
            value = b""
        if len(value) != 32:
            raise InvalidParams("cannot add the entry: a SHA-256 has 64 hex digits")
        return value
    if kind is IgnoreKind.SIGNATURE:
        if not 0 < len(text) <= _SIGNATURE_MAX_CHARS:
            raise InvalidParams(f"cannot add the entry: a signature's name has 1 to {_SIGNATURE_MAX_CHARS} characters")
        return text.encode()
    try:
        pattern = from_wire(text)
        for home in (account.home, quoted(account.home.removeprefix(b"/"))):
            if pattern.startswith(home + b"/"):  # as files are listed
                pattern = pattern.removeprefix(home)
        if Glob(pattern).negated:
            raise BadGlob("that begins with !, and here there is nothing to take back")
    except BadGlob as error:
        raise InvalidParams(f"cannot add the entry: a pattern {error}") from None
    except ValueError as error:
        raise InvalidParams(f"cannot add the entry: {error}") from None
    return pattern


async def list_entries(context: Context, account: Account, limit: int, offset: int) -> Entries:
    """By number."""
    entries = await context.store.ignores(account.uid, account.name)
    return Entries(
        entries=[_shown(context, entry) for entry in entries[offset : offset + limit]],
        total=len(entries),
        allowed=[kind for kind in IgnoreKind if kind in context.settings.ignore_kinds],
        most=context.settings.max_ignore_entries,
    )


async def remove(context: Context, account: Account, entry_id: int) -> Removed:
    """Raises NotFound."""
    if not await context.store.remove_ignore(account.uid, account.name, entry_id):
        raise NotFound("cannot remove the entry: there is no such entry of this account")
    return Removed(removed=entry_id)


def shown_value(entry: IgnoreEntry) -> str:
    if entry.kind is IgnoreKind.SHA256:
        return entry.value.hex()
    return to_wire(entry.value) if entry.kind is IgnoreKind.PATH else entry.value.decode()


def _shown(context: Context, entry: IgnoreEntry) -> Entry:
    return Entry(
        id=entry.id,
        kind=entry.kind,
        value=shown_value(entry),
        note=entry.note,
        added_by=entry.added_by,
        added_at=entry.added_at,
        expires_at=entry.expires_at,
        state=context.ignores.state_of(entry),  # type: ignore[arg-type]
    )
