"""A mailbox of whose infected messages not all are known: its scan was cut off, or it was put back by force."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from clamscannerd.model import Outcome
from clamscannerd.worker.messages import ActJob
from tests.fakes.mail_peer import MAX_FILE_SIZE, Keeper, identity, scan_home
from tests.fakes.mailboxes import INFECTION, INFECTION_NDB, Letter, render
from tests.fakes.realclamd import RealClamd
from tests.fakes.worker_peer import WorkerPeer

BOX = render([Letter(body=(b"%d" % n, *[INFECTION] * (n in (2, 4, 5))), infected=n in (2, 4, 5)) for n in range(7)])
SPANS = [span for span, infected in zip(BOX.spans, BOX.infected, strict=True) if infected]


@pytest.fixture(scope="module")
def mail_clamd() -> Iterator[RealClamd]:
    with RealClamd(signatures={"test.ndb": INFECTION_NDB.encode()}) as running:
        yield running


@pytest.mark.parametrize("known", [0, 1, 3])
@pytest.mark.parametrize("same", [True, False], ids=["as the scan left it", "with another identity"])
def test_the_engine_is_asked_about_what_is_not_known(
    tmp_path: Path, mail_clamd: RealClamd, known: int, *, same: bool
) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    path = home / "mbox"
    path.write_bytes(BOX.data)
    _, found = scan_home(home, mail_clamd)
    who = identity(path)
    if not same:
        path.write_bytes(BOX.data)
    with WorkerPeer(home) as worker:
        worker.send(ActJob(max_file_size=MAX_FILE_SIZE, file_deadline_s=30.0))
        keeper = Keeper(worker, mail_clamd)
        end = keeper.cleanse(path, home, found[b"mbox"][:known], complete=False, identity=who)
    assert end.outcome is Outcome.MAILBOX_CLEANSED, end.message
    assert list(keeper.contents.values()) == [BOX.data[start:end] for start, end in SPANS]
    assert INFECTION not in path.read_bytes()
