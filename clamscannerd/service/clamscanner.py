"""The six calls, in UAPI's shape (contract.md, "The calls"). [daemon]

Each takes the account that the call is for and answers an envelope. Trouble with what was asked is `status` 0;
trouble with who asks (no such account) is a JSON-RPC error, raised as CallError.
"""

import time
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import islice

import msgspec
import trio

from clamscannerd.errors import Refused, SpawnRefused, WorkerFailed
from clamscannerd.model import LOG_NAME, SCAN_ENDED, Account, Scan, ScanState, TaskState
from clamscannerd.service.accounts import Entry
from clamscannerd.service.context import Context
from clamscannerd.service.envelope import Answer, done, refused
from clamscannerd.service.ignoring import NOT_COMPARED, as_found
from clamscannerd.service.inslices import encoded
from clamscannerd.service.polls import KEPT_PATHS
from clamscannerd.service.scan_start import present, start_type
from clamscannerd.service.scan_types import permitted
from clamscannerd.service.selection import select
from clamscannerd.service.status import (
    file_shown,
    ignored_shown,
    mail_shown,
    shown,
    status_of,
    warnings_of,
)
from clamscannerd.state.live import LISTED, LiveScan
from clamscannerd.state.store_views import Found

MAX_DETAILS = 10_000
"""Records in one answer of check_disinfection_status."""

_STATUS = "get_scan_status"
NO_SCAN = "no scan of this account is known: start one first"


async def get_scan_paths(context: Context, entry: Entry) -> Answer:
    """What may be scanned: permitted to the account, and there."""
    types = permitted(context.settings.scan_types, entry)
    try:
        there = await present(context, entry.account, types, need_one=False)
    except (WorkerFailed, SpawnRefused) as error:
        return refused("get_scan_paths", f"cannot look into the home directory: {error}")
    return done("get_scan_paths", [{"id": kind.id, "message": kind.message} for kind in there])


async def start_scan(context: Context, entry: Entry, asked_by: int, scan_type: str) -> Answer:
    """Queue a scan and answer at once."""
    try:
        started = await start_type(context, entry, asked_by, scan_type)
    except Refused as error:
        return refused("start_scan", str(error))
    data = {"scan_id": started.scan_id, "queue_position": started.queue_position}
    return done("start_scan", data, started.warnings)


async def get_scan_status(context: Context, entry: Entry) -> Answer | msgspec.Raw:
    """The latest scan: from memory, but for the first look at one that does not run."""
    account, polls = entry.account, context.polls
    live = context.live.scan_of(account.uid, account.name)
    if live is not None:
        ignored = await context.ignores.count(account, live.scan, len(live.infected))
        numbers = live.found, len(live.infected), ignored
        if (text := polls.get(account, live.scan, *numbers)) is not None:
            return text
        scan, first = live.scan, list(islice(live.infected, LISTED))
        paths = await encoded(shown(account.home, path) for path in first)
        answer = done(_STATUS, *_live_status(account, live, ignored, paths))
        return answer if len(paths) > KEPT_PATHS else polls.put(answer, account, scan, *numbers)
    found = await context.store.latest_found(account.uid, account.name)
    if found is None:
        return refused(_STATUS, f"cannot show a scan: {NO_SCAN}")
    if found.scan.state not in SCAN_ENDED:
        return done(_STATUS, *await _stored_status(context, account, found, judged=True))
    ignored = await context.ignores.count(account, found.scan, found.kept)
    if (text := polls.get(account, found, ignored)) is not None:
        return text
    data, warnings = await _stored_status(context, account, found, judged=False)
    answer = done(_STATUS, {**data, "ignored_file_count": ignored}, warnings)
    return answer if len(found.first) > KEPT_PATHS else polls.put(answer, account, found, ignored)


async def scan_status(
    context: Context, account: Account, scan: Scan, *, judged: bool, kept: int | None = None
) -> dict[str, object]:
    """The fields of get_scan_status for any scan of the account, with `warnings`, without the list of files. `judged`:
    it is the latest; what an older one has found is not compared with the ignore list. `kept`: its findings that are,
    where the caller has looked."""
    live = context.live.scan_of(account.uid, account.name)
    if live is not None and live.scan.id == scan.id:
        ignored = await context.ignores.count(account, live.scan, len(live.infected))
        data, warnings = _live_status(account, live, ignored, [])
    else:
        if kept is None:
            kept, _ = await context.store.found_paths(scan.id, 0)
        found = Found(scan=scan, kept=kept, first=())
        data, warnings = await _stored_status(context, account, found, judged=judged)
    del data["infected_files"]
    return {**data, "warnings": warnings}


def _live_status(
    account: Account, live: LiveScan, ignored: int | None, infected: Sequence[msgspec.Raw]
) -> tuple[dict[str, object], list[str]]:
    data = status_of(
        live.scan,
        home=account.home,
        current=live.current,
        infected=infected,
        kept=len(live.infected),
        queue_position=0,
        files_per_second=live.files_per_second(),
        eta_seconds=live.eta_seconds(),
    )
    return {**data, "ignored_file_count": ignored}, warnings_of(live.scan, len(live.infected))


