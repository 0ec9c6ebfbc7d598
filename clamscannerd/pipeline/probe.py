"""Look into a home as its account: the daemon itself may not, and often could not. [daemon]"""

import os

from clamscannerd.errors import UnknownAccount, WorkerFailed
from clamscannerd.model import Account
from clamscannerd.pipeline.link import HomeUnusable, Spawner, open_worker
from clamscannerd.worker.messages import Probe, Probed

_SILENCE_S = 5.0  # a stat of four names; stopped by its user, it holds one of the few places for probes so long


async def probe(spawner: Spawner, account: Account, paths: tuple[bytes, ...]) -> tuple[bool, ...]:
    """For each path beneath the home, whether a directory stands there.

    Raises UnknownAccount when the home breaks a rule for accounts, WorkerFailed and SpawnRefused.
    """
    # It changes nothing, so it needs no lock of the account: a closed door for the lock's place.
    nothing = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    try:
        async with open_worker(spawner, account, nothing, _SILENCE_S) as link:
            await link.send(Probe(paths=paths))
            reply = await link.receive()
    except HomeUnusable as error:
        raise UnknownAccount(str(error)) from None
    finally:
        os.close(nothing)
    if not isinstance(reply, Probed) or len(reply.exists) != len(paths):
        raise WorkerFailed("worker did not answer Probe")
    return reply.exists
