"""The points of a deed (deeds.py) at which something can go wrong: each call that changes something."""

import itertools
import os
from collections import Counter
from collections.abc import Sequence
from typing import Final, NamedTuple

from tests.fakes.deeds import Scene
from tests.fakes.running import wait_for
from tests.fakes.strace import Point, Strace

IN_ROWS: Final = frozenset({"pwrite64", "renameat2", "unlink", "unlinkat"})


class Points(NamedTuple):
    """Of the daemon, and of the worker."""

    daemon: list[Point]
    worker: list[Point]


def points_of(scene: Scene, deed: str) -> Points:
    """Those of a run without a fault, which is thereby seen to do right under strace."""
    (unit,), before = scene.take(deed, 1), scene.latest_task()
    with Strace(scene.daemon.pid, scene.monitor) as trace:
        assert scene.ask(unit)
        wait_for(lambda: scene.is_over(before), "a deed without a fault")
        threads = {int(name) for name in os.listdir(f"/proc/{scene.daemon.pid}/task")}
        found = list(trace.points())
    scene.check(unit, before, asked=True)
    daemon = [point for thread, point in found if thread in threads]
    worker = [point for thread, point in found if thread not in threads | {scene.monitor}]
    return Points(_thinned(daemon), _thinned(worker))


def _thinned(points: Sequence[Point]) -> list[Point]:
    """Of each row of writes to SQLite's log the first and the last; of captures and unlinks alike. No point twice."""
    kept: dict[tuple[str, int], Point] = {}
    for call, run in itertools.groupby(points, lambda point: point.call):
        row = list(run)
        for point in [row[0], row[-1]] if call in IN_ROWS and len(row) > 2 else row:
            kept.setdefault((point.call, point.number), point)
    return list(kept.values())


def spread(points: Sequence[Point], most: int) -> list[Point]:
    """So many at most, evenly."""
    if len(points) <= most:
        return list(points)
    return [points[(2 * place + 1) * len(points) // (2 * most)] for place in range(most)]


def rarest(points: Sequence[Point], most: int) -> list[Point]:
    """So many at most, of calls that are made least, and of those the last: what names and takes away is among them."""
    counts = Counter(point.call for point in points)
    places = sorted(range(len(points)), key=lambda place: (counts[points[place].call], -place))
    return [points[place] for place in places[:most]]


def few(points: Points) -> list[tuple[str, Point]]:
    """For the quick form: (process, point)."""
    daemon = [*rarest(points.daemon, 1), *spread(points.daemon, 1)]
    return [("daemon", point) for point in dict.fromkeys(daemon)] + [
        ("worker", point) for point in rarest(points.worker, 2)
    ]


def every(points: Points) -> list[tuple[str, Point]]:
    return [("daemon", point) for point in points.daemon] + [("worker", point) for point in points.worker]
