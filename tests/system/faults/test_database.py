"""Row R6: a database that is torn, cut, of another version or read-only: a clear refusal, or recovery with a copy kept.

Each case begins with the state that a kill -9 in the middle of work left, and damages it as a disk or a person would.
Whatever becomes of it: no content is lost, and what was acknowledged is there or it is said that it is not.
"""

import os
import shutil
import sqlite3
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from clamscannerd.state.schema import VERSION
from tests.fakes.accounts import Person, have_service_users, throw_away
from tests.fakes.aftermath import Processes, leftovers, rows, vault
from tests.fakes.manifest import contents
from tests.fakes.realclamd import MARKER
from tests.fakes.running import RunningDaemon, wait_for
from tests.integration.people import clear, put
from tests.rows import Amount, Figure

FILES = 1_000
PATIENCE_S = 180.0
HEADER, FRAME = 32, 24 + 4096
LOG_NAME = ".clamavconnector.disinfection.log"


class Left:
    """A daemon that was killed in the middle of a disinfection; `state_again` gives the state that it left."""

    def __init__(self, daemon: RunningDaemon, person: Person) -> None:
        self.daemon = daemon
        self.person = person
        self.bodies = Counter(MARKER + b" %d" % number for number in range(FILES))
        self._kept = daemon.directory / "kept"
        clear(person)
        for number, body in enumerate(self.bodies):
            put(person, f"d{number // 100:03}/f{number:05}", body)
        with daemon.client(person.uid) as client:
            assert client.scan()["infected_file_count"] == FILES
            client.good("disinfect_files", {"actions": {}, "others": "quarantine"})
            wait_for(lambda: self.ended() > FILES // 10, "steps")
            processes = Processes(daemon)
            daemon.kill()
            processes.wait_gone()
        assert self.ended() < FILES, "killed too late"
        copy(daemon.state, self._kept)

    def ended(self) -> int:
        number: int = rows(self.daemon, "SELECT count(*) FROM step WHERE state = 'ended'")[0][0]
        return number

    def state_again(self) -> None:
        copy(self._kept, self.daemon.state)

    @property
    def file(self) -> Path:
        return self.daemon.state / "state.db"

    @property
    def index(self) -> Path:
        return self.daemon.state / "state.db-shm"

    @property
    def wal(self) -> Path:
        return self.daemon.state / "state.db-wal"

    def nothing_is_lost(self) -> None:
        """Each content is in the home or in the vault, or in both."""
        in_home = contents(self.person.home)
        missing = self.bodies - in_home - Counter(self._in_vault())
        assert not missing, f"{len(missing)} contents are lost"

    def _in_vault(self) -> set[bytes]:
        """Whatever lies there, with a row or without."""
        turn = bytes(255 - value for value in range(256))
        found = {path.read_bytes().translate(turn) for path in (self.daemon.state / "vault").rglob("*.item")}
        small = self.daemon.state / "vault" / "small.db"
        with closing(sqlite3.connect(f"file:{small}?mode=ro", uri=True)) as database:
            return found | {bytes(row[0]).translate(turn) for row in database.execute("SELECT content FROM blob")}


def copy(source: Path, target: Path) -> None:
    """Owners, modes and times with it."""
    shutil.rmtree(target, ignore_errors=True)
    subprocess.run(["cp", "-a", str(source), str(target)], check=True)


@pytest.fixture(scope="module")
def alice() -> Iterator[Person]:
    have_service_users()
    with throw_away("r6_a") as person:
        yield person


@contextmanager
def killed(person: Person) -> Iterator[Left]:
    with RunningDaemon() as daemon:
        yield Left(daemon, person)


def spoil(path: Path, offset: int, size: int = 64) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\xa5" * size)


def set_version(path: Path, version: int) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.execute(f"PRAGMA user_version = {version}")
    for name in ("-wal", "-shm"):  # ours: it is root's
        path.with_name(path.name + name).unlink(missing_ok=True)


def foreign(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE other (x)")
    for name in ("-wal", "-shm"):
        path.with_name(path.name + name).unlink(missing_ok=True)


REFUSED: dict[str, tuple[Callable[[Left], None], str]] = {
    "cut to half": (lambda left: os.truncate(left.file, left.file.stat().st_size // 2), "malformed|damaged"),
    "cut to nothing": (lambda left: os.truncate(left.file, 0), "cut off"),
    "cut in its first page": (lambda left: os.truncate(left.file, 1000), "not a database|cut off|malformed"),
    "overwritten": (lambda left: spoil(left.file, 0, 8192), "not a database|cut off"),
    "pages spoiled": (lambda left: spoil(left.file, 4096, 32_768), "damaged|malformed"),
    "of another program": (lambda left: foreign(left.file), "not a database of this program"),
    "missing beside its log": (lambda left: left.file.unlink(), "it is missing, but state.db-wal is there"),
    "newer": (lambda left: set_version(left.file, VERSION + 1), f"version {VERSION + 1} is newer than {VERSION}"),
    "its log removed": (lambda left: left.wal.unlink(), "state.db-wal is missing"),
    "its log's header spoiled": (lambda left: spoil(left.wal, 0), "state.db-wal is damaged"),
    "its log spoiled early": (lambda left: spoil(left.wal, HEADER + 2 * FRAME + 500), "state.db-wal is damaged"),
}  # fmt: skip


@pytest.mark.row("R6")
@pytest.mark.fails_with("damage-replaced", "torn-log-unnoticed")
def test_a_damaged_database_is_refused_by_name_and_stays_as_it_is(alice: Person, figure: Figure) -> None:
    with killed(alice) as left:
        for what in REFUSED:
            left.state_again()
            refused_and_untouched(left, what)
        left.nothing_is_lost()
        left.state_again()
        left.daemon.start()
        goes_on(left)
    figure(f"{len(REFUSED)} kinds of damage refused")


def refused_and_untouched(left: Left, what: str) -> None:
    damage, words = REFUSED[what]
    # What a checkpoint is yet to move would hide what is done to the file: so that it is the file that counts.
    if not what.startswith("its log") and what not in ("missing beside its log", "newer"):
        left.wal.unlink()
        left.index.unlink()
    damage(left)
    before = files_of(left)
    text = refused(left.daemon)
    assert f"cannot open state {left.file}: " in text, (what, text)
    assert any(word in text for word in words.split("|")), (what, text)
    assert files_of(left) == before, what


def files_of(left: Left) -> dict[str, bytes]:
    """The database's, but for the index, which SQLite makes anew from the others, and empty logs."""
    files = {path.name: path.read_bytes() for path in left.daemon.state.glob("state.db*")}
    return {name: content for name, content in files.items() if content and name != "state.db-shm"}


def refused(daemon: RunningDaemon) -> str:
    """It ends at once with code 1 and one line; that."""
    before = len(daemon.log())
    daemon.start(wait=False)
    assert daemon.process is not None
    assert daemon.process.wait(30) == 1
    text = daemon.log()[before:]
    assert "Traceback" not in text, text
    assert len([line for line in text.splitlines() if "cannot" in line]) == 1, text
    return text


@pytest.mark.row("R6")
@pytest.mark.fails_with("torn-log-unnoticed")
def test_a_log_torn_in_its_last_transaction_is_recovered_from_and_kept(
    alice: Person, amount: Amount, figure: Figure
) -> None:
    """As a loss of power leaves it. (Here the last one was synced and acted on before, which makes it worse.)"""
    tries = amount(quick=1, long=8)
    for number in range(tries):
        with killed(alice) as left:
            left.index.unlink()
            spoil(left.wal, ends_of(left.wal)[-1] + 24 + 300 * (number + 1))
            torn = left.wal.read_bytes()
            said = ended_with_nothing_lost(left)
            assert "is not whole and is left out; kept as state.db-wal.torn.1" in said
            assert (left.daemon.state / "state.db-wal.torn.1").read_bytes() == torn
    figure(f"{tries} logs torn at their end recovered from")


@pytest.mark.row("R6")
@pytest.mark.fails_with("torn-log-unnoticed")
def test_a_log_cut_between_transactions_is_refused_or_loses_no_content(
    alice: Person, amount: Amount, figure: Figure
) -> None:
    """Its index knows how long it was. Without that it is like one that never went on: then what was brought into the
    vault stays there, whether its row is gone or not."""
    cuts = amount(quick=1, long=8)
    for number in range(cuts):
        with killed(alice) as left:
            os.truncate(left.wal, ends_of(left.wal)[-3 - number] + FRAME)
            assert "state.db-wal is damaged: " in refused(left.daemon)
            left.index.unlink()
            ended_with_nothing_lost(left, may_be_forgotten=True)
    figure(f"{cuts} logs cut between transactions")


def ended_with_nothing_lost(left: Left, *, may_be_forgotten: bool = False) -> str:
    """What the log says of it. `may_be_forgotten`: the task, as what is cut off may begin before it."""
    before = len(left.daemon.log())
    left.daemon.start()
    with left.daemon.client(left.person.uid) as client:
        if not may_be_forgotten or client.good("check_disinfection_status")["status"] != "none":
            *steps, _ = client.wait_disinfection(PATIENCE_S)
            assert len(steps) == FILES
        left.nothing_is_lost()
        # What was acted on and then forgotten may stand in the home under the name it was captured by: whole, and no
        # secret of ours, as the next scan lists it.
        hidden = leftovers(left.person.home)
        client.wait_scan(PATIENCE_S)  # it may be at work again itself
        client.scan(timeout_s=PATIENCE_S)
        listed = {Path(found["file"]).name for found in client.good("list_infected_files")}
        assert set(hidden) <= listed
    assert left.daemon.stop() == 0
    said = left.daemon.log()[before:]
    assert "Traceback" not in said
    return said


def ends_of(wal: Path) -> list[int]:
    """Where each frame begins that ends a transaction of the log as it is now."""
    data = wal.read_bytes()
    salts = data[16:24]
    starts = range(HEADER, len(data) - FRAME + 1, FRAME)
    return [at for at in starts if data[at + 8 : at + 16] == salts and data[at + 4 : at + 8] != bytes(4)]


def goes_on(left: Left) -> None:
    """All that was asked for is done, each file once."""
    with left.daemon.client(left.person.uid) as client:
        *steps, done = client.wait_disinfection(PATIENCE_S)
        assert [step["state"] for step in steps] == ["quarantined"] * FILES
        assert done["state"] == "success"
    assert Counter(item.content for item in vault(left.daemon)) == left.bodies
    assert leftovers(left.person.home) == []
    assert os.listdir(left.person.home).count(LOG_NAME) == 1
    assert left.daemon.stop() == 0


@contextmanager
def file_read_only(left: Left) -> Iterator[None]:
    left.file.chmod(0o400)
    yield
    left.file.chmod(0o600)


@contextmanager
def directory_read_only(left: Left) -> Iterator[None]:
    left.daemon.state.chmod(0o500)
    left.index.rename(left.daemon.directory / "aside-index")
    left.wal.rename(left.daemon.directory / "aside")
    yield
    left.daemon.state.chmod(0o700)
    (left.daemon.directory / "aside").rename(left.wal)
    (left.daemon.directory / "aside-index").rename(left.index)


@contextmanager
def file_system_read_only(left: Left) -> Iterator[None]:
    state = str(left.daemon.state)
    subprocess.run(["mount", "--bind", state, state], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", state], check=True)
        yield
    finally:
        subprocess.run(["umount", state], check=True)


@pytest.mark.row("R6")
@pytest.mark.fails_with("fault-without-words", "torn-vault-unsaid")
def test_a_read_only_state_is_refused_until_it_is_none_and_a_vault_that_lost_contents_says_so(
    alice: Person, figure: Figure
) -> None:
    """The rows of the vault's index stay; the daemon says how many have no content any more."""
    with killed(alice) as left:
        for read_only in READ_ONLY:
            with read_only(left):
                text = refused(left.daemon)
                assert str(left.daemon.state) in text, text
                assert any(word in text for word in ("readonly", "Read-only", "unable to open", "denied")), text
        left.daemon.start()
        goes_on(left)
        small = left.daemon.state / "vault" / "small.db"
        with closing(sqlite3.connect(f"file:{small}?mode=ro", uri=True)) as database:
            (lost,) = database.execute("SELECT count(*) FROM blob").fetchone()
        assert lost > FILES // 2
        small.unlink()
        before = len(left.daemon.log())
        left.daemon.start()
        wait_for(lambda: f" {lost} items without a content" in left.daemon.log()[before:], "it to be said")
        assert rows(left.daemon, "SELECT count(*) FROM item WHERE state = 'kept'") == [(FILES,)]
        assert left.daemon.stop() == 0
    figure(f"{len(READ_ONLY)} kinds of read-only refused")


READ_ONLY = (file_read_only, directory_read_only, file_system_read_only)
