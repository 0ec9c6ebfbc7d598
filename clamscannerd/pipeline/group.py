"""Steps with small contents, group after group, three of them under way at once. [daemon]

Each group goes the way of a single step (disinfect.py): intent of all committed, with room in the vault; captured and
sent; contents on disk, then their items; unlinked; proofs committed. While the daemon writes one group to disk, the
worker unlinks the one before and captures the one after; and one transaction of state.db takes all three a point
further: ends of the first, items of the second, intents of the next. So a group costs two commits.

    worker   | capture 2      | unlink 1, capture 3        | unlink 2, capture 4
    daemon   | contents 1     | contents 2                 | contents 3
             | keep 1 begin 3 | end 1  keep 2  begin 4     | end 2  keep 3  begin 5
             ^ stored 1, act 3 go down                     ^ stored 3, act 5

A step that was not plain comes out of it still `doing`, with nothing of it in the vault, and is then done alone, as if
it had been begun before a crash. Then no other group is begun until it is done: records stand in the order asked.

Nothing is sent before all that the worker has to say was read, and what makes it say much goes last: two ends that both
write and neither reads would wait for each other.
"""

import time
from collections.abc import Awaitable, Sequence
from typing import NamedTuple, Protocol

from clamscannerd.errors import Refused, WorkerFailed
from clamscannerd.model import Account, Action, Outcome, Step
from clamscannerd.pipeline.link import WorkerLink
from clamscannerd.pipeline.tasks import capture_name, in_time
from clamscannerd.state.store import FileMeta, Store
from clamscannerd.state.store_values import GroupTurn, GroupTurned, SmallContent, SmallItem, StepEnd, Usage
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

GROUP_STEPS = 64
"""Commits are shared by so many. Half as many cost a fifth more CPU of the daemon; twice as many would not leave the
worker fds enough. A crash leaves three groups to be done alone, and a stop waits for their end."""

GROUP_DIRECTORIES = 48
"""Each takes an fd of the worker beside those of the files: GROUPS_AT_ONCE groups stay below its 256 (monitor.py)."""

GROUP_BYTES = 2 << 20
"""Of contents: a daemon holds two groups of each task that runs in memory, one of them twice while it is written."""

_PAGE_STEPS = 8 * GROUP_STEPS
"""Steps are read ahead by so many, at 1 KiB each."""

_STEP_OVERHEAD_BYTES = 256


def is_plain(step: Step, vault: Vault) -> bool:
    """Whether it may go in a group: to be taken away with a small copy."""
    small = step.identity.size <= SMALL_BYTES
    return small and step.action in (Action.DELETE, Action.QUARANTINE) and vault.keeps(step.action)


class Waiting:
    """The steps of a task that wait, in their order."""

    def __init__(self, store: Store, vault: Vault, task_id: int) -> None:
        self._store = store
        self._vault = vault
        self._task_id = task_id
        self._page: list[Step] = []
        self._after = 0
        self._limit = GROUP_STEPS  # more is read when the first group has shown that it pays

    async def group(self) -> list[Step]:
        """The next ones, as many as may go as a group; none: one that must go alone is next."""
        if len(self._page) < GROUP_STEPS and self._limit:
            further = await self._store.waiting_steps(self._task_id, self._after, self._limit)
            self._limit = _PAGE_STEPS if len(further) == self._limit else 0
            self._page += further
            self._after = self._page[-1].seq if self._page else 0
        chosen: list[Step] = []
        size = content = 0
        parents: set[bytes] = set()
        for step in self._page[:GROUP_STEPS]:
            size += len(step.path) + _STEP_OVERHEAD_BYTES
            content += step.identity.size
            parents.add(step.path.rpartition(b"/")[0])
            too_much = size > BATCH_BYTES or content > GROUP_BYTES or len(parents) > GROUP_DIRECTORIES
            if too_much or not is_plain(step, self._vault):
                break
            chosen.append(step)
        del self._page[: len(chosen)]
        return chosen


class GroupEnd(NamedTuple):
    """One step of a group: begun, and ended if `acted` is there; `item` is then what the vault keeps of it."""

    step: Step
    acted: Acted | None
    item: SmallItem


class Host(Protocol):
    """The turn whose steps these are."""

    def at(self, seq: int) -> None:
        """From this step on nothing is certain: what a worker that dies now is held against."""

    def may_begin(self) -> Awaitable[bool]:
        """Whether another group may be begun: the daemon does not stop, and the files are still that account's."""

    def end_of(self, step: Step, acted: Acted, item_id: int) -> StepEnd: ...
    def reply(self, link: WorkerLink) -> Awaitable[Reply]: ...
    def tell(self, step: Step, outcome: Outcome) -> None: ...
    def write_log(self, records: Sequence[bytes]) -> Awaitable[None]: ...


class _Group:
    """One group, from its intents on."""

    def __init__(self, begun: Sequence[SmallItem]) -> None:
        self.items = {item.step.seq: item for item in begun}
        self.contents: dict[int, SmallContent] = {}

    @property
    def first_seq(self) -> int:
        return next(iter(self.items))


