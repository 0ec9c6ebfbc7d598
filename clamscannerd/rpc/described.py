"""What rpc.discover says of each method beyond its row: summary, parameters, answer, errors, examples. Data; [daemon].

Beside the table and not in it, as a row is what a call needs and this is what a reader needs; a test demands an entry
for every row, and makes every example's call against a real daemon. Texts are for people who have the contract at
hand or not: one sentence each.

Rejected: docstrings of handlers (their words are for whoever reads the code), and examples written down as whole lines
of JSON (they could not be checked against the schemas part by part).
"""

from collections.abc import Mapping
from typing import Any

from clamscannerd import __version__
from clamscannerd.model import Check
from clamscannerd.rpc import answers
from clamscannerd.rpc.described_history import HISTORY
from clamscannerd.rpc.described_ignore import IGNORE
from clamscannerd.rpc.described_scans import SCANS
from clamscannerd.rpc.describing import FILE, LOG, SIGNATURE, STATUS, TASK_ID, Described, Example
from clamscannerd.service import metrics, quarantine, task

KINDS: Mapping[str, tuple[int, str]] = {
    "parse_error": (-32700, "The line is no JSON; or JSON that is not accepted, such as a key given twice."),
    "invalid_request": (-32600, "The line is JSON, and no request."),
    "unknown_method": (-32601, "There is no such method."),
    "invalid_params": (-32602, "A parameter is missing, unknown, or not of its type; the message says which."),
    "internal": (-32603, "A fault of the daemon; its log has it."),
    "fault": (-32000, "The daemon's state cannot be used now (a full disk, say); it may pass."),
    "misconfigured": (-32001, "The configuration is broken; the message says where."),
    "denied": (-32003, "The call, or naming a user, is for administrators."),
    "unknown_account": (-32004, "There is no such account, or this daemon does not serve it."),
    "not_found": (-32005, "There is nothing of this id, or nothing of this account's."),
    "too_many_calls": (-32006, "Too many calls of this user are in flight, or answers unread."),
    "too_many_connections": (-32007, "Too many connections are open; this one is closed."),
    "message_too_large": (-32008, "The message is over the limit; the connection is closed."),
    "shutting_down": (-32009, "The daemon is stopping; ask again when it is back."),
    "timed_out": (-32010, "The look-up of the account took too long; or the client over a line, or it was idle."),
    "refused": (-32011, "What was asked cannot be done now; the message says why."),
}
"""Every `data.kind` that an answer can carry: its code, and what it means."""


_RECORDS = [
    {"type": "step", "id": 1, "file": FILE, "state": "quarantined"},
    {"type": "done", "status": "done", "id": 2, "state": "success"},
]
_ITEM = {
    "id": 7,
    "file": FILE,
    "state": "quarantined",
    "size": 68,
    "sha256": "275a021bbfb6489e54d471899f7db9d1663fc695ec2fe2a2c4538aabf651fd0f",
    "signature": SIGNATURE,
    "engine": {"version": "1.4.6", "database": 27400},
    "kept_at": 1769860990.0,
    "expires_at": 1777636990.0,
    "task_id": TASK_ID,
}
_SHOWN = {
    **_ITEM,
    "owner": 1000,
    "group": 1000,
    "mode": "0644",
    "mtime": 1769850000.0,
    "xattrs_size": 0,
    "scan_id": 12,
}
_DONE = {
    "task_id": TASK_ID,
    "kind": "disinfect",
    "state": "done",
    "undoes": None,
    "asked_by": 1000,
    "asked_at": 1769860989.0,
    "started_at": 1769860989.1,
    "ended_at": 1769860990.2,
}
_INFECTED = {
    "file": FILE,
    "virus_type": SIGNATURE,
    "size": 68,
    "mtime": 1769850000.0,
    "owner": 1000,
    "found_at": 1769860803.4,
    "engine": {"version": "1.4.6", "database": 27400},
}
_IDS = "Numbers of items, as Quarantine.list has them; 10,000 at most."
_FORCE = "Also what is still detected."
_LIMIT = "How many at most."
_OFFSET = "How many to leave out from the beginning."
_FOUND = "a scan that found something"
_KEPT = "an item in the vault"
_DISINFECTED = "a disinfection"

