"""How many files a worker has at the engine, on a clamd that holds back what the test says."""

from pathlib import Path

import pytest

from clamscannerd.worker.messages import Progress, Recheck, ScanJob, Scanned, Window
from clamscannerd.worker.wire import HELD_BACK
from tests.fakes.clamd import FakeClamd, Fault
from tests.fakes.worker_peer import WorkerPeer, clamd_session

SLOW = b"a large archive"
QUICK = 40


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    for number in range(QUICK):
        (home / f"f{number:02}").write_bytes(b"%d" % number)
    return home


def begin(worker: WorkerPeer, clamd: FakeClamd, window: int) -> None:
    clamd.content_faults[SLOW] = Fault.DELAY
    job = ScanJob(
        roots=(b".",),
        excludes=(),
        window=window,
        max_file_size=1 << 20,
        clean_allowed=True,
        file_deadline_s=60.0,
        max_skipped=10,
        fds=1,
    )
    with clamd_session(clamd.socket_path) as session:
        worker.send(job, [session.fileno()])
    worker.send(Recheck(paths=(), last=True))


def until_scanned(worker: WorkerPeer, number: int) -> Progress:
    """The report after the one that tells of the last of so many verdicts."""
    while worker.expect(Progress).counts.scanned_files < number:
        pass
    return worker.expect(Progress)


def test_a_slow_file_holds_up_no_other_and_what_it_leaves_unused_is_said(home: Path) -> None:
    (home / "slow").write_bytes(SLOW)
    with FakeClamd() as clamd, WorkerPeer(home) as worker:
        begin(worker, clamd, 2)
        report = until_scanned(worker, QUICK)
        assert (report.counts.scanned_files, report.wants) == (QUICK, 1)
        clamd.release()
        assert worker.until(Scanned)[1].counts.scanned_files == QUICK + 1


def test_a_worker_that_is_held_back_says_so_and_uses_what_it_is_given(home: Path) -> None:
    for number in range(3):
        (home / f"slow{number}").write_bytes(SLOW)
    with FakeClamd() as clamd, WorkerPeer(home) as worker:
        begin(worker, clamd, 2)  # two of the three stop it
        while worker.expect(Progress).wants != HELD_BACK:
            pass
        worker.send(Window(window=4))
        assert until_scanned(worker, QUICK).wants == 3
        clamd.release()
        assert worker.until(Scanned)[1].counts.scanned_files == QUICK + 3
