"""Steps with small contents, a group at a time: one commit where each step alone needs four. [daemon]

The same order as for a single step (disinfect.py): intent of all committed, with room in the vault; captured and sent;
contents and items on disk; unlinked; proofs committed. A step that was not plain comes out of it still `doing`, with
nothing of it in the vault, and is then done alone, as if it had been begun before a crash.
"""

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from clamscannerd.errors import Refused, WorkerFailed
from clamscannerd.model import Account, Action, Outcome, Step
from clamscannerd.pipeline.link import WorkerLink
from clamscannerd.state.store import FileMeta
from clamscannerd.state.store_values import SmallContent, SmallItem
from clamscannerd.state.vault import Vault
from clamscannerd.state.vault_blobs import SMALL_BYTES
from clamscannerd.worker.messages import (
    BATCH_BYTES,
    Act,
    Acted,
    ActGroup,
    GroupActed,
    GroupStored,
    Reply,
    SmallFiles,
)

GROUP_STEPS = 32
"""Commits are shared by so many; larger groups gained nothing, and a stop waits for the end of one."""

_STEP_OVERHEAD_BYTES = 256

Receive = Callable[[WorkerLink], Awaitable[Reply]]


def plain(steps: Sequence[Step], vault: Vault) -> list[Step]:
    """The first of `steps` that may go as a group: to be taken away with a small copy; all in one message."""
    chosen: list[Step] = []
    size = 0
    for step in steps:
        if step.action not in (Action.DELETE, Action.QUARANTINE) or not vault.keeps(step.action):
            break
        size += len(step.path) + _STEP_OVERHEAD_BYTES
        if step.identity.size > SMALL_BYTES or size > BATCH_BYTES or len(chosen) == GROUP_STEPS:
            break
        chosen.append(step)
    return chosen


class GroupEnd(NamedTuple):
    """One step of a group: begun, and ended if `acted` is there; `item` is then what the vault keeps of it."""

    step: Step
    acted: Acted | None
    item: SmallItem


async def act_on_group(
    link: WorkerLink, receive: Receive, vault: Vault, account: Account, steps: Sequence[Step], captures: Sequence[bytes]
) -> list[GroupEnd]:
    """The steps that were begun, in their order; the caller commits the ends. Raises WorkerFailed.

    A content that was kept stays kept, also of a step that did not end: that step is `doing`, and is done alone like
    one after a crash, which knows what is stored.
    """
    items = await vault.begin_group(account, steps, captures, time.time())
    if not items:
        return []
    asked = {item.step.seq: item for item in items}
    unkept = dict(asked)
    try:
        await link.send(ActGroup(steps=tuple(_act(item.step) for item in items)))
        contents = await _contents(link, receive, asked)
        for one in contents:
            del unkept[one.item.step.seq]
        kept = {one.item.step.seq: one.item for one in contents}
        try:
            if contents:
                await vault.keep_group(contents, time.time())
        except Refused:  # nothing of it is kept: each is done alone then, and told why
            unkept |= kept
            kept = {}
        await link.send(GroupStored(seqs=tuple(kept)))
        ends = _ends(await receive(link), kept)
        return [GroupEnd(item.step, ends.get(item.step.seq), item) for item in items]
    finally:
        await vault.drop_group(list(unkept.values()))


def _ends(reply: Reply, kept: dict[int, SmallItem]) -> dict[int, Acted]:
    if not isinstance(reply, GroupActed):
        raise WorkerFailed(f"worker sent {type(reply).__name__} at the end of a group")
    ends = {acted.seq: acted for acted in reply.ends if _is_lawful(acted, kept)}
    if len(ends) != len(reply.ends):
        raise WorkerFailed("worker ended a step of a group that it was not asked for")
    return ends


def _act(step: Step) -> Act:
    return Act(
        seq=step.seq,
        path=step.path,
        action=step.action,
        identity=step.identity,
        capture=step.capture,
        again=False,
        stored=b"",
        keep=True,
    )


async def _contents(link: WorkerLink, receive: Receive, asked: dict[int, SmallItem]) -> list[SmallContent]:
    contents: dict[int, SmallContent] = {}
    while True:
        reply = await receive(link)
        if not isinstance(reply, SmallFiles):
            raise WorkerFailed(f"worker sent {type(reply).__name__} in the middle of a group")
        for file in reply.files:
            item = asked.get(file.seq)
            if item is None or file.seq in contents or len(file.data) != item.step.identity.size:
                raise WorkerFailed("worker sent a content that it was not asked for")
            meta = FileMeta(owner=file.uid, group=file.gid, mode=file.mode, mtime_ns=file.mtime_ns, xattrs=file.xattrs)
            contents[file.seq] = SmallContent(item=item, content=file.data, meta=meta)
        if reply.last:
            return list(contents.values())


def _is_lawful(acted: Acted, kept: dict[int, SmallItem]) -> bool:
    item = kept.get(acted.seq)
    if item is None:
        return False
    done = Outcome.DELETED if item.step.action is Action.DELETE else Outcome.QUARANTINED
    return acted.outcome is done
