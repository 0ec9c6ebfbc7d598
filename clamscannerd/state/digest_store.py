"""The part of Store (store.py) that is about notifications: what is due, and digests on their way out. [daemon]

Apart only because store.py would be too long; what is said there holds here.
"""

from collections.abc import Collection, Sequence

from clamscannerd.state import store_digests
from clamscannerd.state.ignore_store import IgnoreStore
from clamscannerd.state.store_digests import Digest, Due, MakeBody, Told


class DigestStore(IgnoreStore):
    """Store's base."""

    async def due_digests(self, limit: int) -> list[Due]:
        """Accounts with a scan that has ended and was not looked at yet; the longest untold first."""
        return await self._db.read(store_digests.due, limit)

    async def make_digest(
        self,
        due: Due,
        digest_id: str,
        *,
        minimum: int,
        named: int,
        make: MakeBody,
        now: float,
        ignored: Collection[int] = (),
    ) -> Digest | None:
        """What is new of this account, marked as told and as a digest on its way out; None: not `minimum` findings.

        `make`: pure, called inside of the transaction. `named`: findings it gets; it is told how many there are.
        `ignored`: ids of findings that are passed over, and not marked.
        """
        return await self._db.write(store_digests.make, due, digest_id, minimum, named, ignored, make, now)

    async def skip_digest(self, due: Due) -> None:
        """Nothing is to be told of this account until its next scan has ended."""
        await self._db.write(store_digests.skip, due)

    async def digests(self, limit: int) -> list[Digest]:
        """Not known to be in the outbox, the oldest first."""
        return await self._db.read(store_digests.waiting, limit)

    async def forget_digest(self, digest_id: str) -> None:
        """Its file is on disk."""
        await self._db.write(store_digests.forget, digest_id)

    async def told(self) -> list[Told]:
        return await self._db.read(store_digests.told)

    async def tell(self, topics: Sequence[str], digest: Digest, now: float) -> None:
        """These troubles are told of by this digest."""
        await self._db.write(store_digests.tell, topics, digest, now)

    async def passed(self, topics: Sequence[str]) -> None:
        """These troubles are none any more: when they come again, they are news."""
        await self._db.write(store_digests.passed, topics)
