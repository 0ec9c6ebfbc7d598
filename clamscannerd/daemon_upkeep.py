"""What goes on in [daemon] beside calls and jobs: expiry, what the watchdog asks, memory, the last resort at an end."""

import gc
import logging
import os
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import trio

from clamscannerd.errors import StateError
from clamscannerd.pipeline.cached import VerdictCache
from clamscannerd.spawn import Spawner
from clamscannerd.state.store import Store
from clamscannerd.state.vault import Vault

log = logging.getLogger(__name__)

_EXPIRE_S = 3_600.0  # items are kept for days: an hour more is no matter

_YOUNG, _MIDDLE, _ALL = 700, 10, 500
"""When cyclic garbage is looked for; the first two are Python's own numbers. A look at all stops the loop for 0.1 ms a
connection: with 10,000 idle ones that is a second, and with Python's own 10 it came some twenty times while they came
in. A client that comes and goes leaves 1 kB that only such a look finds: with 500, some 30 MB at the worst. What the
imports left, 25 ms of each such look, is never looked at again."""

_SWITCH_S = 0.001
"""So long a thread that computes keeps Python's lock at a time. The loop wants it back after each call to the system,
four times for a call of a client: an echo beside a thread that computes took 38 ms (p99) with Python's own 5 ms, and 8
with 1 ms."""


def watched(spawner: Spawner, store: Store) -> Mapping[str, Callable[[], Awaitable[None]]]:
    """What must answer for the watchdog to be told: the database's writer, and the monitor. Not the engine: without
    one the daemon is degraded, and a new start would not bring it back."""

    async def check_store() -> None:
        with said():
            await store.check()

    return {"database": check_store, "monitor": spawner.ping}


def collect_rarely() -> None:
    """For the whole process."""
    gc.set_threshold(_YOUNG, _MIDDLE, _ALL)
    gc.freeze()


def give_way_often() -> None:
    """For the whole process."""
    sys.setswitchinterval(_SWITCH_S)


async def keep_vault(vault: Vault) -> None:
    """At start compare contents with rows; then remove what is past its time, again and again."""
    with said():
        report = await vault.survey()
        if report.stray_count or report.missing_count:
            log.error(
                "vault: %d contents without a row, %d items without a content", report.stray_count, report.missing_count
            )
    while True:
        with said():
            await vault.expire(time.time())
        await trio.sleep(_EXPIRE_S)


async def keep_cache(cache: VerdictCache, keep_s: Callable[[], float]) -> None:
    """Remove what no scan used for long, again and again."""
    while True:
        with suppress(OSError):  # a scan says what is wrong with the directory
            await trio.to_thread.run_sync(cache.files.prune, time.time() - keep_s())
        await trio.sleep(_EXPIRE_S)


@contextmanager
def said() -> Iterator[None]:
    """A full disk, somebody's lock: the next round does it. What does not pass ends us by Store.wait_broken."""
    try:
        yield
    except StateError as error:
        log.error("%s", error)


def leave_after(seconds: float) -> None:
    """For threads that hang. The monitor sees our end and ends the rest; the next start recovers as after a kill."""

    def leave() -> None:
        log.critical("cannot stop in time: leaving")
        os._exit(1)

    timer = threading.Timer(seconds, leave)
    timer.daemon = True
    timer.start()


def own_state(directory: Path) -> tuple[bytes, ...]:
    """A user's daemon keeps its state, with the vault, in that user's home: left out of scans.

    What is scanned is the home that passwd names, whatever sudo left in HOME.
    """
    import pwd

    try:
        home = os.path.realpath(pwd.getpwuid(os.geteuid()).pw_dir)
    except KeyError:  # nor will it be an account
        return ()
    state = Path(os.path.realpath(directory))
    return (os.fsencode(state.relative_to(home)),) if Path(home) in state.parents else ()