class GroupRun:
    """Groups of one task, with one worker."""

    def __init__(
        self,
        host: Host,
        link: WorkerLink,
        vault: Vault,
        account: Account,
        task_id: int,
        waiting: Waiting,
    ) -> None:
        self.any_begun = False
        self._task_id = task_id
        self._host = host
        self._link = link
        self._vault = vault
        self._account = account
        self._waiting = waiting
        self._more = True
        self._used: Usage | None = None
        self._proving: _Group | None = None  # stored, its proofs are to come
        self._received: _Group | None = None  # its contents are here, and not on disk
        self._asked: _Group | None = None  # its contents are to come
        self._unkept: dict[int, SmallItem] = {}  # reserved in the vault, by step
        self._left: list[GroupEnd] = []

    async def run(self, first: Sequence[Step], limit_s: float) -> list[GroupEnd]:
        """From the steps `first` on, while all is plain. What is left to record, in the order of the steps.

        Raises WorkerFailed. A content that was kept stays kept, also of a step that did not end: that step is `doing`,
        and is done alone like one after a crash, which knows what is stored.
        """
        steps: Sequence[Step] = first
        try:
            while steps or self._under_way():
                seq = min((group.first_seq for group in self._under_way()), default=first[0].seq)
                self._host.at(seq)
                with in_time(limit_s, f"end the group from step {seq} on"):
                    await self._turn(steps)
                steps = await self._waiting.group() if self._more else ()
        finally:
            await self._vault.drop_group(list(self._unkept.values()))
        return self._left

    def _under_way(self) -> list[_Group]:
        return [group for group in (self._proving, self._received, self._asked) if group is not None]

    async def _turn(self, steps: Sequence[Step]) -> None:
        """Each group one point further, and the next begun."""
        if self._received is not None:
            await self._put(self._received)
        proven = self._proving
        ends = await self._proofs(proven) if proven is not None else []
        # Only now: the worker may have kept us waiting for long.
        self._more = self._more and await self._host.may_begin()
        turned = await self._commit(ends, steps if self._more else ())
        if proven is not None:
            for end in ends:
                self._host.tell(proven.items[end.seq].step, end.outcome)
        if self._asked is not None:
            await self._receive(self._asked)
        if self._received is not None:
            await self._link.send(GroupStored(seqs=tuple(self._received.contents)))
        await self._host.write_log(turned.records)
        begun = _Group(turned.begun) if turned.begun else None
        if begun is not None:
            await self._link.send(ActGroup(steps=tuple(_act(item.step) for item in turned.begun)))
        self._proving, self._received, self._asked = self._received, self._asked, begun

    async def _put(self, group: _Group) -> None:
        """The contents on disk."""
        try:
            if group.contents:
                await self._vault.put_group(tuple(group.contents.values()))
        except Refused:  # nothing of it is kept: each is done alone then, and told why
            group.contents.clear()
            self._more = False

    async def _proofs(self, group: _Group) -> list[StepEnd]:
        """The ends to commit now. When one is missing it is done first, and those after it wait for that."""
        reply = await self._host.reply(self._link)
        if not isinstance(reply, GroupActed):
            raise WorkerFailed(f"worker sent {type(reply).__name__} at the end of a group")
        ends = {acted.seq: acted for acted in reply.ends if _is_lawful(acted, group)}
        if len(ends) != len(reply.ends):
            raise WorkerFailed("worker ended a step of a group that it was not asked for")
        if self._left or len(ends) < len(group.items):
            self._more = False
            self._left += [GroupEnd(item.step, ends.get(seq), item) for seq, item in group.items.items()]
            return []
        return [self._host.end_of(item.step, ends[seq], item.item_id) for seq, item in group.items.items()]

    async def _commit(self, ends: Sequence[StepEnd], steps: Sequence[Step]) -> GroupTurned:
        kept = self._received.contents if self._received is not None else {}
        groups = GroupTurn(
            task_id=self._task_id,
            ends=ends,
            kept=tuple(kept.values()),
            begin=steps,
            captures=[capture_name() for _ in steps],
            used=self._used,
        )
        turned = await self._vault.turn_groups(self._account, groups, time.time())
        for seq in kept:
            del self._unkept[seq]
        self._unkept |= {item.step.seq: item for item in turned.begun}
        self._used = turned.used
        self.any_begun |= bool(turned.begun)
        if len(turned.begun) < len(steps):
            self._more = False  # no room: they go one by one, and each gets its own answer
        if turned.evicted:
            await self._vault.discard(turned.evicted)
        return turned

    async def _receive(self, group: _Group) -> None:
        """The contents of a group, as far as the worker has them."""
        while True:
            reply = await self._host.reply(self._link)
            if not isinstance(reply, SmallFiles):
                raise WorkerFailed(f"worker sent {type(reply).__name__} in the middle of a group")
            for file in reply.files:
                item = group.items.get(file.seq)
                if item is None or file.seq in group.contents or len(file.data) != item.step.identity.size:
                    raise WorkerFailed("worker sent a content that it was not asked for")
                meta = FileMeta(
                    owner=file.uid, group=file.gid, mode=file.mode, mtime_ns=file.mtime_ns, xattrs=file.xattrs
                )
                group.contents[file.seq] = SmallContent(item=item, content=file.data, meta=meta)
            if reply.last:
                break
        if len(group.contents) < len(group.items):
            self._more = False


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


def _is_lawful(acted: Acted, group: _Group) -> bool:
    """Whether it is the end of a step whose content is kept."""
    content = group.contents.get(acted.seq)
    if content is None:
        return False
    done = Outcome.DELETED if content.item.step.action is Action.DELETE else Outcome.QUARANTINED
    return acted.outcome is done
