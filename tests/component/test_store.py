"""The store on real SQLite: scans, findings, tasks and their records, one job an account, bounds."""

from collections.abc import AsyncIterator
from pathlib import Path

import jsonschema
import msgspec
import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clamscannerd.errors import LocalProtocolError, Refused
from clamscannerd.model import (
    Account,
    Action,
    Counts,
    EngineInfo,
    Finding,
    FindingState,
    Identity,
    Outcome,
    Reason,
    Scan,
    ScanState,
    StepState,
    Task,
    TaskState,
)
from clamscannerd.state.store import Job, NewFinding, NewStep, Store, StoreLimits, open_store

ANN = Account(uid=1001, gid=1001, name="ann", home=b"/home/ann")
BOB = Account(uid=1002, gid=1002, name="bob", home=b"/home/bob")
ENGINE = EngineInfo(version="ClamAV 1.4.3", database=27400, database_time=5.0, blind=("nothing inside zip",))
IDENTITY = Identity(dev=-(1 << 63), ino=(1 << 63) - 1, size=68, mtime_ns=-1, sha256=b"\xff" * 32)
SCHEMA = msgspec.json.decode((Path(__file__).parent.parent / "uapi.schema.json").read_bytes())
LOG_RECORD = jsonschema.Draft202012Validator({"$ref": "#/$defs/log_record", "$defs": SCHEMA["$defs"]})


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    limits = StoreLimits(keep_per_account=3, keep_s=1_000.0, max_findings_per_scan=4, max_not_scanned_per_scan=3)
    async with open_store(tmp_path / "state", limits) as opened:
        yield opened


def found(*paths: bytes) -> list[NewFinding]:
    return [NewFinding(path=path, identity=IDENTITY, signature="Eicar-Signature") for path in paths]


async def scanned(
    store: Store, paths: tuple[bytes, ...], infected: list[bytes], state: ScanState = ScanState.DONE, now: float = 1.0
) -> Scan:
    """A scan that ran and ended."""
    scan = await store.add_scan(ANN, "home", paths, ANN.uid, now)
    await store.begin_scan(scan.id, ENGINE, now)
    await store.add_findings(scan.id, found(*infected), now)
    return await store.end_scan(scan.id, state, Counts(infected_files=len(infected)), "", now)


async def asked(store: Store, findings: list[Finding], action: Action = Action.QUARANTINE) -> Task:
    """A task for all findings."""
    steps = [
        NewStep(path=one.path, action=action, finding_id=one.id, identity=one.identity, signature=one.signature)
        for one in findings
    ]
    return await store.add_task(ANN, findings[0].scan_id, steps, ANN.uid, 2.0)


async def test_a_scan_is_given_back_as_it_was_put_in(store: Store) -> None:
    scan = await store.add_scan(ANN, "mail", (b"mail", b"Mail\xffdir"), 0, 10.5)
    assert scan == Scan(
        id=1,
        uid=1001,
        name="ann",
        scan_type="mail",
        paths=(b"mail", b"Mail\xffdir"),
        state=ScanState.QUEUED,
        asked_by=0,
        asked_at=10.5,
        started_at=None,
        ended_at=None,
        resumed=0,
        counts=Counts(),
        engine=EngineInfo(),
        message="",
    )
    begun = await store.begin_scan(scan.id, ENGINE, 11.0)
    assert (begun.state, begun.started_at, begun.engine) == (ScanState.RUNNING, 11.0, ENGINE)
    counts = Counts(total_files=9, total_bytes=90, scanned_files=8, scanned_bytes=80, not_scanned={Reason.TOO_BIG: 1})
    await store.save_progress(scan.id, counts, ENGINE)
    assert (await store.get_scan(scan.id)) == (await store.latest_scan(1001, "ann"))
    ended = await store.end_scan(scan.id, ScanState.FAILED, counts, "cannot scan: the engine was lost", 12.0)
    assert (ended.ended_at, ended.counts, ended.message) == (12.0, counts, "cannot scan: the engine was lost")
    assert await store.list_scans(1001, "ann", 10) == [ended]
    assert await store.get_scan(99) is None


async def test_state_belongs_to_uid_and_name(store: Store) -> None:
    await scanned(store, (b".",), [b"x"])
    assert await store.latest_scan(1001, "anna") is None
    assert await store.latest_scan(1002, "ann") is None
    assert await store.standing_findings(1001, "anna") == []
    assert await store.earlier_standing_count(1001, "anna") == 0


