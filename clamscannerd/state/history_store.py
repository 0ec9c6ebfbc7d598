"""The part of Store (store.py) that is about what was: scans with what became of their findings. [daemon]

Apart only because store.py would be too long; what is said there holds here.
"""

from collections.abc import Sequence

from clamscannerd.model import Finding, Scan, Task
from clamscannerd.state import store_history, store_views
from clamscannerd.state.latest import Latest
from clamscannerd.state.live import LISTED
from clamscannerd.state.restore_store import RestoreStore
from clamscannerd.state.store_history import AccountEntry, AccountUsage, Became, LastScans
from clamscannerd.state.store_open import Database
from clamscannerd.state.store_values import StoreLimits
from clamscannerd.state.store_views import Found, Listed

_ROWS_A_LOOK = 10_000  # findings; some 10 ms


class HistoryStore(RestoreStore):
    """Store's base."""

    def __init__(self, database: Database, limits: StoreLimits) -> None:
        super().__init__(database, limits)
        self._latest = Latest()

    # --- what the calls show

    async def latest_found(self, uid: int, name: str) -> Found | None:
        """The latest scan and what it found, with LISTED paths."""
        if (known := self._latest.get(uid, name)) is not None:
            return known[0]
        changes = self._latest.changes
        found = await self._db.read(store_views.found, uid, name, LISTED)
        self._latest.put(uid, name, found, changes)
        return found

    async def listed(self, uid: int, name: str) -> Listed | None:
        """The latest scan and what still stands of it."""
        return await self._db.read(store_views.listed, uid, name)

    async def latest_records(self, uid: int, name: str, after_id: int, limit: int) -> tuple[Task, list[bytes]] | None:
        """The latest task of call 6, and its records after this one."""
        return await self._db.read(store_views.latest_records, uid, name, after_id, limit)

    # --- what was

    async def history(self, uid: int, name: str, limit: int, offset: int) -> list[Scan]:
        """Newest first."""
        return await self._db.read(store_history.scans, uid, name, limit, offset)

    async def became(self, scans: Sequence[Scan]) -> dict[int, Became]:
        """What became of what these scans found, by their ids.

        In few looks where little was found, and in many where much was: all findings are gone over, and the readers of
        all accounts stand in one line.
        """
        answer: dict[int, Became] = {}
        ids: list[int] = []
        rows = 0
        for scan in scans:
            ids.append(scan.id)
            rows += scan.counts.infected_files
            if rows >= _ROWS_A_LOOK or scan is scans[-1]:
                answer.update(await self._db.read(store_history.became, ids))
                ids, rows = [], 0
        return answer

    async def scan_findings_page(self, scan_id: int, limit: int, offset: int) -> list[Finding]:
        """Whatever became of them, in the order found."""
        return await self._db.read(store_history.findings, scan_id, limit, offset)

    async def accounts(self, limit: int, offset: int) -> list[AccountEntry]:
        """Those of which a scan is known, by name."""
        return await self._db.read(store_history.accounts, limit, offset)

    async def last_scans(self, uid: int | None, name: str) -> LastScans:
        """The latest scan that was done, of one account or (`uid` None) of each, added up."""
        return await self._db.read(store_history.last_scans, uid, name)

    async def usages(self, least_bytes: int, least_items: int, limit: int) -> tuple[int, list[AccountUsage]]:
        """Accounts with so much in the vault, or so many items: how many there are, and the fullest."""
        return await self._db.read(store_history.usages, least_bytes, least_items, limit)

    async def newest_moment(self) -> float:
        """When something was asked for last, by the clock of then; 0.0: nothing yet."""
        return await self._db.read(store_history.newest_moment)

    async def last_account(self) -> tuple[int, str] | None:
        """Whose scan was asked for last: uid and name."""
        return await self._db.read(store_history.last_account)
