"""Look into a home as its account: the daemon itself may not, and often could not. [daemon]"""

import os
from collections.abc import Callable

import trio

from clamscannerd.errors import UnknownAccount, WorkerFailed, WorkerOutdated
from clamscannerd.model import Account, Place
from clamscannerd.pipeline.link import HomeUnusable, Spawner, open_worker
from clamscannerd.worker.lookwire import Look, Looked
from clamscannerd.worker.messages import Message, Probe, Probed, Reply

_SILENCE_S = 5.0  # a stat of some names; stopped by its user, it holds one of the few places for probes so long

_START_S = 20.0
"""Until its hello, which is 0.1 s of processor time for a worker that every other process goes before (scans.nice): 5 s
and more where ten of them want each core."""

_GRUDGE_S = 60.0
"""So long an account whose worker did not begin gets no more than _SILENCE_S for the next: its user can stop workers as
soon as they are its own, and 32 such accounts would else keep everybody's calls waiting four times as long. Rejected:
asking the kernel whether it was stopped (ProtectProc= hides it from the daemon); probes at no niceness (one verb more
for the monitor)."""

_GRUDGES = 1_000
"""Kept at most; then all is forgiven."""


class Looks:
    """Questions about homes, each asked of a worker of its own. `outdated` is called when that is another version's.

    All raise UnknownAccount when the home breaks a rule for accounts, WorkerFailed and SpawnRefused.
    """

    def __init__(self, spawner: Spawner, outdated: Callable[[], None]) -> None:
        self._spawner = spawner
        self._outdated = outdated
        self._grudges: dict[int, float] = {}  # uid -> until when

    async def exist(self, account: Account, paths: tuple[bytes, ...]) -> tuple[bool, ...]:
        """For each path beneath the home, whether a directory stands there."""
        reply = await self._ask(account, Probe(paths=paths))
        if not isinstance(reply, Probed) or len(reply.exists) != len(paths):
            raise WorkerFailed("worker did not answer Probe")
        return reply.exists

    async def places(self, account: Account, paths: tuple[bytes, ...]) -> tuple[Place, ...]:
        """For each path beneath the home what stands there."""
        reply = await self._ask(account, Look(paths=paths))
        if not isinstance(reply, Looked) or len(reply.places) != len(paths):
            raise WorkerFailed("worker did not answer Look")
        return reply.places

    async def _ask(self, account: Account, question: Message) -> Reply:
        # It changes nothing, so it needs no lock of the account: a closed door for the lock's place.
        nothing = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        start_s = self._patience(account.uid)
        asked, began = trio.current_time(), False
        try:
            async with open_worker(self._spawner, account, nothing, _SILENCE_S, start_s=start_s) as link:
                began = True
                await link.send(question)
                return await link.receive()
        except HomeUnusable as error:
            raise UnknownAccount(str(error)) from None
        except WorkerFailed:
            if not began and trio.current_time() - asked >= _START_S:
                self._bear(account.uid)
            raise
        except WorkerOutdated:
            self._outdated()
            raise
        finally:
            os.close(nothing)

    def _patience(self, uid: int) -> float:
        return _START_S if trio.current_time() >= self._grudges.get(uid, 0.0) else _SILENCE_S

    def _bear(self, uid: int) -> None:
        if len(self._grudges) >= _GRUDGES:
            self._grudges.clear()
        self._grudges[uid] = trio.current_time() + _GRUDGE_S