async def test_an_account_has_one_job_at_a_time(store: Store) -> None:
    scan = await store.add_scan(ANN, "home", (b".",), 1001, 1.0)
    with pytest.raises(Refused, match="cannot start the scan: a scan of this account is already queued"):
        await store.add_scan(ANN, "mail", (b"mail",), 1001, 1.0)
    await store.begin_scan(scan.id, ENGINE, 1.0)
    with pytest.raises(Refused, match="cannot disinfect: a scan of this account is already running"):
        await store.add_task(ANN, scan.id, [], 1001, 1.0)
    findings = await store.add_findings(scan.id, found(b"x"), 1.0)
    await store.add_scan(BOB, "home", (b".",), 1002, 1.0)
    await store.end_scan(scan.id, ScanState.CANCELLED, Counts(), "", 1.0)
    await asked(store, findings)
    for attempt in (store.add_scan(ANN, "home", (b".",), 1001, 1.0), store.add_task(ANN, 1, [], 1001, 1.0)):
        with pytest.raises(Refused, match="a disinfection of this account is under way"):
            await attempt


async def test_moves_that_the_table_lacks_change_nothing(store: Store) -> None:
    scan = await store.add_scan(ANN, "home", (b".",), 1001, 1.0)
    with pytest.raises(LocalProtocolError, match="cannot move scan 1 to done: it is queued"):
        await store.end_scan(scan.id, ScanState.DONE, Counts(total_files=5), "", 1.0)
    with pytest.raises(LocalProtocolError, match="cannot save the progress of scan 1: it is queued"):
        await store.save_progress(scan.id, Counts(total_files=5), ENGINE)
    with pytest.raises(LocalProtocolError, match="cannot use scan 7: it does not exist"):
        await store.park_scan(7)
    assert await store.get_scan(scan.id) == scan


async def test_a_parked_scan_keeps_its_place_and_its_first_start(store: Store) -> None:
    first = await store.add_scan(ANN, "home", (b".",), 1001, 1.0)
    second = await store.add_scan(BOB, "home", (b".",), 1002, 1.0)
    await store.begin_scan(first.id, ENGINE, 2.0)
    await store.add_not_scanned(first.id, [(b"a", "too_big")])
    assert [job.id for job in await store.waiting_jobs()] == [second.id]
    assert (await store.park_scan(first.id)).resumed == 1
    assert await store.waiting_jobs() == [
        Job(kind="scan", id=first.id, uid=1001, name="ann"),
        Job(kind="scan", id=second.id, uid=1002, name="bob"),
    ]
    again = await store.begin_scan(first.id, ENGINE, 3.0)
    assert (again.started_at, again.resumed) == (2.0, 1)
    assert await store.not_scanned(first.id, 10) == []


async def test_identities_keep_all_64_bits(store: Store) -> None:
    await scanned(store, (b".",), [b"x"])
    assert [one.identity for one in await store.standing_findings(1001, "ann")] == [IDENTITY]


async def test_the_same_path_found_again_is_one_finding(store: Store) -> None:
    scan = await store.add_scan(ANN, "home", (b".",), 1001, 1.0)
    await store.begin_scan(scan.id, ENGINE, 1.0)
    [old] = await store.add_findings(scan.id, found(b"x"), 1.0)
    again = NewFinding(path=b"x", identity=IDENTITY, signature="Other \udcff")
    [new] = await store.add_findings(scan.id, [again], 2.0)
    assert (new.id, new.signature, new.found_at) == (old.id, "Other \\udcff", 2.0)
    assert await store.clear_findings(scan.id, [b"x", b"unknown"]) == 1
    assert await store.standing_findings(1001, "ann") == []
    [back] = await store.add_findings(scan.id, found(b"x"), 3.0)
    assert (back.id, back.state) == (old.id, FindingState.STANDING)


async def test_findings_and_unscanned_paths_are_bounded(store: Store) -> None:
    scan = await store.add_scan(ANN, "home", (b".",), 1001, 1.0)
    await store.begin_scan(scan.id, ENGINE, 1.0)
    assert len(await store.add_findings(scan.id, found(b"1", b"2", b"3"), 1.0)) == 3
    kept = await store.add_findings(scan.id, found(b"4", b"5", b"1"), 1.0)
    assert [one.path for one in kept] == [b"4", b"1"]
    assert await store.add_not_scanned(scan.id, [(b"a", "limit"), (b"b", "changed")]) == 2
    assert await store.add_not_scanned(scan.id, [(b"c", "limit"), (b"d", "limit")]) == 1
    assert await store.not_scanned(scan.id, 2, 1) == [(b"b", "changed"), (b"c", "limit")]


