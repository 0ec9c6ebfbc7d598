"""A test file through the engine, by the way of every scan: this account's file, opened here, its fd to clamd. [worker]

The file never has a name where the file system knows O_TMPFILE; elsewhere (NFS) it loses it while it is still empty. So
nothing that is detected is ever left behind, whatever happens, and no scan can come upon it.
"""

import os

from clamscannerd.model import CAPTURE_PREFIX, Verdict
from clamscannerd.worker.beneath import Kernel
from clamscannerd.worker.feed import Feed
from clamscannerd.worker.rescan import rescan_file
from clamscannerd.worker.testwire import SelfTest, SelfTested


def self_test(kernel: Kernel, home_fd: int, command: SelfTest, session: int) -> SelfTested:
    """The engine's word on the test file; `session` is used up."""
    feed = Feed(command.deadline_s, lambda flight, _: flight.close())
    feed.adopt(session)
    try:
        fd = _test_file(kernel, home_fd, command.content)
    except OSError as error:
        feed.close()
        return _untested(f"cannot make a file in the home directory: {error.strerror}")
    try:
        verdict, _, signature = rescan_file(feed, fd, b"", command.deadline_s)
    finally:
        os.close(fd)
        feed.close()
    if verdict is Verdict.NOT_SCANNED:
        return _untested(f"the engine answered {signature[:200]!r}" if signature else "the engine gave no answer")
    return SelfTested(verdict=verdict, signature=signature, reason="")


def _untested(reason: str) -> SelfTested:
    return SelfTested(verdict=Verdict.NOT_SCANNED, signature="", reason=reason)


def _test_file(kernel: Kernel, home_fd: int, content: bytes) -> int:
    name = CAPTURE_PREFIX + os.urandom(16).hex().encode()
    fd, named = kernel.create(home_fd, name)
    try:
        if named:
            os.unlink(name, dir_fd=home_fd)
        os.write(fd, content)
    except BaseException:
        os.close(fd)
        raise
    return fd
