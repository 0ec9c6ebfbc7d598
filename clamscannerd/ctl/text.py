"""Answers of the daemon as plain lines. Pure: no I/O but the clock's time zone.

The lines are meant to stay as they are: people grep them. Whoever needs more takes `--json`. On a terminal, whose
`columns` are given, what is too wide is broken where it is prose, and a table's row takes two lines; a name is never
broken or shortened, for it would be another one. Everything here is somebody else's text: `safe()` (visible.py) goes
over every word.
"""

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from clamscannerd.ctl.visible import cells, folded, tail
from clamscannerd.ctl.visible import safe as safe

Json = dict[str, Any]

# The keys are model.Reason; one that a newer daemon adds is shown by its own name.
_REASONS: Mapping[str, str] = {
    "too_big": "over the size limit",
    "limit": "beyond the engine's limits",
    "encrypted": "encrypted",
    "unreadable": "unreadable",
    "changed": "changed during the scan",
    "vanished": "gone before being read",
    "not_regular": "not regular",
    "other_filesystem": "on another file system",
    "path_too_long": "with too long a path",
    "excluded": "excluded",
    "no_signatures": "for want of signatures",
    "timed_out": "timed out",
    "engine_error": "engine errors",
    "unchanged": "unchanged",
}

_UNCHANGED = "unchanged"
"""The reason that is not one of trouble."""

_NOW_AT = "  now at:     "

# With one of these the engine did not do its work: "nothing found" would be more than is known.
_TROUBLE = ("no_signatures", "engine_error", "timed_out")


def json_line(value: object, *, indent: int | None = None) -> str:
    """JSON in ASCII: as safe on a terminal as `safe()`, and the same value for a parser."""
    return json.dumps(value, ensure_ascii=True, indent=indent).replace("\x7f", "\\u007f")


def size(number: int) -> str:
    """Bytes for people: 999 B, 1.2 MiB."""
    if number < 1024:
        return f"{number} B"
    value = float(number)
    for unit in ("KiB", "MiB", "GiB"):
        value /= 1024
        if value < 1023.95:
            return f"{value:.1f} {unit}"
    return f"{value / 1024:.1f} TiB"


def limit(number: int) -> str:
    """A size that somebody has set: 25 MiB."""
    return size(number).replace(".0 ", " ")


def duration(seconds: float) -> str:
    """Seconds for people: 45 s, 12 min, 3.5 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def moment(epoch: float) -> str:
    """Epoch seconds in local time."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(epoch))


def plural(number: int, one: str, many: str | None = None) -> str:
    """3 files; 1 file."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def left_out(status: Json) -> str:
    """not_scanned() of a scan, with the limit of its engine."""
    return not_scanned(status.get("not_scanned") or {}, most_bytes(status))


def most_bytes(status: Json) -> int:
    """What is larger than that was too big for the scan; 0: not known, as of a daemon that did not keep it."""
    return int((status.get("engine") or {}).get("max_file_size") or 0)


def not_scanned(counts: Mapping[str, int], most: int) -> str:
    """`14 not scanned (9 over 25 MiB, 5 encrypted)`: stands wherever the number of infected files stands.

    Without what a recent scan leaves out: that is no trouble, and hides none here. `most`: as most_bytes() has it.
    """
    numbers = {name: number for name, number in counts.items() if number and name != _UNCHANGED}
    kinds = sorted(((number, name) for name, number in numbers.items()), key=lambda kind: -kind[0])
    total = sum(number for number, _ in kinds)
    if not kinds:
        return "0 not scanned"
    parts = ", ".join(f"{number} {reason(name, most)}" for number, name in kinds)
    return f"{total} not scanned ({parts})"


def unchanged(status: Json) -> str:
    """`, 4936 left out (unchanged since 2026-01-29 12:00:00)` of a recent scan; "" of any other."""
    number = int((status.get("not_scanned") or {}).get(_UNCHANGED, 0))
    since = f" since {moment(float(status['since']))}" if status.get("since") is not None else ""
    return f", {number} left out (unchanged{since})" if number or since else ""


def reason(name: str, most: int = 0) -> str:
    """Why a file was not scanned, in words. `most`: as most_bytes() has it."""
    if name == "too_big" and most:
        return f"over {limit(most)}"
    return _REASONS.get(name, safe(name))


def found_count(status: Json) -> int:
    """How many infected files the scan found; the list in the answer ends at 1,000."""
    return int(status["infected_file_count"] if "infected_file_count" in status else len(status["infected_files"]))


def ignored_count(status: Json) -> int:
    """Of them, how many the account's ignore list covers; 0 where that is not told."""
    return int(status.get("ignored_file_count") or 0)


