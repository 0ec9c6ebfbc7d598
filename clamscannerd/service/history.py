"""Scan.list, Scan.get, Account.list: what was scanned, what was found and what became of it. [daemon]"""

from clamscannerd.errors import NotFound
from clamscannerd.model import Account, Scan
from clamscannerd.service.clamscanner import scan_status
from clamscannerd.service.context import Context
from clamscannerd.service.status import shown


async def list_scans(context: Context, account: Account, limit: int, offset: int) -> dict[str, object]:
    """Newest first, each with its counts and what became of its findings."""
    async with context.heavy(account.uid):
        scans = await context.store.history(account.uid, account.name, limit, offset)
        return {"scans": [await _summary(context, account, scan) for scan in scans]}


async def get_scan(context: Context, account: Account, scan_id: int, limit: int, offset: int) -> dict[str, object]:
    """One scan, with a page of its findings and one of the files that were not scanned. Raises NotFound."""
    async with context.heavy(account.uid):
        scan = await context.store.get_scan(scan_id)
        if scan is None or (scan.uid, scan.name) != (account.uid, account.name):
            raise NotFound("cannot find the scan: there is no such scan of this account")
        store, home = context.store, account.home
        return {
            **await _summary(context, account, scan),
            "files": [
                {"file": shown(home, found.path), "virus_type": found.signature, "state": found.state.value}
                for found in await store.scan_findings_page(scan.id, limit, offset)
            ],
            "not_scanned_files": [
                {"file": shown(home, path), "reason": reason}
                for path, reason in await store.not_scanned(scan.id, limit, offset)
            ],
        }


async def _summary(context: Context, account: Account, scan: Scan) -> dict[str, object]:
    """The fields of get_scan_status, and: when it ended (null until then), who asked, what became of what it found."""
    return {
        **await scan_status(context, account, scan),
        "time_ended": scan.ended_at,
        "asked_by": scan.asked_by,
        "findings": await context.store.fates(scan.id),
    }


async def list_accounts(context: Context, limit: int, offset: int) -> dict[str, object]:
    """For administrators: each account of which a scan is known, with counts of its latest, and no file's name."""
    entries = await context.store.accounts(limit, offset)
    return {
        "accounts": [
            {
                "user": entry.name,
                "uid": entry.uid,
                "standing": entry.standing,
                "scan_id": entry.scan.id,
                "scan_type": entry.scan.scan_type,
                "state": entry.scan.state.value,
                "time_started": entry.scan.started_at,
                "time_ended": entry.scan.ended_at,
                "scanned_file_count": entry.scan.counts.scanned_files,
                "infected_file_count": entry.scan.counts.infected_files,
                "not_scanned": dict(entry.scan.counts.not_scanned),
                "engine": entry.scan.engine,
            }
            for entry in entries
        ]
    }
