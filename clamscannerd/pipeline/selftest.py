"""The EICAR test file by the way of a scan: monitor, a worker that is the account, a session, the engine. [daemon]

What a scan would do is done, and no more: nothing is recorded, and the file never has a name (worker/selftest.py).
"""

import os
import socket
from collections.abc import Awaitable, Callable

from clamscannerd.errors import WorkerFailed
from clamscannerd.model import Account
from clamscannerd.pipeline.link import Spawner, open_worker
from clamscannerd.worker.testwire import SelfTest, SelfTested

DEADLINE_S = 20.0
"""For 68 bytes, at an engine that may have all threads busy with large archives."""
_SILENCE_S = DEADLINE_S + 5.0


async def self_test(
    spawner: Spawner, open_session: Callable[[], Awaitable[socket.socket]], account: Account, content: bytes
) -> SelfTested:
    """The verdict on `content`. Raises EngineLost, HomeUnusable, WorkerFailed and SpawnRefused."""
    # It changes nothing, so it needs no lock of the account: a closed door for the lock's place.
    nothing = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    try:
        async with open_worker(spawner, account, nothing, _SILENCE_S) as link:
            with await open_session() as session:
                await link.send(SelfTest(content=content, deadline_s=DEADLINE_S), [session.fileno()])
            reply = await link.receive()
    finally:
        os.close(nothing)
    if not isinstance(reply, SelfTested):
        raise WorkerFailed("worker did not answer SelfTest")
    return reply
