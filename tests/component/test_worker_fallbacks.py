"""Without openat2 or renameat2(NOREPLACE), as on old kernels and NFS: strace makes the calls fail in a real worker."""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from clamscannerd.model import Action, Identity, Outcome, int64
from clamscannerd.worker.beneath import Kernel
from clamscannerd.worker.messages import (
    Act,
    Acted,
    ActJob,
    Chunk,
    Content,
    ContentEnd,
    Recheck,
    ScanJob,
    Scanned,
    Stored,
)
from tests.fakes.realclamd import EICAR, RealClamd
from tests.fakes.worker_peer import WorkerPeer, clamd_session

CAPTURE = b".clamscannerd-" + b"0123456789abcdef" * 2
FAILURES = {
    "nothing": (),
    "no renameat2": ("renameat2:error=EINVAL",),
    "no openat2": ("openat2:error=ENOSYS",),
    "neither": ("renameat2:error=EINVAL", "openat2:error=ENOSYS"),
}


def under_strace(failures: tuple[str, ...]) -> list[str]:
    injections = [word for failure in failures for word in ("-e", f"inject={failure}")]
    return ["strace", "-qq", "-o", "/dev/null", "-e", "trace=renameat2,openat2", *injections]


@pytest.fixture(params=FAILURES.values(), ids=[*FAILURES])
def failures(request: pytest.FixtureRequest) -> tuple[str, ...]:
    found: tuple[str, ...] = request.param
    return found


@pytest.fixture
def home(tmp_path: Path) -> Path:
    path = tmp_path / "home"
    path.mkdir(mode=0o700)
    return path


def quarantine(home: Path, failures: tuple[str, ...], reason: str, meanwhile: bytes | None = None) -> Acted:
    path = home / "d" / "bad"
    path.parent.mkdir()
    path.write_bytes(EICAR)
    status = path.stat()
    identity = Identity(
        dev=int64(status.st_dev),
        ino=status.st_ino,
        size=status.st_size,
        mtime_ns=status.st_mtime_ns,
        sha256=hashlib.sha256(EICAR).digest(),
    )
    with WorkerPeer(home, wrapper=under_strace(failures)) as worker:
        worker.send(ActJob(max_file_size=1 << 30, file_deadline_s=30.0))
        worker.send(
            Act(
                seq=1,
                path=b"d/bad",
                action=Action.QUARANTINE,
                identity=identity,
                capture=CAPTURE,
                again=False,
                stored=b"",
                keep=True,
            )
        )
        worker.expect(Content)
        assert worker.expect(Chunk).data == EICAR
        worker.expect(ContentEnd)
        assert os.listdir(path.parent) == [os.fsdecode(CAPTURE)]
        if meanwhile is not None:
            path.write_bytes(meanwhile)
        worker.send(Stored(seq=1, reason=reason))
        return worker.expect(Acted)


def test_quarantine_takes_the_file(home: Path, failures: tuple[str, ...]) -> None:
    assert quarantine(home, failures, "").outcome is Outcome.QUARANTINED
    assert os.listdir(home / "d") == []


def test_a_refused_file_gets_its_name_back(home: Path, failures: tuple[str, ...]) -> None:
    assert quarantine(home, failures, "the vault is full").outcome is Outcome.ERROR
    assert os.listdir(home / "d") == ["bad"]
    assert (home / "d" / "bad").read_bytes() == EICAR


def test_putting_back_never_replaces(home: Path, failures: tuple[str, ...]) -> None:
    acted = quarantine(home, failures, "the vault is full", b"new work")
    assert (home / "d" / "bad").read_bytes() == b"new work"
    (other,) = set(os.listdir(home / "d")) - {"bad"}
    assert (home / "d" / other).read_bytes() == EICAR
    assert other in acted.message


def test_links_out_of_the_home_are_not_followed(
    home: Path, failures: tuple[str, ...], tmp_path: Path, clamd: RealClamd
) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "bad").write_bytes(EICAR)
    (home / "link").symlink_to(victim)
    (home / "d").mkdir()
    (home / "d" / "mine").write_bytes(EICAR)
    with WorkerPeer(home, wrapper=under_strace(failures)) as worker:
        with clamd_session(clamd.socket_path) as session:
            worker.send(
                ScanJob(
                    roots=(b"link", b"d"),
                    excludes=(),
                    window=2,
                    max_file_size=1 << 20,
                    clean_allowed=True,
                    file_deadline_s=30.0,
                    max_skipped=10,
                    fds=1,
                ),
                [session.fileno()],
            )
        worker.send(Recheck(paths=(), last=True))
        _, end = worker.until(Scanned)
    assert (end.counts.infected_files, end.counts.total_files) == (1, 2)


@pytest.mark.parametrize("openat2", [True, False], ids=["openat2", "walk"])
@pytest.mark.parametrize("path", [b"link/f", b"../secret", b"sub/../../secret", b"/etc/passwd", b"link"])
def test_no_path_leads_out(tmp_path: Path, path: bytes, *, openat2: bool) -> None:
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    (tmp_path / "secret").write_bytes(b"s")
    (root / "link").symlink_to(tmp_path)
    kernel = Kernel()
    kernel.openat2 = openat2
    fd = os.open(root, os.O_RDONLY)
    try:
        with pytest.raises(OSError, match=r".*"):
            os.close(kernel.open_file(fd, path))
    finally:
        os.close(fd)


@pytest.mark.fails_with("fifo-waited-for")
@pytest.mark.parametrize("openat2", [True, False], ids=["openat2", "walk"])
def test_nobody_is_waited_for_at_a_fifo(tmp_path: Path, *, openat2: bool) -> None:
    """What a file was swapped for between the look and the open; in A2 that takes luck."""
    os.mkfifo(tmp_path / "fifo")
    kernel = Kernel()
    kernel.openat2 = openat2
    root = os.open(tmp_path, os.O_RDONLY)
    try:
        with ThreadPoolExecutor(1) as pool:
            opening = pool.submit(kernel.open_file, root, b"fifo")
            try:
                os.close(opening.result(timeout=5))
            finally:
                with suppress(OSError):  # nobody waits
                    os.close(os.open("fifo", os.O_WRONLY | os.O_NONBLOCK, dir_fd=root))
    finally:
        os.close(root)