def infected_count(status: Json) -> int:
    """Those that somebody must act on."""
    return max(0, found_count(status) - ignored_count(status))


def infected_words(status: Json) -> str:
    """`2 infected, 1 ignored`."""
    ignored = ignored_count(status)
    return f"{infected_count(status)} infected{f', {ignored} ignored' if ignored else ''}"


def result(status: Json) -> str:
    """`0 infected, 4986 scanned, 14 not scanned (...)`; `0 infected, 2 ignored, ...`."""
    words = f"{infected_words(status)}, {status['scanned_file_count']} scanned, {left_out(status)}"
    return words + unchanged(status)


def scan_name(status: Json) -> str:
    """`scan 12 (home)`."""
    return f"scan {safe(str(status.get('scan_id', '?')))} ({scanned(status)})"


def scanned(status: Json) -> str:
    """What a scan is of: its type, or the first of the paths that were named."""
    if kind := str(status.get("scan_type", "" if "paths" in status else "?")):
        return safe(kind)
    names = [safe(path) for path in status.get("paths") or ()]
    return f"{names[0]} and {len(names) - 1} more" if len(names) > 1 else "".join(names) or "named paths"


def state(status: Json) -> str:
    """queued, running, paused, done, cancelled or failed."""
    return str(status.get("state", "done" if status["scan_complete"] else "running"))


def status_lines(status: Json, columns: int | None = None) -> list[str]:
    """The answer of get_scan_status."""
    lines = _status_lines(status)
    return [part for line in lines for part in ([line] if _names(line) else folded(line, columns, len(_NOW_AT)))]


def _names(line: str) -> bool:
    """Whether there is a file's name in it."""
    return not line.startswith("  ") or line.startswith(_NOW_AT)


def _status_lines(status: Json) -> list[str]:
    now = state(status)
    lines = [f"{scan_name(status)}: {now}{_place(status) if now == 'queued' else ''}"]
    lines.append(f"  started:    {moment(int(status['time_started']))}{_resumed(status)}")
    files = f"{met(status)} of {status['total_file_count']} files"
    read = size(int(status["scanned_file_size"]))
    cached = int(status.get("cached_file_count", 0))
    lines.append(f"  progress:   {files}, {read} scanned{f', {cached} known from before' if cached else ''}")
    lines += _checked(status)
    if now == "running" and not status["scan_complete"]:
        lines += _motion(status)
    lines.append(f"  result:     {result(status)}")
    if patterns := status.get("excludes"):
        lines.append(f"  left out:   {', '.join(safe(str(pattern)) for pattern in patterns)}")
    return lines + _engine(status.get("engine") or {})


def _checked(status: Json) -> list[str]:
    """Of a scan for which earlier signatures count, or nothing: how many files were checked with which."""
    depth, shown = str(status.get("depth", "full")), status.get("checked_with") or ()
    if depth == "full":
        return []
    total = sum(int(one["files"]) for one in shown) or 1
    parts = [
        f"{100 * int(one['files']) / total:.3g} % with {'' if one['present'] else 'earlier '}signatures"
        f" {safe(str(one['database']))}"
        for one in shown
    ]
    return [f"  checked:    {', '.join(parts) or 'nothing yet'} ({safe(depth)})"]


