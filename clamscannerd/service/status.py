"""A scan as get_scan_status shows it. Pure.

Field names and types: shared/contract/uapi.schema.json. Texts about what was not scanned stand wherever a number of
infected files does: "0 infected" alone would say more than is known.
"""

from collections.abc import Sequence

import msgspec

from clamscannerd.model import SCAN_ENDED, Finding, IgnoreEntry, MailMessage, Reason, Scan, ScanState
from clamscannerd.rpc.names import to_wire

_MIB = 1 << 20
NO_SIGNATURES = "only the built-in test signature is loaded: nothing is called clean until real signatures are there"


def shown(home: bytes, path: bytes) -> str:
    """An absolute path in wire form; b"." is the home itself."""
    if path == b".":
        return to_wire(home) or "/"
    return to_wire(home + b"/" + path) if path else ""


def file_shown(finding: Finding) -> dict[str, object]:
    """What list_infected_files says of the file itself, as it was when it was found, and of the engine that found it.
    `owner`: a uid; null: unknown."""
    engine = finding.engine
    return {
        "size": finding.identity.size,
        "mtime": finding.identity.mtime_ns / 1e9,
        "owner": finding.owner,
        "found_at": finding.found_at,
        "engine": None if engine is None else {"version": engine.version, "database": engine.database},
    }


def mail_shown(mailbox: int | None, messages: Sequence[MailMessage]) -> dict[str, object]:
    """What list_infected_files says beyond the file: of a mailbox its infected `messages` (none, if it is detected as a
    whole only) and `message_count`, how many it has in all (null: not known); of a file that is one message
    its own message_id, subject, from and date. Nothing for what is no mail. `mailbox`: as in Finding."""
    if mailbox is None:
        if not messages or messages[0].number:
            return {}
        one = messages[0]
        return {"message_id": one.message_id, "subject": one.subject, "from": one.sender, "date": one.date}
    return {
        "message_count": mailbox or None,
        "messages": [
            {
                "number": one.number,
                "start": one.start,
                "end": one.end,
                "message_id": one.message_id,
                "subject": one.subject,
                "from": one.sender,
                "date": one.date,
                "virus_type": one.signature,
            }
            for one in messages
        ],
    }


def ignored_shown(entry: IgnoreEntry | None) -> dict[str, object]:
    """What list_infected_files says of a file that the account's ignore list covers; nothing for others."""
    return {} if entry is None else {"ignored": {"id": entry.id, "kind": entry.kind.value, "note": entry.note}}


def status_of(
    scan: Scan,
    *,
    home: bytes,
    current: bytes,
    infected: Sequence[str | msgspec.Raw],
    kept: int,
    queue_position: int,
    files_per_second: float,
    eta_seconds: int | None,
) -> dict[str, object]:
    """`data` of get_scan_status. `infected`: the first of the `kept` findings, as shown; more may have been found."""
    counts = scan.counts
    started = scan.started_at if scan.started_at is not None else scan.asked_at
    return {
        "current_file": shown(home, current),
        "infected_files": infected,
        "scan_complete": int(scan.state in SCAN_ENDED),
        "scanned_file_count": counts.scanned_files,
        "scanned_file_size": counts.scanned_bytes,
        "time_started": str(int(started)),
        "total_file_count": counts.total_files,
        "total_file_size_MiB": -(-counts.total_bytes // _MIB),
        "scan_id": scan.id,
        "scan_type": scan.scan_type,
        "paths": [shown(home, path) for path in scan.paths],
        "since": scan.since,
        "state": scan.state.value,
        "queue_position": queue_position,
        "resumed": scan.resumed,
        "infected_file_count": max(counts.infected_files, kept),  # a scan that starts over counts again from 0
        "total_file_size": counts.total_bytes,
        "not_scanned": dict(counts.not_scanned),
        "excludes": [to_wire(pattern) for pattern in scan.excludes],
        "cached_file_count": counts.cached_files,
        "depth": scan.depth.value,
        "checked_with": checked_with(scan),
        "files_per_second": round(files_per_second, 1),
        "eta_seconds": eta_seconds,
        "engine": scan.engine,
    }


def checked_with(scan: Scan) -> list[dict[str, object]]:
    """How many files were checked with which database, the present one first."""
    counts, engine = scan.counts, scan.engine
    now = counts.scanned_files - sum(counts.earlier.values())
    shown: list[dict[str, object]] = []
    if now > 0:
        shown.append({"database": engine.database, "files": now, "present": True})
    for database, files in sorted(counts.earlier.items(), reverse=True):
        shown.append({"database": database, "files": files, "present": False})
    return shown


def warnings_of(scan: Scan, kept: int) -> list[str]:
    """What a reader of the numbers must know beside them. `kept`: findings that can be listed and acted on."""
    warnings = []
    if (found := scan.counts.infected_files) > kept:
        warnings.append(f"{found} infected files were found and only {kept} are listed: act on those, then scan again")
    if scan.state in (ScanState.CANCELLED, ScanState.FAILED):
        warnings.append(scan.message or f"the scan was {scan.state.value}")
    if scan.counts.not_scanned.get(Reason.NO_SIGNATURES):
        warnings.append(NO_SIGNATURES)
    warnings += scan.engine.blind
    return warnings
