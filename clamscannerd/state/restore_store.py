"""The part of Store (store.py) that is about what can be taken back: lists of items, restores, undos. [daemon]

Apart only because store.py would be too long; what is said there holds here.
"""

from collections.abc import Sequence

from clamscannerd.model import Account, Action, Item, RestoreOutcome, RestoreStep, Task
from clamscannerd.state import store_items, store_restores
from clamscannerd.state.job_store import JobStore
from clamscannerd.state.store_values import ItemEntry, ItemFile, Redetected, TaskProgress


class RestoreStore(JobStore):
    """Store's base."""

    # --- restores and undos: tasks whose steps name items

    async def add_restore(
        self, account: Account, item_ids: Sequence[int], to: bytes | None, *, force: bool, asked_by: int, now: float
    ) -> Task:
        """A queued task. `to`: a directory beneath the home, b"" is the home; None: back to where each was.

        NotFound: an item that the account does not have. Refused: a job of this account is under way.
        """
        return await self._move(
            store_restores.add, self.limits, account, item_ids, to, force=force, asked_by=asked_by, now=now
        )

    async def add_undo(self, account: Account, public_id: str, *, force: bool, asked_by: int, now: float) -> Task:
        """A queued task. NotFound; Refused: nothing to put back, or a job of this account is under way."""
        return await self._move(
            store_restores.add_undo, self.limits, account, public_id, force=force, asked_by=asked_by, now=now
        )

    async def next_restore_step(self, task_id: int) -> RestoreStep | None:
        return await self._db.read(store_restores.next_step, task_id)

    async def begin_restore_step(self, task_id: int, seq: int, capture: bytes) -> RestoreStep:
        """As begin_step."""
        return await self._db.write(store_restores.begin_step, task_id, seq, capture)

    async def end_restore_step(
        self,
        task_id: int,
        seq: int,
        outcome: RestoreOutcome,
        message: str | None,
        now: float,
        file_text: str,
        signature: str,
        found: Redetected | None,
    ) -> ItemFile | None:
        """Step, item, record and list of infected files in one. Restored: the item, off the list now; Vault.discard is
        next.

        `signature`: what the present signatures detect in it, "" if nothing. `found`: it stands in the home and is
        infected.
        """
        return await self._db.write(
            store_restores.end_step,
            self.limits,
            task_id,
            seq,
            outcome,
            message,
            now,
            file_text,
            signature,
            found,
        )

    async def end_restore_task(self, task_id: int, now: float) -> bytes:
        """The done record. Every step must have ended."""
        return await self._move(store_restores.end, task_id, now)

    async def task_progress(self, task: Task) -> TaskProgress:
        return await self._db.read(store_restores.progress, task)

    # --- items

    async def item_entries(
        self, uid: int, name: str, actions: Sequence[Action], limit: int, offset: int, now: float
    ) -> tuple[int, list[ItemEntry]]:
        """How many kept items there are that one of `actions` brought, and a page of them, oldest first."""
        return await self._db.read(store_items.entries, uid, name, actions, limit, offset, now)

    async def item_entry(self, uid: int, name: str, item_id: int, now: float) -> ItemEntry | None:
        """None for unknown, foreign and expired ones alike."""
        return await self._db.read(store_items.entry, uid, name, item_id, now)

    async def kept_items(self, owner: tuple[int, str] | None, after_id: int, limit: int) -> list[Item]:
        """The next by id, of one account or of all."""
        return await self._db.read(store_items.kept_after, owner, after_id, limit)

    async def delete_items(self, account: Account, item_ids: Sequence[int], now: float) -> list[ItemFile]:
        """All of them off the list, or none: NotFound; Refused, one is being restored. Vault.discard is next."""
        return await self._db.write(store_restores.delete, account, item_ids, now)
