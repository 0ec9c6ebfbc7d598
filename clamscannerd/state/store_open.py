"""The state directory and the two connections to state.db. [daemon] Everything here but `Database` runs in a thread.

One connection writes, in one thread at a time: SQLite has one writer anyway, and waiting in trio's line is fairer
than SQLite's busy handler and costs no thread. A second one reads (query_only), so that a list of 100,000 findings
does not stand before the commits of other accounts' steps; WAL lets both go on at once. Either limiter is a
CapacityLimiter(1): a connection is used by one thread at a time, whichever that is. In the line of those who read each
uid stands once, however many calls it has under way.

A transaction is never cut off half way: a cancelled call either has not begun, or is finished and its result given.

After an I/O error or a sign of damage nothing more is read or written until the next start: what the kernel holds and
what the disk holds may differ then, and a later fsync that works proves nothing about the earlier one that did not.
The next start trusts no log that is left over: all that it holds is written anew, into the file, before anything else.

Rejected: a pool of writers; `isolation_level` magic of the sqlite3 module (BEGIN and COMMIT are written out here);
locking_mode=EXCLUSIVE as the guard against a second daemon (it forbids the reader, and tells nobody who has the lock).
"""

import contextlib
import fcntl
import os
import sqlite3
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

import trio

from clamscannerd.errors import StateError
from clamscannerd.state import tasks
from clamscannerd.state.schema import APPLICATION_ID, MIGRATIONS, VERSION
from clamscannerd.state.store_wal import check_log
from clamscannerd.state.turns import behind_own
from clamscannerd.state.vault_files import sync_directory

P = ParamSpec("P")
T = TypeVar("T")

DATABASE_NAME = "state.db"
LOCK_NAME = "daemon.lock"

BUSY_TIMEOUT_S = 5.0
"""An administrator's sqlite3 shell may hold a lock for a moment; longer is a fault to be told."""

WAL_LIMIT_BYTES = 64 << 20
"""The WAL is cut back to this after a burst; SQLite's default is never."""

CHECK_AT_OPEN_BYTES = 8 << 20
"""Up to this size quick_check (70 MB/s) is done before the first call. Above it `Store.verify()` is for later."""

_FAULTS = frozenset(
    {
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_NOTADB,
    }
)
"""The machine's or the file's trouble; every other error of SQLite is our bug and keeps its traceback."""

_DAMAGE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_BREAKING = _DAMAGE | {sqlite3.SQLITE_IOERR}
_NO_ROOM = frozenset({sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN})
_INDEX_BYTES = 32768  # state.db-shm grows by this much


