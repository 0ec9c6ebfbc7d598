"""pipeline/group.py on real SQLite and a real vault, against a worker that keeps a home in a dict.

What the real worker does with a group is test_worker_group.py's matter; here are the order of things, seen from the
worker at each message, and what is left when it dies there.
"""

import hashlib
import time
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from clamscannerd.model import (
    Account,
    Action,
    Counts,
    EngineInfo,
    Identity,
    Item,
    Outcome,
    ScanState,
    StepState,
    Task,
    TaskKind,
    TaskState,
)
from clamscannerd.pipeline.disinfect import DisinfectTurn
from clamscannerd.pipeline.group import GROUP_BYTES, GROUP_DIRECTORIES, GROUP_STEPS
from clamscannerd.pipeline.tasks import TaskJobs, TaskLimits
from clamscannerd.state.store import NewFinding, NewStep, Store, StoreLimits, open_store
from clamscannerd.state.vault import Vault, VaultLimits
from clamscannerd.state.vault_blobs import SMALL_BYTES
from clamscannerd.worker.messages import (
    GROUPS_AT_ONCE,
    Act,
    Acted,
    ActGroup,
    Chunk,
    Command,
    Content,
    ContentEnd,
    GroupActed,
    GroupStored,
    Log,
    SmallFile,
    SmallFiles,
    Stored,
    Sync,
    Synced,
)
from tests.fakes.scripted_worker import Engine, Script, Scripts, Worker, confirmed, engine_view

ANN = Account(uid=1001, gid=1001, name="ann", home=b"/home/ann")
LIMITS = VaultLimits(
    keep_quarantined_s=1e6,
    keep_deleted_s=1e5,
    max_bytes_per_account=1 << 30,
    max_items_per_account=10_000,
    min_free=0.0,
)
FILES = 5 * GROUP_STEPS + 3
PATIENCE_S = 60.0
DONE = {Action.QUARANTINE: Outcome.QUARANTINED, Action.DELETE: Outcome.DELETED}


def content_of(number: int) -> bytes:
    return b"infected %d " % number * (number % 7)


def paths(number: int) -> list[bytes]:
    return [b"d%d/f%04d" % (seq % 3, seq) for seq in range(1, number + 1)]


class Home:
    """A home that outlives its workers: what stands where. `commands` come from all workers, in their order."""

    def __init__(self, names: Iterable[bytes], *, die_at: int = 0) -> None:
        self.files = {name: content_of(number) for number, name in enumerate(names, start=1)}
        self.log: list[bytes] = []
        self.commands = 0
        self.groups = 0
        self.most_groups = 0
        self.look: Callable[[Command], Any] | None = None  # awaited before each command is done
        self.lie: Callable[[SmallFile], SmallFile] = lambda file: file
        self.missing: set[int] = set()  # steps that are not plain in a group
        self._die_at = die_at

    async def serve(self, worker: Worker) -> None:
        asked: list[ActGroup] = []
        while True:
            command = await worker.hear()
            self.commands += 1
            if self.commands == self._die_at:
                return
            if self.look is not None:
                await self.look(command)
            match command:
                case ActGroup():
                    asked.append(command)
                    self.most_groups = max(self.most_groups, len(asked))
                    await self._capture(worker, command)
                case GroupStored():
                    await worker.say(GroupActed(ends=tuple(self._unlink(asked.pop(0), command.seqs))))
                    self.groups += 1
                case Act():
                    assert not asked, "a step alone in the middle of a group"
                    await self._act(worker, command)
                case Log():
                    self.log = [] if command.fresh else self.log
                    self.log += command.lines.splitlines()
                case Sync():
                    await worker.say(Synced())

    async def _capture(self, worker: Worker, command: ActGroup) -> None:
        sent = []
        for step in command.steps:
            if step.seq not in self.missing and step.path in self.files:
                data = self.files[step.capture] = self.files.pop(step.path)
                file = SmallFile(seq=step.seq, data=data, mode=0o640, uid=1001, gid=100, mtime_ns=-5)
                sent.append(self.lie(file))
        for file in sent:
            await worker.say(SmallFiles(files=(file,), last=False))
        await worker.say(SmallFiles(files=(), last=True))

    def _unlink(self, group: ActGroup, seqs: tuple[int, ...]) -> list[Acted]:
        ends = []
        for step in group.steps:
            if step.capture in self.files and step.seq in seqs:
                del self.files[step.capture]
                ends.append(Acted(seq=step.seq, outcome=DONE[step.action], message="", gone=True, put_back=False))
            elif step.capture in self.files:
                self.files[step.path] = self.files.pop(step.capture)
        return ends

    async def _act(self, worker: Worker, step: Act) -> None:
        name = step.capture if step.capture in self.files else step.path
        if name not in self.files:
            outcome = DONE[step.action] if step.stored else Outcome.NO_ACTION
            await worker.say(Acted(seq=step.seq, outcome=outcome, message="", gone=True, put_back=False))
            return
        data = self.files[name]
        sha256 = hashlib.sha256(data).digest()
        if step.stored != sha256:
            await worker.say(Content(seq=step.seq, size=len(data), mode=0o640, uid=1001, gid=100, mtime_ns=-5))
            if data:
                await worker.say(Chunk(seq=step.seq, data=data))
            await worker.say(ContentEnd(seq=step.seq, sha256=sha256, signature="", reason=""))
            if (answer := await worker.until(Stored)).reason:
                self.files[step.path] = self.files.pop(name)
                await worker.say(
                    Acted(seq=step.seq, outcome=Outcome.ERROR, message=answer.reason, gone=False, put_back=True)
                )
                return
        del self.files[name]
        await worker.say(Acted(seq=step.seq, outcome=DONE[step.action], message="", gone=True, put_back=False))


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with open_store(tmp_path / "state", StoreLimits()) as opened:
        yield opened


