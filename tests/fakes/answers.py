"""Answers of the six calls for scripted tests, each checked against the contract's schema."""

from typing import Any

from tests.fakes.daemon import envelope

STATUS: dict[str, Any] = {
    "current_file": "",
    "infected_files": [],
    "scan_complete": 1,
    "scanned_file_count": 10,
    "scanned_file_size": 2048,
    "time_started": "1700000000",
    "total_file_count": 24,
    "total_file_size_MiB": 1,
    "scan_id": 3,
    "scan_type": "home",
    "state": "done",
    "infected_file_count": 0,
    "not_scanned": {"encrypted": 5, "too_big": 9},
}
NOT_SCANNED = "0 infected, 10 scanned, 14 not scanned (9 over the size limit, 5 encrypted)"
RUNNING = {"scan_complete": 0, "state": "running"}
LOG = "/home/x/.clamavconnector.disinfection.log"
DISINFECTED = envelope("disinfect_files", {"log": LOG, "task_id": "00000000/5a9ec8dd4c345d"})


def status(**change: object) -> dict[str, Any]:
    return envelope("get_scan_status", {**STATUS, **change})


def infected(*files: str) -> dict[str, Any]:
    return envelope("list_infected_files", [{"file": file, "virus_type": "Eicar"} for file in files])


def mailbox(file: str, count: int | None, *numbers: int) -> dict[str, Any]:
    """A row of list_infected_files: a mailbox of `count` messages, those of these numbers infected."""
    messages = [{"number": number, "start": 0, "end": 1, "virus_type": "Eicar"} for number in numbers]
    return {"file": file, "virus_type": "Eicar", "message_count": count, "messages": messages}


def infected_rows(*rows: dict[str, Any]) -> dict[str, Any]:
    return envelope("list_infected_files", list(rows))


def disinfection(state: str, *records: dict[str, Any]) -> dict[str, Any]:
    return envelope("check_disinfection_status", {"details": list(records), "log": LOG, "status": state})


def step(number: int, file: str, state: str = "quarantined") -> dict[str, Any]:
    return {"type": "step", "id": number, "file": file, "state": state}


def done(number: int, state: str = "success") -> dict[str, Any]:
    return {"type": "done", "id": number, "state": state, "status": "done"}
