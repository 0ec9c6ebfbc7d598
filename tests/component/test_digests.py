"""What there is to tell, on real SQLite and a real directory: each infected file once, and nothing lost on the way."""

import base64
import json
import os
import stat
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from clamscannerd import config
from clamscannerd.config import Config
from clamscannerd.config_notify import Notify
from clamscannerd.config_units import Duration
from clamscannerd.daemon_notify import Notifier
from clamscannerd.errors import UnknownAccount
from clamscannerd.model import (
    Account,
    Counts,
    EngineInfo,
    FindingState,
    Identity,
    IgnoreEntry,
    IgnoreKind,
    Reason,
    Scan,
    ScanState,
)
from clamscannerd.notify import example
from clamscannerd.notify.outbox import Outbox
from clamscannerd.service.ignoring import Ignores
from clamscannerd.state.store import NewFinding, Store, StoreLimits, open_store

ANN = Account(uid=1001, gid=1001, name="ann", home=b"/home/ann")
BOB = Account(uid=1002, gid=1002, name="bob", home=b"/home/bob")


class Engine(NamedTuple):
    """What Health looks at of an engine's state."""

    kind: str = "ready"
    reason: str = ""
    info: EngineInfo = EngineInfo(version="1.4.6", database=1, database_time=1)
    signatures: bool = True
    cure: tuple[str, ...] = ()
    address: str = "/run/engine"
    shared: bool = False
    shutdown: bool = False


class Bench:
    """A notifier on a store and an outbox; `engine` may be replaced."""

    def __init__(self, store: Store, outbox: Path) -> None:
        self.store = store
        self.outbox = outbox
        self.engine = Engine()
        self.gone: set[str] = set()
        self.ignores = Ignores(store, lambda: frozenset(IgnoreKind))
        self.settings = Notify(outbox=str(outbox), kinds=("findings",), interval=Duration(0))
        self.notifier = Notifier(store, self.resolve, lambda: self.engine, Config(notify=self.settings), self.ignores)

    def set(self, **changes: Any) -> None:
        fields = {name: getattr(self.settings, name) for name in self.settings.__struct_fields__}
        self.settings = Notify(**{**fields, **changes})
        self.notifier.adopt(Config(notify=self.settings))

    async def resolve(self, uid: int, name: str) -> Account:
        if name in self.gone:
            raise UnknownAccount("gone")
        return {ANN.uid: ANN, BOB.uid: BOB}[uid]

    async def look(self) -> list[Any]:
        """The digests that came with one look; they are taken."""
        await self.notifier.look()
        return self.take()

    def take(self) -> list[Any]:
        files = sorted(self.outbox.iterdir(), key=lambda path: path.stat().st_mtime_ns)
        found = [json.loads(file.read_bytes()) for file in files]
        assert [file.name for file in files] == [f"{digest['id']}.json" for digest in found]
        for file in files:
            file.unlink()
        return found

    async def scan(self, *paths: bytes, account: Account = ANN, signature: str = "Eicar", sha: bytes = b"\1") -> Scan:
        """A scan of the whole home that found these and nothing else."""
        scan = await self.store.add_scan(account, "home", (b".",), account.uid, 1.0)
        await self.store.begin_scan(scan.id, EngineInfo(version="1.4.6"), 1.0)
        identity = Identity(dev=1, ino=2, size=68, mtime_ns=3, sha256=sha * 32)
        found = [NewFinding(path=path, identity=identity, signature=signature) for path in paths]
        await self.store.add_findings(scan.id, found, 1.0)
        counts = Counts(total_files=9, scanned_files=7, infected_files=len(paths), not_scanned={Reason.TOO_BIG: 2})
        await self.store.add_not_scanned(scan.id, [(b"big1", "too_big"), (b"big2", "too_big")])
        return await self.store.end_scan(scan.id, ScanState.DONE, counts, "", 2.0)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    outbox = tmp_path / "outbox"
    outbox.mkdir(exist_ok=True)
    async with open_store(tmp_path / "state", StoreLimits()) as store:
        yield Bench(store, outbox)


