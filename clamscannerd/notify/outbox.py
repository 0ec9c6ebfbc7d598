"""The outbox: a directory of digests, one JSON file each, that another user empties. [daemon, in a thread; ctl]

The hooks mail and talk to the network, which the daemon's sandbox does not permit; so clamscannerd-notify.service runs
them, as a user of its own, and takes digests from /var/lib/clamscannerd-outbox. That is a directory beside the state
and not in it: the state is 0700 and stays so, and as it is root who owns the directory above, nobody can put a link in
the outbox's place. It is 2770, the daemon's, with the group clamscannerd-notify; whose members can read and remove what
is in it, and nothing else of ours. What they can put in there is never opened here: a file is made anew (O_EXCL), and
rename replaces a name, link or not. They can fill it: then there are no digests, and scans do not notice.

Rejected: outbox/ in a state directory that the group may enter (systemd sets that directory to 0700, and store_open
too); BindPaths= of it (root would follow what the daemon puts there); handing over by socket (what was handed over to a
service that dies would have to be kept by both).
"""

import contextlib
import os
from collections.abc import Iterator

_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Outbox:
    """Raises OSError: FileNotFoundError where there is none, and so nobody who wants digests."""

    def __init__(self, path: str, *, most: int, most_bytes: int) -> None:
        self.path = path
        self._most = most
        self._most_bytes = most_bytes

    def has_room(self) -> bool:
        """For one more. Whoever takes digests may have filled it with anything: the look ends at the bounds."""
        with self._directory() as directory, os.scandir(directory) as entries:
            size = 0
            for count, entry in enumerate(entries, start=1):
                with contextlib.suppress(FileNotFoundError):
                    size += entry.stat(follow_symlinks=False).st_size
                if count >= self._most or size >= self._most_bytes:
                    return False
        return True

    def put(self, digest_id: str, body: bytes) -> None:
        """Whole and on disk when this returns, or not there. The same id again is the same file."""
        fresh = f".{digest_id}.new"
        with self._directory() as directory:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(fresh, dir_fd=directory)  # of a daemon that died
            fd = os.open(fresh, _FLAGS, 0o640, dir_fd=directory)
            try:
                with open(fd, "wb") as stream:
                    os.fchmod(fd, 0o640)  # the group is the directory's, by its setgid bit
                    stream.write(body)
                    stream.flush()
                    os.fsync(fd)
                os.rename(fresh, f"{digest_id}.json", src_dir_fd=directory, dst_dir_fd=directory)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(fresh, dir_fd=directory)
                raise
            os.fsync(directory)

    def remove(self, digest_id: str) -> None:
        """One that nobody is to take any more; gone is as good."""
        with contextlib.suppress(OSError), self._directory() as directory:
            os.unlink(f"{digest_id}.json", dir_fd=directory)

    @contextlib.contextmanager
    def _directory(self) -> Iterator[int]:
        directory = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            yield directory
        finally:
            os.close(directory)
