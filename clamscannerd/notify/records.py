"""What became of a digest with each hook, on disk: records/ID.json. [notify]; [ctl] reads it as root

Written whole and synced before a try, so that it counts, and after it, so that a success is not repeated. A record
stays for a month after its digest is gone: the daemon may write that one again after a crash.
"""

import contextlib
import os
import stat
import time
from typing import Literal

import msgspec

RECORDS = "/var/lib/clamscannerd-notify"
KEEP_S = 30 * 86_400.0

MOST_BYTES = 1 << 20
"""Of a record: a hundred hooks with their last words."""

_FIRST_S, _FACTOR, _MOST_S = 60.0, 3.0, 8 * 3_600.0


class Entry(msgspec.Struct, kw_only=True):
    """One hook. `next_at`: not tried again before; `how` and `output`: of the latest try."""

    state: Literal["waiting", "done", "given-up"] = "waiting"
    tries: int = 0
    next_at: float = 0.0
    how: str = ""
    output: str = ""


class Record(msgspec.Struct, kw_only=True):
    """`ended_at`: every hook has succeeded or was given up; None until then."""

    id: str
    hooks: dict[str, Entry]
    ended_at: float | None = None


def delay_s(tries: int) -> float:
    """After so many: 1, 3, 9, 27, 81, 243 minutes, then 8 hours."""
    return min(_MOST_S, _FIRST_S * _FACTOR ** (min(tries, 20) - 1))


def wait_s(entry: Entry, now: float) -> float:
    """Until the next try; 0.0 at once. Never longer than the longest pause: the clock may have been set back."""
    return max(0.0, min(entry.next_at - now, delay_s(entry.tries or 1)))


class Records:
    """A directory of ours. Raises OSError."""

    def __init__(self, path: str) -> None:
        self._path = path

    def load(self, digest_id: str) -> Record:
        """A new one where there is none, or none that can be read: then hooks run once more than they need to."""
        found = read(self._path, digest_id)
        return found if found is not None else Record(id=digest_id, hooks={})

    def save(self, record: Record) -> None:
        fresh = os.path.join(self._path, f".{record.id}.new")
        with open(fresh, "wb") as stream:
            stream.write(msgspec.json.encode(record))
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(fresh, os.path.join(self._path, f"{record.id}.json"))
        directory = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def prune(self, in_use: set[str]) -> None:
        """Old ones of digests that are gone; `in_use`: ids of those that are not."""
        with os.scandir(self._path) as entries:
            for entry in entries:
                old = time.time() - entry.stat(follow_symlinks=False).st_mtime > KEEP_S
                if old and entry.name.removesuffix(".json") not in in_use:
                    with contextlib.suppress(OSError):
                        os.unlink(entry.path)


def read(directory: str, digest_id: str) -> Record | None:
    """None: not there, or none. Follows no link and waits for no pipe: root asks, and the directory is not root's."""
    try:
        above = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            name = f"{digest_id}.json"
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=above)
        finally:
            os.close(above)
        with open(fd, "rb") as stream:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                return None
            return msgspec.json.decode(stream.read(MOST_BYTES), type=Record)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None
