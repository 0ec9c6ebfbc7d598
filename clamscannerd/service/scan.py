"""Scan.cancel, pause and resume: what clients can do with a scan under way beyond the six calls. [daemon]

Each may be asked for again: a scan that is paused already is paused, and one that is queued goes on.
"""

import trio

from clamscannerd.errors import NotFound, Refused
from clamscannerd.model import SCAN_ENDED, Account, Scan, ScanState
from clamscannerd.service.accounts import Entry
from clamscannerd.service.context import Context

_ANSWER_S = 15.0  # a worker is given 10 s to cancel


async def cancel(context: Context, entry: Entry) -> dict[str, object]:
    """Cancel the scan under way; answers when it has ended. Raises NotFound when none is."""
    scan = await _under_way(context, entry.account, "cancel")
    with trio.move_on_after(_ANSWER_S):
        await context.jobs.cancel_scan(scan)
    return _told(await _now(context, scan))


async def pause(context: Context, entry: Entry) -> dict[str, object]:
    """Hold the scan until it is resumed; answers when that is on disk, or the scan has ended. Raises NotFound."""
    scan = await _under_way(context, entry.account, "pause")
    with trio.move_on_after(_ANSWER_S):
        await context.jobs.pause_scan(scan)
    scan = await _now(context, scan)
    if scan.state in (ScanState.QUEUED, ScanState.RUNNING):
        raise Refused("cannot pause the scan yet: its worker does not end; it is paused as soon as that does")
    return _told(scan)


async def resume(context: Context, entry: Entry) -> dict[str, object]:
    """Let a paused scan go on, from its place in the queue. Raises NotFound."""
    scan = await _under_way(context, entry.account, "resume")
    await context.jobs.resume_scan(scan)
    position = await context.jobs.position(scan.uid, scan.name)
    return {**_told(await _now(context, scan)), "queue_position": position}


async def _under_way(context: Context, account: Account, verb: str) -> Scan:
    scan = await context.store.latest_scan(account.uid, account.name)
    if scan is None or scan.state in SCAN_ENDED:
        raise NotFound(f"cannot {verb} a scan: none is queued, running or paused")
    return scan


async def _now(context: Context, scan: Scan) -> Scan:
    return await context.store.get_scan(scan.id) or scan


def _told(scan: Scan) -> dict[str, object]:
    return {"scan_id": scan.id, "state": scan.state.value}
