"""Scan.*: what clients can do with scans beyond the six calls. [daemon]"""

import trio

from clamscannerd.errors import NotFound
from clamscannerd.model import SCAN_ENDED
from clamscannerd.service.accounts import Entry
from clamscannerd.service.context import Context

_ANSWER_S = 15.0  # a worker is given 10 s to cancel


async def cancel(context: Context, entry: Entry) -> dict[str, object]:
    """Cancel the scan under way; answers when it has ended. Raises NotFound when none is."""
    account = entry.account
    scan = await context.store.latest_scan(account.uid, account.name)
    if scan is None or scan.state in SCAN_ENDED:
        raise NotFound("cannot cancel a scan: none is queued or running")
    with trio.move_on_after(_ANSWER_S):
        await context.jobs.cancel_scan(scan)
    ended = await context.store.get_scan(scan.id)
    return {"scan_id": scan.id, "state": (ended or scan).state.value}
