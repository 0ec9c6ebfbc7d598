"""A real worker process (under the test's uid), a real clamd, this side plays the daemon."""

import base64
import fcntl
import os
import socket
import stat
import subprocess
import zipfile
from pathlib import Path

import pytest

from clamscannerd.model import Reason
from clamscannerd.worker.beneath import Kernel
from clamscannerd.worker.messages import (
    Cancel,
    Cleared,
    Fault,
    Found,
    FoundFile,
    NeedSession,
    NoSession,
    Recheck,
    Reply,
    ScanJob,
    Scanned,
    Sessions,
    Skipped,
)
from clamscannerd.worker.walk import walk
from tests.fakes.realclamd import EICAR, EICAR_NAME, RealClamd
from tests.fakes.worker_peer import WorkerPeer, clamd_session

MIB = 1 << 20
ENCRYPTED_ZIP = (
    "UEsDBAoACQAAABuad13aiUmbGAAAAAwAAAACABwAc3hVVAkAAyWRBGslkQRrdXgLAAEEAAAAAAQAAAAA+3bTEL/upq0TvGeu+bdG"
    "yob+oOHOEpb/UEsHCNqJSZsYAAAADAAAAFBLAQIeAwoACQAAABuad13aiUmbGAAAAAwAAAACABgAAAAAAAEAAACkgQAAAABzeFVU"
    "BQADJZEEa3V4CwABBAAAAAAEAAAAAFBLBQYAAAAAAQABAEgAAABkAAAAAAA="
)
"""`zip -P secret` of one line of text: the standard library writes no encrypted archives."""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    path = tmp_path / "home"
    path.mkdir(mode=0o700)
    return path


def job(**changes: object) -> ScanJob:
    values: dict[str, object] = {
        "roots": (b".",),
        "excludes": (),
        "window": 4,
        "max_file_size": 100 * MIB,
        "clean_allowed": True,
        "file_deadline_s": 60.0,
        "max_skipped": 1000,
        "fds": 1,
    }
    return ScanJob(**(values | changes))  # type: ignore[arg-type]


class Outcome:
    def __init__(self, replies: list[Reply], end: Scanned) -> None:
        self.found: dict[bytes, FoundFile] = {}
        self.skipped: dict[bytes, Reason] = {}
        self.cleared: list[bytes] = []
        self.end = end
        for reply in replies:
            match reply:
                case Found():
                    self.found |= {file.path: file for file in reply.files}
                case Skipped():
                    self.skipped |= {file.path: file.reason for file in reply.files}
                case Cleared():
                    self.cleared += reply.paths
                case _:
                    raise AssertionError(reply)
        counts = end.counts
        if end.complete:
            assert counts.scanned_files + sum(counts.not_scanned.values()) == counts.total_files


def scan(home: Path, clamd: RealClamd, recheck: tuple[bytes, ...] = (), **changes: object) -> Outcome:
    with WorkerPeer(home) as worker:
        assert worker.hello.home_error == ""
        with clamd_session(clamd.socket_path) as session:
            worker.send(job(**changes), [session.fileno()])
        worker.send(Recheck(paths=recheck, last=True))
        return Outcome(*worker.until(Scanned))


def test_infected_files_are_found_with_their_identity_and_clean_ones_counted(home: Path, clamd: RealClamd) -> None:
    (home / "a").mkdir()
    (home / "a" / "bad.com").write_bytes(EICAR)
    for number in range(50):
        (home / f"clean{number}").write_bytes(b"x" * number)
    outcome = scan(home, clamd)
    assert outcome.end.complete
    assert set(outcome.found) == {b"a/bad.com"}
    status = (home / "a" / "bad.com").stat()
    identity = outcome.found[b"a/bad.com"].identity
    assert (identity.ino, identity.size, identity.mtime_ns) == (status.st_ino, len(EICAR), status.st_mtime_ns)
    assert outcome.found[b"a/bad.com"].signature == EICAR_NAME
    assert outcome.found[b"a/bad.com"].owner == status.st_uid
    assert outcome.end.counts.total_files == outcome.end.counts.scanned_files == 51
    assert outcome.end.counts.infected_files == 1
    assert outcome.end.counts.scanned_bytes == len(EICAR) + sum(range(50))


