"""The transaction that takes the groups of a task one point further: all of it or nothing, and only lawful moves."""

import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from clamscannerd.errors import LocalProtocolError
from clamscannerd.model import (
    Account,
    Action,
    Counts,
    EngineInfo,
    FindingState,
    Identity,
    Outcome,
    ScanState,
    Step,
    StepState,
    Task,
)
from clamscannerd.state.store import Caps, FileMeta, NewFinding, NewStep, Store, StoreLimits, Usage, open_store
from clamscannerd.state.store_values import GroupTurn, GroupTurned, SmallContent, SmallItem, StepEnd

ANN = Account(uid=1001, gid=1001, name="ann", home=b"/home/ann")
WHO = Identity(dev=1, ino=2, size=3, mtime_ns=4, sha256=b"h" * 32)
META = FileMeta(owner=1001, group=100, mode=0o640, mtime_ns=-5, xattrs=b"opaque")
CAPS = Caps(max_bytes=1 << 20, max_items=20)
EXPIRES_AT = {Action.QUARANTINE: 2e9, Action.DELETE: 1e9}
STEPS = 12


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with open_store(tmp_path / "state", StoreLimits()) as opened:
        yield opened


@pytest.fixture
async def task(store: Store) -> Task:
    scan = await store.add_scan(ANN, "home", (b".",), 0, time.time())
    await store.begin_scan(scan.id, EngineInfo(), time.time())
    new = [NewFinding(path=b"f%d" % number, identity=WHO, signature="s") for number in range(STEPS)]
    found = await store.add_findings(scan.id, new, time.time())
    await store.end_scan(scan.id, ScanState.DONE, Counts(), "", time.time())
    steps = [
        NewStep(path=one.path, action=Action.QUARANTINE, finding_id=one.id, identity=WHO, signature="s")
        for one in found
    ]
    return await store.add_task(ANN, scan.id, steps, 0, time.time())


async def turn(store: Store, groups: GroupTurn, caps: Caps = CAPS) -> GroupTurned:
    return await store.turn_groups(ANN, groups, EXPIRES_AT, caps, 5.0)


def begin(task: Task, steps: list[Step], used: Usage | None = None) -> GroupTurn:
    captures = [b".clamscannerd-%032x" % step.seq for step in steps]
    return GroupTurn(task_id=task.id, begin=steps, captures=captures, used=used)


def content(item: SmallItem) -> SmallContent:
    return SmallContent(item=item, content=b"abc", meta=META)


def end(item: SmallItem) -> StepEnd:
    return StepEnd(
        seq=item.step.seq,
        outcome=Outcome.QUARANTINED,
        message=None,
        file_text=item.step.path.decode(),
        finding_id=item.step.finding_id,
        finding_state=FindingState.QUARANTINED,
        item=item.item_id,
    )


async def states(store: Store, task: Task) -> str:
    """The first letter of each step's state, in their order."""
    return "".join(step.state[0] for step in await store.steps(task.id))


async def test_three_groups_go_one_point_further_in_one_transaction(store: Store, task: Task) -> None:
    steps = await store.waiting_steps(task.id, 0, STEPS)
    first = (await turn(store, begin(task, steps[:3]))).begun
    both = msgspec.structs.replace(begin(task, steps[3:6]), kept=[content(item) for item in first])
    second = (await turn(store, both)).begun
    writes = store.statistics().writes
    turned = await turn(
        store,
        msgspec.structs.replace(
            begin(task, steps[6:9]), kept=[content(item) for item in second], ends=[end(item) for item in first]
        ),
    )
    assert store.statistics().writes == writes + 1
    assert await states(store, task) == "eeedddddd" + "w" * 3
    assert [msgspec.json.decode(record)["file"] for record in turned.records] == ["f0", "f1", "f2"]
    assert await store.records(task.id) == turned.records
    kept = await store.items(ANN.uid, ANN.name)
    assert [(item.id, item.seq, item.sha256, item.expires_at) for item in kept] == [
        (item.item_id, item.step.seq, WHO.sha256, EXPIRES_AT[Action.QUARANTINE]) for item in (*first, *second)
    ]
    assert await store.item_meta(kept[0].id) == META
    passing = await store.items_in_passing()
    assert [(row.item_id, row.file) for row in passing] == [(item.item_id, item.file) for item in turned.begun]
    doing = (await store.steps(task.id))[6:9]
    assert doing == [item.step for item in turned.begun]
    assert len(await store.standing_findings(ANN.uid, ANN.name)) == STEPS - 3
    assert [step.seq for step in await store.waiting_steps(task.id, 0, STEPS)] == [10, 11, 12]
    assert [step.seq for step in await store.waiting_steps(task.id, 10, 1)] == [11]


