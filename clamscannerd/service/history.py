"""Scan.list, Scan.get, Account.list: what was scanned, what was found and what became of it. [daemon]"""

from clamscannerd.errors import NotFound
from clamscannerd.model import Account, FindingState, Scan
from clamscannerd.service.clamscanner import scan_status
from clamscannerd.service.context import Context
from clamscannerd.service.ignoring import Budget, as_found
from clamscannerd.service.status import ignored_shown, shown
from clamscannerd.state.store_history import AccountEntry, Became


async def list_scans(context: Context, account: Account, limit: int, offset: int) -> dict[str, object]:
    """Newest first, each with its counts and what became of its findings."""
    async with context.heavy(account.uid):
        scans = await context.store.history(account.uid, account.name, limit, offset)
        newest = await context.store.latest_scan(account.uid, account.name)
        became = await context.store.became(scans)
        return {
            "scans": [
                await _summary(context, account, scan, became[scan.id], judged=scan.id == (newest or scan).id)
                for scan in scans
            ]
        }


async def get_scan(context: Context, account: Account, scan_id: int, limit: int, offset: int) -> dict[str, object]:
    """One scan, with a page of its findings and one of the files that were not scanned. Raises NotFound."""
    async with context.heavy(account.uid):
        scan = await context.store.get_scan(scan_id)
        if scan is None or (scan.uid, scan.name) != (account.uid, account.name):
            raise NotFound("cannot find the scan: there is no such scan of this account")
        store, home = context.store, account.home
        newest = await store.latest_scan(account.uid, account.name)
        page = await store.scan_findings_page(scan.id, limit, offset)
        standing = [found for found in page if found.state is FindingState.STANDING]
        ignored = (await context.ignores.of(account, as_found(standing))).entries
        became = (await store.became([scan]))[scan.id]
        return {
            **await _summary(context, account, scan, became, judged=newest is not None and scan.id == newest.id),
            "files": [
                {
                    "file": shown(home, found.path),
                    "virus_type": found.signature,
                    "state": found.state.value,
                    **ignored_shown(ignored.get(found.id)),
                }
                for found in page
            ],
            "not_scanned_files": [
                {"file": shown(home, path), "reason": reason}
                for path, reason in await store.not_scanned(scan.id, limit, offset)
            ],
        }


async def _summary(
    context: Context, account: Account, scan: Scan, became: Became, *, judged: bool
) -> dict[str, object]:
    """The fields of get_scan_status, and: when it ended (null until then), who asked, what became of what it found."""
    return {
        **await scan_status(context, account, scan, judged=judged, kept=became.kept),
        "time_ended": scan.ended_at,
        "asked_by": scan.asked_by,
        "scheduled": scan.scheduled,
        "findings": became.states,
    }


async def list_accounts(context: Context, limit: int, offset: int) -> dict[str, object]:
    """For administrators: each account of which a scan is known, with counts of its latest, and no file's name."""
    entries = await context.store.accounts(limit, offset)
    became = await context.store.became([entry.scan for entry in entries])
    with_list, budget = await context.store.owners_of_ignores(), Budget()

    async def ignored(entry: AccountEntry) -> int | None:
        if not entry.standing or (entry.uid, entry.name) not in with_list:
            return 0
        account = Account(uid=entry.uid, gid=0, name=entry.name, home=b"")
        judged = await context.ignores.of(account, await context.store.all_standing(entry.uid, entry.name), budget)
        return len(judged.entries) if judged.complete else None

    return {
        "accounts": [
            {
                "user": entry.name,
                "uid": entry.uid,
                "standing": entry.standing,
                "ignored": await ignored(entry),
                "scan_id": entry.scan.id,
                "scan_type": entry.scan.scan_type,
                "state": entry.scan.state.value,
                "time_started": entry.scan.started_at,
                "time_ended": entry.scan.ended_at,
                "scanned_file_count": entry.scan.counts.scanned_files,
                "infected_file_count": entry.scan.counts.infected_files,
                "not_scanned": dict(entry.scan.counts.not_scanned),
                "findings": became[entry.scan.id].states,
                "engine": entry.scan.engine,
            }
            for entry in entries
        ]
    }