def met(status: Json) -> int:
    """Files that are done with, scanned or not."""
    counts: Mapping[str, int] = status.get("not_scanned") or {}
    return int(status["scanned_file_count"]) + sum(counts.values())


def _place(status: Json) -> str:
    position = status.get("queue_position")
    return f", number {position} in the queue" if position else ""


def _resumed(status: Json) -> str:
    times = int(status.get("resumed") or 0)
    return f", started over {plural(times, 'time')}" if times else ""


def _motion(status: Json) -> list[str]:
    parts = _speed(status)
    lines = [f"  speed:      {', '.join(parts)}"] if parts else []
    current = status["current_file"]
    return lines + ([f"{_NOW_AT}{safe(current)}"] if current else [])


def _speed(status: Json) -> list[str]:
    rate, eta = status.get("files_per_second"), status.get("eta_seconds")
    parts = [f"{rate:.0f} files/s"] if rate else []
    return parts + ([f"about {duration(float(eta))} left"] if eta is not None else [])


def progress_lines(status: Json, columns: int) -> list[str]:
    """For under a bar: what has been found and not scanned, how much there is, where it is; each fits the columns."""
    lines = [f"{state(status)}, {infected_words(status)}, {left_out(status)}"]
    total = int(status.get("total_file_size", int(status["total_file_size_MiB"]) << 20))
    read = f"{size(int(status['scanned_file_size']))} of {size(total)} scanned"
    lines.append(", ".join([read, *(_speed(status) if state(status) == "running" else [])]))
    if status["current_file"]:
        lines.append(tail(safe(status["current_file"]), columns))
    return lines


def engine_words(engine: Json) -> str:
    """`ClamAV 1.4.6, signatures 27400 of 2026-01-31 12:00:00`."""
    version = safe(str(engine["version"]))
    words = version if version.startswith("ClamAV") else f"ClamAV {version}"
    if engine.get("database"):
        words += f", signatures {engine['database']}"
        words += f" of {moment(float(engine['database_time']))}" if engine.get("database_time") else ""
    return words


def _engine(engine: Json) -> list[str]:
    if not engine.get("version"):
        return []
    line = f"  engine:     {engine_words(engine)}"
    return [line, *(f"  blind to:   {safe(str(what))}" for what in engine.get("blind") or ())]


def infected_lines(findings: Iterable[Json]) -> list[str]:
    """`/home/x/file: Signature FOUND`, as clamscan prints it; then what the ignore list covers."""
    lines: list[str] = []
    ignored: list[str] = []
    for found in findings:
        name = f"{safe(found['file'])}: {safe(found['virus_type'])}"
        if by := found.get("ignored"):
            ignored.append(f"{name} IGNORED ({ignored_by(by)})")
        else:
            lines.append(f"{name} FOUND")
    return lines + ignored


def ignored_by(entry: Json) -> str:
    """`entry 3: test files`."""
    return f"entry {entry['id']}{': ' + safe(entry['note']) if entry['note'] else ''}"


def paths_lines(paths: Sequence[Json]) -> list[str]:
    """`home   Scan Entire Home Directory`."""
    width = max((len(safe(path["id"])) for path in paths), default=0)
    return [f"{safe(path['id']):<{width}}  {safe(path['message'])}" for path in paths]


def record_line(record: Json) -> str:
    """One record of the log."""
    message = safe(str(record.get("message") or ""))
    if record["type"] == "step":
        return f"{record['state']}: {safe(record['file'])}{f' ({message})' if message else ''}"
    if record["type"] == "done":
        return f"done: {record['state']}{f', {message}' if message else ''}"
    return f"{record['state']}: {message}"


def record_lines(records: Iterable[Json], columns: int | None) -> list[str]:
    """Records of the log; on a terminal what is said of a file stands below it, where both do not fit."""
    lines: list[str] = []
    for record in records:
        line = record_line(record)
        if columns is None or cells(line) <= columns or record["type"] != "step" or not record.get("message"):
            lines.append(line)
        else:
            lines += [f"{record['state']}: {safe(record['file'])}", f"    ({safe(str(record['message']))})"]
    return lines


