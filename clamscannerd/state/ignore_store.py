"""The part of Store (store.py) that is about ignore lists and single paths. [daemon]

Apart only because store.py would be too long.
"""

from clamscannerd.model import Account, IgnoreEntry
from clamscannerd.state import store_explain, store_ignores
from clamscannerd.state.history_store import HistoryStore
from clamscannerd.state.store_explain import Known
from clamscannerd.state.store_open import Database
from clamscannerd.state.store_values import FoundFile, StoreLimits

_KEPT = 4_096  # accounts whose list is in memory; then it starts over


class IgnoreStore(HistoryStore):
    """Store's base."""

    def __init__(self, database: Database, limits: StoreLimits) -> None:
        super().__init__(database, limits)
        self._ignores: dict[tuple[int, str], list[IgnoreEntry]] = {}  # every poll asks; _KEPT accounts of them
        self._changes = 0

    async def add_ignore(self, account: Account, most: int, entry: IgnoreEntry) -> IgnoreEntry:
        """`entry` with its number. Refused: the same is there already, or `most` are. Expired ones are no hindrance."""
        try:
            return await self._db.write(store_ignores.add, account, most, entry)
        finally:
            self._forget(account.uid, account.name)

    async def ignores(self, uid: int, name: str) -> list[IgnoreEntry]:
        """All of an account, expired ones too, by number."""
        if (known := self._ignores.get((uid, name))) is not None:
            return known
        changes = self._changes
        entries = await self._db.read(store_ignores.listed, uid, name)
        if changes == self._changes:  # else it may be what was before
            if len(self._ignores) >= _KEPT:
                self._ignores.clear()
            self._ignores[uid, name] = entries
        return entries

    def _forget(self, uid: int, name: str) -> None:
        self._changes += 1
        self._ignores.pop((uid, name), None)

    async def remove_ignore(self, uid: int, name: str, entry_id: int) -> bool:
        """False: this account has none of this number."""
        try:
            return await self._db.write(store_ignores.remove, uid, name, entry_id)
        finally:
            self._forget(uid, name)

    async def owners_of_ignores(self) -> set[tuple[int, str]]:
        """uid and name of all who have a list."""
        return await self._db.read(store_ignores.owners)

    async def found_by(self, scan_id: int) -> list[FoundFile]:
        """What a scan itself found, as far as kept, whatever became of it."""
        return await self._db.read(store_ignores.found, scan_id)

    async def all_standing(self, uid: int, name: str) -> list[FoundFile]:
        """What stands, of whichever scan."""
        return await self._db.read(store_ignores.standing, uid, name)

    async def about(self, uid: int, name: str, path: bytes) -> Known:
        """What is known of one path of an account."""
        return await self._db.read(store_explain.about, uid, name, path)
