"""What rpc.discover says of ignore lists and of single paths. Data; [daemon]. As described.py, which has the rest."""

from collections.abc import Mapping

from clamscannerd.rpc.describing import Described, Example
from clamscannerd.service import explain, ignore

_ENTRY = {
    "id": 3,
    "kind": "path",
    "value": "/samples/**/*.com",
    "note": "test files of the course",
    "added_by": 1000,
    "added_at": 1769860990.0,
    "expires_at": 1777636990.0,
    "state": "in_effect",
}

IGNORE: Mapping[str, Described] = {
    "Scan.explain": Described(
        summary="Why a path is scanned or not, and what was last said of it: without a look at the path itself.",
        answer=explain.Explained,
        params={
            "path": "Absolute or relative to the home, in wire form.",
            "directory": "Whether it is one: some patterns of scans.exclude are for directories alone.",
        },
        examples=(
            Example(
                name="a file",
                params={"path": "/home/anna/film.iso"},
                answer={
                    "file": "/home/anna/film.iso",
                    "in_home": True,
                    "scan_types": [{"id": "home", "message": "Scan Entire Home Directory"}],
                    "excluded": {"pattern": "*.iso", "file": "/home/anna/film.iso"},
                    "ignored": None,
                    "max_file_size": 104857600,
                    "finding": None,
                    "last_scan": {
                        "scan_id": 12,
                        "scan_type": "home",
                        "state": "done",
                        "time_started": 1769860800.1,
                        "time_ended": 1769860806.2,
                        "outcome": "not_scanned",
                        "not_scanned": {"file": "/home/anna/film.iso", "reason": "excluded"},
                    },
                },
            ),
        ),
    ),
    "Ignore.add": Described(
        summary="Has findings listed as ignored from now on: by a glob over paths, a signature, or a SHA-256.",
        answer=ignore.Entry,
        params={
            "kind": "What it goes by; ignore.allowed of the configuration says which may be.",
            "value": "The glob, as in .gitignore and relative to the home, in wire form; the name; 64 hex digits.",
            "note": "Why.",
            "expires_at": "Epoch seconds; null: never.",
        },
        errors=("refused",),
        examples=(
            Example(
                name="by path",
                params={"kind": "path", "value": "/samples/**/*.com", "note": "test files of the course"},
                answer={**_ENTRY, "expires_at": None},
            ),
        ),
    ),
    "Ignore.list": Described(
        summary="The ignore list of the account, by number.",
        answer=ignore.Entries,
        params={"limit": "So many at most.", "offset": "So many are passed over."},
        examples=(
            Example(
                name="all",
                answer={"entries": [_ENTRY], "total": 1, "allowed": ["path", "signature", "sha256"], "most": 100},
            ),
        ),
    ),
    "Ignore.remove": Described(
        summary="Takes an entry off the list: what it covered is infected again at once.",
        answer=ignore.Removed,
        params={"id": "Its number, as Ignore.list has it."},
        errors=("not_found",),
        examples=(Example(name="one entry", params={"id": 3}, answer={"removed": 3}, needs="an entry"),),
    ),
}
