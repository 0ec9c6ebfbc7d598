"""What was: `history` of an account, `report` of one scan, or of all accounts for administrators.

Reports go to people (text), to programs (json) and to scripts written for clamscan (its lines and its summary). What
was not scanned stands in each, with its reasons; `--details` adds the paths. Exit codes are those of the scan that is
reported: 0 nothing found, 1 found, 2 trouble; of all accounts 1 when infected files stand in any.
"""

import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

import click

from clamscannerd.ctl import text
from clamscannerd.ctl.calls import FOUND, Caller, Json
from clamscannerd.ctl.commands import columns, command, print_answer, strict_option
from clamscannerd.ctl.visible import cells, folded

PAGE = 1_000
"""Entries asked for at once: the daemon's bound."""

FORMATS = ("text", "json", "clamscan")

_INDENT = " " * 7
_RULE = "----------- SCAN SUMMARY -----------"  # clamscan's own line


@command
@click.option("--limit", type=click.IntRange(1, PAGE), default=20, show_default=True, help="So many, newest first.")
def history(caller: Caller, limit: int) -> int:
    """List the latest scans, and what became of what they found."""
    answer = caller.call("Scan.list", {"limit": limit})
    scans = _list(answer, "scans")
    lines = [line for scan in scans for line in _scan_lines(scan, columns())]
    print_answer(caller, answer, lines or ["no scan of this account is known"])
    return 0


@command
@click.argument("scan_id", metavar="[ID]", required=False, type=click.IntRange(1, 2**63 - 1))
@click.option("--format", "form", type=click.Choice(FORMATS), default="text", show_default=True, help="For whom.")
@click.option("--details", is_flag=True, help="Each file that was not scanned, with the reason.")
@click.option("--all", "every", is_flag=True, help="On all accounts: for administrators, what root gets without ID.")
@strict_option
def report(
    caller: Caller,
    scan_id: int | None,
    form: str,
    details: bool,  # noqa: FBT001
    every: bool,  # noqa: FBT001
    strict: bool,  # noqa: FBT001
) -> int:
    """Report on scan ID, or on the latest.

    As root without --user and ID: on all accounts, by counts; with --details their files as well.
    """
    if form == "json":
        caller.options.json = True
    if every and (scan_id is not None or caller.options.user is not None):
        raise click.UsageError("--all is all accounts: name neither a scan nor a user")
    if every or (scan_id is None and caller.options.user is None and os.geteuid() == 0):
        return _report_all(caller, form, details=details)
    scan = _whole(caller, scan_id if scan_id is not None else _latest(caller), {}, details=details)
    lines = list(_clamscan_lines(scan) if form == "clamscan" else _text_lines(scan, columns()))
    print_answer(caller, scan, lines)
    return text.scan_exit(scan, strict=strict)


def _latest(caller: Caller) -> int:
    return int(caller.six("get_scan_status")["result"]["data"]["scan_id"])


def _whole(caller: Caller, scan_id: int, user: Json, *, details: bool) -> Json:
    """The scan with all of its findings; with `details` also with all that was not scanned, as far as kept."""
    whole: Json = {}
    offset = 0
    while True:
        page = caller.call("Scan.get", {"scan_id": scan_id, "limit": PAGE, "offset": offset, **user})
        part: Json = page if isinstance(page, dict) else {}
        if not whole:
            whole = {**part, "files": [], "not_scanned_files": []}
        whole["files"] += part["files"]
        whole["not_scanned_files"] += part["not_scanned_files"] if details else []
        offset += PAGE
        if len(part["files"]) < PAGE and (not details or len(part["not_scanned_files"]) < PAGE):
            return whole


def _scan_lines(scan: Json, width: int | None) -> list[str]:
    """`12  home  2026-01-31 12:00:00  45 s  done: 1 infected, ...; of those found: ...; clamd 1.4.6/27400`."""
    took = f"{text.duration(scan['time_ended'] - float(scan['time_started']))}" if scan["time_ended"] else "-"
    words = f"{text.result(scan)}{_fates(scan)}{_engine(scan)}"
    started = text.moment(float(scan["time_started"]))
    return _in_two(f"{scan['scan_id']:>5}  {text.scanned(scan)}  {started}  {took}  {text.state(scan)}:", words, width)


