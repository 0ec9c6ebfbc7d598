"""Private engines for [daemon]: systemd's where its units listen for them, else the monitor's; and why so many."""

from collections.abc import Sequence

import trio

from clamscannerd import orders
from clamscannerd.config import Config
from clamscannerd.engine.privately import STOP_S, PrivateEngines, PrivateKind
from clamscannerd.engine.unit import UnitEngines
from clamscannerd.launch_engine import EnginePlaces, engine_places
from clamscannerd.spawn import Spawner
from clamscannerd.stop import Stop

_WHY_MAX_BYTES = 1_000


def private_engines(spawner: Spawner, config: Config, stop: Stop, *, system: bool) -> PrivateEngines:
    """See the module."""
    places = engine_places(config, system=system)
    if not system or not places.have_units():
        return MonitorsEngines(spawner, places, stop)

    def unit(job: int) -> tuple[str, str]:
        return places.unit_socket(job), places.conf(job)

    return UnitEngines(unit(orders.BUILTIN_ENGINE), lambda: [unit(job) for job in places.signatures()])


def why(config: Config, *, system: bool) -> str:
    """The sentence that the launcher, or clamscannerd-prepare.service, has left; "" where there is none. Blocking."""
    try:
        with open(engine_places(config, system=system).why, encoding="utf-8") as stream:
            return stream.read(_WHY_MAX_BYTES)
    except (OSError, ValueError):
        return ""


class MonitorsEngine:
    """engine/privately.PrivateEngine over the monitor. Its file of configuration is made at the start, by root."""

    def __init__(self, spawner: Spawner, job: int, places: EnginePlaces, stop: Stop) -> None:
        self._spawner = spawner
        self._stop = stop
        self._job = job
        self.address = places.socket(job)
        self.conf = places.conf(job)

    async def start(self) -> None:
        await self._spawner.start_engine(self._job)

    async def stop(self) -> None:
        """One that hangs is killed within the time that privately.py gives all of this."""
        engine = self._spawner.engine(self._job)
        with trio.move_on_after(self._stop.left(STOP_S) / 2):
            await self._spawner.stop_engine(self._job)
            return
        if engine is not None:
            engine.kill_nowait()
            await engine.wait()

    async def dismiss(self) -> None:
        """It was stopped."""
        await trio.lowlevel.checkpoint()

    def running(self) -> bool:
        return self._spawner.engine(self._job) is not None


class MonitorsEngines:
    """engine/privately.PrivateEngines: those that the launcher has set up, and no others until the next start."""

    def __init__(self, spawner: Spawner, places: EnginePlaces, stop: Stop) -> None:
        self._builtin = MonitorsEngine(spawner, orders.BUILTIN_ENGINE, places, stop)
        self._signatures = [MonitorsEngine(spawner, job, places, stop) for job in places.signatures()]

    def of(self, kind: PrivateKind) -> Sequence[MonitorsEngine]:
        return (self._builtin,) if kind == "builtin" else self._signatures