async def test_standing_findings_come_in_pages(store: Store) -> None:
    await scanned(store, (b".",), [b"1", b"2", b"3"])
    first = await store.standing_findings(1001, "ann", limit=2)
    rest = await store.standing_findings(1001, "ann", after_id=first[-1].id)
    assert [one.path for one in first + rest] == [b"1", b"2", b"3"]


async def test_a_later_scan_that_was_done_clears_what_it_covered_and_did_not_find(store: Store) -> None:
    await scanned(store, (b".",), [b"mail/a", b"mail/b", b"web/c"])
    await scanned(store, (b"mail",), [b"mail/b"])
    assert [one.path for one in await store.standing_findings(1001, "ann")] == [b"mail/b"]
    assert await store.earlier_standing_count(1001, "ann") == 1
    assert [(one.path, one.state) for one in await store.scan_findings(1)] == [
        (b"mail/a", FindingState.CLEARED),
        (b"mail/b", FindingState.CLEARED),
        (b"web/c", FindingState.STANDING),
    ]


@pytest.mark.parametrize("state", [ScanState.CANCELLED, ScanState.FAILED])
async def test_a_scan_that_did_not_get_there_clears_nothing(store: Store, state: ScanState) -> None:
    await scanned(store, (b".",), [b"a", b"b"])
    await scanned(store, (b".",), [b"b"], state)
    assert await store.earlier_standing_count(1001, "ann") == 1


async def test_what_the_scan_under_way_will_look_at_is_not_counted_as_earlier(store: Store) -> None:
    await scanned(store, (b".",), [b"mail/a", b"web/b"])
    await store.add_scan(ANN, "mail", (b"mail",), 1001, 2.0)
    assert await store.earlier_standing_count(1001, "ann") == 1


@pytest.mark.parametrize(
    ("skipped", "reason", "standing"),
    [
        (b"d/e/a", Reason.UNREADABLE, 1),
        (b"d/e/a", Reason.VANISHED, 0),
        (b"d/e", Reason.UNREADABLE, 1),
        (b"d", Reason.VANISHED, 1),  # a directory that was elsewhere just then
        (b"d/e/ab", Reason.UNREADABLE, 0),
        (b".", Reason.UNREADABLE, 1),
    ],
)
async def test_a_finding_that_could_not_be_scanned_again_still_stands(
    store: Store, skipped: bytes, reason: Reason, standing: int
) -> None:
    await scanned(store, (b".",), [b"d/e/a"])
    scan = await store.add_scan(ANN, "home", (b".",), 1001, 2.0)
    await store.begin_scan(scan.id, ENGINE, 2.0)
    await store.add_not_scanned(scan.id, [(skipped, reason)])
    await store.end_scan(scan.id, ScanState.DONE, Counts(total_files=1, not_scanned={reason: 1}), "", 2.0)
    assert await store.earlier_standing_count(1001, "ann") == standing


@pytest.mark.parametrize("counts", [Counts(infected_files=5), Counts(not_scanned={Reason.LIMIT: 4})])
async def test_lists_that_are_cut_off_prove_nothing(store: Store, counts: Counts) -> None:
    await scanned(store, (b".",), [b"a"])
    scan = await store.add_scan(ANN, "home", (b".",), 1001, 2.0)
    await store.begin_scan(scan.id, ENGINE, 2.0)
    await store.end_scan(scan.id, ScanState.DONE, counts, "", 2.0)
    assert await store.earlier_standing_count(1001, "ann") == 1


async def test_old_scans_are_pruned_but_never_the_latest(store: Store) -> None:
    for now in (1.0, 2.0, 3.0, 4.0):
        await scanned(store, (b".",), [b"x"], now=now)
    assert [scan.id for scan in await store.list_scans(1001, "ann", 10)] == [4, 3, 2]
    assert await store.scan_findings(1) == []
    late = await store.add_scan(ANN, "home", (b".",), 1001, 9_000.0)
    assert [scan.id for scan in await store.list_scans(1001, "ann", 10)] == [late.id] == [5]


