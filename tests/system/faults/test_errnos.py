"""As root: an error in the place of every call that changes something, of every action and of the ways back.

The points are those of test_crash_points.py. What cannot be done is done later, or is reported as an error of the very
file, which is then where the record says, whole. A daemon may end over it (after an I/O error of its database nothing
that it believes is worth anything) and is started again, as its unit does; a job that is put off for half a minute
goes on at the new start at the latest, which is not waited for here.

In the long form each point meets two of the five errors, and the next point the next two, so that every kind of call
meets all: all five at each point take longer than the 45 minutes that a row may.

A sync that failed comes first: the kernel may have dropped what was to be written, and says "fine" the next time.
"""

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.fakes.aftermath import Processes, rows
from tests.fakes.deeds import BACK, DEEDS, Scene, Scenes, Unit
from tests.fakes.points import Points, every, few, points_of
from tests.fakes.running import RpcError, wait_for
from tests.fakes.strace import Point, Strace, at
from tests.rows import Amount, Figure

ERRNOS = ("EIO", "ENOSPC", "EDQUOT", "EMFILE", "ENOMEM")
SYNCS = frozenset({"fsync", "fdatasync"})
DATABASES = re.compile(r"/state>")
FILE = re.compile(r"/(?:#\d+|box|f\d\d|\w+\.item)[^/>]*>")
PUT_OFF = re.compile(r"waits, and is tried every|no job starts for|unexpected fault|asked again in")
FAULT = 1
"""The daemon's exit code when something is wrong around it."""


@pytest.fixture(scope="module")
def scenes() -> Iterator[Scenes]:
    with Scenes("errno", stock=8) as made:
        yield made


@pytest.fixture
def scene(scenes: Scenes) -> Scene:
    return scenes.scene()


@pytest.fixture(scope="module")
def found() -> dict[str, Points]:
    """Points by deed: the tests of this file share them."""
    return {}


def points_in(scene: Scene, found: dict[str, Points], deed: str) -> Points:
    if deed not in found:
        found[deed] = points_of(scene, deed)
    return found[deed]


class Outcome(NamedTuple):
    """What became of a deed in which something failed."""

    struck: list[str]  # the calls that failed, as strace has them
    ended: bool  # the daemon
    well: bool  # it was done, it says
    said: str  # by its records, and by the log


def fail(scene: Scene, unit: Unit, process: str, fault: str) -> Outcome:
    """One deed with this fault in it, up to rest; all of home and vault is checked."""
    before, processes, said = scene.latest_task(), Processes(scene.daemon), len(scene.daemon.log())
    with Strace(scene.daemon.pid if process == "daemon" else scene.monitor, fault=fault) as trace:
        asked = scene.ask(unit)
        wait_for(lambda: trace.hit() or not asked or scene.is_over(before), "the fault")
        trace.detach()
        struck = trace.struck()

    def put_off() -> bool:
        return bool(PUT_OFF.search(scene.daemon.log()[said:]))

    wait_for(lambda: scene.is_over(before) or ((put_off() or not asked) and is_well(scene)), "the end")
    ended = scene.is_dead
    if ended:
        assert scene.daemon.process is not None
        assert scene.daemon.process.returncode == FAULT, scene.daemon.log()[said:]
    elif put_off() or is_untidy(scene):
        assert scene.daemon.stop() == 0
    if scene.is_dead:
        processes.wait_gone()
        scene.start_again()
    well = scene.check(unit, before, asked=asked, faulty=True)
    return Outcome(struck, ended, well, scene.said(before) + scene.daemon.log()[said:])


def is_well(scene: Scene) -> bool:
    """It did not do it, and will not end over it."""
    try:
        scene.latest_task()
    except (ConnectionError, AssertionError, RpcError):
        return False
    return True


def is_untidy(scene: Scene) -> bool:
    """What could not be removed now is the next start's work."""
    return bool(rows(scene.daemon, "SELECT 1 FROM item WHERE state <> 'kept'"))


