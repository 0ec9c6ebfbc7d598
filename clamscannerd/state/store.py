"""What survives a crash, as one object. [daemon] One public async method is one transaction of SQLite, in a thread.

    async with open_store(Path("/var/lib/clamscannerd"), StoreLimits()) as store:
        scan = await store.add_scan(account, "home", (b".",), asked_by=1000, now=time.time())

What a method returned is on disk (WAL, synchronous=FULL; 0.2 ms a commit here). Times are the caller's: there is no
clock inside. Rows belong to (uid, name). Methods that change raise LocalProtocolError for a move that state/tasks.py
does not have or a row that does not exist, StateError when the database cannot be used; getters give None.

Rejected: an ORM (the schema is the design, and 4,700 commits/s leave no room for one); a queue of changes written in
groups (an acknowledged change would not be on disk).
"""

import sqlite3
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Concatenate, Literal, ParamSpec

import trio

from clamscannerd.errors import StateError
from clamscannerd.model import (
    Account,
    Action,
    Counts,
    Depth,
    EngineInfo,
    Finding,
    FindingState,
    Item,
    MailMessage,
    Outcome,
    Scan,
    ScanState,
    Step,
    Task,
)
from clamscannerd.state import store_groups, store_items, store_mail, store_rows, store_scans, store_tasks
from clamscannerd.state.digest_store import DigestStore
from clamscannerd.state.store_open import free_bytes, open_database, ping, verify
from clamscannerd.state.store_values import (
    Caps,
    FileMeta,
    FoundMail,
    GroupTurn,
    GroupTurned,
    ItemFile,
    Job,
    NewFinding,
    NewStep,
    Recovered,
    Reservation,
    Statistics,
    StoreLimits,
    Usage,
)
from clamscannerd.stop import Stop

__all__ = [
    "Caps",
    "FileMeta",
    "Job",
    "NewFinding",
    "NewStep",
    "Recovered",
    "Statistics",
    "Store",
    "StoreLimits",
    "Usage",
    "open_store",
]

P = ParamSpec("P")

CLOSE_S = 5.0
"""A close waits so long for the transaction at hand; SQLite recovers what a close did not tidy up."""


@asynccontextmanager
async def open_store(directory: Path, limits: StoreLimits, stop: Stop | None = None) -> AsyncIterator["Store"]:
    """This daemon's state directory, locked, made and migrated as need be. Raises StateError."""
    database = await trio.to_thread.run_sync(open_database, directory)
    try:
        yield Store(database, limits)
    finally:
        with (stop or Stop()).shield(CLOSE_S):
            await database.close()