def _in_two(head: str, words: str, width: int | None) -> list[str]:
    """On one line, or the words beneath. In `head` may be a file's name."""
    line = f"{head} {words}"
    if width is None or cells(line) <= width:
        return [line]
    return [head, *folded(f"{_INDENT}{words}", width, len(_INDENT))]


def _took(scan: Json) -> str:
    if not scan["time_ended"] or not scan["time_started"]:
        return ""
    return f", took {text.duration(scan['time_ended'] - float(scan['time_started']))}"


def _engine(scan: Json) -> str:
    engine: Json = scan.get("engine") or {}
    if not engine.get("version"):
        return ""
    database = f"/{engine['database']}" if engine.get("database") else ""
    return f"; clamd {text.safe(str(engine['version']))}{database}"


def _fate(state: object) -> str:
    """`cleared` would read as clean, and it may stand in the next scan's list."""
    return "looked at again since" if state == "cleared" else text.safe(str(state))


def _fates(scan: Json) -> str:
    words = ", ".join(f"{number} {_fate(state)}" for state, number in scan["findings"].items())
    return f"; of those found: {words}" if words else ""


def _text_lines(scan: Json, width: int | None) -> Iterator[str]:
    yield from text.status_lines(scan, width)
    if scan["time_ended"]:
        yield f"  ended:      {text.moment(float(scan['time_ended']))}{_took(scan)}"
    for words in scan["warnings"]:
        yield from folded(f"  warning:    {text.safe(str(words))}", width, 14)
    for found in scan["files"]:
        by = f", ignored ({text.ignored_by(found['ignored'])})" if found.get("ignored") else ""
        yield f"{text.safe(found['file'])}: {text.safe(found['virus_type'])}: {_fate(found['state'])}{by}"
    for left in scan["not_scanned_files"]:
        yield f"{text.safe(left['file'])}: not scanned: {_why(scan, left)}"


def _why(scan: Json, left: Json) -> str:
    return text.reason(left["reason"], text.most_bytes(scan))


def _clamscan_lines(scan: Json) -> Iterator[str]:
    """As clamscan prints it, and one line more: what was not scanned."""
    yield from _clamscan_files(scan)
    started, ended = float(scan["time_started"]), scan["time_ended"]
    yield ""
    yield _RULE
    yield f"Engine version: {text.safe(str(scan['engine'].get('version', '')))}"
    yield f"Scanned files: {scan['scanned_file_count']}"
    yield f"Infected files: {text.infected_count(scan)}"
    if ignored := text.ignored_count(scan):
        yield f"Ignored files: {ignored}"
    yield f"{_not_scanned(scan)}{text.unchanged(scan)}"
    yield f"Data scanned: {scan['scanned_file_size'] / (1 << 20):.2f} MB"
    if ended:
        yield f"Time: {ended - started:.3f} sec"
        yield f"End Date:   {text.moment(float(ended))}"


def _clamscan_files(scan: Json) -> Iterator[str]:
    yield from text.infected_lines(scan["infected"] if "infected" in scan else scan["files"])
    for left in scan["not_scanned_files"]:
        yield f"{text.safe(left['file'])}: {_why(scan, left)} NOT SCANNED"


def _report_all(caller: Caller, form: str, *, details: bool) -> int:
    accounts: list[Json] = []
    while page := _list(caller.call("Account.list", {"limit": PAGE, "offset": len(accounts)}), "accounts"):
        accounts += page
        if len(page) < PAGE:
            break
    total = _total(accounts)
    lines = [] if accounts else ["no scan of any account is known"]
    for one in accounts:
        lines += _account_lines(one, columns()) if form != "clamscan" else []
        if details:
            _add_details(caller, one)
            lines += _clamscan_files(one) if form == "clamscan" else _files_lines(one)
    lines += _clamscan_total(total) if form == "clamscan" else folded(_total_line(total), columns(), 2)
    print_answer(caller, {"accounts": accounts, "total": total}, lines)
    return FOUND if total["standing"] > total["ignored"] else 0