@pytest.mark.row("R3")
@pytest.mark.fails_with("not-put-back")
@pytest.mark.parametrize("deed", DEEDS)
def test_an_errno_at_any_point_of_a_deed_loses_nothing(
    scene: Scene, found: dict[str, Points], deed: str, amount: Amount, figure: Figure
) -> None:
    plan = (few, every)[amount(quick=0, long=1)](points_in(scene, found, deed))
    errnos = itertools.cycle(ERRNOS)
    faults = [
        (process, at(point, f"error={errno}"), point)
        for process, point in plan
        for errno in itertools.islice(errnos, amount(quick=1, long=2))
    ]
    hits = 0
    for unit, (process, fault, point) in zip(scene.take(deed, len(faults)), faults, strict=True):
        try:
            hits += bool(fail(scene, unit, process, fault).struck)
        except BaseException as error:
            error.add_note(f"{process}: {fault}: {point}")
            raise
    assert hits >= amount(quick=2, long=50)
    figure(f"{deed}: {hits} errors")


def kind(process: str, text: str) -> str:
    """What a sync is of: the two databases, or what else is open there. `text`: its arguments."""
    for name in ("state.db", "small.db"):
        if f"/{name}" in text:
            return name
    if DATABASES.search(text):
        return "directory of the databases"
    return f"{process}: {'file' if FILE.search(text) else 'directory'}"


def check_failed_sync(deed: str, process: str, outcome: Outcome) -> None:
    """What hung on it is not said to be done, or is done over, or is said to be uncertain."""
    kinds = {kind(process, text) for text in outcome.struck}
    # SQLite syncs it once, after a log was begun anew, and takes no heed of what comes of that.
    kinds.discard("directory of the databases")
    if not kinds:  # how calls fall to threads differs from run to run
        return
    assert outcome.ended == ("state.db" in kinds)
    if outcome.ended or kinds == {"small.db"}:  # contents that were to go there together went each by itself
        return
    if kinds == {"daemon: directory"} and deed in BACK:
        assert "removed at the next start" in outcome.said
    else:
        assert not outcome.well or "could not be synced" in outcome.said


@pytest.mark.row("R3")
@pytest.mark.fails_with("failed-sync-is-passed-over", "io-error-of-the-database-is-passed-over")
@pytest.mark.parametrize("deed", DEEDS)
def test_a_sync_that_failed_is_not_taken_for_one_that_worked(
    scene: Scene, found: dict[str, Points], deed: str, amount: Amount, figure: Figure
) -> None:
    syncs = [(process, point) for process, point in every(points_in(scene, found, deed)) if point.call in SYNCS]
    kinds: dict[str, list[tuple[str, Point]]] = {}
    for process, point in syncs:
        kinds.setdefault(kind(process, point.text), []).append((process, point))
    one_of_each = [of_a_kind[len(of_a_kind) // 2] for of_a_kind in kinds.values()]
    chosen = one_of_each[: amount(quick=2, long=0)] or syncs
    tried = 0
    for unit, (process, point) in zip(scene.take(deed, len(chosen)), chosen, strict=True):
        try:
            outcome = fail(scene, unit, process, at(point, "error=EIO"))
            check_failed_sync(deed, process, outcome)
            tried += bool(outcome.struck)
        except BaseException as error:
            error.add_note(f"{process}: {point}")
            raise
    assert tried
    figure(f"{deed}: {tried} failed syncs")


@pytest.mark.row("R3")
@pytest.mark.fails_with("log-is-trusted")
def test_a_log_whose_sync_failed_is_written_anew_at_the_next_start(scene: Scene, tmp_path: Path) -> None:
    (unit,), before, processes = scene.take("quarantine", 1), scene.latest_task(), Processes(scene.daemon)
    log, database = scene.daemon.state / "state.db-wal", scene.daemon.state / "state.db"
    with Strace(scene.daemon.pid, fault="fdatasync:error=EIO:syscall=getpid:when=1+"):  # that of the end as well
        assert not scene.ask(unit)
        wait_for(lambda: scene.is_dead, "its end")
    processes.wait_gone()
    assert log.stat().st_size > 0
    made = tmp_path / "calls"
    scene.daemon.prefix = ["strace", "-f", "-y", "-o", str(made), "-e", "trace=pwrite64,fdatasync,ftruncate"]
    try:
        scene.daemon.start(engine=False)
        assert scene.daemon.stop() == 0
    finally:
        scene.daemon.prefix = []
    calls = re.findall(rf"(\w+)\(\d+<{database}(-wal)?>", made.read_text())
    of_the_log = next(place for place, call in enumerate(calls) if call[1] and call[0] != "fdatasync")
    assert calls[of_the_log][0] == "ftruncate"
    assert ("pwrite64", "") in calls[:of_the_log]
    assert calls[of_the_log - 1] == ("fdatasync", "")
    scene.start_again()
    scene.check(unit, before, asked=False)
