"""A scan as get_scan_status shows it: every field of the description, and what must be read beside the numbers."""

from typing import Any

import pytest

from clamscannerd.model import Counts, Depth, EngineInfo, MailMessage, Reason, Scan, ScanState
from clamscannerd.service.status import NO_SIGNATURES, mail_shown, shown, status_of, warnings_of


def scan(**changes: Any) -> Scan:
    values: dict[str, Any] = {
        "id": 7,
        "uid": 1000,
        "name": "ann",
        "scan_type": "home",
        "paths": (b".",),
        "state": ScanState.RUNNING,
        "asked_by": 1000,
        "asked_at": 10.9,
        "started_at": 12.9,
        "ended_at": None,
        "resumed": 0,
        "counts": Counts(total_files=9, total_bytes=(1 << 20) + 1, scanned_files=3, scanned_bytes=5),
        "engine": EngineInfo(),
        "message": "",
    }
    return Scan(**(values | changes))


def status(one: Scan, **changes: Any) -> dict[str, object]:
    values: dict[str, Any] = {
        "home": b"/home/ann",
        "current": b"",
        "infected": [],
        "kept": 0,
        "queue_position": 0,
        "files_per_second": 0.0,
        "eta_seconds": None,
    }
    return status_of(one, **(values | changes))


@pytest.mark.parametrize("state", ScanState)
def test_a_scan_is_complete_when_it_has_ended_however(state: ScanState) -> None:
    shows = status(scan(state=state))
    assert shows["state"] == state.value
    assert shows["scan_complete"] == int(state in (ScanState.DONE, ScanState.CANCELLED, ScanState.FAILED))


def test_the_time_is_that_of_the_start_and_until_then_of_the_asking() -> None:
    assert status(scan())["time_started"] == "12"
    assert status(scan(state=ScanState.QUEUED, started_at=None))["time_started"] == "10"


@pytest.mark.parametrize(("size", "mebibytes"), [(0, 0), (1, 1), (1 << 20, 1), ((1 << 20) + 1, 2), (5 << 40, 5 << 20)])
def test_mebibytes_are_rounded_up(size: int, mebibytes: int) -> None:
    shows = status(scan(counts=Counts(total_bytes=size)))
    assert (shows["total_file_size_MiB"], shows["total_file_size"]) == (mebibytes, size)


def test_paths_are_absolute_and_in_wire_form() -> None:
    shows = status(scan(), current=b"a\\b\xff", infected=["/home/ann/x\n"], kept=2000)
    assert shows["current_file"] == "/home/ann/a\\\\b\\xff"
    assert shows["infected_files"] == ["/home/ann/x\n"]
    assert shows["infected_file_count"] == 2000
    assert shown(b"/home/ann", b"") == ""


def test_reasons_are_shown_by_their_stable_words() -> None:
    counts = Counts(not_scanned={Reason.TOO_BIG: 2, Reason.NO_SIGNATURES: 1})
    assert status(scan(counts=counts))["not_scanned"] == {"too_big": 2, "no_signatures": 1}


def test_a_scan_that_ended_badly_says_so() -> None:
    for state in (ScanState.CANCELLED, ScanState.FAILED):
        assert warnings_of(scan(state=state, message="cannot scan: why"), 0)[0] == "cannot scan: why"
        assert warnings_of(scan(state=state), 0)[0] == f"the scan was {state.value}"
    assert warnings_of(scan(state=ScanState.DONE, message="left over"), 0) == []


def test_what_nobody_looked_at_stands_beside_the_numbers() -> None:
    blind = EngineInfo(blind=("Encrypted archives pass as clean.",))
    counts = Counts(not_scanned={Reason.NO_SIGNATURES: 1})
    assert warnings_of(scan(engine=blind, counts=counts), 0) == [NO_SIGNATURES, "Encrypted archives pass as clean."]


def test_more_found_than_kept_is_said_and_counted() -> None:
    one = scan(counts=Counts(infected_files=5))
    assert "5 infected files were found and only 3 are listed" in warnings_of(one, 3)[0]
    assert warnings_of(one, 5) == []
    assert status(one, kept=3)["infected_file_count"] == 5


def message(number: int) -> MailMessage:
    return MailMessage(
        number=number,
        start=0,
        end=9,
        message_id="<1@x>",
        subject="s",
        sender="a@x",
        date="",
        signature="Sig",
        sha256=bytes(32),
    )


@pytest.mark.parametrize(
    ("mailbox", "numbers", "count", "listed"),
    [(12, [3, 7], 12, [3, 7]), (0, [3], None, [3]), (2, [], 2, []), (0, [], None, [])],
)
def test_a_mailbox_says_how_many_messages_it_has_as_far_as_known(
    mailbox: int, numbers: list[int], count: int | None, listed: list[int]
) -> None:
    said = mail_shown(mailbox, [message(number) for number in numbers])
    assert said["message_count"] == count
    messages = said["messages"]
    assert isinstance(messages, list)
    assert [one["number"] for one in messages] == listed


def test_what_is_no_mailbox_has_neither_messages_nor_a_number_of_them() -> None:
    assert mail_shown(None, []) == {}
    assert mail_shown(None, [message(0)]) == {"message_id": "<1@x>", "subject": "s", "from": "a@x", "date": ""}
    assert mail_shown(None, [message(3)]) == {}, "a worker that tells messages of what it does not call a mailbox"


def test_files_are_told_apart_by_the_database_that_checked_them() -> None:
    counts = Counts(total_files=10, scanned_files=10, cached_files=9, earlier={27_400: 2, 27_401: 3})
    shows = status(scan(counts=counts, engine=EngineInfo(version="1", database=27_500), depth=Depth.RAPID))
    assert shows["depth"] == "rapid"
    assert shows["checked_with"] == [
        {"database": 27_500, "files": 5, "present": True},
        {"database": 27_401, "files": 3, "present": False},
        {"database": 27_400, "files": 2, "present": False},
    ]