def files(digest: Any) -> list[str]:
    return [one["file"].removeprefix("/home/ann/") for one in digest["findings"]]


async def test_a_digest_tells_account_scan_counts_and_findings(bench: Bench) -> None:
    scan = await bench.scan(b"x.php", b"caf\xe9\n.php")
    (digest,) = await bench.look()
    assert (digest["version"], digest["kind"]) == (1, "findings")
    assert digest["account"] == {"user": "ann", "uid": 1001, "home": "/home/ann"}
    assert digest["scan"]["scan_id"] == scan.id
    assert digest["scan"]["not_scanned"] == {"too_big": 2}
    assert (digest["new"], digest["standing"], digest["more"]) == (2, 2, 0)
    plain, odd = digest["findings"]
    assert plain["file"] == "/home/ann/x.php"
    assert "file_base64" not in plain
    assert odd["file"] == "/home/ann/caf\\xe9\n.php"
    assert base64.b64decode(odd["file_base64"]) == b"/home/ann/caf\xe9\n.php"
    assert odd["signature"] == "Eicar"
    assert any("disinfect quarantine" in sentence for sentence in digest["advice"])


@pytest.mark.fails_with("told-twice")
async def test_what_was_told_once_is_not_told_again_by_the_next_scan(bench: Bench) -> None:
    await bench.scan(b"x", b"y")
    assert len(await bench.look()) == 1
    assert await bench.look() == []
    await bench.scan(b"x", b"y", sha=b"\2")  # another content, as a mailbox has every day
    assert await bench.look() == []
    await bench.scan(b"x", b"y", b"z")
    (digest,) = await bench.look()
    assert (files(digest), digest["new"], digest["standing"]) == (["z"], 1, 3)


async def test_what_was_taken_away_and_comes_back_is_told_again(bench: Bench) -> None:
    await bench.scan(b"x")
    assert len(await bench.look()) == 1
    await bench.scan()
    assert await bench.look() == []
    await bench.scan(b"x")
    assert len(await bench.look()) == 1


async def test_what_was_acted_on_before_anybody_was_told_is_not_told(bench: Bench) -> None:
    await bench.scan(b"x")
    for one in await bench.store.standing_findings(ANN.uid, ANN.name):
        await bench.store.clear_findings(one.scan_id, [one.path])
    assert await bench.look() == []


async def test_a_scan_under_way_is_not_told_of(bench: Bench) -> None:
    scan = await bench.store.add_scan(ANN, "home", (b".",), ANN.uid, 1.0)
    await bench.store.begin_scan(scan.id, EngineInfo(), 1.0)
    identity = Identity(dev=1, ino=2, size=68, mtime_ns=3, sha256=b"\1" * 32)
    await bench.store.add_findings(scan.id, [NewFinding(path=b"x", identity=identity, signature="S")], 1.0)
    assert await bench.look() == []
    await bench.store.end_scan(scan.id, ScanState.CANCELLED, Counts(infected_files=1), "cancelled", 2.0)
    (digest,) = await bench.look()
    assert (digest["scan"]["state"], files(digest)) == ("cancelled", ["x"])


async def test_within_the_interval_news_wait_and_come_together(bench: Bench) -> None:
    await bench.scan(b"x")
    await bench.look()
    bench.set(interval=Duration(3_600))
    await bench.scan(b"x", b"y")
    await bench.scan(b"x", b"y", b"z")
    assert await bench.look() == []
    assert 3_500 < await bench.notifier.look() <= 3_600
    bench.set(interval=Duration(0))
    (digest,) = await bench.look()
    assert files(digest) == ["y", "z"]


async def test_one_accounts_interval_is_not_anothers(bench: Bench) -> None:
    bench.set(interval=Duration(3_600))
    await bench.scan(b"x")
    await bench.look()
    await bench.scan(b"x", b"y")
    await bench.scan(b"b", account=BOB)
    (digest,) = await bench.look()
    assert digest["account"]["user"] == "bob"


