"""The same waiting on a terminal: a bar on stderr, gone when it is done. The one importer of rich.

Imported by waiting.py only when stderr is a terminal and somebody waits: rich takes longer to import than a call
takes to be answered. No text is read as markup: a file may be called `[/bold]`.
"""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from clamscannerd.ctl import text
from clamscannerd.ctl.calls import Json

NAME_COLUMNS = 60
"""The tail of the current file's path that fits beside the bar; the end of a path says more than its beginning."""


class _Words(TextColumn):
    """A column of plain text; TextColumn alone would read markup out of a file name."""

    def __init__(self) -> None:
        super().__init__("{task.fields[words]}", markup=False)


class Bar:
    """Shows what goes by and leaves nothing behind."""

    def __init__(self, total: int | None = None) -> None:
        columns = (SpinnerColumn(), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), _Words())
        self._progress = Progress(*columns, console=Console(stderr=True, highlight=False), transient=True)
        self._task = self._progress.add_task("", total=total, words="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def scan(self, status: Json) -> None:
        total = int(status["total_file_count"])
        met = int(status["scanned_file_count"]) + sum((status.get("not_scanned") or {}).values())
        words = f"{text.state(status)}, {text.infected_count(status)} infected"
        if status["current_file"]:
            words += f"  {_tail(text.safe(status['current_file']))}"
        self._progress.update(self._task, total=total or None, completed=met, words=words)

    def record(self, record: Json) -> None:
        if record["type"] == "step":
            self._progress.update(self._task, advance=1, words=_tail(text.record_line(record)))


def _tail(words: str) -> str:
    return words if len(words) <= NAME_COLUMNS else "…" + words[-NAME_COLUMNS:]