_SIX = {
    "get_scan_paths": Described(
        summary="What may be scanned.",
        answer=list[answers.ScanPath],
        examples=(
            Example(name="what may be scanned", answer=[{"id": "home", "message": "Scan Entire Home Directory"}]),
        ),
    ),
    "start_scan": Described(
        summary="Starts, or queues, a scan and answers at once.",
        answer=answers.ScanStarted,
        params={"scan_type": "One of those that get_scan_paths lists."},
        examples=(Example(name="scan all", params={"scan_type": "home"}, answer={"scan_id": 12, "queue_position": 0}),),
    ),
    "get_scan_status": Described(
        summary="The latest scan.",
        answer=answers.ScanStatus,
        examples=(Example(name="a scan that is done", answer=STATUS, needs="a scan"),),
    ),
    "list_infected_files": Described(
        summary="What the latest scan found and what still stands.",
        answer=list[answers.InfectedFile],
        examples=(Example(name="one infected file", answer=[_INFECTED], needs="a scan"),),
    ),
    "disinfect_files": Described(
        summary="Acts on infected files: a durable task, of which the answer has the id.",
        answer=answers.DisinfectionStarted,
        params={
            "actions": "Path, as list_infected_files has it -> ignore, delete, quarantine or cleanse_mailbox.",
            "others": "The action for every listed file that `actions` does not name and that is not `ignored`.",
        },
        examples=(
            Example(
                name="all that is infected",
                params={"actions": {}, "others": "quarantine"},
                answer={"log": LOG, "task_id": TASK_ID},
                needs=_FOUND,
            ),
        ),
    ),
    "check_disinfection_status": Described(
        summary="The latest disinfection and its records.",
        answer=answers.DisinfectionStatus,
        params={"last_id": "Only the records after it; 0: all."},
        examples=(
            Example(name="all records", answer={"details": _RECORDS, "log": LOG, "status": "done"}),
            Example(
                name="what is new",
                params={"last_id": 1},
                answer={"details": _RECORDS[1:], "log": LOG, "status": "done"},
            ),
        ),
    ),
}

SIX = frozenset(f"ClamScanner.{func}" for func in _SIX)
"""These answer in UAPI's envelope."""

_VAULT = {
    "Quarantine.list": Described(
        summary="What the vault keeps, oldest first.",
        answer=quarantine.Items,
        params={
            "state": f"How it came there: {', '.join(quarantine.STATES)}; null: all.",
            "limit": _LIMIT,
            "offset": _OFFSET,
        },
        examples=(
            Example(name="all", answer={"items": [_ITEM], "total": 1}),
            Example(
                name="a page of what was quarantined",
                params={"state": "quarantined", "limit": 10, "offset": 0},
                answer={"items": [_ITEM], "total": 1},
            ),
        ),
    ),
    "Quarantine.show": Described(
        summary="One item.",
        answer=quarantine.ItemWhole,
        params={"id": "Its number, as Quarantine.list has it."},
        errors=("not_found",),
        examples=(Example(name="one item", params={"id": 7}, answer=_SHOWN, needs=_KEPT),),
    ),
    "Quarantine.verify": Described(
        summary="Reads every content and compares it with what was kept; without a user, an administrator's is of all.",
        answer=quarantine.Verified,
        errors=("refused",),
        examples=(
            Example(
                name="all is well",
                answer={
                    "items": 1,
                    "intact": 1,
                    "damaged": [],
                    "damaged_count": 0,
                    "strays": None,
                    "stray_count": None,
                },
            ),
        ),
    ),
    "Quarantine.restore": Described(
        summary="Puts items back: a durable task, of which the answer has the id.",
        answer=answers.TaskStarted,
        params={
            "ids": _IDS,
            "to": "A directory beneath the home, which need not be there; null: where each was.",
            "force": _FORCE,
        },
        errors=("not_found", "refused"),
        examples=(
            Example(
                name="elsewhere, whatever it is",
                params={"ids": [7], "to": "kept", "force": True},
                answer={"task_id": TASK_ID},
                needs=_KEPT,
            ),
        ),
    ),
    "Quarantine.delete": Described(
        summary="Removes items for good.",
        answer=quarantine.Deleted,
        params={"ids": _IDS},
        errors=("not_found", "refused"),
        examples=(Example(name="one item", params={"ids": [7]}, answer={"deleted": 1}, needs=_KEPT),),
    ),
}