async def test_no_move_is_made_that_a_single_step_could_not_make_and_then_nothing_is_changed(
    store: Store, task: Task
) -> None:
    steps = await store.waiting_steps(task.id, 0, STEPS)
    doing = (await turn(store, begin(task, steps[:3]))).begun
    kept = (await turn(store, begin(task, steps[3:6]))).begun
    await turn(store, GroupTurn(task_id=task.id, kept=[content(item) for item in kept]))
    others = begin(task, steps[6:8])
    for unlawful in (
        begin(task, steps[2:4]),  # begun before
        msgspec.structs.replace(others, kept=[content(doing[0]), content(kept[0])]),  # kept before
        msgspec.structs.replace(others, ends=[end(kept[0]), end(doing[0])]),  # its content is not kept
        msgspec.structs.replace(others, ends=[end(msgspec.structs.replace(doing[0], item_id=kept[0].item_id))]),
        msgspec.structs.replace(others, ends=[end(kept[0]), end(kept[0])]),  # twice
    ):
        before = await states(store, task), await store.items_in_passing()
        with pytest.raises(LocalProtocolError):
            await turn(store, unlawful)
        assert (await states(store, task), await store.items_in_passing()) == before
    assert await store.records(task.id) == []


async def test_a_finding_that_was_pruned_or_cleared_does_not_keep_its_step_from_ending(
    store: Store, task: Task
) -> None:
    items = (await turn(store, begin(task, (await store.waiting_steps(task.id, 0, 2))))).begun
    await turn(store, GroupTurn(task_id=task.id, kept=[content(item) for item in items]))
    ends = [msgspec.structs.replace(end(items[0]), finding_id=999_999), end(items[1])]
    assert len((await turn(store, GroupTurn(task_id=task.id, ends=ends))).records) == 2
    assert len(await store.standing_findings(ANN.uid, ANN.name)) == STEPS - 1


async def test_ids_are_never_used_twice_also_after_items_went(store: Store, task: Task) -> None:
    steps = await store.waiting_steps(task.id, 0, STEPS)
    first = (await turn(store, begin(task, steps[:3]))).begun
    await store.forget_items([item.item_id for item in first])
    second = (await turn(store, begin(task, steps[3:6]))).begun
    assert [item.item_id for item in second] == [first[-1].item_id + number for number in (1, 2, 3)]
    alone = await store.reserve_item(ANN, steps[6], 3, "f" * 32, META, CAPS, 5.0)
    assert alone.item_id == second[-1].item_id + 1
    assert len({item.file for item in (*first, *second)}) == 6


async def test_only_what_has_room_is_begun_and_room_that_came_meanwhile_counts(store: Store, task: Task) -> None:
    caps = Caps(max_bytes=1 << 20, max_items=4)
    steps = await store.waiting_steps(task.id, 0, STEPS)
    first = await turn(store, begin(task, steps[:3]), caps)
    assert first.used == Usage(bytes=9, items=3)
    second = await turn(store, begin(task, steps[3:6], first.used), caps)
    assert [item.step.seq for item in second.begun] == [4]
    assert await states(store, task) == "dddd" + "w" * 8
    await store.forget_items([item.item_id for item in first.begun])
    third = await turn(store, begin(task, steps[4:8], second.used), caps)
    assert [item.step.seq for item in third.begun] == [5, 6, 7]
    assert third.used == Usage(bytes=12, items=4) == await store.usage(ANN.uid, ANN.name)


async def test_copies_of_deleted_files_give_way_for_a_group_but_not_those_whose_step_is_at_hand(
    store: Store, task: Task
) -> None:
    caps = Caps(max_bytes=1 << 20, max_items=4)
    steps = [
        msgspec.structs.replace(step, action=Action.DELETE) for step in await store.waiting_steps(task.id, 0, STEPS)
    ]
    first = (await turn(store, begin(task, steps[:3]), caps)).begun
    turned = await turn(store, msgspec.structs.replace(begin(task, steps[3:6]), kept=list(map(content, first))), caps)
    assert [item.step.seq for item in turned.begun] == [4]
    assert turned.evicted == []
    ends = [msgspec.structs.replace(end(item), outcome=Outcome.DELETED) for item in first[:2]]
    turned = await turn(store, msgspec.structs.replace(begin(task, steps[4:8]), ends=ends), caps)
    assert [item.step.seq for item in turned.begun] == [5, 6]
    assert [row.item_id for row in turned.evicted] == [item.item_id for item in first[:2]]
    assert await states(store, task) == "eedddd" + "w" * 6
    assert (await store.steps(task.id))[6].state is StepState.WAITING
