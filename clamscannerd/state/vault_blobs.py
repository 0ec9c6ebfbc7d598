"""Small contents of the vault, as rows of a database of their own. [daemon] Plain functions, run in one thread.

A file of its own with its two fsyncs each was the slowest way to keep 10,000 small files; rows in groups need one fsync
a group. A database apart from state.db, because contents would swell what has to be backed up and checked as
a whole; and then no transaction spans both: the index says `receiving` before a content is written here and `kept`
after, as with files. Contents are neutralised like files (vault_files). synchronous=FULL: what `put` wrote is on disk.
"""

import hashlib
import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path

from clamscannerd.errors import Refused, StateError
from clamscannerd.state.store_items import shown
from clamscannerd.state.store_open import empty_log
from clamscannerd.state.store_values import SmallContent
from clamscannerd.state.vault_files import NEUTRAL, sync_directory

APPLICATION_ID = 0x43534342  # "CSCB"
SMALL_BYTES = 64 << 10
"""Contents up to this size are rows: a few pages of overflow each, where a file costs two fsyncs."""

PAGE_BYTES = 8_192
"""Of a new database. With contents of 2 KB a commit writes 5.3 KB an item, and 5.8 with 4,096 or 16,384."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS blob (
    file    TEXT PRIMARY KEY CHECK (length(file) = 32),  -- item.file in state.db; random
    content BLOB NOT NULL                                -- each byte complemented
) STRICT
"""
# With a rowid, other than in state.db: contents lie one behind the other in the order they came. WITHOUT ROWID each
# has a place of its own in the tree of names and a page of overflow from 1 KB on: 8.7 KB written an item, not 5.3.


class Blobs:
    """One per vault. Not for several threads at once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._opened: sqlite3.Connection | None = None

    def _connection(self) -> sqlite3.Connection:
        if self._opened is None:
            is_new = not self._path.exists()
            connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
            try:
                self._path.chmod(0o600)
                self._set_up(connection)
            except BaseException as error:
                connection.close()
                if is_new:  # or the next look would take its name for one that is on disk
                    self._path.unlink(missing_ok=True)
                if isinstance(error, OSError):
                    raise StateError(f"cannot open vault {self._path}: {error.strerror}") from error
                raise
            self._opened = connection
        return self._opened

    def _set_up(self, connection: sqlite3.Connection) -> None:
        connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        empty_log(connection, self._path)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(_SCHEMA)
        sync_directory(self._path.parent)

    def put(self, contents: Iterable[SmallContent]) -> None:
        """All of them or none, on disk when this returns. Raises StateError; Refused: one is not what was found."""
        rows = []
        for one in contents:
            if hashlib.sha256(one.content).digest() != one.item.step.identity.sha256:
                raise Refused(f"cannot keep {shown(one.item.step.path)}: its content is not what was found infected")
            rows.append((one.item.file, one.content.translate(NEUTRAL)))
        self._write("INSERT INTO blob (file, content) VALUES (?, ?)", rows)

    def remove(self, files: Iterable[str]) -> None:
        """One that is not there is as good as removed. Raises StateError."""
        self._write("DELETE FROM blob WHERE file = ?", [(file,) for file in files])

    def _write(self, sql: str, rows: Sequence[tuple[object, ...]]) -> None:
        try:
            connection = self._connection()
            connection.execute("BEGIN IMMEDIATE")
            try:
                connection.executemany(sql, rows)
                connection.execute("COMMIT")
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
        except sqlite3.Error as error:
            self.close()  # after a failed write or fsync nothing that this connection believes is worth anything
            raise StateError(f"cannot write to vault {self._path}: {error}") from error

    def get(self, file: str) -> bytes:
        """The original content. Raises StateError, also when it is not there."""
        try:
            with closing(self._connection().execute("SELECT content FROM blob WHERE file = ?", (file,))) as cursor:
                row = cursor.fetchone()
        except sqlite3.Error as error:
            raise StateError(f"cannot read vault {self._path}: {error}") from error
        if row is None:
            raise StateError(f"cannot read vault {self._path}: no such content")
        return bytes(row[0]).translate(NEUTRAL)

    def names(self, prefix: str) -> set[str]:
        """Files whose name begins with `prefix` (hex); none if there is no database yet."""
        if not self._path.exists():
            return set()
        try:
            rows = self._connection().execute(
                "SELECT file FROM blob WHERE file >= ? AND file < ?", (prefix, prefix + "g")
            )
            return {row[0] for row in rows}
        except sqlite3.Error as error:
            raise StateError(f"cannot check vault {self._path}: {error}") from error

    def close(self) -> None:
        if self._opened is not None:
            self._opened.close()
            self._opened = None


class BlobReader:
    """A content as vault_files.Reader gives it: part by part, with the hash of what was read."""

    def __init__(self, content: bytes) -> None:
        self._rest = content
        self.size = 0
        self._hash = hashlib.sha256()

    def read(self) -> bytes:
        data, self._rest = self._rest, b""
        self._hash.update(data)
        self.size += len(data)
        return data

    @property
    def sha256(self) -> bytes:
        return self._hash.digest()

    def close(self) -> None:
        self._rest = b""