_TASKS = {
    "Task.list": Described(
        summary="The tasks of the account, newest first.",
        answer=task.Tasks,
        params={"limit": _LIMIT, "offset": _OFFSET},
        examples=(Example(name="the latest", params={"limit": 1}, answer={"tasks": [_DONE]}),),
    ),
    "Task.get": Described(
        summary="One task with its records.",
        answer=answers.TaskWhole,
        params={
            "task_id": "As the call that began it answered.",
            "last_id": "Only the records after it; 0: all.",
        },
        errors=("not_found",),
        examples=(
            Example(
                name="a disinfection",
                params={"task_id": TASK_ID},
                answer={**_DONE, "steps": 1, "steps_ended": 1, "details": _RECORDS},
                needs=_DISINFECTED,
            ),
        ),
    ),
    "Task.undo": Described(
        summary="Puts back all that one disinfection took away: a durable task, of which the answer has the id.",
        answer=answers.TaskStarted,
        params={"task_id": "Of the disinfection.", "force": _FORCE},
        errors=("not_found", "refused"),
        examples=(
            Example(
                name="whatever it is",
                params={"task_id": TASK_ID, "force": True},
                answer={"task_id": "00000002/77b0c41e5a9ec8"},
                needs=_DISINFECTED,
            ),
        ),
    ),
}

DESCRIBED: Mapping[str, Described] = {
    **{f"ClamScanner.{func}": described for func, described in _SIX.items()},
    **SCANS,
    **HISTORY,
    **IGNORE,
    **_VAULT,
    **_TASKS,
    "Daemon.health": Described(
        summary="What is right and what is not, each with its cure; for administrators, who name no user: every home.",
        answer=answers.Health,
        examples=(
            Example(
                name="all is well",
                answer={
                    "grade": "ok",
                    "checks": [
                        {"id": "engine", "grade": "ok", "message": "clamd 1.4.6 answers and scans.", "cure": ""}
                    ],
                },
            ),
        ),
    ),
    "Daemon.metrics": Described(
        summary="What the daemon counts, as Prometheus text; no user is named in it.",
        answer=metrics.Metrics,
        examples=(
            Example(
                name="all of it",
                answer={
                    "content_type": metrics.CONTENT_TYPE,
                    "text": "# HELP clamscannerd_jobs_running Jobs under way.\n# TYPE clamscannerd_jobs_running gauge\n"
                    'clamscannerd_jobs_running{kind="scan"} 2.0\nclamscannerd_jobs_running{kind="task"} 0.0\n',
                },
            ),
        ),
    ),
    "Daemon.self_test": Described(
        summary="Has the EICAR test file scanned as scans are, in a file without a name in the account's home.",
        answer=Check,
        answer_says="An administrator who names no user: as the account whose scan was asked for last.",
        examples=(
            Example(
                name="it is found",
                answer={
                    "id": "self_test",
                    "grade": "ok",
                    "message": f"The EICAR test file is found in a file of anna: {SIGNATURE}.",
                    "cure": "",
                },
            ),
        ),
    ),
    "Daemon.verify": Described(
        summary="Reads the whole database of the daemon and says whether it is as it should be.",
        answer=Check,
        examples=(
            Example(
                name="it is whole",
                answer={
                    "id": "database",
                    "grade": "ok",
                    "message": "The database is whole: read in 0.2 s.",
                    "cure": "",
                },
            ),
        ),
    ),
    "Daemon.reload": Described(
        summary="Reads the configuration again and answers when it is in force.",
        answer=answers.Reloaded,
        errors=("misconfigured",),
        examples=(Example(name="all is in force", answer={"at_next_start": []}),),
    ),
    "Daemon.version": Described(
        summary="The version.",
        answer=answers.Version,
        examples=(Example(name="the version", answer={"version": __version__}),),
    ),
    "rpc.discover": Described(
        summary="This document.",
        answer=dict[str, Any],
        answer_says="An OpenRPC document: https://spec.open-rpc.org/",
        examples=(
            Example(
                name="this document",
                answer={"openrpc": "1.3.2", "info": {"title": "clamscannerd", "version": __version__}, "methods": []},
            ),
        ),
    ),
}
"""By the names of the rows."""