async def test_a_task_goes_from_asking_to_the_done_record(store: Store) -> None:
    await scanned(store, (b".",), [b"a", b"b", b"c"])
    task = await asked(store, await store.standing_findings(1001, "ann"))
    assert await store.task_by_public_id(1001, "ann", task.public_id) == task
    assert await store.task_by_public_id(1002, "bob", task.public_id) is None
    assert await store.waiting_jobs() == [Job(kind="task", id=task.id, uid=1001, name="ann")]
    assert (await store.begin_task(task.id, 3.0)).started_at == 3.0
    made = [await store.add_issue(task.id, "warning", "cannot write the log: quota")]
    endings = [
        (Outcome.QUARANTINED, None, FindingState.QUARANTINED),
        (Outcome.NO_ACTION, "changed, and clean now", FindingState.CLEARED),
        (Outcome.ERROR, "cannot open: denied", None),
    ]
    for outcome, message, finding in endings:
        step = await store.next_step(task.id)
        assert step is not None
        assert (await store.begin_step(task.id, step.seq, b".clamscannerd-00")).state is StepState.DOING
        made.append(
            await store.end_step(task.id, step.seq, outcome, message, 4.0, f"/home/ann/{step.seq}", finding, None)
        )
    made.append(await store.end_task(task.id, 5.0))
    records = await store.records(task.id)
    assert records == made
    assert records[2] == (
        b'{"type":"step","id":3,"file":"/home/ann/2","state":"no-action","message":"changed, and clean now"}'
    )
    assert records[4] == (
        b'{"type":"done","id":5,"state":"error","status":"done","message":"1 quarantined, 1 left as it was, 1 failed"}'
    )
    for record in records:
        LOG_RECORD.validate(msgspec.json.decode(record))
    assert await store.records(task.id, after_id=2, limit=1) == made[2:3]
    assert [one.path for one in await store.standing_findings(1001, "ann")] == [b"c"]
    ended = await store.get_task(task.id)
    assert ended is not None
    assert (ended.state, ended.ended_at) == (TaskState.DONE, 5.0)


async def test_a_step_done_again_keeps_its_capture_name(store: Store) -> None:
    await scanned(store, (b".",), [b"a", b"b"])
    task = await asked(store, await store.standing_findings(1001, "ann"))
    await store.begin_task(task.id, 3.0)
    begun = await store.begin_step(task.id, 2, b"first")
    assert await store.begin_step(task.id, 2, b"second") == begun
    assert await store.next_step(task.id) == begun
    await store.end_step(task.id, 2, Outcome.ERROR, None, 4.0, "/home/ann/b", None, None)
    with pytest.raises(LocalProtocolError, match="cannot move step 2 of task 1 to doing: it is ended"):
        await store.begin_step(task.id, 2, b"third")
    with pytest.raises(LocalProtocolError, match="cannot move step 2 of task 1 to ended: it is ended"):
        await store.end_step(task.id, 2, Outcome.DELETED, None, 4.0, "/home/ann/b", None, None)
    assert [step.seq for step in await store.steps(task.id) if step.state is StepState.WAITING] == [1]


async def test_a_step_ends_wholly_or_not_at_all(store: Store) -> None:
    await scanned(store, (b".",), [b"a"])
    task = await asked(store, await store.standing_findings(1001, "ann"))
    await store.begin_step(task.id, 1, b"name")
    with pytest.raises(LocalProtocolError, match="item 77 is not kept for it"):
        await store.end_step(task.id, 1, Outcome.QUARANTINED, None, 4.0, "/home/ann/a", FindingState.QUARANTINED, 77)
    assert await store.records(task.id) == []
    assert len(await store.standing_findings(1001, "ann")) == 1


async def test_a_task_ends_after_its_steps_and_says_nothing_more(store: Store) -> None:
    await scanned(store, (b".",), [b"a"])
    task = await asked(store, await store.standing_findings(1001, "ann"), Action.IGNORE)
    await store.begin_task(task.id, 3.0)
    with pytest.raises(LocalProtocolError, match="cannot end task 1: step 1 is waiting"):
        await store.end_task(task.id, 4.0)
    await store.end_step(task.id, 1, Outcome.NO_ACTION, None, 4.0, "/home/ann/a", None, None)
    assert msgspec.json.decode(await store.end_task(task.id, 4.0))["state"] == "success"
    with pytest.raises(LocalProtocolError, match="its done record is the last"):
        await store.add_issue(task.id, "error", "too late")


async def test_a_task_runs_until_its_concluded_log_is_written(store: Store) -> None:
    await scanned(store, (b".",), [b"a"])
    task = await asked(store, await store.standing_findings(1001, "ann"), Action.IGNORE)
    await store.begin_task(task.id, 3.0)
    with pytest.raises(LocalProtocolError, match="cannot end task 1: step 1 is waiting"):
        await store.conclude_task(task.id)
    await store.end_step(task.id, 1, Outcome.NO_ACTION, None, 4.0, "/home/ann/a", None, None)
    record = await store.conclude_task(task.id)
    assert (await store.records(task.id))[-1] == record
    assert await store.add_issue(task.id, "warning", "too late") == b""
    assert [job.id for job in (await store.recover()).tasks] == [task.id]  # killed here, it goes on
    await store.begin_task(task.id, 5.0)
    assert await store.conclude_task(task.id) == b""
    assert await store.end_task(task.id, 6.0) == record
    assert len(await store.records(task.id)) == 2


