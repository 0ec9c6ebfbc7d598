"""The part of Store (store.py) that is about ignore lists. [daemon] Apart only because store.py would be too long."""

from clamscannerd.model import Account, IgnoreEntry
from clamscannerd.state import store_ignores
from clamscannerd.state.history_store import HistoryStore
from clamscannerd.state.store_values import FoundFile


class IgnoreStore(HistoryStore):
    """Store's base."""

    async def add_ignore(self, account: Account, most: int, entry: IgnoreEntry) -> IgnoreEntry:
        """`entry` with its number. Refused: the same is there already, or `most` are. Expired ones are no hindrance."""
        return await self._db.write(store_ignores.add, account, most, entry)

    async def ignores(self, uid: int, name: str) -> list[IgnoreEntry]:
        """All of an account, expired ones too, by number."""
        return await self._db.read(store_ignores.listed, uid, name)

    async def remove_ignore(self, uid: int, name: str, entry_id: int) -> bool:
        """False: this account has none of this number."""
        return await self._db.write(store_ignores.remove, uid, name, entry_id)

    async def owners_of_ignores(self) -> set[tuple[int, str]]:
        """uid and name of all who have a list."""
        return await self._db.read(store_ignores.owners)

    async def found_by(self, scan_id: int) -> list[FoundFile]:
        """What a scan itself found, as far as kept, whatever became of it."""
        return await self._db.read(store_ignores.found, scan_id)

    async def all_standing(self, uid: int, name: str) -> list[FoundFile]:
        """What stands, of whichever scan."""
        return await self._db.read(store_ignores.standing, uid, name)
