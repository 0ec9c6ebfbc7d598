"""Look into a home as its account: the daemon itself may not, and often could not. [daemon]"""

import os
from collections.abc import Callable

from clamscannerd.errors import UnknownAccount, WorkerFailed, WorkerOutdated
from clamscannerd.model import Account, Place
from clamscannerd.pipeline.link import HomeUnusable, Spawner, open_worker
from clamscannerd.worker.lookwire import Look, Looked
from clamscannerd.worker.messages import Message, Probe, Probed, Reply

_SILENCE_S = 5.0  # a stat of some names; stopped by its user, it holds one of the few places for probes so long


class Looks:
    """Questions about homes, each asked of a worker of its own. `outdated` is called when that is another version's.

    All raise UnknownAccount when the home breaks a rule for accounts, WorkerFailed and SpawnRefused.
    """

    def __init__(self, spawner: Spawner, outdated: Callable[[], None]) -> None:
        self._spawner = spawner
        self._outdated = outdated

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
        try:
            async with open_worker(self._spawner, account, nothing, _SILENCE_S) as link:
                await link.send(question)
                return await link.receive()
        except HomeUnusable as error:
            raise UnknownAccount(str(error)) from None
        except WorkerOutdated:
            self._outdated()
            raise
        finally:
            os.close(nothing)
