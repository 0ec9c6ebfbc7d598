"""As root: SIGKILL in the place of every call that changes something, of every action and of the ways back.

A run without a kill tells the points; then a unit of its own and one kill for each of them, in the daemon (which is
started again) and in the worker (whose job the daemon gives to another). Of the frames of one commit in SQLite's log
the first and the last are points: none between them can be seen by a reader. So it is with the captures of a group, and
its unlinks: what a kill among them leaves, those before the first and the last leave as well.
"""

from collections.abc import Iterator

import pytest

from tests.fakes.aftermath import Processes
from tests.fakes.deeds import DEEDS, Scene, Scenes, Unit
from tests.fakes.points import every, few, points_of
from tests.fakes.running import wait_for
from tests.fakes.strace import KILL, Point, Strace, at
from tests.rows import Amount, Figure

LEAST = {
    "ignore": 15, "quarantine": 35, "delete": 35, "group": 40, "cleanse": 45, "restore": 20, "give back": 35,
}  # fmt: skip
"""Points that are reached in the long form at least; together over 200."""


@pytest.fixture(scope="module")
def scenes() -> Iterator[Scenes]:
    with Scenes("crash", stock=5) as made:
        yield made


@pytest.fixture
def scene(scenes: Scenes) -> Scene:
    return scenes.scene()


def kill_daemon(scene: Scene, unit: Unit, point: Point) -> bool:
    """Whether the point was reached: how calls fall to threads differs from run to run."""
    before, processes = scene.latest_task(), Processes(scene.daemon)
    with Strace(scene.daemon.pid, fault=at(point, KILL)) as trace:
        asked = scene.ask(unit)
        wait_for(lambda: scene.is_over(before), "the end")
        hit = trace.hit()
    if scene.is_dead:
        processes.wait_gone()
        scene.check_contents_are_there(unit)
        scene.start_again()
    scene.check(unit, before, asked=asked)
    return hit


def kill_worker(scene: Scene, unit: Unit, point: Point) -> bool:
    before = scene.latest_task()
    with Strace(scene.monitor, fault=at(point, KILL)) as trace:
        assert scene.ask(unit)
        wait_for(lambda: trace.hit() or scene.is_over(before), "the kill")
        hit = trace.hit()
    scene.check_contents_are_there(unit)
    scene.check(unit, before, asked=True)
    return hit


@pytest.mark.row("R2")
@pytest.mark.fails_with("running-task-is-forgotten", "kept-before-it-is-named", "captured-is-not-looked-for")
@pytest.mark.parametrize("deed", DEEDS)
def test_a_kill_at_any_point_of_a_deed_loses_nothing(scene: Scene, deed: str, amount: Amount, figure: Figure) -> None:
    points = points_of(scene, deed)
    plan = (few, every)[amount(quick=0, long=1)](points)
    reached = 0
    for unit, (process, point) in zip(scene.take(deed, len(plan)), plan, strict=True):
        try:
            reached += (kill_daemon if process == "daemon" else kill_worker)(scene, unit, point)
        except BaseException as error:
            error.add_note(f"{process} killed before {point}")
            raise
    assert reached >= amount(quick=2, long=LEAST[deed])
    figure(f"{deed}: {reached} points")
