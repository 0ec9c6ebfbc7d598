"""What a description of a method is made of, and what several examples have in common. Data; [daemon]."""

from collections.abc import Mapping
from typing import Any

import msgspec

TASK_ID = "00000001/5a9ec8dd4c345d"
LOG = "/home/anna/.clamavconnector.disinfection.log"
FILE = "/home/anna/public_html/up load.php"
SIGNATURE = "Eicar-Test-Signature"
ENGINE = {
    "version": "1.4.6",
    "database": 27400,
    "database_time": 1780000000.0,
    "blind": [],
    "max_file_size": 26214400,
}
STATUS = {
    "current_file": "",
    "infected_files": [FILE],
    "scan_complete": 1,
    "scanned_file_count": 4986,
    "scanned_file_size": 1288490188,
    "time_started": "1769860800",
    "total_file_count": 5000,
    "total_file_size_MiB": 1840,
    "scan_id": 12,
    "scan_type": "home",
    "paths": ["/home/anna"],
    "since": None,
    "state": "done",
    "queue_position": 0,
    "resumed": 0,
    "infected_file_count": 1,
    "ignored_file_count": 0,
    "total_file_size": 1929379840,
    "not_scanned": {"too_big": 9, "encrypted": 5},
    "excludes": [],
    "cached_file_count": 0,
    "depth": "full",
    "checked_with": [{"database": 27400, "files": 4986, "present": True}],
    "files_per_second": 813.4,
    "eta_seconds": 0,
    "engine": ENGINE,
}


class Example(msgspec.Struct, frozen=True, kw_only=True):
    """A call and its answer. Of the six calls `answer` is the `data` of the envelope. `needs`: what there must be."""

    name: str
    params: Mapping[str, Any] = {}
    answer: Any
    needs: str = ""


class Described(msgspec.Struct, frozen=True, kw_only=True):
    """One method. `params`: a sentence for each. `errors`: kinds beyond those that any call can be answered with."""

    summary: str
    answer: Any
    """A type that msgspec knows; of the six calls that of `data`."""
    answer_says: str = ""
    params: Mapping[str, str] = {}
    errors: tuple[str, ...] = ()
    examples: tuple[Example, ...]