class Place:
    """One task and what it works with."""

    def __init__(
        self, directory: Path, store: Store, nursery: trio.Nursery, *scripts: Script, limits: VaultLimits = LIMITS
    ) -> None:
        self.store = store
        self.vault = Vault(directory / "vault", store, limits)
        self.jobs = TaskJobs(
            turns={TaskKind.DISINFECT: DisinfectTurn},
            confirm=confirmed,
            store=store,
            vault=self.vault,
            spawner=Scripts(nursery, *scripts),
            engines=engine_view(Engine()),
            limits=TaskLimits(step_timeout_s=600.0, silence_s=600.0, file_deadline_s=60.0, retries=1),
        )

    async def task(self, home: Home, action: Action = Action.QUARANTINE) -> Task:
        scan = await self.store.add_scan(ANN, "home", (b".",), 0, time.time())
        await self.store.begin_scan(scan.id, EngineInfo(), time.time())
        new = [
            NewFinding(
                path=path,
                identity=Identity(dev=1, ino=2, size=len(data), mtime_ns=4, sha256=hashlib.sha256(data).digest()),
                signature="s",
            )
            for path, data in home.files.items()
        ]
        found = await self.store.add_findings(scan.id, new, time.time())
        await self.store.end_scan(scan.id, ScanState.DONE, Counts(infected_files=len(found)), "", time.time())
        steps = [
            NewStep(path=one.path, action=action, finding_id=one.id, identity=one.identity, signature="s")
            for one in found
        ]
        return await self.store.add_task(ANN, scan.id, steps, 0, time.time())

    async def run(self, task: Task) -> list[dict[str, Any]]:
        with trio.fail_after(PATIENCE_S):
            await self.jobs.run(task, ANN, 0)
        return [msgspec.json.decode(record) for record in await self.store.records(task.id)]

    async def kept(self) -> dict[bytes, bytes]:
        """Contents by path; each path once, and nothing half received."""
        items: list[Item] = await self.store.items(ANN.uid, ANN.name)
        assert len({item.path for item in items}) == len(items)
        assert await self.store.items_in_passing() == []
        assert (await self.vault.survey()).stray_count == 0
        return {item.path: await self.vault.read(item) for item in items}


def check(records: list[dict[str, Any]], names: list[bytes], state: str = "quarantined") -> None:
    assert [record["id"] for record in records] == list(range(1, len(names) + 2))
    assert [record.get("file") for record in records] == [f"/home/ann/{name.decode()}" for name in names] + [None]
    assert {record["state"] for record in records[:-1]} == {state}