async def test_fewer_than_the_minimum_wait_for_more(bench: Bench) -> None:
    bench.set(minimum=2)
    await bench.scan(b"x")
    assert await bench.look() == []
    await bench.scan(b"x", b"y")
    (digest,) = await bench.look()
    assert files(digest) == ["x", "y"]


async def test_names_are_bounded_in_number_and_bytes_and_the_rest_is_counted_and_told(bench: Bench) -> None:
    bench.set(max_findings=3)
    await bench.scan(*(b"%03d" % number for number in range(100)))
    (digest,) = await bench.look()
    assert (len(digest["findings"]), digest["more"], digest["new"]) == (3, 97, 100)
    bench.set(max_findings=1_000)
    await bench.scan(*(b"\xff" * 4_000 + b"%03d" % number for number in range(50)))
    await bench.notifier.look()
    (file,) = bench.outbox.iterdir()
    assert file.stat().st_size < 128 << 10
    (digest,) = bench.take()
    assert len(digest["findings"]) + digest["more"] == 50
    assert await bench.look() == []


async def test_a_digest_whose_file_was_not_written_comes_once_more_under_its_id(bench: Bench, tmp_path: Path) -> None:
    bench.outbox.rmdir()  # as if the daemon had died between the commit and the file
    bench.outbox.write_bytes(b"")
    await bench.scan(b"x")
    due = await bench.store.due_digests(10)
    digest = await bench.store.make_digest(
        due[0], "ab" * 16, minimum=1, named=9, make=lambda report: b'{"id":"%s"}' % (b"ab" * 16), now=5.0
    )
    assert digest is not None
    assert await bench.store.due_digests(10) == []
    bench.outbox.unlink()
    bench.outbox.mkdir()
    assert [one["id"] for one in await bench.look()] == ["ab" * 16]
    assert await bench.look() == []


async def test_an_account_that_is_gone_holds_up_nobody(bench: Bench) -> None:
    bench.gone.add("ann")
    await bench.scan(b"x")
    await bench.scan(b"b", account=BOB)
    assert [one["account"]["user"] for one in await bench.look()] == ["bob"]
    assert await bench.store.due_digests(10) == []


