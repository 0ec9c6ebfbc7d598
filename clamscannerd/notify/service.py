"""Takes digests from the outbox to the hooks, until there are none. [notify]

clamscannerd-notify.path starts the service when the outbox is not empty, and would start it again at once if it left
with something in there. So it stays for as long as a digest waits for its next try, and ends with an empty outbox.

One hook runs at a time. One that hangs costs its time-out once in a round, in which all digests go to all other hooks.
"""

import contextlib
import json
import logging
import os
import re
import stat
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from clamscannerd.notify import hooks
from clamscannerd.notify.records import Entry, Record, Records, delay_s, wait_s

log = logging.getLogger(__name__)

TEST = "test"
"""The kind of a digest that `clamscannerctl hooks test` made: each hook gets one try."""

_POLL_S = 5.0  # while something waits, new digests are looked for so often
_DIGEST_BYTES = 4 << 20  # far above what the daemon writes
_FILE = re.compile(r"([0-9a-f]{32})\.json")


class Setup(NamedTuple):
    outbox: str
    records: str
    hooks: str
    timeout_s: float
    tries: int
    owners: frozenset[int] = frozenset({0})  # who hooks and the way to them may belong to


class _Digest(NamedTuple):
    id: str
    kind: str
    fd: int


class Service:
    """`sleep`: between rounds, in seconds."""

    def __init__(self, setup: Setup, sleep: Callable[[float], None] = time.sleep) -> None:
        self._setup = setup
        self._records = Records(setup.records)
        self._sleep = sleep
        self._hung: set[str] = set()
        self._said: set[str] = set()

    def run(self) -> None:
        """Until the outbox is empty. Raises OSError where outbox or records cannot be used at all."""
        pruned = False
        while (names := self._names()) or self._names():
            if not pruned:
                self._records.prune({name.removesuffix(".json") for name in names})
                pruned = True
            if wait := self.round(names):
                self._sleep(min(wait, _POLL_S))

    def _names(self) -> list[str]:
        """What systemd would see, the oldest first."""
        found = []
        with os.scandir(self._setup.outbox) as entries:
            for entry in entries:
                if not entry.name.startswith("."):
                    with contextlib.suppress(FileNotFoundError):
                        found.append((entry.stat(follow_symlinks=False).st_mtime_ns, entry.name))
        return [name for _, name in sorted(found)]

    def round(self, names: list[str]) -> float:
        """Each digest once to each hook that is due; in how many seconds something is due again, 0.0 at once."""
        self._hung.clear()
        waits = [self._take(name) for name in names]
        return min((wait for wait in waits if wait is not None), default=0.0)

    def _take(self, name: str) -> float | None:
        """None: it is gone."""
        try:
            with self._opened(name) as digest:
                return self._deliver(digest)
        except _Gone:
            return None
        except _NoDigest as error:
            self._once(f"{name!r} in the outbox is no digest and is removed: {error}")
            return self._remove(name)
        except OSError as error:  # our own disk is full, say: without a record nothing is run
            self._once(f"cannot work on digest {name!r}: {error.strerror}: {error.filename}")
            return _POLL_S

    @contextlib.contextmanager
    def _opened(self, name: str) -> Iterator[_Digest]:
        match = _FILE.fullmatch(name)
        if match is None:
            raise _NoDigest("its name is another")
        try:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            fd = os.open(os.path.join(self._setup.outbox, name), flags)
        except FileNotFoundError:
            raise _Gone from None
        except OSError as error:
            raise _NoDigest(error.strerror) from None
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode) or status.st_size > _DIGEST_BYTES:
                raise _NoDigest("no regular file of its size")
            yield _Digest(match[1], _kind(os.pread(fd, _DIGEST_BYTES, 0), match[1]), fd)
        finally:
            os.close(fd)

    def _deliver(self, digest: _Digest) -> float | None:
        record = self._records.load(digest.id)
        if record.ended_at is None:
            waits = [self._try(name, digest, record) for name in hooks.names(self._setup.hooks)]
            waiting = [wait for wait in waits if wait is not None]
            if waiting:
                return min(waiting)
            record.ended_at = time.time()
            self._records.save(record)
        return self._remove(f"{digest.id}.json")

    def _try(self, name: str, digest: _Digest, record: Record) -> float | None:
        """None: this hook is through with this digest."""
        entry = record.hooks.setdefault(name, Entry())
        if entry.state != "waiting":
            return None
        if (wait := wait_s(entry, time.time())) > 0:
            return wait
        if name in self._hung:
            return _POLL_S
        entry.tries += 1
        entry.next_at = time.time() + delay_s(entry.tries)
        self._records.save(record)
        os.lseek(digest.fd, 0, os.SEEK_SET)
        path, setup = os.path.join(self._setup.hooks, name), self._setup
        outcome = hooks.run(path, digest.fd, timeout_s=setup.timeout_s, owners=setup.owners)
        if outcome.timed_out:
            self._hung.add(name)
        entry.how, entry.output = outcome.how, outcome.output
        last = entry.tries >= setup.tries or digest.kind == TEST
        if outcome.ok or last:
            entry.state = "done" if outcome.ok else "given-up"
        self._records.save(record)
        _say(name, digest.id, entry)
        return None if entry.state != "waiting" else wait_s(entry, time.time())

    def _remove(self, name: str) -> float | None:
        path = os.path.join(self._setup.outbox, name)
        try:
            try:
                os.unlink(path)
            except IsADirectoryError:
                os.rmdir(path)
            directory = os.open(self._setup.outbox, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        except FileNotFoundError:
            return None
        except OSError as error:
            self._once(f"cannot remove {name!r} from the outbox: {error.strerror}")
            return _POLL_S
        return None

    def _once(self, sentence: str) -> None:
        if sentence not in self._said and len(self._said) < 10_000:
            self._said.add(sentence)
            log.error("%s", sentence)


class _Gone(Exception):
    """Somebody else removed it."""


class _NoDigest(Exception):
    """What is wrong with a file of the outbox."""


def _kind(text: bytes, digest_id: str) -> str:
    try:
        digest = json.loads(text)
    except (ValueError, RecursionError):
        raise _NoDigest("not JSON") from None
    if not isinstance(digest, dict) or digest.get("id") != digest_id:
        raise _NoDigest("its id is another")
    return str(digest.get("kind", ""))


def _say(name: str, digest_id: str, entry: Entry) -> None:
    said = f": {entry.output[-500:]!r}" if entry.output else ""
    if entry.state == "done":
        log.info("hook %s took digest %s", name, digest_id)
    elif entry.state == "given-up":
        log.error("hook %s is given up for digest %s, tries: %d; %s%s", name, digest_id, entry.tries, entry.how, said)
    else:
        wait = entry.next_at - time.time()
        log.warning("hook %s %s, again in %.0f s, digest %s%s", name, entry.how, wait, digest_id, said)
