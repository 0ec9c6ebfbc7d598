"""The daemon's side of one restored item, by hand: the step, its content as an fd, a session with a real clamd."""

import hashlib
import os
import stat
from pathlib import Path

from clamscannerd.worker.beneath import Kernel
from clamscannerd.worker.mailbox import Hit, Mailbox
from clamscannerd.worker.messages import NeedSession, Sessions
from clamscannerd.worker.restorewire import MessagePlace, Restore, Restored
from tests.fakes.realclamd import EICAR, RealClamd
from tests.fakes.worker_peer import WorkerPeer, clamd_session

CAPTURE = b".clamscannerd-" + b"0123456789abcdef" * 2
CONTENT = b"a letter to keep\n" * 1000
MTIME_NS = 1_000_000_000_123_456_789

BEFORE = b"From a@example.org Mon Jan  1 00:00:00 2024\nSubject: one\n\nhello\n\n"
HEAD = b"From c@example.org Mon Jan  1 00:00:00 2024\nSubject: bad\n\n"
BODY = (EICAR + b"\n") * 100
MESSAGE = HEAD + BODY + b"\n"
AFTER = b"From e@example.org Mon Jan  1 00:00:00 2024\nSubject: three\n\nbye\n"


def restore(path: bytes, content: bytes = CONTENT, **changes: object) -> Restore:
    values: dict[str, object] = {
        "seq": 1,
        "path": path,
        "make_dirs": False,
        "capture": CAPTURE,
        "again": False,
        "force": False,
        "size": len(content),
        "sha256": hashlib.sha256(content).digest(),
        "mode": 0o100640,
        "gid": os.getgid(),
        "mtime_ns": MTIME_NS,
        "xattrs": b"",
    }
    return Restore(**(values | changes))  # type: ignore[arg-type]


def send(worker: WorkerPeer, step: Restore, content: bytes = CONTENT) -> None:
    fd = os.memfd_create("content")
    try:
        os.write(fd, content)
        worker.send(step, [fd])
    finally:
        os.close(fd)


def give_session(worker: WorkerPeer, clamd: RealClamd) -> None:
    worker.expect(NeedSession)
    with clamd_session(clamd.socket_path) as session:
        worker.send(Sessions(fds=1, max_file_size=1 << 30, clean_allowed=True), [session.fileno()])


def done(worker: WorkerPeer, clamd: RealClamd, step: Restore, content: bytes = CONTENT) -> Restored:
    """The whole step, with a session."""
    send(worker, step, content)
    give_session(worker, clamd)
    return worker.expect(Restored)


def is_restored(path: Path, content: bytes = CONTENT, mode: int = 0o640) -> bool:
    status = path.lstat()
    return (path.read_bytes(), stat.S_IMODE(status.st_mode), status.st_mtime_ns) == (content, mode, MTIME_NS)


def message_step(home: Path, content: bytes = BODY, **changes: object) -> tuple[Restore, bytes, bytes]:
    """The mailbox as a cleanse left it: the step that puts the message back, the message, and the notice."""
    path, message = home / "box", HEAD + content + b"\n"
    path.write_bytes(BEFORE + message + AFTER)
    start, end = len(BEFORE), len(BEFORE) + len(message)
    hit = Hit(start=start, end=end, before=hashlib.sha256(message).digest(), signature="X")
    home_fd = os.open(home, os.O_RDONLY)
    try:
        with Mailbox(Kernel(), home_fd, b"box", CAPTURE, lambda _: None, known=True) as box:
            notice = b"".join(box.notice_for(hit, 7, 1.0))
    finally:
        os.close(home_fd)
    path.write_bytes(BEFORE + notice + AFTER)
    place = MessagePlace(
        start=start, end=end, notice=hashlib.sha256(notice).digest(), item=7, signature="X", kept_at=1.0
    )
    return restore(b"box", message, message=place, **changes), message, notice
