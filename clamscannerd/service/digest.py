"""The text of a digest, as it stands in the outbox: one JSON object for the hooks. Pure. [daemon]

    {"version": 1, "id": "9f...", "kind": "findings", "made_at": 1769856000.5, "host": "web1",
     "account": {"user": "anna", "uid": 1001, "home": "/home/anna"},
     "scan": {"scan_id": 12, "scan_type": "home", "state": "done", ..., "not_scanned": {"too_big": 9}},
     "new": 1, "standing": 3,
     "findings": [{"file": "/home/anna/x.php", "signature": "Php.Malware", ...}], "more": 0,
     "advice": ["..."]}

`id` stays the same however often the file is written: by it a hook knows what it did already. Names are in the form of
the wire; one that is not valid UTF-8 has its bytes besides, in base64, so that no hook has to know that form. A digest
of kind "engine" is for administrators, with `troubles` in place of all that is about an account.
"""

import base64
from collections.abc import Sequence

import msgspec

from clamscannerd.model import Account, Check, Finding
from clamscannerd.rpc.names import to_wire
from clamscannerd.state.store_digests import Report

VERSION = 1

MOST_BYTES = 64 << 10
"""Of the findings named: a pipe's buffer, so that also a hook that is slow to read takes one whole."""


def findings(report: Report, *, digest_id: str, account: Account, host: str, now: float) -> bytes:
    """What is new of an account."""
    scan, counts = report.scan, report.scan.counts
    named = _named(account.home, report.findings)
    text = {
        **_head(digest_id, "findings", host, now),
        "account": {"user": account.name, "uid": account.uid, **_place("home", account.home)},
        "scan": {
            "scan_id": scan.id,
            "scan_type": scan.scan_type,
            "state": scan.state.value,
            "time_started": scan.started_at,
            "time_ended": scan.ended_at,
            "total_file_count": counts.total_files,
            "total_file_size": counts.total_bytes,
            "scanned_file_count": counts.scanned_files,
            "scanned_file_size": counts.scanned_bytes,
            "infected_file_count": counts.infected_files,
            "cached_file_count": counts.cached_files,
            "not_scanned": dict(counts.not_scanned),
            "engine": scan.engine,
            "message": scan.message,
        },
        "new": report.new,
        "standing": report.standing,
        "findings": named,
        "more": report.new - len(named),
        "advice": [
            "see all of it: clamscannerctl infected",
            "take it away, so that it can be taken back: clamscannerctl disinfect quarantine --all --wait",
            f"what was not scanned, and why: clamscannerctl report {scan.id} --details",
        ],
    }
    return _encoded(text)


def troubles(checks: Sequence[Check], *, digest_id: str, host: str, now: float) -> bytes:
    """What is wrong with the engine."""
    text = {
        **_head(digest_id, "engine", host, now),
        "troubles": [{"id": one.id, "message": one.message, "cure": one.cure} for one in checks],
        "advice": ["see all of it: clamscannerctl health", *(one.cure for one in checks if one.cure)],
    }
    return _encoded(text)


def _head(digest_id: str, kind: str, host: str, now: float) -> dict[str, object]:
    return {"version": VERSION, "id": digest_id, "kind": kind, "made_at": now, "host": host}


def _encoded(text: dict[str, object]) -> bytes:
    return msgspec.json.encode(text) + b"\n"


def _named(home: bytes, found: Sequence[Finding]) -> list[dict[str, object]]:
    named: list[dict[str, object]] = []
    left = MOST_BYTES
    for one in found:
        entry = {
            **_place("file", home.rstrip(b"/") + b"/" + one.path),
            "signature": one.signature,
            "size": one.identity.size,
            "found_at": one.found_at,
            "scan_id": one.scan_id,
        }
        left -= len(msgspec.json.encode(entry))
        if left < 0:
            break
        named.append(entry)
    return named


def _place(key: str, name: bytes) -> dict[str, object]:
    """Text for everybody, and the bytes where the text is not those."""
    try:
        name.decode()
    except UnicodeDecodeError:
        return {key: to_wire(name), f"{key}_base64": base64.b64encode(name).decode()}
    return {key: to_wire(name)}
