"""What rpc.discover says of histories, accounts and events. Data; [daemon]. As described.py, which has the rest."""

from collections.abc import Mapping

from clamscannerd.rpc import answers
from clamscannerd.rpc.describing import ENGINE, FILE, SIGNATURE, STATUS, Described, Example

_PAGE = {"limit": "So many at most.", "offset": "So many are passed over."}
_SCAN = {
    **{name: value for name, value in STATUS.items() if name != "infected_files"},
    "warnings": [],
    "time_ended": 1769860806.2,
    "asked_by": 1000,
    "scheduled": False,
    "findings": {"quarantined": 1},
}
_ACCOUNT = {
    "user": "anna",
    "uid": 1000,
    "standing": 0,
    "ignored": 0,
    "scan_id": 12,
    "scan_type": "home",
    "state": "done",
    "time_started": 1769860800.1,
    "time_ended": 1769860806.2,
    "scanned_file_count": 4986,
    "infected_file_count": 1,
    "not_scanned": {"too_big": 9, "encrypted": 5},
    "findings": {"quarantined": 1},
    "engine": ENGINE,
}

HISTORY: Mapping[str, Described] = {
    "Scan.list": Described(
        summary="The scans of the account, newest first, with what became of what they found.",
        answer=answers.Scans,
        params=_PAGE,
        examples=(Example(name="the latest", params={"limit": 1}, answer={"scans": [_SCAN]}, needs="a scan"),),
    ),
    "Scan.get": Described(
        summary="One scan, with a page of what it found and a page of what was not scanned.",
        answer=answers.ScanWhole,
        params={"scan_id": "As start_scan answers it.", **_PAGE},
        errors=("not_found",),
        examples=(
            Example(
                name="with its files",
                params={"scan_id": 12},
                answer={
                    **_SCAN,
                    "files": [{"file": FILE, "virus_type": SIGNATURE, "state": "quarantined"}],
                    "not_scanned_files": [{"file": "/home/anna/film.iso", "reason": "too_big"}],
                },
                needs="a scan",
            ),
        ),
    ),
    "Account.list": Described(
        summary="Each account of which a scan is known, with counts of its latest, and no file's name.",
        answer=answers.Accounts,
        params=_PAGE,
        examples=(Example(name="all", answer={"accounts": [_ACCOUNT]}, needs="a scan"),),
    ),
    "Events.subscribe": Described(
        summary="Turns the connection into a stream of notifications, the present state first.",
        answer=answers.Subscribed,
        answer_says="Then notifications: clamscannerd-rpc(7) has the parameters of each kind.",
        params={"kinds": "Which kinds; all, if it is left out."},
        errors=("refused",),
        examples=(
            Example(
                name="findings as they come",
                params={"kinds": ["Scan.finding", "Scan.done"]},
                answer={"user": "anna", "kinds": ["Scan.finding", "Scan.done"]},
            ),
        ),
    ),
}