async def _stored_status(
    context: Context, account: Account, found: Found, *, judged: bool
) -> tuple[dict[str, object], list[str]]:
    scan = found.scan
    waits = scan.state in (ScanState.QUEUED, ScanState.PAUSED)
    data = status_of(
        scan,
        home=account.home,
        current=b"",
        infected=await encoded(shown(account.home, path) for path in found.first),
        kept=found.kept,
        queue_position=await context.jobs.position(scan.uid, scan.name) if waits else 0,
        files_per_second=_overall_rate(scan),
        eta_seconds=None if waits else 0,
    )
    data["ignored_file_count"] = await context.ignores.count(account, scan, found.kept) if judged else None
    return data, warnings_of(scan, found.kept)


def _overall_rate(scan: Scan) -> float:
    if scan.started_at is None or scan.ended_at is None or scan.ended_at <= scan.started_at:
        return 0.0
    return (scan.counts.scanned_files + sum(scan.counts.not_scanned.values())) / (scan.ended_at - scan.started_at)


async def list_infected_files(context: Context, entry: Entry) -> Answer:
    """What the latest scan found and what still stands."""
    async with context.heavy(entry.account.uid):
        return await _list_infected_files(context, entry.account)


async def _list_infected_files(context: Context, account: Account) -> Answer:
    listed = await context.store.listed(account.uid, account.name)
    if listed is None:
        return refused("list_infected_files", f"cannot list infected files: {NO_SCAN}")
    warnings = warnings_of(listed.scan, listed.kept)
    if listed.earlier:
        warnings.append(f"{listed.earlier} infected files of earlier scans still stand; this scan did not look at them")
    judged = await context.ignores.of(account, as_found(listed.standing))
    if not judged.complete:
        warnings.append(NOT_COMPARED)
    if idle := await context.ignores.not_allowed(account):
        warnings.append(f"{idle} entries of this account's ignore list have no effect: the configuration forbids them")
    rows = (
        {
            "file": shown(account.home, f.path),
            "virus_type": f.signature or "unknown",
            **file_shown(f),
            **ignored_shown(judged.entries.get(f.id)),
            **mail_shown(f.mailbox, listed.messages.get(f.id, [])),
        }
        for f in listed.standing
    )
    return done("list_infected_files", await encoded(rows), warnings)


async def disinfect_files(
    context: Context, entry: Entry, asked_by: int, actions: Mapping[str, str], others: str | None
) -> Answer:
    """Make the task durable and answer its id."""
    async with context.heavy(entry.account.uid):
        return await _disinfect_files(context, entry.account, asked_by, actions, others)


async def _disinfect_files(
    context: Context, account: Account, asked_by: int, actions: Mapping[str, str], others: str | None
) -> Answer:
    func = "disinfect_files"
    scan = await context.store.latest_scan(account.uid, account.name)
    if scan is None:
        return refused(func, f"cannot disinfect: {NO_SCAN}")
    if why := context.suspended(account.uid):
        return refused(func, f"cannot start the disinfection: {why}")
    if scan.state not in SCAN_ENDED:  # its list is not whole yet: what is missing on it would be called unknown
        held = "; resume or cancel it" if scan.state is ScanState.PAUSED else ""
        return refused(func, f"cannot disinfect: a scan of this account is already {scan.state.value}{held}")
    findings = await context.store.standing_findings(account.uid, account.name)
    try:
        await context.need_room("disinfect")
        judged = await context.ignores.of(account, as_found(findings))
        if others is not None and not judged.complete:
            raise Refused(f"cannot disinfect all others: {NOT_COMPARED}")
        choose = partial(select, account.home, findings, actions, others, judged.entries)
        chosen = await trio.to_thread.run_sync(choose)  # 3 us a file, of 100,000
        task = await context.store.add_task(account, scan.id, chosen.steps, asked_by, time.time())
    except Refused as error:
        return refused(func, str(error))
    context.queued(account)
    return done(func, {"log": _log_path(account), "task_id": task.public_id}, chosen.warnings)


async def check_disinfection_status(context: Context, entry: Entry, last_id: int) -> Answer:
    """The latest task's records after `last_id`, as committed: the same as in the log."""
    func, account = "check_disinfection_status", entry.account
    known = await context.store.latest_records(account.uid, account.name, last_id, MAX_DETAILS + 1)
    if known is None:
        return done(func, {"details": [], "log": _log_path(account), "status": "none"})
    task, records = known
    more = len(records) > MAX_DETAILS
    state = "running" if more and task.state is TaskState.DONE else task.state.value
    details = [msgspec.Raw(record) for record in records[:MAX_DETAILS]]
    return done(func, {"details": details, "log": _log_path(account), "status": state})


def _log_path(account: Account) -> str:
    return shown(account.home, LOG_NAME)