async def test_a_full_outbox_holds_back_what_is_told_when_there_is_room(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.set(max_waiting=1)
    await bench.scan(b"x")
    await bench.notifier.look()
    await bench.scan(b"b", account=BOB)
    await bench.notifier.look()
    await bench.notifier.look()
    assert len(list(bench.outbox.iterdir())) == 1
    assert caplog.text.count("is full") == 1
    bench.take()
    (digest,) = await bench.look()
    assert digest["account"]["user"] == "bob"


async def test_without_an_outbox_nothing_is_told_and_nothing_lost(bench: Bench) -> None:
    bench.outbox.rmdir()
    await bench.scan(b"x")
    await bench.notifier.look()
    bench.outbox.mkdir()
    assert len(await bench.look()) == 1


async def test_the_daemon_follows_no_link_that_is_put_into_its_outbox(bench: Bench, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    outbox = Outbox(str(bench.outbox), most=9, most_bytes=1 << 20)
    for name in (f".{'ab' * 16}.new", f"{'ab' * 16}.json"):
        (bench.outbox / name).symlink_to(victim)
    outbox.put("ab" * 16, b"{}")
    assert victim.read_bytes() == b"mine"
    (file,) = bench.outbox.iterdir()
    status = file.lstat()
    assert (stat.S_ISREG(status.st_mode), stat.S_IMODE(status.st_mode)) == (True, 0o640)
    bench.outbox.rename(tmp_path / "elsewhere")
    bench.outbox.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(NotADirectoryError):
        outbox.put("cd" * 16, b"{}")


async def test_a_lasting_trouble_of_the_engine_is_told_once_until_it_has_passed(bench: Bench) -> None:
    bench.set(kinds=("engine",), engine_after=Duration(0))
    bench.engine = Engine(kind="lost", reason="clamd does not answer")
    (digest,) = await bench.look()
    assert (digest["kind"], [one["id"] for one in digest["troubles"]]) == ("engine", ["engine"])
    assert digest["troubles"][0]["cure"]
    assert await bench.look() == []
    bench.engine = Engine(info=EngineInfo(version="1.4.6", database=1, database_time=(1 << 31) - 1))
    assert await bench.look() == []
    bench.engine = Engine(kind="lost", reason="clamd does not answer")
    bench.set(interval=Duration(3_600))
    assert await bench.look() == [], "it comes and goes"
    bench.set(interval=Duration(0))
    assert len(await bench.look()) == 1


async def test_a_short_trouble_of_the_engine_is_not_told(bench: Bench) -> None:
    bench.set(kinds=("engine",), engine_after=Duration(3_600))
    bench.engine = Engine(kind="loading", reason="loading")
    assert await bench.look() == []


async def test_old_signatures_are_told(bench: Bench) -> None:
    bench.set(kinds=("engine",), engine_after=Duration(0))
    (digest,) = await bench.look()
    assert "days old" in digest["troubles"][0]["message"]


async def test_the_digest_that_is_made_up_has_the_fields_of_a_real_one(bench: Bench) -> None:
    await bench.scan(b"caf\xe9.com")
    (real,) = await bench.look()
    made_up = json.loads(example.digest("ab" * 16, host="h", now=1.0))
    assert made_up.keys() == real.keys()
    assert made_up["scan"].keys() == real["scan"].keys()
    assert made_up["account"].keys() == real["account"].keys()
    assert made_up["findings"][1].keys() == real["findings"][0].keys()
    assert base64.b64decode(made_up["findings"][1]["file_base64"]) == b"/home/example/caf\xe9.com"


def test_where_the_outbox_is_by_default() -> None:
    assert config.load(Path(os.devnull), system=True).notify.outbox == "/var/lib/clamscannerd-outbox"
    user = config.load(Path(os.devnull), system=False)
    assert user.notify.outbox == f"{user.state.directory}/outbox"


async def test_a_finding_put_back_by_force_is_no_news(bench: Bench) -> None:
    await bench.scan(b"x")
    (standing,) = await bench.store.standing_findings(ANN.uid, ANN.name)
    assert standing.state is FindingState.STANDING
    await bench.store._db.write(lambda c: c.execute("UPDATE finding SET restored = 1"))
    bench.store._latest.forget(ANN.uid, ANN.name)  # of no scan's own findings, in life, this becomes true
    assert await bench.look() == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[None]:
    """Beneath what becomes the outbox."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    outbox = tmp_path / "outbox"
    outbox.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "none", outbox], check=True)
    yield
    subprocess.run(["umount", outbox], check=True)


@pytest.mark.usefixtures("small_disk")
async def test_a_full_disk_holds_back_what_is_told_when_there_is_room(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    with suppress(OSError):
        (bench.outbox / "ballast").write_bytes(bytes(1 << 20))
    await bench.scan(b"x")
    await bench.notifier.look()
    await bench.notifier.look()
    assert caplog.text.count("No space left") == 1
    assert [path.name for path in bench.outbox.iterdir()] == ["ballast"]
    (bench.outbox / "ballast").unlink()
    assert len(await bench.look()) == 1


async def test_what_is_on_the_ignore_list_is_no_news_until_it_is_off(bench: Bench) -> None:
    entry = IgnoreEntry(
        id=0, kind=IgnoreKind.PATH, value=b"samples/**", note="", added_by=0, added_at=1.0, expires_at=None
    )
    added = await bench.store.add_ignore(ANN, 9, entry)
    await bench.scan(b"samples/x", b"y")
    (digest,) = await bench.look()
    assert (files(digest), digest["new"], digest["standing"]) == (["y"], 1, 1)
    await bench.store.remove_ignore(ANN.uid, ANN.name, added.id)
    await bench.scan(b"samples/x", b"y")
    (digest,) = await bench.look()
    assert files(digest) == ["samples/x"]
