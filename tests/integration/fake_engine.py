"""A daemon on a scriptable clamd: what the engine does, and when, is the test's to say."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from tests.fakes.clamd import FakeClamd, Fault
from tests.fakes.running import RunningDaemon, wait_for
from tests.integration.people import engine_socket, no_engine

OPEN = 0o666  # as Debian's clamd socket is

HOLD = b"hold me"
"""A file with this content gets its verdict only when the engine is released."""


_CONFIG = """
[engine]
lost_after_s = {lost_after_s}
wait_s = {wait_s}
first_ping_timeout_s = 1
ping_timeout_s = 1
check_interval_s = 0.2
[scans]
file_deadline_s = {file_deadline_s}
"""


def config(*, lost_after_s: float = 120, wait_s: float = 30, file_deadline_s: float = 2) -> str:
    return _CONFIG.format(lost_after_s=lost_after_s, wait_s=wait_s, file_deadline_s=file_deadline_s)


@contextmanager
def fake_engine(config: str = "") -> Iterator[tuple[RunningDaemon, FakeClamd]]:
    """The engine is not started yet."""
    with no_engine(config=config) as daemon:
        fake = FakeClamd(engine_socket(daemon))
        try:
            yield daemon, fake
        finally:
            fake.close()


def listen(fake: FakeClamd) -> None:
    """For a daemon that is not root."""
    fake.start()
    os.chmod(fake.socket_path, OPEN)


@contextmanager
def holding_engine(config: str = "") -> Iterator[tuple[RunningDaemon, FakeClamd]]:
    """Started and ready; scans that meet HOLD stay in their middle until `release`."""
    with fake_engine(config) as (daemon, fake):
        fake.content_faults[HOLD] = Fault.DELAY
        listen(fake)
        wait_for(lambda: "engine ready" in daemon.log(), "the engine")
        yield daemon, fake


def at_engine(fake: FakeClamd, number: int) -> None:
    """Until so many held files are there, over all scans so far."""
    wait_for(lambda: sum(HOLD in content for content in fake.contents) >= number, f"{number} scans under way")
