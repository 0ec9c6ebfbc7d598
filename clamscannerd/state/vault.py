"""The vault: contents that left a home, or whose file was deleted, until they expire. [daemon]

    async with vault.receive(account, step, size, now, meta) as incoming:
        async for chunk in ...:                # from a worker that may lie, and may die in the middle
            await incoming.write(chunk)
        item = await incoming.commit(now, sha256=step.identity.sha256)
    # only now may the file leave the home

The index (store_items.py) goes ahead and behind: a row `receiving` before a file has a name, `kept` after it is on
disk, so that after a crash every file is accounted for. An aborted receive leaves nothing; what a crash left is
cleaned by clean() at start. A file without any row is reported and never removed: it may be all that is left of
somebody's file, the index having come back from an older copy.

Caps and the file system's reserve are looked at before a byte is taken. Refused is the answer to everything that
keeps one content out (full, I/O error, content not as announced): the step ends as an error, the file stays in place.
Small contents that come in groups are rows of small.db (vault_blobs.py), with the same three states.

Rejected: contents as blobs in state.db (a database of many GiB, and a quarantine that is lost with it); encryption
(the key would lie beside it); hard links or renames into the vault (the file would stay the user's, and open in the
processes that have it open).
"""

import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import msgspec
import trio

from clamscannerd.errors import Refused, StateError
from clamscannerd.model import Account, Action, Frozen, Item, Step
from clamscannerd.state import vault_files
from clamscannerd.state.store import Store
from clamscannerd.state.store_items import new_file_name, shown
from clamscannerd.state.store_values import Caps, FileMeta, GroupTurn, GroupTurned, ItemFile, SmallContent, SmallItem
from clamscannerd.state.vault_blobs import BlobReader, Blobs
from clamscannerd.state.vault_in import Incoming
from clamscannerd.state.vault_out import ItemLost, Outgoing, lend
from clamscannerd.stop import Stop

log = logging.getLogger(__name__)

BLOBS_NAME = "small.db"

THREADS = 8
"""Files written at once: enough to share fsyncs, few enough to leave trio's 40 threads to other work."""

EXPIRE_BATCH = 500
"""Items removed in one go: some 20 ms of unlinking before the next caller has its turn."""

NAMED_IN_REPORT = 100  # strays, and missing items; all are counted


class VaultLimits(Frozen, frozen=True, kw_only=True):
    """Defaults and reasons: config.Vault. `min_free` is a share of 1."""

    keep_quarantined_s: float
    keep_deleted_s: float
    max_bytes_per_account: int
    max_items_per_account: int
    min_free: float


class VaultReport(Frozen, frozen=True, kw_only=True):
    """What a check found. `strays`: files without a row, relative to the vault. `missing`: items without a file."""

    strays: tuple[str, ...] = ()
    stray_count: int = 0
    missing: tuple[int, ...] = ()
    missing_count: int = 0
    cleaned: int = 0


class VaultStatistics(Frozen, frozen=True, kw_only=True):
    receiving: int
    kept: int
    refused: int
    removed: int


