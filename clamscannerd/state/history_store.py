"""The part of Store (store.py) that is about what was: scans with what became of their findings. [daemon]

Apart only because store.py would be too long; what is said there holds here.
"""

from clamscannerd.model import Finding, Scan
from clamscannerd.state import store_history
from clamscannerd.state.restore_store import RestoreStore
from clamscannerd.state.store_history import AccountEntry


class HistoryStore(RestoreStore):
    """Store's base."""

    async def history(self, uid: int, name: str, limit: int, offset: int) -> list[Scan]:
        """Newest first."""
        return await self._db.read(store_history.scans, uid, name, limit, offset)

    async def fates(self, scan_id: int) -> dict[str, int]:
        """State -> number of the scan's findings, as far as kept, that are in it now."""
        return await self._db.read(store_history.fates, scan_id)

    async def scan_findings_page(self, scan_id: int, limit: int, offset: int) -> list[Finding]:
        """Whatever became of them, in the order found."""
        return await self._db.read(store_history.findings, scan_id, limit, offset)

    async def accounts(self, limit: int, offset: int) -> list[AccountEntry]:
        """Those of which a scan is known, by name."""
        return await self._db.read(store_history.accounts, limit, offset)