def _standing(one: Json) -> int:
    """What nobody ignores; where that could not be told, all of it."""
    return int(one["standing"]) - int(one.get("ignored") or 0)


def _add_details(caller: Caller, one: Json) -> None:
    """What stands, of whichever scan; and all that the latest scan found or left out.

    Of an older account of the same name there are counts alone: a name stands for the latest of those that had it.
    """
    from clamscannerd.client import RemoteError

    one["infected"], one["files"], one["not_scanned_files"] = [], [], []
    user = {"user": one["user"]}
    try:
        whole = _whole(caller, one["scan_id"], user, details=True)
        answer: Any = caller.call("ClamScanner.list_infected_files", user) if one["standing"] else None
    except RemoteError as error:
        if error.kind not in ("not_found", "unknown_account"):
            raise
        return
    one["infected"] = (answer["result"]["data"] or []) if answer else []
    one["files"], one["not_scanned_files"] = whole["files"], whole["not_scanned_files"]


def _account_lines(one: Json, width: int | None) -> list[str]:
    """`anna  3 infected stand; scan 12 (home) done 2026-01-31 12:00:00, took 45 s: 4986 scanned, ...`."""
    ended = f" {text.moment(float(one['time_ended']))}" if one["time_ended"] else ""
    counts = f"{one['scanned_file_count']} scanned, {text.left_out(one)}{text.unchanged(one)}{_fates(one)}"
    ignored = f", {one['ignored']} ignored" if one.get("ignored") else ""
    scan = f"{text.scan_name(one)} {text.safe(one['state'])}{ended}{_took(one)}"
    head = f"{text.safe(one['user'])}  {_standing(one)} infected stand{ignored}; {scan}:"
    return _in_two(head, f"{counts}{_engine(one)}", width)


def _files_lines(one: Json) -> Iterator[str]:
    owner = text.safe(one["user"])
    yield from (f"{owner}: {line}" for line in text.infected_lines(one["infected"]))
    for found in one["files"]:
        if found["state"] != "standing":
            yield f"{owner}: {text.safe(found['file'])}: {text.safe(found['virus_type'])}: {_fate(found['state'])}"
    for left in one["not_scanned_files"]:
        yield f"{owner}: {text.safe(left['file'])}: not scanned: {_why(one, left)}"


def _total(accounts: list[Json]) -> Json:
    """Of all accounts' latest scans; `standing` of whichever scan, and `ignored` of these, as far as could be told."""
    names = ("standing", "scanned_file_count", "infected_file_count")
    total: Json = {"accounts": len(accounts), **{name: sum(one[name] for one in accounts) for name in names}}
    for name in ("not_scanned", "findings"):
        counts = Counter[str]()
        for one in accounts:
            counts.update(one[name])
        total[name] = dict(counts)
    # The least of them is true of each file that was over its own; where one is not known, none is said.
    sizes = [text.most_bytes(one) for one in accounts if one["not_scanned"].get("too_big")]
    total["engine"] = {"max_file_size": min(sizes, default=0)}
    total["ignored"] = sum(one.get("ignored") or 0 for one in accounts)
    return {**total, "accounts_infected": sum(_standing(one) > 0 for one in accounts)}


def _total_line(total: Json) -> str:
    ignored = f", {total['ignored']} ignored" if total["ignored"] else ""
    stand = f"{_standing(total)} infected stand in {text.plural(total['accounts_infected'], 'account')}{ignored}"
    counts = f"{total['scanned_file_count']} scanned, {text.left_out(total)}{_fates(total)}"
    return f"{text.plural(total['accounts'], 'account')}: {stand}; their latest scans: {counts}"


def _clamscan_total(total: Json) -> Iterator[str]:
    yield ""
    yield _RULE
    yield f"Scanned files: {total['scanned_file_count']}"
    yield f"Infected files: {_standing(total)}"
    if total["ignored"]:
        yield f"Ignored files: {total['ignored']}"
    yield _not_scanned(total)


def _not_scanned(scan: Json) -> str:
    return "Not scanned: " + text.left_out(scan).replace(" not scanned", "", 1)


def _list(answer: object, name: str) -> list[Json]:
    found: list[Json] = answer.get(name, []) if isinstance(answer, dict) else []
    return found
