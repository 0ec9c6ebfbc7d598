"""What stands at a path that somebody wants to have scanned. [worker] Nothing is opened but for a look (O_PATH).

An answer for whoever asks, so that a wrong name is said at once; the scan itself opens all of it afresh and believes
none of this.
"""

import errno
import os
import stat

from clamscannerd.model import Place
from clamscannerd.worker.beneath import Kernel

_PLACES = {
    errno.ENOENT: Place.MISSING,
    errno.ELOOP: Place.BEHIND_LINK,
    errno.ENOTDIR: Place.MISSING,
    errno.EXDEV: Place.OTHER_FILESYSTEM,
    errno.ENAMETOOLONG: Place.TOO_LONG,
}


def look(kernel: Kernel, home_fd: int, path: bytes) -> Place:
    """Of a path beneath the home; b"." is the home itself."""
    try:
        fd = kernel.look(home_fd, path)
    except OSError as error:
        if not kernel.openat2 and error.errno == errno.ENOTDIR:
            return Place.BEHIND_LINK if _has_link(kernel, home_fd, path) else Place.MISSING
        return _PLACES.get(error.errno or 0, Place.UNREADABLE)
    try:
        mode = os.fstat(fd).st_mode
    finally:
        os.close(fd)
    if stat.S_ISDIR(mode):
        return Place.DIRECTORY
    if stat.S_ISLNK(mode):
        return Place.LINK
    return Place.FILE if stat.S_ISREG(mode) else Place.SPECIAL


def _has_link(kernel: Kernel, home_fd: int, path: bytes) -> bool:
    """Without openat2 a link and a file on the way look alike: which of the names it is."""
    while b"/" in path:
        path = path.rpartition(b"/")[0]
        try:
            fd = kernel.look(home_fd, path)
        except OSError:
            continue
        try:
            return stat.S_ISLNK(os.fstat(fd).st_mode)
        finally:
            os.close(fd)
    return False