async def test_public_ids_have_the_form_and_are_never_used_twice(store: Store) -> None:
    ids = []
    for _ in range(6):
        await scanned(store, (b".",), [b"a"])
        task = await asked(store, await store.standing_findings(1001, "ann"), Action.IGNORE)
        ids.append(task.public_id)
        await store.begin_task(task.id, 3.0)
        await store.end_step(task.id, 1, Outcome.NO_ACTION, None, 4.0, "/home/ann/a", None, None)
        await store.end_task(task.id, 4.0)
    assert len({one[:8] for one in ids}) == 6
    form = jsonschema.Draft202012Validator(SCHEMA["$defs"]["task_id"])
    for one in ids:
        form.validate(one)
    assert [await store.task_by_public_id(1001, "ann", one) is not None for one in ids] == [False] * 3 + [True] * 3


async def test_what_was_running_is_queued_again_at_its_old_place(store: Store) -> None:
    await scanned(store, (b".",), [b"a"])
    task = await asked(store, await store.standing_findings(1001, "ann"))
    waiting = await store.add_scan(BOB, "home", (b".",), 1002, 3.0)
    carol = Account(uid=1003, gid=1003, name="carol", home=b"/home/carol")
    running = await store.add_scan(carol, "home", (b".",), 1003, 3.0)
    await store.begin_scan(running.id, ENGINE, 3.0)
    await store.begin_task(task.id, 3.0)
    await store.begin_step(task.id, 1, b"name")
    recovered = await store.recover()
    assert recovered.tasks == (Job(kind="task", id=task.id, uid=1001, name="ann"),)
    assert recovered.scans == (Job(kind="scan", id=running.id, uid=1003, name="carol"),)
    assert [(job.kind, job.id) for job in await store.waiting_jobs()] == [
        ("task", task.id),
        ("scan", waiting.id),
        ("scan", running.id),
    ]
    step = await store.next_step(task.id)
    assert step is not None
    assert (step.state, step.capture) == (StepState.DOING, b"name")
    again = await store.get_scan(running.id)
    assert again is not None
    assert again.resumed == 1
    await store.begin_task(task.id, 4.0)
    assert (await store.park_task(task.id)).state is TaskState.QUEUED


ENDINGS = st.lists(st.tuples(st.sampled_from(Outcome), st.booleans(), st.booleans()), min_size=1, max_size=5)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(endings=ENDINGS)
def test_however_steps_end_the_log_is_whole(tmp_path: Path, endings: list[tuple[Outcome, bool, bool]]) -> None:
    """Each step once, ids without gaps, done last; whatever ended how, whether interrupted, with issues or not."""

    async def run() -> None:
        limits = StoreLimits(max_findings_per_scan=10)
        async with open_store(tmp_path / "state", limits) as store:
            await scanned(store, (b".",), [b"f%d" % number for number in range(len(endings))])
            task = await asked(store, await store.standing_findings(1001, "ann"))
            await store.begin_task(task.id, 3.0)
            for outcome, interrupted, issue in endings:
                step = await store.next_step(task.id)
                assert step is not None
                await store.begin_step(task.id, step.seq, b"name")
                if interrupted:
                    await store.recover()
                    await store.begin_task(task.id, 4.0)
                    assert await store.next_step(task.id) == await store.begin_step(task.id, step.seq, b"other")
                if issue:
                    await store.add_issue(task.id, "warning", "something")
                await store.end_step(task.id, step.seq, outcome, None, 4.0, f"/home/ann/{step.seq}", None, None)
            await store.end_task(task.id, 5.0)
            records = [msgspec.json.decode(record) for record in await store.records(task.id)]
        assert [record["id"] for record in records] == list(range(1, len(records) + 1))
        steps = [record for record in records if record["type"] == "step"]
        assert [record["file"] for record in steps] == [f"/home/ann/{n}" for n in range(1, len(endings) + 1)]
        assert [record["state"] for record in steps] == [outcome for outcome, _, _ in endings]
        assert [record["type"] for record in records].index("done") == len(records) - 1

    trio.run(run)
