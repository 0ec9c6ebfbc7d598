"""What Events.subscribe has told of an account, as a picture for a screen, or as a line for each change. Pure.

The picture has the latest scan and task, and as many of the last findings and records as the screen has room for: what
it leaves out is a command away (`infected`, `task`), and nothing scrolls away what is said of the whole. "0 infected"
never stands without what was not scanned.
"""

from collections import deque
from collections.abc import Mapping
from typing import Any

from clamscannerd.ctl import text
from clamscannerd.ctl.visible import tail

Json = dict[str, Any]

KEPT = 100
"""Findings and records: more than any screen shows."""
BAR_COLUMNS = 40
LEAVE = "Ctrl-C ends this view and nothing else"


class Picture:
    def __init__(self) -> None:
        self.scan: Json | None = None
        self._findings: deque[str] = deque(maxlen=KEPT)
        self._records: deque[str] = deque(maxlen=KEPT)
        self._task = self._engine = self._trouble = ""

    def take(self, method: str, params: Mapping[str, Any]) -> None:
        """One event."""
        self._trouble = ""
        match method:
            case "Scan.progress" | "Scan.done":
                if self.scan is not None and self.scan.get("scan_id") != params.get("scan_id"):
                    self._findings.clear()
                self.scan = dict(params)
            case "Scan.finding":
                if self.scan is not None and self.scan.get("scan_id") != params.get("scan_id"):
                    self._findings.clear()
                    self.scan = None  # the first word of the next scan
                self._findings.append(line_of(method, params))
            case "Task.step":
                name = f"task {text.safe(str(params['task_id']))}: {text.safe(str(params['kind']))}"
                if not self._task.startswith(name):
                    self._records.clear()
                self._task = name
                self._records.append(line_of(method, params))
            case "Task.done":
                self._task = line_of(method, params)
            case "Engine.changed":
                self._engine = line_of(method, params)

    def trouble(self, words: str) -> None:
        """Why nothing is told at the moment."""
        self._trouble = text.safe(words)

    def again(self) -> None:
        """What is told next begins with the present state: what was told would stand twice."""
        self._findings.clear()
        self._records.clear()

    def lines(self, columns: int, rows: int) -> list[str]:
        """At most `rows`."""
        head = self._scan_lines(columns)
        foot = [line for line in (self._trouble, self._engine) if line] + [LEAVE]
        room = max(0, rows - len(head) - len(foot) - (1 if self._task else 0))
        records = min(len(self._records), room // 2 if self._findings else room)
        found = min(len(self._findings), room - records)
        records = min(len(self._records), room - found)
        middle = [tail(line, columns) for line in _last(self._findings, found)]
        task = [self._task] if self._task else []
        task += _last(self._records, records)  # a long one loses its end: the message, not the file
        return [*head, *middle, *task, *foot][:rows]

    def _scan_lines(self, columns: int) -> list[str]:
        if self.scan is None:
            return ["no scan is known yet"]
        lines = [line for line in text.status_lines(self.scan) if not line.startswith("  blind to:")]
        return [lines[0], _bar(self.scan), *(_kept(line, columns) for line in lines[1:])]


def line_of(method: str, params: Mapping[str, Any]) -> str:
    """An event as one line."""
    match method:
        case "Scan.progress" | "Scan.done":
            status = dict(params)
            of = f", {text.met(status)} of {status['total_file_count']} files" if method == "Scan.progress" else ""
            return f"{text.scan_name(status)}: {text.state(status)}{of}: {text.result(status)}"
        case "Scan.finding":
            (line,) = text.infected_lines([dict(params)])
            return line
        case "Task.step":
            return text.record_line(params["record"])
        case "Task.done":
            return f"task {text.safe(str(params['task_id']))}: {text.safe(str(params['kind']))}, done"
        case "Engine.changed":
            return _engine_line(params)
        case _:
            return text.safe(method)


def _engine_line(params: Mapping[str, Any]) -> str:
    why = f": {text.safe(str(params['reason']))}" if params.get("reason") else ""
    known = f", {text.engine_words(params['engine'])}" if (params.get("engine") or {}).get("version") else ""
    return f"engine: {text.safe(str(params['state']))}{known}{why}"


def _bar(status: Json) -> str:
    total = int(status["total_file_count"])
    part = min(1.0, text.met(status) / total) if total else float(bool(status["scan_complete"]))
    full = round(part * BAR_COLUMNS)
    return f"  [{'#' * full}{'-' * (BAR_COLUMNS - full)}] {int(part * 100)} %"


def _kept(line: str, columns: int) -> str:
    """The file at hand keeps its end."""
    label = "  now at:     "
    return label + tail(line.removeprefix(label), columns - len(label)) if line.startswith(label) else line


def _last(lines: deque[str], number: int) -> list[str]:
    return list(lines)[len(lines) - number :]
