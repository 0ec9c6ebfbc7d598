"""What calls mean, on a real store: bounds of what an account's calls cost the others, and numbers that are true."""

import re
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
import trio.testing

from clamscannerd import model
from clamscannerd.errors import Refused
from clamscannerd.model import Account, Counts, EngineInfo, Frozen, Identity, IgnoreEntry, IgnoreKind, Scan, ScanState
from clamscannerd.service import clamscanner, quarantine, task
from clamscannerd.service.accounts import Accounts, Entry
from clamscannerd.service.context import Context, Settings
from clamscannerd.service.envelope import Answer
from clamscannerd.service.scan_types import ScanType
from clamscannerd.state.live import Live, LiveScan
from clamscannerd.state.store import NewFinding, Store, StoreLimits, open_store
from clamscannerd.state.vault import Vault, VaultLimits
from tests.fakes.running import check_answer

WHO = Identity(dev=1, ino=2, size=3, mtime_ns=4, sha256=b"h" * 32)
PATIENCE_S = 20.0
KEPT = 1_500
HOME = ScanType(id="home", message="All", paths=(b".",), users=frozenset("*"), groups=frozenset())
MAIL = ScanType(id="mail", message="Mail", paths=(b"mail", b"Maildir"), users=frozenset("*"), groups=frozenset())


class Ready(Frozen, frozen=True, kw_only=True):
    kind: str = "ready"
    steady_since: float = 0.0
    reason: str = ""
    signatures: bool = True
    max_file_size: int = 100 << 20
    info: EngineInfo = EngineInfo()


class Jobs:
    """No runner: what is queued stays so."""

    def wake(self) -> None:
        return

    async def position(self, uid: int, name: str) -> int:
        return 1

    async def cancel_scan(self, scan: Scan) -> None:
        return

    async def pause_scan(self, scan: Scan) -> None:
        return

    async def resume_scan(self, scan: Scan) -> None:
        return


NO_VAULT = VaultLimits(
    keep_quarantined_s=1, keep_deleted_s=1, max_bytes_per_account=0, max_items_per_account=0, min_free=1.0
)
"""No call here comes near it."""


async def _no_reload() -> list[str]:
    return []


async def _no_health(_whose: object) -> Any:
    raise AssertionError


