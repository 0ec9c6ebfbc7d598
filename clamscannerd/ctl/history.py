"""What was: `history` of an account, `report` of one scan, or of all accounts for administrators.

Reports go to people (text), to programs (json) and to scripts written for clamscan (its lines and its summary). What
was not scanned stands in each, with its reasons; `--details` adds the paths. Exit codes are those of the scan that is
reported: 0 nothing found, 1 found, 2 trouble; of all accounts 1 when infected files stand in any.
"""

import os
from collections.abc import Iterator
from typing import Any

import click

from clamscannerd.ctl import text
from clamscannerd.ctl.calls import FOUND, Caller, Json
from clamscannerd.ctl.commands import command, print_answer, strict_option

PAGE = 1_000
"""Entries asked for at once: the daemon's bound."""

FORMATS = ("text", "json", "clamscan")

_RULE = "----------- SCAN SUMMARY -----------"  # clamscan's own line


@command
@click.option("--limit", type=click.IntRange(1, PAGE), default=20, show_default=True, help="So many, newest first.")
def history(caller: Caller, limit: int) -> int:
    """List the latest scans: when, how much, what was found and what became of it."""
    answer = caller.call("Scan.list", {"limit": limit})
    scans = _list(answer, "scans")
    print_answer(caller, answer, [_scan_line(scan) for scan in scans] or ["no scan of this account is known"])
    return 0


@command
@click.argument("scan_id", metavar="[ID]", required=False, type=click.IntRange(1, 2**63 - 1))
@click.option("--format", "form", type=click.Choice(FORMATS), default="text", show_default=True, help="For whom.")
@click.option("--details", is_flag=True, help="Each file that was not scanned, with the reason.")
@strict_option
def report(caller: Caller, scan_id: int | None, form: str, details: bool, strict: bool) -> int:  # noqa: FBT001
    """Report on scan ID, or on the latest.

    As root without --user and ID: on all accounts, by counts; with --details their infected files as well.
    """
    if form == "json":
        caller.options.json = True
    if scan_id is None and caller.options.user is None and os.geteuid() == 0:
        return _report_all(caller, details=details)
    scan = _whole(caller, scan_id if scan_id is not None else _latest(caller), details=details)
    lines = list(_clamscan_lines(scan) if form == "clamscan" else _text_lines(scan))
    print_answer(caller, scan, lines)
    return text.scan_exit(scan, strict=strict)


def _latest(caller: Caller) -> int:
    return int(caller.six("get_scan_status")["result"]["data"]["scan_id"])


def _whole(caller: Caller, scan_id: int, *, details: bool) -> Json:
    """The scan with all of its findings; with `details` also with all that was not scanned, as far as kept."""
    whole: Json = {}
    offset = 0
    while True:
        page = caller.call("Scan.get", {"scan_id": scan_id, "limit": PAGE, "offset": offset})
        part: Json = page if isinstance(page, dict) else {}
        if not whole:
            whole = {**part, "files": [], "not_scanned_files": []}
        whole["files"] += part["files"]
        whole["not_scanned_files"] += part["not_scanned_files"] if details else []
        offset += PAGE
        if len(part["files"]) < PAGE and (not details or len(part["not_scanned_files"]) < PAGE):
            return whole


def _scan_line(scan: Json) -> str:
    """`12  home  2026-01-31 12:00:00  45 s  done: 1 infected (1 quarantined), ...`."""
    took = f"{text.duration(scan['time_ended'] - float(scan['time_started']))}" if scan["time_ended"] else "-"
    words = f"{text.result(scan)}{_fates(scan)}"
    started = text.moment(float(scan["time_started"]))
    return f"{scan['scan_id']:>5}  {text.scanned(scan)}  {started}  {took}  {text.state(scan)}: {words}"


def _fates(scan: Json) -> str:
    words = ", ".join(f"{number} {text.safe(state)}" for state, number in scan["findings"].items())
    return f"; of those found: {words}" if words else ""


def _text_lines(scan: Json) -> Iterator[str]:
    yield from text.status_lines(scan)
    if scan["time_ended"]:
        yield f"  ended:      {text.moment(float(scan['time_ended']))}"
    yield from (f"  warning:    {text.safe(str(words))}" for words in scan["warnings"])
    for found in scan["files"]:
        by = f", ignored ({text.ignored_by(found['ignored'])})" if found.get("ignored") else ""
        yield f"{text.safe(found['file'])}: {text.safe(found['virus_type'])}: {text.safe(found['state'])}{by}"
    for left in scan["not_scanned_files"]:
        yield f"{text.safe(left['file'])}: not scanned: {text.reason(left['reason'])}"


def _clamscan_lines(scan: Json) -> Iterator[str]:
    """As clamscan prints it, and one line more: what was not scanned."""
    yield from text.infected_lines(scan["files"])
    for left in scan["not_scanned_files"]:
        yield f"{text.safe(left['file'])}: {text.reason(left['reason'])} NOT SCANNED"
    started, ended = float(scan["time_started"]), scan["time_ended"]
    yield ""
    yield _RULE
    yield f"Engine version: {text.safe(str(scan['engine'].get('version', '')))}"
    yield f"Scanned files: {scan['scanned_file_count']}"
    yield f"Infected files: {text.infected_count(scan)}"
    if ignored := text.ignored_count(scan):
        yield f"Ignored files: {ignored}"
    yield f"Not scanned: {text.not_scanned(scan['not_scanned'])}{text.unchanged(scan)}"
    yield f"Data scanned: {scan['scanned_file_size'] / (1 << 20):.2f} MB"
    if ended:
        yield f"Time: {ended - started:.3f} sec"
        yield f"End Date:   {text.moment(float(ended))}"


def _report_all(caller: Caller, *, details: bool) -> int:
    accounts: list[Json] = []
    while page := _list(caller.call("Account.list", {"limit": PAGE, "offset": len(accounts)}), "accounts"):
        accounts += page
        if len(page) < PAGE:
            break
    lines = [_account_line(one) for one in accounts] or ["no scan of any account is known"]
    if details:
        for one in accounts:
            if one["standing"]:
                one["infected"] = _infected(caller, one["user"])
                lines += [f"{text.safe(one['user'])}: {line}" for line in text.infected_lines(one["infected"])]
    print_answer(caller, {"accounts": accounts}, lines)
    return FOUND if any(_standing(one) for one in accounts) else 0


def _standing(one: Json) -> int:
    """What nobody ignores; where that could not be told, all of it."""
    return int(one["standing"]) - int(one.get("ignored") or 0)


def _infected(caller: Caller, user: str) -> list[Json]:
    answer: Any = caller.call("ClamScanner.list_infected_files", {"user": user})
    found: list[Json] = answer["result"]["data"] or []
    return found


def _account_line(one: Json) -> str:
    """`anna  3 infected stand; scan 12 (home) done 2026-01-31 12:00:00: 4986 scanned, 14 not scanned (...)`."""
    ended = f" {text.moment(float(one['time_ended']))}" if one["time_ended"] else ""
    counts = f"{one['scanned_file_count']} scanned, {text.not_scanned(one['not_scanned'])}{text.unchanged(one)}"
    ignored = f", {one['ignored']} ignored" if one.get("ignored") else ""
    words = (
        f"{_standing(one)} infected stand{ignored}; {text.scan_name(one)} {text.safe(one['state'])}{ended}: {counts}"
    )
    return f"{text.safe(one['user'])}  {words}"


def _list(answer: object, name: str) -> list[Json]:
    found: list[Json] = answer.get(name, []) if isinstance(answer, dict) else []
    return found
