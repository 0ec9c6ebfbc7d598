"""A content on its way into the vault. [daemon] Of Vault (vault.py), whose insides it may use; the counterpart of
vault_out.py."""

from typing import TYPE_CHECKING

import trio

from clamscannerd.errors import LocalProtocolError, Refused, RemoteProtocolError, StateError
from clamscannerd.model import Item, Step
from clamscannerd.state import vault_files
from clamscannerd.state.store_items import shown

if TYPE_CHECKING:
    from clamscannerd.state.vault import Vault

BUFFER_BYTES = 256 << 10
"""Contents up to this size cost one hop to a thread in all; larger ones one for each so many bytes."""

ABORT_S = 10.0
"""A receive that failed cleans up for so long at most; what is left then is cleaned at the next start."""


class Incoming:
    """A content being received, by one task."""

    def __init__(self, vault: "Vault", step: Step, size: int, item_id: int, file: str) -> None:
        self._vault = vault
        self._step = step
        self._size = size
        self._item_id = item_id
        self._writer = vault_files.Writer(vault._directory, file)
        self._buffer = bytearray()
        self._taken = 0
        self._failed = False
        self._settled = False  # kept, or for the check at the next start to find out

    async def write(self, chunk: bytes) -> None:
        """Take the next part. RemoteProtocolError: more than was announced. Refused: the disk did not take it."""
        self._taken += len(chunk)
        if self._taken > self._size:
            raise RemoteProtocolError(f"cannot keep {self._shown}: more than the announced {self._size} bytes came")
        self._buffer += chunk
        if len(self._buffer) >= BUFFER_BYTES:
            await self._in_thread(finish=False, sha256=None)

    async def commit(self, now: float, sha256: bytes | None = None) -> Item:
        """Kept and on disk when this returns. `sha256`: what the content must be; Refused if it is another."""
        if self._taken != self._size:
            raise Refused(f"cannot keep {self._shown}: {self._taken} of {self._size} bytes came")
        await self._in_thread(finish=True, sha256=sha256)
        vault, action = self._vault, self._step.action
        try:
            item = await vault._store.keep_item(self._item_id, self._writer.sha256, vault.expires_at(action, now), now)
        except StateError:
            # Whether the commit reached the disk is unknown: the file must not go. clean() decides by the row.
            self._settled = True
            raise
        self._settled = True
        vault._kept += 1
        return item

    async def _in_thread(self, *, finish: bool, sha256: bytes | None) -> None:
        if self._failed or self._settled:
            raise LocalProtocolError(f"cannot keep {self._shown}: it is over, well or badly")

        def work() -> None:
            self._writer.write(self._buffer)
            self._buffer.clear()
            if not finish:
                return
            if sha256 is not None and self._writer.sha256 != sha256:
                raise Refused(f"cannot keep {self._shown}: its content is not what was found infected")
            self._writer.finish()

        self._failed = True  # until it is known to have worked: a second fsync must not make good for a first
        try:
            await trio.to_thread.run_sync(work, limiter=self._vault._threads)
        except OSError as error:
            raise Refused(f"cannot keep {self._shown}: {error.strerror}") from error
        self._failed = False

    @property
    def _shown(self) -> str:
        return shown(self._step.path)

    async def leave(self) -> None:
        """At the end of `async with`: without a commit, neither file nor row stays."""
        if self._settled:
            return
        vault = self._vault
        with vault._stop.shield(ABORT_S):
            try:
                await trio.to_thread.run_sync(self._writer.discard, limiter=vault._threads)
                await vault._store.forget_items([self._item_id])
            except (OSError, StateError):
                return  # the row says `receiving`: the check at the next start cleans both
