"""A digest that is made up, for `clamscannerctl hooks test`: of kind "test", else like one of kind "findings". Pure."""

import json


def digest(digest_id: str, *, host: str, now: float) -> bytes:
    """See service/digest.py for what the fields are. The names are as awkward as real ones can be."""
    file, other = "/home/example/public_html/it is\nonly a \u202etest.php", "/home/example/caf\\xe9.com"
    found = {"signature": "Eicar-Test-Signature", "size": 68, "found_at": now, "scan_id": 1}
    text = {
        "version": 1,
        "id": digest_id,
        "kind": "test",
        "made_at": now,
        "host": host,
        "account": {"user": "example", "uid": 65533, "home": "/home/example"},
        "scan": {
            "scan_id": 1,
            "scan_type": "home",
            "state": "done",
            "time_started": now - 60,
            "time_ended": now,
            "total_file_count": 5_000,
            "total_file_size": 1_288_490_188,
            "scanned_file_count": 4_986,
            "scanned_file_size": 1_288_490_000,
            "infected_file_count": 2,
            "cached_file_count": 0,
            "not_scanned": {"too_big": 9, "encrypted": 5},
            "engine": {"version": "1.4.6", "database": 27_400, "database_time": int(now), "max_file_size": 25 << 20},
            "message": "",
        },
        "new": 2,
        "standing": 2,
        "findings": [
            {"file": file, **found},
            {"file": other, "file_base64": "L2hvbWUvZXhhbXBsZS9jYWbpLmNvbQ==", **found},
        ],
        "more": 0,
        "advice": ["nothing: this is a test, made by clamscannerctl hooks test"],
    }
    return json.dumps(text).encode() + b"\n"