def task_lines(task: Json) -> list[str]:
    """`task ID: disinfect, done`, and when."""
    undoes = f" of {safe(str(task['undoes']))}" if task.get("undoes") else ""
    lines = [f"task {safe(str(task['task_id']))}: {safe(str(task['kind']))}{undoes}, {safe(str(task['state']))}"]
    lines.append(f"  asked for:  {moment(float(task['asked_at']))}")
    if task.get("ended_at") is not None:
        lines.append(f"  ended:      {moment(float(task['ended_at']))}")
    elif task.get("steps"):
        lines.append(f"  progress:   {task['steps_ended']} of {plural(int(task['steps']), 'file')}")
    return lines


def scan_exit(status: Json, *, strict: bool = False) -> int:
    """As clamscan's: 0 nothing found, 1 found, 2 trouble. Found comes first: it is what somebody must act on.

    `strict`: 3 when it is done and files were not scanned.
    """
    if infected_count(status):
        return 1
    if state(status) in {"cancelled", "failed"}:
        return 2
    counts: Mapping[str, int] = status.get("not_scanned") or {}
    if any(counts.get(reason) for reason in _TROUBLE):
        return 2
    return 3 if strict and state(status) == "done" and some_not_scanned(counts) else 0


def some_not_scanned(counts: Mapping[str, int]) -> bool:
    """Whether there is one; what a recent scan leaves out is none."""
    return any(number for name, number in counts.items() if name != _UNCHANGED)


def items_lines(items: Sequence[Json], columns: int | None = None) -> list[str]:
    """`12  quarantined  until 2026-05-01 12:00:00  68 B  Eicar-Test  /home/anna/x`; in two lines each, where one of
    them does not fit."""
    if not items:
        return ["the vault has nothing of this account"]
    ids = max(len(str(item["id"])) for item in items)
    states = max(len(safe(item["state"])) for item in items)
    rows = [
        f"{item['id']:>{ids}}  {safe(item['state']):<{states}}  until {moment(float(item['expires_at']))}"
        f"  {size(int(item['size'])):>9}"
        for item in items
    ]
    names = [f"{safe(item['signature'])}  {safe(item['file'])}" for item in items]
    both = list(zip(rows, names, strict=True))
    if columns is None or all(cells(f"{row}  {name}") <= columns for row, name in both):
        return [f"{row}  {name}" for row, name in both]
    return [line for row, name in both for line in (row, f"{'':>{ids}}  {name}")]


def item_lines(item: Json) -> list[str]:
    """One item, a line for each thing known about it."""
    task, engine = item.get("task_id"), item.get("engine")
    return [
        f"item {item['id']}: {safe(item['file'])}",
        f"  taken:      {moment(float(item['kept_at']))}, {safe(item['state'])}: {safe(item['signature'])}",
        *([f"  found by:   {engine_words(engine)}"] if engine else []),
        f"  kept until: {moment(float(item['expires_at']))}",
        f"  content:    {size(int(item['size']))}, SHA-256 {safe(item['sha256'])}",
        f"  file:       mode {safe(item['mode'])}, uid {item['owner']}, gid {item['group']}",
        f"  written:    {moment(float(item['mtime']))}",
        *([f"  task:       {safe(task)}"] if task else []),
    ]


def verified_lines(answer: Json) -> list[str]:
    """`12 items, 12 intact`, and what is wrong."""
    lines = [f"{plural(int(answer['items']), 'item')}, {answer['intact']} intact"]
    lines += [f"damaged: item {item_id}" for item_id in answer["damaged"]]
    if more := int(answer["damaged_count"]) - len(answer["damaged"]):
        lines.append(f"damaged: {more} more")
    lines += [f"without an item: {safe(stray)}" for stray in answer.get("strays") or ()]
    if more := int(answer.get("stray_count") or 0) - len(answer.get("strays") or ()):
        lines.append(f"without an item: {more} more")
    return lines
