"""Scan.start, and what start_scan has in common with it: what is asked for becomes a queued scan. [daemon]

What may be scanned is a type, as far as the administrator permits it, or any files and directories that lie within one
of the permitted types. A path is text until a worker that is the account has looked at it: the daemon opens nothing.
What that worker saw is for a clear answer alone; the scan opens everything afresh, whatever stands there by then.
"""

import time
from collections.abc import Sequence

from clamscannerd.errors import Refused, SpawnRefused, WorkerFailed
from clamscannerd.model import PATH_MAX_BYTES, Account, Depth, Frozen, Place
from clamscannerd.rpc.names import from_wire, to_wire
from clamscannerd.service.accounts import Entry
from clamscannerd.service.context import Context
from clamscannerd.service.scan_types import ScanType, permitted
from clamscannerd.service.status import NO_SIGNATURES, shown
from clamscannerd.state.tasks import covers

MAX_PATHS = 100
"""Of one scan: a screen of names; more of them lie in a directory that can be named."""

MAX_PATHS_BYTES = 16 << 10
"""Of all of them: they go down to the worker in one message, and the database holds them against each older finding."""

_TOLD = 10  # paths that cannot be scanned are told one by one up to here

_TROUBLE = {
    Place.MISSING: "there is no such file or directory",
    Place.LINK: "it is a symbolic link; name what it leads to",
    Place.BEHIND_LINK: "a directory on the way is a symbolic link; name it without links",
    Place.OTHER_FILESYSTEM: "it is on another file system than the home directory",
    Place.TOO_LONG: "the name is too long",
    Place.SPECIAL: "it is neither a file nor a directory",
    Place.UNREADABLE: "it cannot be read",
}


class How(Frozen, frozen=True, kw_only=True):
    """`scheduled`: nobody waits for it, and others go first."""

    scheduled: bool = False
    depth: Depth = Depth.FULL


_AS_USUAL = How()


class Started(Frozen, frozen=True, kw_only=True):
    """`queue_position` 0: it runs, or is about to."""

    scan_id: int
    queue_position: int
    warnings: list[str]


async def start(
    context: Context,
    entry: Entry,
    asked_by: int,
    scan_type: str | None,
    paths: Sequence[str] | None,
    recent_s: float | None,
    how: How = _AS_USUAL,
) -> Started:
    """Queue a scan of one type, or of these paths, and answer at once. Raises Refused.

    `recent_s`: only of files that changed within so many seconds before now. The border is fixed here for good, so that
    a scan that waits or starts over leaves out nothing more.
    """
    if how.depth is Depth.RAPID and not context.settings.rapid:
        raise Refused("cannot start the scan: the administrator does not permit rapid scans (cache.rapid)")
    since = None if recent_s is None else time.time() - recent_s
    if (scan_type is None) == (paths is None):
        raise Refused("cannot start the scan: name either a type of scan or paths")
    if scan_type is not None:
        return await start_type(context, entry, asked_by, scan_type, since, how)
    wanted = _resolve(entry.account, paths or (), permitted(context.settings.scan_types, entry))
    _need_engine(context, entry.account)
    try:
        _check_places(entry.account, wanted, await context.look(entry.account, wanted))
    except (WorkerFailed, SpawnRefused) as error:
        raise _refusal(error) from None
    return await _queue(context, entry.account, asked_by, "", wanted, since, how)


async def start_type(
    context: Context,
    entry: Entry,
    asked_by: int,
    scan_type: str,
    since: float | None = None,
    how: How = _AS_USUAL,
) -> Started:
    """Queue a scan of one type. Raises Refused."""
    kinds = [kind for kind in permitted(context.settings.scan_types, entry) if kind.id == scan_type]
    if not kinds:
        raise Refused(f"cannot start the scan: there is no scan type {scan_type[:100]!r} for this account")
    _need_engine(context, entry.account)
    try:
        await context.need_room("start the scan")
        if not await present(context, entry.account, kinds, need_one=True):
            names = ", ".join(to_wire(path) for path in kinds[0].paths)
            raise Refused(f"cannot start the scan: there is no directory {names} in the home directory")
    except (WorkerFailed, SpawnRefused) as error:
        raise _refusal(error) from None
    return await _queue(context, entry.account, asked_by, scan_type, kinds[0].paths, since, how)


def _refusal(error: Exception) -> Refused:
    text = str(error)
    return Refused(text if text.startswith("cannot start") else f"cannot start the scan: {text}")