class Vault:
    """One per daemon. `directory` is made when it is needed first, and is the daemon's alone."""

    def __init__(self, directory: Path, store: Store, limits: VaultLimits, stop: Stop | None = None) -> None:
        self._directory = directory
        self._store = store
        self._limits = limits
        self._stop = stop or Stop()
        self._threads = trio.CapacityLimiter(THREADS)
        self._blobs = Blobs(directory / BLOBS_NAME)
        self._blob_thread = trio.CapacityLimiter(1)
        self._receiving: set[str] = set()
        self._kept = 0
        self._refused = 0
        self._removed = 0

    def reload(self, limits: VaultLimits) -> None:
        """For contents that come from now on; what is kept keeps the time that it was promised."""
        self._limits = limits

    @property
    def caps(self) -> Caps:
        return Caps(max_bytes=self._limits.max_bytes_per_account, max_items=self._limits.max_items_per_account)

    async def room(self) -> tuple[float, float]:
        """The share of its file system that is free, and the share below which nothing is kept. Raises StateError."""

        with self._mapped("look at"):  # above it, as it is made when it is needed first
            share = await trio.to_thread.run_sync(vault_files.free_share, self._directory.parent, 0)
        return share, self._limits.min_free

    def keeps(self, action: Action) -> bool:
        """Whether a copy is made at all: `keep_deleted = 0` means that deleting keeps none."""
        return action is not Action.DELETE or self._limits.keep_deleted_s > 0

    def expires_at(self, action: Action, now: float) -> float:
        keep_s = self._limits.keep_deleted_s if action is Action.DELETE else self._limits.keep_quarantined_s
        return now + keep_s

    @asynccontextmanager
    async def receive(
        self, account: Account, step: Step, size: int, now: float, meta: FileMeta
    ) -> AsyncIterator[Incoming]:
        """Room for a content of exactly `size` bytes, or Refused. What is not committed leaves nothing behind."""
        file = new_file_name()
        self._receiving.add(file)
        try:
            await self._need_free(step.path, size)
            reservation = await self._store.reserve_item(account, step, size, file, meta, self.caps, now)
            incoming = Incoming(self, step, size, reservation.item_id, file)
            try:
                await self._make_way(step.path, reservation.evicted)
                yield incoming
            finally:
                await incoming.leave()
        except Refused:
            self._refused += 1
            raise
        finally:
            self._receiving.discard(file)

    async def _make_way(self, path: bytes, evicted: tuple[ItemFile, ...]) -> None:
        try:
            await self._unlink(evicted)
        except OSError as error:
            raise Refused(f"cannot keep {shown(path)}: {error.strerror}") from error

    async def _need_free(self, path: bytes, size: int) -> None:
        def look() -> float:
            vault_files.make_directory(self._directory)
            return vault_files.free_share(self._directory, size)

        try:
            share = await trio.to_thread.run_sync(look, limiter=self._threads)
        except OSError as error:
            raise Refused(f"cannot keep {shown(path)}: {error.strerror}") from error
        if share < self._limits.min_free:
            raise Refused(
                f"cannot keep {shown(path)}: the file system of the vault would have less than"
                f" {self._limits.min_free:.0%} free"
            )

    async def remove(self, item_id: int) -> bool:
        """Remove a kept item for good; False: no such item is kept."""
        gone = await self._store.remove_item(item_id)
        with self._mapped("remove from"):
            await self._unlink(() if gone is None else (gone,))
        return gone is not None

    async def expire(self, now: float) -> int:
        """Remove what is past its time; how many."""
        removed = 0
        with self._mapped("remove from"):
            while gone := await self._store.remove_expired(now, EXPIRE_BATCH):
                await self._unlink(tuple(gone))
                removed += len(gone)
        return removed

    async def _unlink(self, gone: tuple[ItemFile, ...]) -> None:
        """The files, then their rows. After an OSError the rows stay, and the check at the next start tries again."""
        if not gone:
            return
        blobs = [one.file for one in gone if one.place == "blob"]
        if files := [one.file for one in gone if one.place == "file"]:
            await trio.to_thread.run_sync(vault_files.remove, self._directory, files, limiter=self._threads)
        if blobs:
            await trio.to_thread.run_sync(self._blobs.remove, blobs, limiter=self._blob_thread)
        await self._store.forget_items([one.item_id for one in gone])
        self._removed += len(gone)

    @contextmanager
    def _mapped(self, verb: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StateError(f"cannot {verb} vault {self._directory}: {error.strerror}") from error

    async def discard(self, gone: Sequence[ItemFile]) -> None:
        """The contents of items that are off the list. What cannot be removed now is the next start's work."""
        try:
            await self._unlink(tuple(gone))
        except (OSError, StateError) as error:
            log.warning("vault: %d contents are removed at the next start: %s", len(gone), error)

    async def check(self) -> VaultReport:
        """clean() and survey()."""
        cleaned = await self.clean()
        return msgspec.structs.replace(await self.survey(), cleaned=cleaned)

    async def clean(self) -> int:
        """At start, before any job: remove what a crash left half received or half removed; how many.

        Where the end of the log is in doubt, a content may have been whole, and the only one: then only its row goes.
        """
        passing = [one for one in await self._store.items_in_passing() if one.file not in self._receiving]
        if self._store.doubtful:
            await self._store.forget_items([one.item_id for one in passing if one.state == "receiving"])
            passing = [one for one in passing if one.state != "receiving"]
        with self._mapped("clean"):
            await self._unlink(tuple(passing))
        return len(passing)

    async def survey(self) -> VaultReport:
        """Compare contents with rows, one folder at a time, at any time. Changes nothing."""
        strays: list[str] = []
        missing: list[int] = []
        with self._mapped("check"):
            for number in range(256):
                await self._check_folder(f"{number:02x}", strays, missing)
        return VaultReport(
            strays=tuple(strays[:NAMED_IN_REPORT]),
            stray_count=len(strays),
            missing=tuple(missing[:NAMED_IN_REPORT]),
            missing_count=len(missing),
        )

    async def _check_folder(self, prefix: str, strays: list[str], missing: list[int]) -> None:
        names = await self._names(prefix)
        rows = {_name(row): row for row in await self._store.item_files(prefix)}
        extra = names - rows.keys()
        absent = {name for name, row in rows.items() if row.state == "kept" and name not in names}
        if extra or absent:  # a second look: what came or went between the two questions is in order
            names = await self._names(prefix)
            strays += sorted(f"{prefix}/{name}" for name in extra & names)
            missing += sorted(rows[name].item_id for name in absent - names)

    async def _names(self, prefix: str) -> set[str]:
        folder = self._directory / prefix
        blobs = await trio.to_thread.run_sync(self._blobs.names, prefix, limiter=self._blob_thread)
        files = await trio.to_thread.run_sync(vault_files.names_in, folder, limiter=self._threads)
        return {f"{blob}.blob" for blob in blobs} | set(files)

    async def put_group(self, contents: Sequence[SmallContent]) -> None:
        """Contents on disk when this returns, worth nothing until they are kept. Refused: not one of them is there."""
        try:
            await trio.to_thread.run_sync(self._blobs.put, contents, limiter=self._blob_thread)
        except StateError as error:
            raise Refused(str(error)) from error

    async def turn_groups(self, account: Account, groups: GroupTurn, now: float) -> GroupTurned:
        """One transaction for the groups of a task that are under way. The caller discards what was evicted."""
        if groups.begin:
            try:
                await self._need_free(groups.begin[0].path, sum(step.identity.size for step in groups.begin))
            except Refused:
                groups = msgspec.structs.replace(groups, begin=(), captures=())  # alone, each gets its own answer
        expires_at = {action: self.expires_at(action, now) for action in Action}
        settled = [one.item.file for one in groups.kept]
        try:
            turned = await self._store.turn_groups(account, groups, expires_at, self.caps, now)
        except StateError:
            self._receiving.difference_update(settled)  # kept or not is unknown: clean() decides by the row
            raise
        # No await from here on: drop_group must not take what is kept for what is not.
        self._receiving.difference_update(settled)
        self._receiving.update(one.file for one in turned.begun)
        self._kept += len(settled)
        return turned

    async def drop_group(self, items: Sequence[SmallItem]) -> None:
        """Of these, what is not kept: its content, if it got as far, and the room."""
        lost = [one for one in items if one.file in self._receiving]
        gone = [ItemFile(item_id=one.item_id, file=one.file, state="receiving", place="blob") for one in lost]
        self._receiving.difference_update(one.file for one in lost)
        with suppress(StateError):  # the row says `receiving`: the check at the next start cleans both
            await self._unlink(tuple(gone))

    @asynccontextmanager
    async def open_item(self, item: Item) -> AsyncIterator[Outgoing]:
        """The original content of a kept item, part by part. Raises ItemLost if its content is not there."""
        row = await self._store.item_file(item.id)
        if row is None or row.state != "kept":
            raise ItemLost(f"cannot read item {item.id}: it is not in the vault")
        reader: vault_files.Reader | BlobReader
        try:
            if row.place == "blob":
                content = await trio.to_thread.run_sync(self._blobs.get, row.file, limiter=self._blob_thread)
                reader = BlobReader(content)
            else:
                reader = await trio.to_thread.run_sync(
                    vault_files.Reader, self._directory, row.file, limiter=self._threads
                )
        except (OSError, StateError) as error:
            raise ItemLost(f"cannot read item {item.id}: {error}") from error
        try:
            yield Outgoing(item, reader, self._threads)
        finally:
            reader.close()

    @asynccontextmanager
    async def lend(self, item: Item) -> AsyncIterator[int]:
        """A read-only fd of the original content, for a worker. Raises ItemLost; Refused: no room for it."""
        async with self.open_item(item) as outgoing, lend(outgoing, item, self._directory) as fd:
            yield fd

    async def read(self, item: Item) -> bytes:
        """The whole original content, verified. For small ones."""
        parts = []
        async with self.open_item(item) as outgoing:
            while part := await outgoing.read():
                parts.append(part)
        return b"".join(parts)

    def statistics(self) -> VaultStatistics:
        return VaultStatistics(
            receiving=len(self._receiving), kept=self._kept, refused=self._refused, removed=self._removed
        )


def _name(row: ItemFile) -> str:
    return f"{row.file}.item" if row.place == "file" else f"{row.file}.blob"