@pytest.mark.parametrize("action", [Action.QUARANTINE, Action.DELETE])
async def test_groups_take_every_file_once_and_overlap(
    tmp_path: Path, store: Store, nursery: trio.Nursery, action: Action
) -> None:
    home = Home(names := paths(FILES))
    standing = dict(home.files)
    place = Place(tmp_path, store, nursery, home.serve)
    records = await place.run(await place.task(home, action))
    check(records, names, DONE[action].value)
    assert await place.kept() == standing
    assert home.files == {}
    assert [msgspec.json.decode(line) for line in home.log] == records
    assert await store.standing_findings(ANN.uid, ANN.name) == []
    assert home.groups == -(-FILES // GROUP_STEPS)
    assert home.most_groups == GROUPS_AT_ONCE


async def test_intents_are_committed_before_the_worker_is_told_and_contents_before_it_unlinks(
    tmp_path: Path, store: Store, nursery: trio.Nursery
) -> None:
    home = Home(paths(FILES))
    standing = dict(home.files)
    place = Place(tmp_path, store, nursery, home.serve)
    task = await place.task(home)
    looked: list[int] = []

    async def look(command: Command) -> None:
        steps = {step.seq: step for step in await store.steps(task.id)}
        if isinstance(command, ActGroup):
            for act in command.steps:
                assert steps[act.seq].state is StepState.DOING
                assert steps[act.seq].capture == act.capture
        elif isinstance(command, GroupStored):
            for seq in command.seqs:
                item = await store.item_of_step(task.id, seq)
                assert item is not None
                assert await Vault(tmp_path / "vault", store, LIMITS).read(item) == standing[steps[seq].path]
                assert steps[seq].state is StepState.DOING  # its proof is to come
        else:
            return
        looked.append(steps[1].seq)

    home.look = look
    await place.run(task)
    assert len(looked) == 2 * home.groups


async def test_what_is_not_plain_is_done_alone_at_its_place(
    tmp_path: Path, store: Store, nursery: trio.Nursery
) -> None:
    home = Home(names := paths(FILES))
    home.missing = {1, 2, GROUP_STEPS + 5, 3 * GROUP_STEPS, FILES - 1}
    standing = dict(home.files)
    place = Place(tmp_path, store, nursery, home.serve)
    check(await place.run(await place.task(home)), names)
    assert await place.kept() == standing
    assert home.files == {}
    assert home.groups > 1


@pytest.mark.parametrize("action", [Action.QUARANTINE, Action.DELETE])
async def test_a_worker_that_dies_at_any_message_leaves_every_file_to_be_taken_once(
    tmp_path: Path, nursery: trio.Nursery, action: Action
) -> None:
    names = paths(3 * GROUP_STEPS + 2)

    async def run(die_at: int) -> int:
        home = Home(names, die_at=die_at)
        standing = dict(home.files)
        directory = tmp_path / str(die_at)
        async with open_store(directory, StoreLimits()) as store:
            place = Place(directory, store, nursery, home.serve)
            check(await place.run(await place.task(home, action)), names, DONE[action].value)
            assert await place.kept() == standing, die_at
        assert home.files == {}, die_at
        return home.commands

    commands = await run(die_at=0)
    assert commands > 10
    async with trio.open_nursery() as together:  # each waits a second before the second worker
        for point in range(1, commands + 1):
            together.start_soon(run, point)


async def test_another_content_than_was_found_is_not_kept_as_it(
    tmp_path: Path, store: Store, nursery: trio.Nursery
) -> None:
    def lie(file: SmallFile) -> SmallFile:
        return msgspec.structs.replace(file, data=file.data[::-1]) if file.seq == GROUP_STEPS + 5 else file

    home = Home(names := paths(FILES))
    home.lie = lie
    standing = dict(home.files)
    place = Place(tmp_path, store, nursery, home.serve)
    check(await place.run(await place.task(home)), names)
    assert await place.kept() == standing


async def test_a_group_is_bounded_by_its_directories_and_by_the_bytes_of_its_contents(
    tmp_path: Path, store: Store, nursery: trio.Nursery
) -> None:
    names = [b"d%d/f" % number for number in range(2 * GROUP_DIRECTORIES)]
    names += [b"large/%d" % number for number in range(3 * GROUP_BYTES // SMALL_BYTES)]
    home = Home(names)
    for name in names[2 * GROUP_DIRECTORIES :]:
        home.files[name] = home.files[name].ljust(SMALL_BYTES, b"x")
    standing = dict(home.files)
    groups: list[int] = []

    async def look(command: Command) -> None:
        if isinstance(command, ActGroup):
            groups.append(len(command.steps))
            assert len({step.path.rpartition(b"/")[0] for step in command.steps}) <= GROUP_DIRECTORIES
            assert sum(step.identity.size for step in command.steps) <= GROUP_BYTES

    home.look = look
    place = Place(tmp_path, store, nursery, home.serve)
    check(await place.run(await place.task(home)), names)
    assert await place.kept() == standing
    large = GROUP_BYTES // SMALL_BYTES
    assert groups == [GROUP_DIRECTORIES, GROUP_DIRECTORIES, large, large, large]


async def test_a_full_vault_takes_what_has_room_and_tells_the_rest(
    tmp_path: Path, store: Store, nursery: trio.Nursery
) -> None:
    room = GROUP_STEPS + 7
    home = Home(names := paths(FILES))
    place = Place(
        tmp_path, store, nursery, home.serve, limits=msgspec.structs.replace(LIMITS, max_items_per_account=room)
    )
    records = await place.run(await place.task(home))
    assert [record["state"] for record in records[:-1]] == ["quarantined"] * room + ["error"] * (FILES - room)
    assert "the vault of this account is full" in records[room]["message"]
    assert set(await place.kept()) == set(names[:room])
    assert set(home.files) == set(names[room:])


async def test_a_stop_begins_no_other_group_and_ends_those_under_way(
    tmp_path: Path, store: Store, nursery: trio.Nursery
) -> None:
    home = Home(paths(12 * GROUP_STEPS))
    place = Place(tmp_path, store, nursery, home.serve)
    task = await place.task(home)

    async def look(command: Command) -> None:
        if isinstance(command, GroupStored):
            place.jobs.stopping.set()

    home.look = look
    await place.run(task)
    parked = await store.get_task(task.id)
    assert parked is not None
    assert parked.state is TaskState.QUEUED
    states = [step.state for step in await store.steps(task.id)]
    ended = states.count(StepState.ENDED)
    assert states == [StepState.ENDED] * ended + [StepState.WAITING] * (len(states) - ended)
    assert 0 < ended <= 4 * GROUP_STEPS
    assert len(await place.kept()) == ended
    assert len(home.files) == len(states) - ended


def _twice(group: tuple[SmallFile, ...]) -> tuple[SmallFile, ...]:
    return (*group, group[0])


def _another(group: tuple[SmallFile, ...]) -> tuple[SmallFile, ...]:
    return (msgspec.structs.replace(group[0], seq=9_999), *group[1:])


def _longer(group: tuple[SmallFile, ...]) -> tuple[SmallFile, ...]:
    return (msgspec.structs.replace(group[0], data=group[0].data + b"x"), *group[1:])


@pytest.mark.parametrize("lie", [_twice, _another, _longer])
async def test_a_worker_that_sends_what_it_was_not_asked_for_is_ended(
    tmp_path: Path,
    store: Store,
    nursery: trio.Nursery,
    lie: Callable[[tuple[SmallFile, ...]], tuple[SmallFile, ...]],
) -> None:
    home = Home(names := paths(FILES))
    standing = dict(home.files)

    async def lies(worker: Worker) -> None:
        group = await worker.until(ActGroup)
        files = [
            SmallFile(seq=step.seq, data=standing[step.path], mode=0, uid=0, gid=0, mtime_ns=0) for step in group.steps
        ]
        await worker.say(SmallFiles(files=lie(tuple(files)), last=True))
        await worker.until(Sync)

    place = Place(tmp_path, store, nursery, lies, home.serve)
    check(await place.run(await place.task(home)), names)
    assert await place.kept() == standing


@pytest.mark.parametrize("outcome", [Outcome.ERROR, Outcome.DELETED])
async def test_a_worker_that_ends_what_is_not_stored_or_otherwise_than_asked_is_ended(
    tmp_path: Path,
    store: Store,
    nursery: trio.Nursery,
    outcome: Outcome,
) -> None:
    home = Home(names := paths(FILES))
    standing = dict(home.files)

    async def lies(worker: Worker) -> None:
        seq = (await worker.until(ActGroup)).steps[0].seq
        await worker.say(SmallFiles(files=(), last=True))
        await worker.until(ActGroup)
        await worker.say(SmallFiles(files=(), last=True))
        await worker.until(GroupStored)
        await worker.say(GroupActed(ends=(Acted(seq=seq, outcome=outcome, message="", gone=True, put_back=False),)))
        await worker.until(Sync)

    place = Place(tmp_path, store, nursery, lies, home.serve)
    check(await place.run(await place.task(home)), names)
    assert await place.kept() == standing