async def present(context: Context, account: Account, types: list[ScanType], *, need_one: bool) -> list[ScanType]:
    """Those of `types` of which at least one directory exists."""
    wanted = tuple(path for kind in types for path in kind.paths)
    if not wanted:
        return []
    exists = dict(zip(wanted, await context.exists(account, wanted, need_one=need_one), strict=True))
    return [kind for kind in types if any(exists[path] for path in kind.paths)]


def _need_engine(context: Context, account: Account) -> None:
    engine = context.engine()
    away_s = time.monotonic() - engine.steady_since
    if engine.kind == "lost" and away_s > context.settings.lost_after_s:
        raise Refused(f"cannot start the scan: no engine for {away_s:.0f} s: {engine.reason}")
    if why := context.suspended(account.uid):
        raise Refused(f"cannot start the scan: {why}")


async def _queue(
    context: Context,
    account: Account,
    asked_by: int,
    scan_type: str,
    paths: tuple[bytes, ...],
    since: float | None,
    how: How,
) -> Started:
    await context.need_room("start the scan")
    scan = await context.store.add_scan(
        account, scan_type, paths, asked_by, time.time(), since, scheduled=how.scheduled, depth=how.depth
    )
    context.queued(account)
    engine = context.engine()
    warnings = []
    if engine.kind != "ready":
        warnings.append(f"the scan waits for the engine: {engine.reason or engine.kind}")
    elif not engine.signatures:
        warnings.append(NO_SIGNATURES)
    position = await context.jobs.position(scan.uid, scan.name)
    return Started(scan_id=scan.id, queue_position=position, warnings=warnings)


# --- paths


def _resolve(account: Account, paths: Sequence[str], types: Sequence[ScanType]) -> tuple[bytes, ...]:
    """Relative to the home, each once. Raises Refused."""
    if not paths:
        raise Refused("cannot start the scan: no path is named")
    if len(paths) > MAX_PATHS:
        raise Refused(f"cannot start the scan: {len(paths)} paths are named, and at most {MAX_PATHS} can be")
    wanted = tuple(dict.fromkeys(beneath(account.home, text) for text in paths))
    if sum(map(len, wanted)) > MAX_PATHS_BYTES:
        raise Refused(f"cannot start the scan: the paths have more than {MAX_PATHS_BYTES} bytes together")
    allowed = [path for kind in types for path in kind.paths]
    for path in wanted:
        if not covers(allowed, path):
            why = "it lies within no type of scan that the administrator permits to this account"
            raise Refused(f"cannot scan {shown(account.home, path)}: {why}")
    return wanted


def beneath(home: bytes, text: str) -> bytes:
    """The path beneath the home that `text` means: absolute, or relative to the home; b"." is the home. Raises Refused.

    Text alone: "." and doubled slashes are dropped, ".." is refused, links are left to the worker, which refuses them.
    """
    try:
        name = from_wire(text)
    except ValueError as error:
        raise Refused(f"cannot scan it: {error}") from None
    what = f"cannot scan {text[:PATH_MAX_BYTES]}"
    if not name:
        raise Refused("cannot scan '': the name is empty")
    if b"\0" in name:
        raise Refused(f"{what}: a name holds no NUL")
    parts = [part for part in name.split(b"/") if part not in (b"", b".")]
    if b".." in parts:
        raise Refused(f'{what}: name it without ".."')
    if name.startswith(b"/"):
        above = [part for part in home.split(b"/") if part]
        if parts[: len(above)] != above:
            raise Refused(f"{what}: it is not in the home directory {to_wire(home)}")
        parts = parts[len(above) :]
    path = b"/".join(parts) or b"."
    if len(home) + 1 + len(path) > PATH_MAX_BYTES:
        raise Refused(f"{what}: the name is too long")
    return path


def _check_places(account: Account, paths: Sequence[bytes], places: Sequence[Place]) -> None:
    """Raises Refused: one of them cannot be scanned, and so none is."""
    trouble = [
        f"cannot scan {shown(account.home, path)}: {_TROUBLE[place]}"
        for path, place in zip(paths, places, strict=True)
        if place in _TROUBLE
    ]
    if len(trouble) > _TOLD:
        trouble[_TOLD:] = [f"and {len(trouble) - _TOLD} more"]
    if trouble:
        raise Refused("; ".join(trouble))
