"""Waiting and watching on a terminal: what is drawn again and again until the end. The one importer of rich.

Bar is for --wait, on stderr, and leaves nothing behind: the answer follows on stdout. Screen is for `status --watch`.
Both are drawn five times a second at most: the daemon tells no more. No text is read as markup: a file may be called
`[/bold]`; and all of it went through text.safe. Imported only when a terminal is there: rich takes longer to import
than a call takes to be answered. It honours NO_COLOR.
"""

import threading
import time
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TimeElapsedColumn
from rich.text import Text

from clamscannerd.ctl import text
from clamscannerd.ctl.calls import Json
from clamscannerd.ctl.picture import Picture
from clamscannerd.ctl.visible import tail

PAUSE_S = 0.2
FOUND_SHOWN = 3
"""Findings beneath the bar: the last ones; all of them are in the answer that follows."""


class _Progress(Progress):
    """A bar with lines beneath it."""

    lines: tuple[str, ...] = ()

    def get_renderables(self) -> Iterable[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        yield from map(_line, self.lines)


class Bar:
    """Shows what goes by and leaves nothing behind."""

    def __init__(self, total: int | None = None) -> None:
        columns = (SpinnerColumn(), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        console = Console(stderr=True, highlight=False)
        self._progress = _Progress(*columns, console=console, transient=True, refresh_per_second=1 / PAUSE_S)
        self._task = self._progress.add_task("", total=total)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def scan(self, status: Json) -> None:
        columns = self._progress.console.width
        found = [tail(text.safe(name), columns) for name in (status.get("infected_files") or [])[-FOUND_SHOWN:]]
        self._progress.lines = (*text.progress_lines(status, columns), *(["infected:", *found] if found else []))
        total = int(status["total_file_count"])
        self._progress.update(self._task, total=total or None, completed=text.met(status))

    def record(self, record: Json) -> None:
        if record["type"] == "step":
            self._progress.lines = (text.record_line(record),)
            self._progress.update(self._task, advance=1)


class Screen:
    """A picture on stdout, drawn anew when it has changed. It stays there at the end, as the last that was known."""

    def __init__(self, picture: Picture) -> None:
        self._picture = picture
        self._console = Console(highlight=False)
        self._live = Live(console=self._console, auto_refresh=False, get_renderable=self._drawn)
        self._changed = threading.Event()
        self._over = False
        self._drawer = threading.Thread(target=self._draw, daemon=True)

    def __enter__(self) -> Self:
        self._live.start()
        self._drawer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over = True
        self._changed.set()
        self._drawer.join()
        self._live.stop()

    def changed(self) -> None:
        self._changed.set()

    def _draw(self) -> None:
        while self._changed.wait() and not self._over:
            self._changed.clear()
            self._live.refresh()
            time.sleep(PAUSE_S)

    def _drawn(self) -> RenderableType:
        width, height = self._console.size
        return Group(*map(_line, self._picture.lines(width, height - 1)))


def _line(line: str) -> Text:
    return Text(line, no_wrap=True, overflow="ellipsis")