def test_names_that_linux_allows_are_scanned_and_come_back_byte_for_byte(home: Path, clamd: RealClamd) -> None:
    names = [b"new\nline", b"q'uo\"te", b"back\\slash", b"\xff\xfe", b"n" * 255, b": OK", b"1: fd[9]: OK", b"-rf", b" "]
    for name in names:
        with open(os.fsencode(home) + b"/" + name, "wb") as stream:
            stream.write(EICAR)
    assert set(scan(home, clamd).found) == set(names)


def test_what_is_no_regular_file_is_counted_and_never_opened(home: Path, clamd: RealClamd) -> None:
    os.mkfifo(home / "fifo")
    (home / "dangling").symlink_to("nowhere")
    (home / "outside").symlink_to("/etc/passwd")
    (home / "dirlink").symlink_to("/etc")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(home / "socket"))
    outcome = scan(home, clamd)
    assert outcome.skipped == dict.fromkeys(
        (b"fifo", b"dangling", b"outside", b"dirlink", b"socket"), Reason.NOT_REGULAR
    )
    assert outcome.end.counts.total_files == 5


def test_files_over_the_limit_encrypted_or_hiding_a_big_member_are_not_clean(home: Path, clamd: RealClamd) -> None:
    with (home / "sparse").open("wb") as stream:
        stream.truncate(101 * MIB)
    with zipfile.ZipFile(home / "big-member.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(120 * MIB) + EICAR)
    (home / "encrypted.zip").write_bytes(base64.b64decode(ENCRYPTED_ZIP))
    outcome = scan(home, clamd)
    assert outcome.skipped == {
        b"sparse": Reason.TOO_BIG,
        b"big-member.zip": Reason.LIMIT,
        b"encrypted.zip": Reason.ENCRYPTED,
    }


def test_a_file_that_changes_while_it_is_scanned_is_not_clean(home: Path, clamd: RealClamd) -> None:
    """A SIGSTOPped engine holds the file between both looks at it."""
    (home / "growing").write_bytes(b"x" * 1000)
    with WorkerPeer(home) as worker:
        with clamd_session(clamd.socket_path) as session:
            os.kill(clamd.pid, 19)
            try:
                worker.send(job(), [session.fileno()])
                worker.send(Recheck(paths=(), last=True))
                while not any("growing" in target for target in open_files(worker.process.pid)):
                    pass
                os.truncate(home / "growing", 10)
            finally:
                os.kill(clamd.pid, 18)
        outcome = Outcome(*worker.until(Scanned))
    assert outcome.skipped == {b"growing": Reason.CHANGED}


def test_a_file_repaired_while_it_is_scanned_is_found_with_an_identity_that_no_file_has(home: Path) -> None:
    """Else an action would later take the repaired content for the infected one, and not ask again."""
    (home / "page").write_bytes(EICAR)
    ours, theirs = socket.socketpair()
    with WorkerPeer(home) as worker, theirs:
        with ours:
            worker.send(job(), [ours.fileno()])
        worker.send(Recheck(paths=(), last=True))
        theirs.recv(20)
        (home / "page").write_bytes(b"repaired")
        theirs.sendall(b"2: fd[9]: Eicar-Test FOUND\0")
        found = worker.until(Found)[1].files[0]
        worker.until(Scanned)
    assert found.identity.sha256 == bytes(32)


def test_an_earlier_finding_that_cannot_be_opened_stands(home: Path, clamd: RealClamd) -> None:
    """As root nothing is unreadable, but a lease is."""
    path = home / "leased"
    path.write_bytes(EICAR)
    with path.open("r+b") as stream:
        fcntl.fcntl(stream, fcntl.F_SETSIG, 23)
        fcntl.fcntl(stream, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        outcome = scan(home, clamd, recheck=(b"leased",))
    assert outcome.cleared == []


def open_files(pid: int) -> list[str]:
    targets = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            targets.append(os.readlink(link))
        except FileNotFoundError:  # closed just now
            continue
    return targets


def test_without_signatures_nothing_is_clean_but_infected_files_are_found(home: Path, clamd: RealClamd) -> None:
    (home / "bad").write_bytes(EICAR)
    (home / "fine").write_bytes(b"fine")
    outcome = scan(home, clamd, clean_allowed=False)
    assert set(outcome.found) == {b"bad"}
    assert outcome.skipped == {b"fine": Reason.NO_SIGNATURES}


def test_a_leased_file_does_not_stall_the_scan(home: Path, clamd: RealClamd) -> None:
    path = home / "leased"
    path.write_bytes(b"x")
    with path.open("r+b") as stream:
        fcntl.fcntl(stream, fcntl.F_SETSIG, 23)  # SIGURG: ignored by default; SIGIO would end the test
        fcntl.fcntl(stream, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        outcome = scan(home, clamd)
    assert outcome.skipped == {b"leased": Reason.UNREADABLE}


def test_a_deep_tree_ends_with_a_reason_and_takes_few_fds(home: Path, clamd: RealClamd) -> None:
    fd = os.open(home, os.O_RDONLY)
    for _ in range(2_500):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(os.open("bottom", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.close(fd)
    try:
        outcome = scan(home, clamd)
    finally:  # pytest's own clean-up dies of recursion
        subprocess.run(["rm", "-rf", str(home / "d")], check=True)
    assert outcome.end.complete
    assert set(outcome.skipped.values()) == {Reason.PATH_TOO_LONG}
    assert outcome.end.counts.total_files == 1


def test_excluded_directories_are_left_out_and_said(home: Path, clamd: RealClamd) -> None:
    (home / "state").mkdir()
    (home / "state" / "bad").write_bytes(EICAR)
    outcome = scan(home, clamd, excludes=(b"state",))
    assert not outcome.found
    assert outcome.skipped == {b"state": Reason.EXCLUDED}


def test_what_is_left_out_by_pattern_is_counted_and_never_clean(home: Path, clamd: RealClamd) -> None:
    for name in ("cache", "sub/cache", "public"):
        (home / name).mkdir(parents=True)
        (home / name / "bad").write_bytes(EICAR)
    for name in ("a.iso", "sub/b.iso", "sub/kept.iso", "cache/kept.iso"):
        (home / name).write_bytes(EICAR)
    os.mkfifo(home / "fifo.iso")
    outcome = scan(home, clamd, excludes=(b"*.iso", b"/cache/", b"!kept.iso"))
    left_out = {b"cache", b"a.iso", b"sub/b.iso", b"fifo.iso"}
    assert outcome.skipped == dict.fromkeys(left_out, Reason.EXCLUDED)
    assert set(outcome.found) == {b"sub/cache/bad", b"public/bad", b"sub/kept.iso"}
    counts = outcome.end.counts
    assert (counts.total_files, counts.scanned_files, counts.not_scanned) == (7, 3, {Reason.EXCLUDED: 4})


@pytest.mark.parametrize("pattern", [b"cache/", b"/sub/", b"sub/**"])
def test_a_root_that_is_left_out_is_not_entered(home: Path, clamd: RealClamd, pattern: bytes) -> None:
    (home / "sub" / "cache").mkdir(parents=True)
    (home / "sub" / "cache" / "bad").write_bytes(EICAR)
    outcome = scan(home, clamd, roots=(b"sub/cache", b"missing/cache"), excludes=(pattern,))
    assert outcome.skipped == {b"sub/cache": Reason.EXCLUDED}
    assert not outcome.found


def test_names_of_any_bytes_are_left_out(home: Path, clamd: RealClamd) -> None:
    for name in (b"a\xff\n.iso", b"b\x1b[.iso", b"\xe2\x80\xae.iso", b"kept"):
        Path(os.fsdecode(os.path.join(os.fsencode(home), name))).write_bytes(b"x")
    outcome = scan(home, clamd, excludes=(b"a\xff*", b"b\x1b\\[.iso", b"???.iso"))
    assert outcome.end.counts.not_scanned == {Reason.EXCLUDED: 3}


def test_many_that_are_left_out_take_no_room_from_others(home: Path, clamd: RealClamd) -> None:
    for number in range(1_100):
        (home / f"{number}.log").touch()
    (home / "zz").symlink_to("0.log")
    outcome = scan(home, clamd, excludes=(b"*.log",), max_skipped=1_050)
    assert outcome.end.counts.not_scanned == {Reason.EXCLUDED: 1_100, Reason.NOT_REGULAR: 1}
    assert outcome.skipped[b"zz"] is Reason.NOT_REGULAR
    assert len(outcome.skipped) == 1_001


def test_nested_and_missing_roots_meet_every_file_once(home: Path, clamd: RealClamd) -> None:
    (home / "mail" / "cur").mkdir(parents=True)
    (home / "mail" / "cur" / "1").write_bytes(b"x")
    outcome = scan(home, clamd, roots=(b"mail/cur", b"mail", b"Maildir"))
    assert outcome.end.counts.total_files == 1


def test_a_directory_that_was_away_just_then_is_looked_for_at_the_end(home: Path) -> None:
    for name in ("a", "b"):
        (home / name).mkdir()
        (home / name / "f").write_bytes(b"x")
    (home / "a").rename(home / "away")
    fd = os.open(home, os.O_RDONLY)
    entries = walk(Kernel(), fd, 10, (b"a", b"b", b"c"), ())
    try:
        assert next(entries).path == b"b/f"
        (home / "away").rename(home / "a")
        assert [met.path for met in entries] == [b"a/f"]
    finally:
        entries.close()
        os.close(fd)


def test_earlier_findings_are_looked_at_again_and_counted_once(home: Path, clamd: RealClamd) -> None:
    (home / "still").write_bytes(EICAR)
    (home / "healed").write_bytes(b"fine")
    outcome = scan(home, clamd, recheck=(b"still", b"healed", b"gone"))
    assert set(outcome.found) == {b"still"}
    assert sorted(outcome.cleared) == [b"gone", b"healed"]
    assert outcome.end.counts.infected_files == 1
    assert outcome.end.counts.total_files == outcome.end.counts.scanned_files == 2


def test_a_lost_session_is_replaced_and_every_file_gets_its_verdict(home: Path) -> None:
    for number in range(200):
        (home / f"f{number}").write_bytes(b"x" * 100_000)
    (home / "bad").write_bytes(EICAR)
    with RealClamd() as clamd, WorkerPeer(home) as worker:
        with clamd_session(clamd.socket_path) as session:
            worker.send(job(), [session.fileno()])
        clamd.kill()
        clamd.start()
        worker.send(Recheck(paths=(), last=True))
        replies, _ = worker.until(NeedSession)
        with clamd_session(clamd.socket_path) as session:
            worker.send(Sessions(fds=1, max_file_size=100 * MIB, clean_allowed=True), [session.fileno()])
        more, end = worker.until(Scanned)
        outcome = Outcome(replies + more, end)
    assert end.complete
    assert end.counts.scanned_files == 201
    assert set(outcome.found) == {b"bad"}


def test_without_an_engine_the_scan_ends_incomplete_with_the_reason(home: Path, clamd: RealClamd) -> None:
    (home / "f").write_bytes(b"x")
    ours, theirs = socket.socketpair()
    theirs.close()
    with WorkerPeer(home) as worker:
        with ours:
            worker.send(job(), [ours.fileno()])
        worker.send(Recheck(paths=(), last=True))
        worker.until(NeedSession)
        worker.send(NoSession(reason="no engine"))
        _, end = worker.until(Scanned)
    assert not end.complete
    assert end.reason == "no engine"
    assert end.counts.scanned_files == 0


def test_cancel_ends_the_scan_with_what_was_counted(home: Path) -> None:
    (home / "f").write_bytes(b"x")
    ours, theirs = socket.socketpair()
    with WorkerPeer(home) as worker, theirs:
        with ours:
            worker.send(job(), [ours.fileno()])
        worker.send(Recheck(paths=(), last=True))
        worker.send(Cancel())
        _, end = worker.until(Scanned)
    assert (end.complete, end.reason) == (False, "cancelled")


@pytest.mark.parametrize("kind", ["symlink", "file", "writable", "missing"])
def test_a_home_that_breaks_a_rule_is_refused_in_the_hello(tmp_path: Path, kind: str) -> None:
    home = tmp_path / "h"
    if kind == "symlink":
        home.symlink_to(tmp_path)
    elif kind == "file":
        home.write_bytes(b"")
    elif kind == "writable":
        home.mkdir()
        home.chmod(stat.S_IRWXU | stat.S_IRWXO)
    with WorkerPeer(home) as worker:
        assert worker.hello.home_error.startswith("cannot use home")


def test_an_unlawful_command_ends_the_worker_with_a_fault(home: Path) -> None:
    with WorkerPeer(home) as worker:
        worker.send(Cancel())
        assert "cannot begin with Cancel" in worker.expect(Fault).text
    assert worker.process.returncode == 1