class Place:
    """A context, and a home of which the probe says what is there."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.live = Live()
        self.there = {b".", b"mail"}
        self.probed: list[int] = []
        self.may_look = trio.Event()
        self.may_look.set()
        self.context = Context(
            reload=_no_reload,
            health=_no_health,
            self_test=_no_health,
            statistics=dict,
            store=store,
            vault=Vault(Path("/nonexistent"), store, NO_VAULT),
            live=self.live,
            jobs=Jobs(),
            accounts=Accounts(min_uid=1000, timeout_s=5.0, only_uid=None),
            engine=Ready,
            probe=self._probe,
            look=self._look,
            settings=Settings(scan_types={"home": HOME, "mail": MAIL}, lost_after_s=120.0, min_free_bytes=0),
        )

    async def _probe(self, account: Account, paths: tuple[bytes, ...]) -> tuple[bool, ...]:
        self.probed.append(account.uid)
        await self.may_look.wait()
        return tuple(path in self.there for path in paths)

    async def _look(self, account: Account, paths: tuple[bytes, ...]) -> tuple[model.Place, ...]:
        self.probed.append(account.uid)
        return tuple(model.Place.DIRECTORY if path in self.there else model.Place.MISSING for path in paths)

    async def scanned(self, who: Entry, number: int, *, counted: int | None = None) -> Scan:
        """A scan that found so many and is done; `counted` is what its worker says it found."""
        scan = await self.store.add_scan(who.account, "home", (b".",), 0, time.time())
        await self.store.begin_scan(scan.id, EngineInfo(), time.time())
        new = [NewFinding(path=b"f%d" % n, identity=WHO, signature="s") for n in range(number)]
        await self.store.add_findings(scan.id, new, time.time())
        all_found = number if counted is None else counted
        counts = Counts(total_files=all_found, scanned_files=all_found, infected_files=all_found)
        return await self.store.end_scan(scan.id, ScanState.DONE, counts, "", time.time())


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    async with open_store(tmp_path / "state", StoreLimits(max_findings_per_scan=KEPT)) as opened:
        yield Place(opened)


def entry(number: int) -> Entry:
    uid = 1000 + number
    return Entry(account=Account(uid=uid, gid=uid, name=f"p{number}", home=b"/home/p%d" % number), groups=frozenset())


ANN, BOB = entry(1), entry(2)


def plain(answer: Answer | msgspec.Raw) -> Answer:
    whole: Answer = msgspec.json.decode(msgspec.json.encode(answer))
    return whole


def result(answer: Answer | msgspec.Raw) -> dict[str, Any]:
    answer = plain(answer)
    check_answer(str(answer["func"]), answer)
    given = answer["result"]
    assert isinstance(given, dict)
    return given


# The one line of readers


async def test_an_account_that_lists_again_and_again_has_one_list_in_the_readers_line(
    place: Place, nursery: trio.Nursery
) -> None:
    await place.scanned(ANN, 3)
    await place.scanned(BOB, 1)
    held, release = trio.Event(), threading.Event()

    def hold(_: object) -> None:
        trio.from_thread.run_sync(held.set)
        release.wait(PATIENCE_S)

    answers: list[Answer] = []

    async def list_all() -> None:
        answers.append(await clamscanner.list_infected_files(place.context, ANN))

    async def choose_all() -> None:
        answers.append(await clamscanner.disinfect_files(place.context, ANN, 0, {}, "ignore"))

    nursery.start_soon(place.store._db.read, hold)
    await held.wait()
    try:
        for _ in range(20):
            nursery.start_soon(list_all)
            nursery.start_soon(choose_all)
        nursery.start_soon(clamscanner.get_scan_status, place.context, BOB)
        await trio.testing.wait_all_tasks_blocked()
        assert place.store._db._read_line.statistics().tasks_waiting == 2  # one of Ann's, and Bob's
    finally:
        release.set()
    with trio.fail_after(PATIENCE_S):
        while len(answers) < 40:
            await trio.lowlevel.checkpoint()
    good = [answer["func"] for answer in answers if result(answer)["status"]]
    assert (good.count("list_infected_files"), good.count("disinfect_files")) == (20, 1)


async def test_a_status_reads_no_more_findings_than_it_shows(place: Place) -> None:
    scan = await place.scanned(ANN, KEPT)
    work = 0

    def count(*_: object) -> int:
        nonlocal work
        work += 1
        return 0

    place.store._db._reader.set_progress_handler(count, 100)  # called each hundred instructions of SQLite
    data = result(await clamscanner.get_scan_status(place.context, ANN))["data"]
    for_status, work = work, 0
    await place.store.scan_findings(scan.id)
    assert for_status < work
    assert data["infected_files"] == [f"/home/p1/f{n}" for n in range(1_000)]
    assert data["infected_file_count"] == KEPT


# Numbers


async def test_more_infected_files_than_are_kept_are_counted_and_said(place: Place) -> None:
    await place.scanned(ANN, KEPT + 1, counted=KEPT + 700)
    said = f"{KEPT + 700} infected files were found and only {KEPT} are listed: act on those, then scan again"
    status = result(await clamscanner.get_scan_status(place.context, ANN))
    assert (status["data"]["infected_file_count"], status["warnings"]) == (KEPT + 700, [said])
    listed = result(await clamscanner.list_infected_files(place.context, ANN))
    assert (len(listed["data"]), listed["warnings"]) == (KEPT, [said])


async def test_of_a_scan_that_kept_all_nothing_is_said(place: Place) -> None:
    await place.scanned(ANN, 3)
    status = result(await clamscanner.get_scan_status(place.context, ANN))
    assert (status["data"]["infected_file_count"], status["warnings"]) == (3, None)


async def test_what_a_scan_found_before_it_started_over_still_counts(place: Place) -> None:
    live = LiveScan(await place.scanned(ANN, 3), trio.Event())
    live.restart(live.scan, [b"f0", b"f1", b"f2"])
    live.progress(Counts(total_files=9, scanned_files=1, infected_files=1), b"")
    place.live.add(live)
    status = result(await clamscanner.get_scan_status(place.context, ANN))
    assert (status["data"]["infected_file_count"], status["warnings"]) == (3, None)


async def test_a_status_is_made_once_and_again_whenever_it_would_say_something_else(place: Place) -> None:
    async def status(who: Entry = ANN) -> dict[str, Any]:
        first, second = [await clamscanner.get_scan_status(place.context, who) for _ in range(2)]
        assert first is second
        data: dict[str, Any] = result(first)["data"]
        return data

    live = LiveScan(await place.scanned(ANN, 0), trio.Event())
    place.live.add(live)
    live.progress(Counts(total_files=9, scanned_files=1), b"a")
    assert (await status())["current_file"] == "/home/p1/a"
    live.progress(Counts(total_files=9, scanned_files=1), b"b")
    assert (await status())["current_file"] == "/home/p1/b"
    live.infected[b"x"], live.found = None, 1
    assert (await status())["infected_files"] == ["/home/p1/x"]
    live.infected.pop(b"x")
    assert (await status())["infected_files"] == []
    live.engine(EngineInfo(version="9.9"))
    assert (await status())["engine"]["version"] == "9.9"
    place.live.remove(live)
    await place.scanned(BOB, 1)
    assert ((await status())["infected_file_count"], (await status(BOB))["infected_file_count"]) == (0, 1)
    for number in (2, 3):
        await place.scanned(ANN, number)
        assert (await status())["infected_file_count"] == number
    ignored = IgnoreEntry(id=0, kind=IgnoreKind.PATH, value=b"f1", note="", added_by=0, added_at=0.0, expires_at=None)
    ignored = await place.store.add_ignore(ANN.account, 9, ignored)
    assert (await status())["ignored_file_count"] == 1
    await place.store.remove_ignore(ANN.account.uid, ANN.account.name, ignored.id)
    assert (await status())["ignored_file_count"] == 0
    moved = Entry(account=msgspec.structs.replace(ANN.account, home=b"/srv/p1"), groups=frozenset())
    assert (await status(moved))["infected_files"][0] == "/srv/p1/f0"


# Looks into a home


async def test_calls_of_one_account_share_a_look_into_its_home(place: Place, nursery: trio.Nursery) -> None:
    place.may_look = trio.Event()
    answers: list[Answer] = []

    async def ask() -> None:
        answers.append(await clamscanner.get_scan_paths(place.context, ANN))

    async def start(scan_type: str) -> None:
        answers.append(await clamscanner.start_scan(place.context, ANN, 0, scan_type))

    for _ in range(30):
        nursery.start_soon(ask)
    await trio.testing.wait_all_tasks_blocked()
    place.may_look.set()
    with trio.fail_after(PATIENCE_S):
        while len(answers) < 30:
            await trio.lowlevel.checkpoint()
    await start("mail")
    assert [result(answer)["status"] for answer in answers] == [1] * 31
    assert place.probed == [1001]


async def test_a_look_into_a_home_counts_for_two_seconds_only(
    place: Place, autojump_clock: trio.testing.MockClock
) -> None:
    await clamscanner.get_scan_paths(place.context, ANN)
    place.there = {b"."}
    autojump_clock.jump(2.1)
    paths = result(await clamscanner.get_scan_paths(place.context, ANN))["data"]
    assert [path["id"] for path in paths] == ["home"]
    await clamscanner.get_scan_paths(place.context, BOB)
    assert place.probed == [1001, 1001, 1002]


async def test_no_scan_is_refused_for_want_of_a_directory_that_was_just_made(place: Place) -> None:
    place.there = {b"."}
    assert [path["id"] for path in result(await clamscanner.get_scan_paths(place.context, ANN))["data"]] == ["home"]
    place.there = {b".", b"Maildir"}
    assert result(await clamscanner.start_scan(place.context, ANN, 0, "mail"))["status"] == 1


async def test_no_job_is_taken_on_without_room_for_it(place: Place) -> None:
    await place.scanned(ANN, 1)
    place.context.settings = msgspec.structs.replace(place.context.settings, min_free_bytes=1 << 60)
    scan = await clamscanner.start_scan(place.context, ANN, 1001, "home")
    words = r"cannot start the scan: the file system of the daemon's state is full: \d+ MiB are free"
    assert re.match(words, result(scan)["errors"][0])
    assert place.probed == [], "nobody is sent to look"
    taken = await clamscanner.disinfect_files(place.context, ANN, 1001, {}, "delete")
    assert result(taken)["errors"][0].startswith("cannot disinfect: ")
    for refused in (
        quarantine.restore(place.context, ANN.account, 1001, [1], None, force=False),
        task.undo(place.context, ANN.account, 1001, "00000001/5a9ec8dd4c345d", force=False),
    ):
        with pytest.raises(Refused, match="is full"):
            await refused
    assert await place.store.waiting_jobs() == []


async def test_of_a_suspended_account_nothing_is_started(place: Place) -> None:
    """And it is said why; what can be answered without a worker is."""
    who = entry(1)
    await place.scanned(who, 3)
    why = "8 of its workers were killed and hang in the kernel"
    place.context.suspended = lambda uid: why if uid == 1001 else ""
    refused = await clamscanner.start_scan(place.context, who, 0, "home")
    assert _said(refused) == (0, [f"cannot start the scan: {why}"])
    refused = await clamscanner.disinfect_files(place.context, who, 0, {}, "delete")
    assert _said(refused) == (0, [f"cannot start the disinfection: {why}"])
    with pytest.raises(Refused, match="cannot start the restore: 8 of its workers"):
        await quarantine.restore(place.context, who.account, 0, [1], None, force=False)
    with pytest.raises(Refused, match="cannot start the undo: 8 of its workers"):
        await task.undo(place.context, who.account, 0, "0" * 32, force=False)
    assert place.probed == []
    assert _said(await clamscanner.get_scan_status(place.context, who))[0] == 1
    assert _said(await clamscanner.list_infected_files(place.context, who))[0] == 1
    assert _said(await clamscanner.start_scan(place.context, entry(2), 0, "home"))[0] == 1


def _said(answer: Answer | msgspec.Raw) -> tuple[int, list[str]]:
    result: Any = plain(answer)["result"]
    return result["status"], result["errors"]
