"""What Daemon.self_test says: whether the EICAR test file is found, by the way that scans take. [daemon]

For an account a worker does it; for nobody (a monitoring program's user has no home to scan) the engine alone is asked.
A trouble on the way is the answer, not an error: what this is for is to find it.

Rejected: a scan of a home that has the file in it (it would become the account's latest scan, and take its time), and
a file made by the command line (who asks need not be whose home it is, and what detects it may take it away).
"""

import logging
from collections.abc import Awaitable, Callable

import trio

from clamscannerd.engine.clamproto import classify
from clamscannerd.engine.private import EICAR
from clamscannerd.engine.sessions import Engines
from clamscannerd.errors import EngineLost, SpawnRefused, WorkerFailed, WorkerOutdated
from clamscannerd.model import Account, Check, Grade, Verdict
from clamscannerd.pipeline.link import HomeUnusable, Spawner
from clamscannerd.pipeline.selftest import DEADLINE_S, self_test

log = logging.getLogger(__name__)

_ID = "self_test"
_ENGINE = "systemctl status clamav-daemon 'clamscannerd-engine@*', and the end of their logs"
_HOME = "mend what is said of the home: its owner, its mode, its disk, its quota"
_WORKER = "journalctl -u clamscannerd says more"
_FRESHCLAM = "run freshclam, and have clamd read its signatures: clamdscan --reload"

Tester = Callable[[Account | None], Awaitable[Check]]


def tester(spawner: Spawner, engines: Engines, outdated: trio.Event) -> Tester:
    """`outdated`: to be set when the worker's program is another's by now."""

    async def test(account: Account | None) -> Check:
        try:
            return await (_engine_alone(engines) if account is None else _as_account(spawner, engines, account))
        except EngineLost as error:
            return _failed(f"no engine scans: {error}", _ENGINE)
        except HomeUnusable as error:
            return _failed(str(error), _HOME)
        except WorkerOutdated as error:
            outdated.set()
            return _failed(str(error), "systemctl restart clamscannerd")
        except (WorkerFailed, SpawnRefused) as error:
            return _failed(str(error), _WORKER)

    return test


async def _as_account(spawner: Spawner, engines: Engines, account: Account) -> Check:
    said = await self_test(spawner, engines.open_session, account, EICAR)
    return check(said.verdict, said.signature, said.reason, f"in a file of {account.name}")


async def _engine_alone(engines: Engines) -> Check:
    try:
        with trio.fail_after(DEADLINE_S):
            reply = await engines.scan(EICAR)
    except trio.TooSlowError:
        raise EngineLost(f"no answer for {DEADLINE_S:g} s") from None
    verdict, reason, signature = classify(reply)
    return check(verdict, signature, reason.value if reason else "", "by the engine, without a file")


def check(verdict: Verdict, signature: str, reason: str, how: str) -> Check:
    """Pure: what a verdict on the test file means."""
    if verdict is Verdict.INFECTED:
        return Check(id=_ID, grade=Grade.OK, message=f"The EICAR test file is found {how}: {signature}.")
    if verdict is Verdict.CLEAN:
        words = f"The EICAR test file is not found {how}: the engine calls it clean."
        return Check(id=_ID, grade=Grade.ERROR, message=words, cure=_FRESHCLAM)
    cure = _HOME if "home directory" in reason else _ENGINE
    return _failed(reason, cure)


def _failed(why: str, cure: str) -> Check:
    return Check(id=_ID, grade=Grade.ERROR, message=f"The EICAR test file could not be scanned: {why}.", cure=cure)