class Database:
    """An open state directory. `write` and `read` run `fn(connection, ...)` as one transaction in a thread."""

    def __init__(
        self, path: Path, lock: int, writer: sqlite3.Connection, reader: sqlite3.Connection, *, doubtful: bool = False
    ) -> None:
        self.path = path
        self._lock = lock
        self._writer = writer
        self._reader = reader
        self._write_line = trio.CapacityLimiter(1)
        self._read_line = trio.CapacityLimiter(1)
        self._reading: dict[int, trio.Lock] = {}
        self.reads = 0
        self.writes = 0
        self.broken = ""
        self.doubtful = doubtful
        """What was committed last may not be there: see store_wal."""
        self._breaking = trio.Event()

    @property
    def waiting(self) -> int:
        """Calls in line for the writer."""
        return self._write_line.statistics().tasks_waiting

    async def write(self, fn: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """One transaction, on disk when this returns."""

        def work() -> T:
            return self._transaction(self._writer, "BEGIN IMMEDIATE", lambda: fn(self._writer, *args, **kwargs))

        self.writes += 1
        return await self._in_thread(work, self._write_line)

    async def read(self, fn: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """One view of everything committed before the call."""

        def work() -> T:
            return self._transaction(self._reader, "BEGIN", lambda: fn(self._reader, *args, **kwargs))

        self.reads += 1
        async with behind_own(self._reading):
            return await self._in_thread(work, self._read_line)

    async def wait_broken(self) -> str:
        """Why nothing works any more until the next start; while it does, for ever."""
        await self._breaking.wait()
        return self.broken

    async def _in_thread(self, work: Callable[[], T], line: trio.CapacityLimiter) -> T:
        try:
            return await trio.to_thread.run_sync(work, limiter=line)
        except StateError:
            if self.broken:
                self._breaking.set()
            raise

    def _transaction(self, connection: sqlite3.Connection, begin: str, work: Callable[[], T]) -> T:
        if self.broken:
            raise StateError(self.broken)
        try:
            connection.execute(begin)
            try:
                result = work()
                connection.execute("COMMIT")
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
        except sqlite3.DatabaseError as error:
            raise self._explained(error) from error
        except MemoryError as error:  # what the sqlite3 module makes of SQLITE_NOMEM
            raise StateError(f"cannot use state {self.path}: out of memory") from error
        return result

    def _explained(self, error: sqlite3.DatabaseError) -> Exception:
        fault = explain(self.path, "use", error)
        if fault is None:
            return error
        if _code(error) in _BREAKING:
            self.broken = str(fault)
        return fault

    async def close(self) -> None:
        """The last close of SQLite moves the WAL into the file; the lock goes last."""
        await trio.to_thread.run_sync(self._reader.close, limiter=self._read_line)
        await trio.to_thread.run_sync(self._writer.close, limiter=self._write_line)
        os.close(self._lock)


def explain(path: Path, verb: str, error: sqlite3.Error) -> StateError | None:
    """The StateError that an operator can act on; None: our bug."""
    if _code(error) not in _FAULTS:
        return None
    hint = ""
    if _code(error) in _DAMAGE:
        hint = " (restore a copy, or move it away to begin anew)"
    elif _code(error) in _NO_ROOM and _is_full(path.parent):
        hint = " (the file system is full)"  # SQLite says so of the file and its log, not of its index
    return StateError(f"cannot {verb} state {path}: {error}{hint}")


def _is_full(directory: Path) -> bool:
    try:
        return free_bytes(directory) < _INDEX_BYTES
    except StateError:
        return False


def _code(error: sqlite3.Error) -> int:
    """SQLite's primary result code. The module's own errors ("file is not a database" has one) may lack it."""
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_MISUSE) & 0xFF


def open_database(directory: Path) -> Database:
    """Make the directory this daemon's, and open, make or migrate its database. Raises StateError."""
    path = directory / DATABASE_NAME
    with contextlib.ExitStack() as undo:
        try:
            lock = _lock(directory)
            undo.callback(os.close, lock)
            doubtful = path.exists() and check_log(path)
            if not path.exists():
                _create(path)
            writer = undo.enter_context(contextlib.closing(_connect(path)))
            _accept(writer, path)
            # SQLite would say "I/O error". Asked, not opened: the close would take SQLite's locks away.
            if not os.access(path, os.W_OK):
                raise StateError(f"cannot open state {path}: writing it is denied, or its disk is read-only")
            empty_log(writer, path)
            sync_directory(directory)  # SQLite syncs the name of a new log, and does not look at how that went
            reader = undo.enter_context(contextlib.closing(_connect(path)))
            reader.execute("PRAGMA query_only = ON")
        except sqlite3.Error as error:
            raise explain(path, "open", error) or error from error
        except OSError as error:
            raise StateError(f"cannot open state {directory}: {error.strerror}") from error
        undo.pop_all()
    return Database(path, lock, writer, reader, doubtful=doubtful)


def _lock(directory: Path) -> int:
    """The lock file, held. The directory is made if need be, and is the daemon's alone."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = directory.stat()
    if status.st_uid != os.geteuid():
        raise StateError(f"cannot open state {directory}: it belongs to uid {status.st_uid}, not {os.geteuid()}")
    if stat.S_IMODE(status.st_mode) & 0o077:
        directory.chmod(0o700)
    lock = os.open(directory / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.pread(lock, 32, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(lock)
        raise StateError(f"cannot open state {directory}: another daemon (pid {owner}) uses it") from None
    os.ftruncate(lock, 0)
    os.pwrite(lock, b"%d\n" % os.getpid(), 0)
    return lock


def _create(path: Path) -> None:
    """A whole new database under another name, then renamed: one that is there but empty is thus always damage."""
    left_over = path.with_name(path.name + "-wal")
    if left_over.exists():
        raise StateError(f"cannot open state {path}: it is missing, but {left_over.name} is there")
    new = path.with_name(path.name + ".new")
    for name in (new, new.with_name(new.name + "-wal"), new.with_name(new.name + "-shm")):
        name.unlink(missing_ok=True)
    os.close(os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))  # SQLite gives WAL and index the same mode
    connection = _connect(new)
    try:
        connection.execute("PRAGMA journal_mode = WAL")  # stays so, in the file
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        _migrate(connection, 0)
    finally:
        connection.close()
    new.rename(path)
    try:
        sync_directory(path.parent)
    except OSError:
        path.unlink()  # or the next start would take its name for one that is on disk
        raise


def _connect(path: Path) -> sqlite3.Connection:
    """Sets nothing that would be written to the file: it may turn out not to be ours."""
    connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    connection.row_factory = sqlite3.Row
    for pragma in (
        "synchronous = FULL",
        "foreign_keys = ON",
        "trusted_schema = OFF",
        "cell_size_check = ON",
        f"journal_size_limit = {WAL_LIMIT_BYTES}",
    ):
        connection.execute(f"PRAGMA {pragma}")
    connection.create_function("covers", 2, _Covers(), deterministic=True)
    return connection


class _Covers:
    """SQL: covers(scan.paths, path). One statement asks about the same paths again and again."""

    def __init__(self) -> None:
        self._paths = b""
        self._area = tasks.Area(())

    def __call__(self, paths: bytes, path: bytes) -> int:
        if paths != self._paths:
            self._paths, self._area = paths, tasks.Area(paths.split(b"\0"))
        return path in self._area


def _accept(connection: sqlite3.Connection, path: Path) -> None:
    """Refuse what is not ours, damaged or newer; migrate what is older."""
    identity = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if identity != APPLICATION_ID or version < 1:
        raise StateError(f"cannot open state {path}: not a database of this program, or cut off")
    if version > VERSION:
        raise StateError(f"cannot open state {path}: version {version} is newer than {VERSION}, the latest known here")
    if path.stat().st_size <= CHECK_AT_OPEN_BYTES:
        quick_check(connection, path)
    connection.execute("PRAGMA journal_mode = WAL")  # somebody's copy or VACUUM INTO may have lost it
    if version < VERSION:
        _migrate(connection, version)


def empty_log(connection: sqlite3.Connection, path: Path) -> None:
    """What a crash left in the log goes into the file, and is synced there.

    After a sync that failed and a crash, the log may be whole in memory and have a hole on disk: what is appended
    behind it would be lost with the power, however well its own sync went. Raises StateError, sqlite3.Error.
    """
    if connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
        raise StateError(f"cannot open state {path}: another program is reading it")


def quick_check(connection: sqlite3.Connection, path: Path) -> None:
    """StateError if a page of the file is not what it should be."""
    answer = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if answer != "ok":
        raise StateError(f"cannot open state {path}: it is damaged: {' '.join(str(answer).split())}")


def _migrate(connection: sqlite3.Connection, version: int) -> None:
    for number, script in enumerate(MIGRATIONS[version:], start=version + 1):
        try:
            connection.executescript(f"BEGIN IMMEDIATE;{script};PRAGMA user_version = {number};COMMIT;")
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")


def verify(path: Path) -> None:
    """quick_check of a database of any size, through a connection of its own. Raises StateError."""
    try:
        connection = _connect(path)
        try:
            quick_check(connection, path)
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise explain(path, "check", error) or error from error


def free_bytes(directory: Path) -> int:
    """What an account without privileges may still write. Raises StateError."""
    try:
        status = os.statvfs(directory)
    except OSError as error:
        raise StateError(f"cannot use state {directory}: {error.strerror}") from error
    return status.f_bavail * status.f_frsize


def ping(connection: sqlite3.Connection) -> None:
    """The least that shows that the writer's thread, lock and file work."""
    connection.execute("SELECT 1 FROM sequence").fetchone()