class Store(DigestStore):
    """Made by open_store()."""

    # --- the whole

    async def check(self) -> None:
        """The writer still gets through to the file: for the watchdog. Raises StateError."""
        await self._db.write(ping)

    async def verify(self) -> None:
        """Check every page, however large the file, while others go on. Raises StateError naming the file."""
        await trio.to_thread.run_sync(verify, self._db.path, abandon_on_cancel=True)  # a stop does not wait for it

    @property
    def doubtful(self) -> bool:
        """At this start the end of the log was not there, or nobody could tell: see store_wal."""
        return self._db.doubtful

    async def free_bytes(self) -> int:
        """What the file system of the directory has left for us. Raises StateError."""
        return await trio.to_thread.run_sync(free_bytes, self._db.path.parent)

    def statistics(self) -> Statistics:
        return Statistics(
            reads=self._db.reads, writes=self._db.writes, waiting=self._db.waiting, broken=bool(self._db.broken)
        )

    async def wait_broken(self) -> None:
        """Raises StateError when such a fault comes up. Any other StateError passes: a full disk, somebody's lock."""
        raise StateError(await self._db.wait_broken())

    async def account_named(self, name: str) -> Account | None:
        """The last of this name that something is known of; without what only passwd would say."""
        return await self._db.read(store_rows.account_named, name)

    # --- scans

    async def add_scan(
        self,
        account: Account,
        scan_type: str,
        paths: tuple[bytes, ...],
        asked_by: int,
        now: float,
        since: float | None = None,
        *,
        scheduled: bool = False,
        depth: Depth = Depth.FULL,
    ) -> Scan:
        """A queued scan; older ones beyond the limits go. Refused: a job of this account is under way."""
        try:
            return await self._move(
                store_scans.add, self.limits, account, scan_type, paths, asked_by, now, since, scheduled, depth
            )
        finally:
            self._latest.forget(account.uid, account.name)

    async def _move_scan(
        self,
        fn: Callable[Concatenate[sqlite3.Connection, int, P], Scan],
        scan_id: int,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Scan:
        """From one state to another."""
        try:
            return await self._move(fn, scan_id, *args, **kwargs)
        finally:
            self._latest.moved(scan_id)

    async def latest_scan(self, uid: int, name: str) -> Scan | None:
        return await self._db.read(store_scans.latest, uid, name)

    async def get_scan(self, scan_id: int) -> Scan | None:
        return await self._db.read(store_scans.get, scan_id)

    async def list_scans(self, uid: int, name: str, limit: int) -> list[Scan]:
        """Newest first."""
        return await self._db.read(store_scans.listed, uid, name, limit)

    async def begin_scan(self, scan_id: int, engine: EngineInfo, now: float, excludes: Sequence[bytes] = ()) -> Scan:
        """queued -> running. Keeps the first start's time; the list of paths not scanned starts over. `excludes`: the
        patterns of what is left out."""
        return await self._move_scan(store_scans.begin, scan_id, engine, now, excludes)

    async def save_progress(self, scan_id: int, counts: Counts, engine: EngineInfo) -> None:
        await self._db.write(store_scans.save_progress, scan_id, counts, engine)

    async def end_scan(self, scan_id: int, state: ScanState, counts: Counts, message: str, now: float) -> Scan:
        """To done, cancelled or failed. Done clears older findings that the scan covered and did not find."""
        return await self._move_scan(store_scans.end, scan_id, state, counts, message, now)

    async def park_scan(self, scan_id: int, counts: Counts | None = None) -> Scan:
        """running -> queued at its old place, resumed + 1. `counts`: as far as it came."""
        return await self._move_scan(store_scans.park, scan_id, counts)

    async def pause_scan(self, scan_id: int) -> Scan:
        """queued -> paused."""
        return await self._move_scan(store_scans.pause, scan_id)

    async def resume_scan(self, scan_id: int) -> Scan:
        """paused -> queued at its old place."""
        return await self._move_scan(store_scans.resume, scan_id)

    async def paused_scans(self) -> int:
        """How many there are."""
        return await self._db.read(store_scans.paused)

    async def add_findings(self, scan_id: int, found: Sequence[NewFinding], now: float) -> list[Finding]:
        """Those kept (max_findings_per_scan). The same path again updates its finding."""
        return await self._db.write(store_scans.add_findings, self.limits, scan_id, found, now)

    async def clear_findings(self, scan_id: int, paths: Sequence[bytes]) -> int:
        """Looked at again and clean or gone; how many were cleared, of this scan or of earlier ones."""
        return await self._db.write(store_scans.clear_findings, scan_id, paths)

    async def older_standing(self, scan_id: int) -> list[bytes]:
        """Paths that stand since before this scan, as far as it covers them, in the order found."""
        return await self._db.read(store_scans.older_standing, scan_id)

    async def add_not_scanned(self, scan_id: int, entries: Sequence[tuple[bytes, str]]) -> int:
        """(path, reason), kept up to max_not_scanned_per_scan; how many were kept."""
        return await self._db.write(store_scans.add_not_scanned, self.limits, scan_id, entries)

    async def not_scanned(self, scan_id: int, limit: int, offset: int = 0) -> list[tuple[bytes, str]]:
        return await self._db.read(store_scans.not_scanned, scan_id, limit, offset)

    async def standing_findings(
        self, uid: int, name: str, limit: int | None = None, after_id: int = 0
    ) -> list[Finding]:
        """Of the latest scan what still stands, in the order found."""
        return await self._db.read(store_scans.standing, uid, name, limit, after_id)

    async def standing_after(self, scan_id: int, after_id: int, limit: int) -> list[Finding]:
        """Of one scan what still stands, in the order found."""
        return await self._db.read(store_scans.standing_after, scan_id, after_id, limit)

    async def scan_findings(self, scan_id: int) -> list[Finding]:
        """All of one scan, whatever became of them."""
        return await self._db.read(store_scans.findings, scan_id)

    async def found_paths(self, scan_id: int, limit: int) -> tuple[int, list[bytes]]:
        """How many findings of this scan are kept, and the paths of the first, in the order found."""
        return await self._db.read(store_scans.found, scan_id, limit)

    async def earlier_standing_count(self, uid: int, name: str) -> int:
        """Findings of earlier scans that still stand and that the latest did not and will not look at."""
        return await self._db.read(store_scans.earlier_standing_count, uid, name)

    # --- tasks

    async def add_task(
        self, account: Account, scan_id: int, steps: Sequence[NewStep], asked_by: int, now: float
    ) -> Task:
        """A queued task. Refused: a job of this account is under way."""
        return await self._move(store_tasks.add, self.limits, account, scan_id, steps, asked_by, now)

    async def get_task(self, task_id: int) -> Task | None:
        return await self._db.read(store_tasks.get, task_id)

    async def task_by_public_id(self, uid: int, name: str, public_id: str) -> Task | None:
        return await self._db.read(store_tasks.by_public_id, uid, name, public_id)

    async def list_tasks(self, uid: int, name: str, limit: int, offset: int) -> list[Task]:
        """Of all kinds, newest first."""
        return await self._db.read(store_tasks.listed, uid, name, limit, offset)

    async def begin_task(self, task_id: int, now: float) -> Task:
        return await self._move(store_tasks.begin, task_id, now)

    async def park_task(self, task_id: int) -> Task:
        """running -> queued at its old place."""
        return await self._move(store_tasks.park, task_id)

    async def steps(self, task_id: int, after_seq: int = 0, limit: int = 1_000) -> list[Step]:
        return await self._db.read(store_tasks.steps, task_id, after_seq, limit)

    async def next_step(self, task_id: int) -> Step | None:
        """The one that was being done, else the first that waits, else None."""
        return await self._db.read(store_tasks.next_step, task_id)

    async def begin_step(self, task_id: int, seq: int, capture: bytes) -> Step:
        """waiting -> doing. A step already doing is returned as it is, with its old capture."""
        return await self._db.write(store_tasks.begin_step, task_id, seq, capture)

    async def waiting_steps(self, task_id: int, after_seq: int, limit: int) -> list[Step]:
        """The next steps that were never begun."""
        return await self._db.read(store_groups.waiting_steps, task_id, after_seq, limit)

    async def turn_groups(
        self, account: Account, groups: GroupTurn, expires_at: Mapping[Action, float], caps: Caps, now: float
    ) -> GroupTurned:
        """One point further with the groups of a task, in one transaction; Vault.turn_groups calls it."""
        return await self._db.write(store_groups.turn, account, groups, expires_at, caps, now)

    async def end_step(
        self,
        task_id: int,
        seq: int,
        outcome: Outcome,
        message: str | None,
        now: float,
        file_text: str,
        finding_state: FindingState | None,
        item: int | None,
    ) -> bytes:
        """Step, finding, item and log record in one; the record as JSON, without a newline.

        `file_text`: the path as shown on the wire. `item`: the kept item of this very step. `finding_state`: None
        leaves the finding as it is.
        """
        return await self._db.write(
            store_tasks.end_step, task_id, seq, outcome, message, now, file_text, finding_state, item
        )

    async def add_issue(self, task_id: int, state: Literal["error", "warning"], message: str) -> bytes:
        return await self._db.write(store_tasks.add_issue, task_id, state, message)

    async def conclude_task(self, task_id: int) -> bytes:
        """The done record, for the log; the task still runs. b"": it was made before."""
        return await self._db.write(store_tasks.conclude, task_id)

    async def end_task(self, task_id: int, now: float) -> bytes:
        """The done record. Every step must have ended."""
        return await self._move(store_tasks.end, task_id, now)

    async def records(self, task_id: int, after_id: int = 0, limit: int = 10_000) -> list[bytes]:
        return await self._db.read(store_tasks.records, task_id, after_id, limit)

    # --- mailboxes

    async def add_messages(
        self, scan_id: int, path: bytes, messages: Sequence[MailMessage], total: int, in_box: int
    ) -> int:
        """Infected messages of a finding of this scan, as far as kept; how many were. `in_box`: all of it, or 0."""
        return await self._db.write(store_mail.add_messages, scan_id, path, messages, total, in_box)

    async def messages_of(self, finding_id: int) -> FoundMail:
        return await self._db.read(store_mail.messages_of, finding_id)

    async def standing_messages(self, scan_id: int) -> dict[int, list[MailMessage]]:
        """Of what stands in a scan, by id of the finding."""
        return await self._db.read(store_mail.standing_messages, scan_id)

    async def items_of_step(self, task_id: int, seq: int) -> list[Item]:
        return await self._db.read(store_mail.items_of_step, task_id, seq)

    async def journal(self, task_id: int, seq: int, notices: Mapping[int, bytes]) -> None:
        """part -> SHA-256 of what is to stand in its place; on disk before the first byte is overwritten."""
        await self._db.write(store_mail.journal, task_id, seq, notices)

    # --- the vault's index; vault.Vault calls what changes it

    async def items(self, uid: int, name: str, limit: int | None = None, after_id: int = 0) -> list[Item]:
        return await self._db.read(store_items.listed, uid, name, limit, after_id)

    async def item_of_step(self, task_id: int, seq: int) -> Item | None:
        """The latest kept item of this step."""
        return await self._db.read(store_items.of_step, task_id, seq)

    async def get_item(self, item_id: int) -> Item | None:
        """A kept item, whosesoever."""
        return await self._db.read(store_items.get, item_id)

    async def item_meta(self, item_id: int) -> FileMeta | None:
        return await self._db.read(store_items.meta, item_id)

    async def usage(self, uid: int, name: str) -> Usage:
        return await self._db.read(store_items.usage, uid, name)

    async def reserve_item(
        self, account: Account, step: Step, size: int, file: str, meta: FileMeta, caps: Caps, now: float
    ) -> Reservation:
        return await self._db.write(store_items.reserve, account, step, size, file, meta, caps, now)

    async def keep_item(self, item_id: int, sha256: bytes, expires_at: float, now: float) -> Item:
        return await self._db.write(store_items.keep, item_id, sha256, expires_at, now)

    async def remove_item(self, item_id: int) -> ItemFile | None:
        return await self._db.write(store_items.remove, item_id)

    async def remove_expired(self, now: float, limit: int) -> list[ItemFile]:
        return await self._db.write(store_items.remove_expired, now, limit)

    async def forget_items(self, item_ids: Sequence[int]) -> None:
        await self._db.write(store_items.forget, item_ids)

    async def item_file(self, item_id: int) -> ItemFile | None:
        return await self._db.read(store_items.file_of, item_id)

    async def item_files(self, prefix: str) -> list[ItemFile]:
        return await self._db.read(store_items.files_in, prefix)

    async def items_in_passing(self) -> list[ItemFile]:
        return await self._db.read(store_items.in_passing)
