"""Groups of small files in a real worker: what is plain goes together, all else stays as it was."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import pytest

from clamscannerd.model import Action, Outcome
from clamscannerd.pipeline.group import GROUP_DIRECTORIES, GROUP_STEPS
from clamscannerd.worker.messages import (
    GROUPS_AT_ONCE,
    Act,
    ActGroup,
    ActJob,
    Fault,
    GroupActed,
    GroupStored,
    SmallFile,
    SmallFiles,
    Sync,
)
from tests.component.test_worker_actions import act
from tests.fakes.realclamd import EICAR
from tests.fakes.worker_peer import WorkerPeer


@pytest.fixture
def home(tmp_path: Path) -> Path:
    path = tmp_path / "home"
    path.mkdir(mode=0o700)
    return path


@pytest.fixture
def worker(home: Path) -> Iterator[WorkerPeer]:
    with WorkerPeer(home) as peer:
        peer.send(ActJob(max_file_size=1 << 30, file_deadline_s=30.0))
        yield peer


def steps(home: Path, names: Sequence[str], action: Action = Action.QUARANTINE) -> tuple[Act, ...]:
    made = []
    for seq, name in enumerate(names, start=1):
        path = home / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(EICAR + b" %d" % seq * 500)
        step = act(home, name, action=action)
        made.append(msgspec.structs.replace(step, seq=seq, capture=b".clamscannerd-%032x" % seq))
    return tuple(made)


def contents(worker: WorkerPeer) -> dict[int, SmallFile]:
    files: dict[int, SmallFile] = {}
    while True:
        reply = worker.expect(SmallFiles)
        files |= {file.seq: file for file in reply.files}
        if reply.last:
            return files


def files_in(home: Path) -> set[str]:
    return {str(path.relative_to(home)) for path in home.rglob("*") if path.is_file()}


def test_a_group_is_captured_sent_and_unlinked_when_stored(home: Path, worker: WorkerPeer) -> None:
    group = steps(home, ["a", "b", "d/c", "d/e"] + [f"many/{number}" for number in range(60)])
    originals = {step.seq: (home / os.fsdecode(step.path)).read_bytes() for step in group}
    worker.send(ActGroup(steps=group))
    sent = contents(worker)
    assert {seq: file.data for seq, file in sent.items()} == originals
    assert all(Path(name).name.startswith(".clamscannerd-") for name in files_in(home))
    worker.send(GroupStored(seqs=tuple(originals)))
    ends = worker.expect(GroupActed).ends
    assert {end.seq: end.outcome for end in ends} == dict.fromkeys(originals, Outcome.QUARANTINED)
    assert files_in(home) == set()


def test_what_is_not_stored_gets_its_name_back(home: Path, worker: WorkerPeer) -> None:
    group = steps(home, ["a", "b", "c"], Action.DELETE)
    worker.send(ActGroup(steps=group))
    contents(worker)
    worker.send(GroupStored(seqs=(2,)))
    ends = worker.expect(GroupActed).ends
    assert [(end.seq, end.outcome) for end in ends] == [(2, Outcome.DELETED)]
    assert files_in(home) == {"a", "c"}


def test_what_is_not_plain_is_left_untouched_and_the_rest_goes(home: Path, worker: WorkerPeer, tmp_path: Path) -> None:
    group = steps(home, ["plain", "gone", "changed", "linked", "d/moved"])
    (home / "gone").unlink()
    (home / "changed").write_bytes(b"rewritten")
    (home / "linked").unlink()
    (home / "linked").symlink_to(tmp_path / "elsewhere")
    (home / "d").rename(home / "other")
    worker.send(ActGroup(steps=group))
    assert set(contents(worker)) == {1}
    worker.send(GroupStored(seqs=(1,)))
    assert [end.seq for end in worker.expect(GroupActed).ends] == [1]
    assert files_in(home) == {"changed", "other/moved"}
    assert (home / "linked").is_symlink()


def test_other_content_of_the_same_size_and_time_is_put_back(home: Path, worker: WorkerPeer) -> None:
    group = steps(home, ["a", "b"])
    before = (home / "a").stat()
    with (home / "a").open("r+b") as stream:
        stream.write(b"innocent")
    os.utime(home / "a", ns=(before.st_atime_ns, before.st_mtime_ns))
    worker.send(ActGroup(steps=group))
    assert set(contents(worker)) == {2}
    assert "a" in files_in(home)
    worker.send(GroupStored(seqs=()))
    assert worker.expect(GroupActed).ends == ()
    assert files_in(home) == {"a", "b"}


def test_a_file_written_to_while_it_is_stored_is_put_back(home: Path, worker: WorkerPeer) -> None:
    group = steps(home, ["a", "b"])
    with (home / "a").open("ab") as stream:
        worker.send(ActGroup(steps=group))
        contents(worker)
        stream.write(b"mail")
        stream.flush()
        worker.send(GroupStored(seqs=(1, 2)))
        assert [end.seq for end in worker.expect(GroupActed).ends] == [2]
    assert (home / "a").read_bytes().endswith(b"mail")


def test_a_name_taken_meanwhile_is_not_replaced_and_the_captured_file_waits_for_its_own_step(
    home: Path, worker: WorkerPeer
) -> None:
    group = steps(home, ["a", "b"])
    worker.send(ActGroup(steps=group))
    contents(worker)
    (home / "a").write_bytes(b"new work")
    worker.send(GroupStored(seqs=(2,)))
    worker.expect(GroupActed)
    assert (home / "a").read_bytes() == b"new work"
    assert files_in(home) == {"a", os.fsdecode(group[0].capture)}


def test_as_many_groups_as_may_be_under_way_fit_into_the_fds_of_a_worker(home: Path) -> None:
    names = [
        f"d{number % GROUP_DIRECTORIES + group * GROUP_DIRECTORIES}/{group}_{number}"
        for group in range(GROUPS_AT_ONCE)
        for number in range(GROUP_STEPS)
    ]
    made = steps(home, names)
    groups = [made[group * GROUP_STEPS : (group + 1) * GROUP_STEPS] for group in range(GROUPS_AT_ONCE)]
    with WorkerPeer(home, wrapper=["prlimit", "--nofile=256"]) as worker:  # as monitor.py sets it
        worker.send(ActJob(max_file_size=1 << 30, file_deadline_s=30.0))
        for group in groups:
            worker.send(ActGroup(steps=group))
        for group in groups:
            assert set(contents(worker)) == {step.seq for step in group}
        for group in groups:
            worker.send(GroupStored(seqs=tuple(step.seq for step in group)))
            assert len(worker.expect(GroupActed).ends) == len(group)
    assert files_in(home) == set()


def test_groups_are_stored_in_the_order_in_which_they_were_captured(home: Path, worker: WorkerPeer) -> None:
    first, second = steps(home, ["a", "b"])
    for step in (first, second):
        worker.send(ActGroup(steps=(step,)))
        contents(worker)
    worker.send(GroupStored(seqs=(first.seq,)))
    assert [end.seq for end in worker.expect(GroupActed).ends] == [first.seq]
    assert files_in(home) == {os.fsdecode(second.capture)}
    worker.send(GroupStored(seqs=()))
    assert worker.expect(GroupActed).ends == ()
    assert files_in(home) == {"b"}


@pytest.mark.parametrize("unlawful", ["group", "act", "sync", "stored"])
def test_a_worker_leaves_over_what_is_unlawful_while_groups_are_under_way(
    home: Path, worker: WorkerPeer, unlawful: str
) -> None:
    made = steps(home, [str(number) for number in range(GROUPS_AT_ONCE + 1)])
    if unlawful != "stored":
        for step in made[:GROUPS_AT_ONCE]:
            worker.send(ActGroup(steps=(step,)))
            contents(worker)
    command = {
        "group": ActGroup(steps=made[GROUPS_AT_ONCE:]),
        "act": made[GROUPS_AT_ONCE],
        "sync": Sync(),
        "stored": GroupStored(seqs=()),
    }
    worker.send(command[unlawful])
    worker.expect(Fault)
    assert worker.process.wait(30) == 1
    assert str(GROUPS_AT_ONCE) in files_in(home)
