"""What is restored by force and detected still is listed as infected again, in one transaction. Real SQLite."""

import hashlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import msgspec
import pytest

from clamscannerd.model import (
    Account,
    Action,
    Counts,
    EngineInfo,
    Finding,
    FindingState,
    Identity,
    Item,
    MailMessage,
    Outcome,
    RestoreOutcome,
    ScanState,
)
from clamscannerd.state import store_tasks
from clamscannerd.state.store import FileMeta, NewFinding, NewStep, Store, StoreLimits, open_store
from clamscannerd.state.store_values import Redetected
from clamscannerd.state.vault import Vault, VaultLimits

ANN = Account(uid=1001, gid=1001, name="ann", home=b"/home/ann")
ENGINE = EngineInfo(version="1.4.6", database=27400)
MAX_FINDINGS = 3
LIMITS = VaultLimits(
    keep_quarantined_s=900.0, keep_deleted_s=70.0, max_bytes_per_account=10_000, max_items_per_account=50, min_free=0.0
)
CONTENT = b"letter one, letter two, letter three"
BOX = b"mail/inbox"


def identity(content: bytes = CONTENT, ino: int = 2) -> Identity:
    return Identity(dev=1, ino=ino, size=len(content), mtime_ns=4, sha256=hashlib.sha256(content).digest())


def message(number: int) -> MailMessage:
    """The n-th of CONTENT, ten bytes each."""
    start = (number - 1) * 10
    return MailMessage(
        number=number,
        start=start,
        end=start + 10,
        message_id=f"<{number}@x>",
        subject=f"subject {number}",
        sender="a@x",
        date="",
        signature="Sig",
        sha256=hashlib.sha256(CONTENT[start : start + 10]).digest(),
    )


class Home:
    """One account's state, moved on as the pipelines move it."""

    def __init__(self, store: Store, vault: Vault) -> None:
        self.store = store
        self.vault = vault
        self._now = 100.0

    def now(self) -> float:
        self._now += 1
        return self._now

    async def scan(self, *paths: bytes, mail: Sequence[MailMessage] = (), in_box: int = 0) -> list[Finding]:
        """It finds CONTENT at each path; `mail`: and these messages in it."""
        scan = await self.store.add_scan(ANN, "home", (b".",), 0, self.now())
        await self.store.begin_scan(scan.id, ENGINE, self.now())
        new = [NewFinding(path=path, identity=identity(), signature="Sig", mailbox=in_box > 0) for path in paths]
        findings = await self.store.add_findings(scan.id, new, self.now())
        for path in paths if mail else ():
            await self.store.add_messages(scan.id, path, mail, len(mail), in_box)
        await self.store.end_scan(scan.id, ScanState.DONE, Counts(infected_files=len(findings)), "", self.now())
        return findings

    async def take(self, finding: Finding, action: Action = Action.QUARANTINE, content: bytes = CONTENT) -> list[Item]:
        """What the vault has of it: the file, or for a cleanse each message that was found."""
        new = NewStep(
            path=finding.path, action=action, finding_id=finding.id, identity=finding.identity, signature="Sig"
        )
        task = await self.store.add_task(ANN, finding.scan_id, [new], 0, self.now())
        await self.store.begin_task(task.id, self.now())
        step = await self.store.begin_step(task.id, 1, b"capture")
        meta = FileMeta(owner=1001, group=1001, mode=0o600, mtime_ns=0)
        parts = [(content, meta)]
        outcome, state = Outcome.QUARANTINED, FindingState.QUARANTINED
        if action is Action.CLEANSE_MAILBOX:
            outcome, state = Outcome.MAILBOX_CLEANSED, FindingState.CLEANSED
            found = (await self.store.messages_of(finding.id)).messages
            parts = [
                (content[one.start : one.end], msgspec.structs.replace(meta, part=n, start=one.start, end=one.end))
                for n, one in enumerate(found, start=1)
            ]
        items = []
        for data, one_meta in parts:
            async with self.vault.receive(ANN, step, len(data), self.now(), one_meta) as incoming:
                await incoming.write(data)
                items.append(await incoming.commit(self.now()))
        if action is Action.CLEANSE_MAILBOX:
            await self.store.journal(task.id, 1, {item.part: bytes(32) for item in items})
        await self.store.end_step(task.id, 1, outcome, None, self.now(), "/x", state, items[0].id)
        await self.store.end_task(task.id, self.now())
        return items

    async def restore(
        self,
        item: Item,
        *,
        outcome: RestoreOutcome = RestoreOutcome.RESTORED,
        to: bytes | None = None,
        in_place: bool = True,
        mailbox: bool = False,
        detected: bool = True,
    ) -> dict[str, object]:
        """By force; the record."""
        found = Redetected(identity=identity(ino=9), signature="Now", mailbox=mailbox, in_place=in_place)
        task = await self.store.add_restore(ANN, [item.id], to, force=True, asked_by=0, now=self.now())
        await self.store.begin_task(task.id, self.now())
        await self.store.begin_restore_step(task.id, 1, b"capture")
        await self.store.end_restore_step(
            task.id, 1, outcome, "by force", self.now(), "/x", "Now" if detected else "", found if detected else None
        )
        await self.store.end_restore_task(task.id, self.now())
        record: dict[str, object] = msgspec.json.decode((await self.store.records(task.id))[0])
        return record

    async def listed(self) -> list[bytes]:
        return [finding.path for finding in await self.store.standing_findings(1001, "ann")]

    async def only(self) -> tuple[Finding, list[int], bool]:
        """The one that is listed, the numbers of its messages, and whether these are known to be all."""
        (finding,) = await self.store.standing_findings(1001, "ann")
        shown = await self.store.standing_messages(finding.scan_id)
        found = await self.store.messages_of(finding.id)
        assert list(found.messages) == shown.get(finding.id, [])
        return finding, [one.number for one in found.messages], found.complete


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[Home]:
    limits = StoreLimits(max_findings_per_scan=MAX_FINDINGS, keep_per_account=5)
    async with open_store(tmp_path / "state", limits) as store:
        yield Home(store, Vault(tmp_path / "vault", store, LIMITS))


@pytest.mark.parametrize("action", [Action.QUARANTINE, Action.DELETE])
async def test_what_stands_again_is_what_was_found(home: Home, action: Action) -> None:
    (finding,) = await home.scan(b"www/bad.php")
    (item,) = await home.take(finding, action)
    assert await home.listed() == []
    record = await home.restore(item)
    assert record["message"] == "by force; it is listed as infected again"
    again, numbers, _ = await home.only()
    assert (again.id, again.path, again.identity, again.signature) == (
        finding.id,
        b"www/bad.php",
        identity(ino=9),
        "Now",
    )
    assert (again.mailbox, numbers) == (None, [])
    assert await home.store.found_paths(finding.scan_id, 10) == (1, [b"www/bad.php"])
    (item,) = await home.take(again)
    assert item.path == b"www/bad.php", "the next disinfection acts on it without a scan"
    assert await home.listed() == []


@pytest.mark.parametrize(
    ("outcome", "detected"),
    [(RestoreOutcome.RESTORED, False), (RestoreOutcome.ERROR, True), (RestoreOutcome.NO_ACTION, True)],
)
async def test_what_is_not_detected_or_not_restored_is_not_listed(
    home: Home, outcome: RestoreOutcome, *, detected: bool
) -> None:
    (finding,) = await home.scan(b"a")
    (item,) = await home.take(finding)
    assert (await home.restore(item, outcome=outcome, detected=detected))["message"] == "by force"
    assert await home.listed() == []


async def test_it_stands_in_the_latest_scan_which_has_not_found_it(home: Home) -> None:
    (old,) = await home.scan(b"a")
    (item,) = await home.take(old)
    (other,) = await home.scan(b"b")
    await home.restore(item)
    assert await home.listed() == [b"b", b"a"]
    assert await home.store.found_paths(other.scan_id, 10) == (1, [b"b"]), "the scan did not find it"
    assert await home.store.earlier_standing_count(1001, "ann") == 0
    await home.scan(b"b")
    assert await home.listed() == [b"b"], "a later scan of all that does not find it takes it off"
    assert await home.store.earlier_standing_count(1001, "ann") == 0


async def test_elsewhere_it_is_listed_under_its_new_name(home: Home) -> None:
    (finding,) = await home.scan(b"www/bad.php")
    (item,) = await home.take(finding)
    await home.restore(item, to=b"kept")
    assert await home.listed() == [b"kept/bad.php"]
    assert await home.store.found_paths(finding.scan_id, 10) == (1, [b"www/bad.php"])


async def test_a_full_list_says_so_and_the_file_is_restored_all_the_same(home: Home) -> None:
    findings = await home.scan(*(b"f%d" % number for number in range(MAX_FINDINGS)))
    (item,) = await home.take(findings[0])
    record = await home.restore(item, to=b"kept")
    assert (record["state"], record["message"]) == (
        "restored",
        "by force; the list of infected files has no room for it: scan again",
    )
    assert await home.listed() == [b"f1", b"f2"]
    assert await home.store.items(1001, "ann") == []


async def test_list_item_and_record_change_together_or_not_at_all(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    (finding,) = await home.scan(b"a")
    (item,) = await home.take(finding)

    def fail(*_: object) -> bytes:
        raise RuntimeError("a fault after the finding was put back")

    with monkeypatch.context() as patched:
        patched.setattr(store_tasks, "append", fail)
        with pytest.raises(RuntimeError, match="after the finding"):
            await home.restore(item)
    assert await home.listed() == []
    assert await home.store.items(1001, "ann") == [item]
    (job,) = (await home.store.recover()).tasks
    step = await home.store.next_restore_step(job.id)
    assert step is not None
    assert step.item_id == item.id, "it is done again"


async def test_of_a_mailbox_those_messages_are_listed_that_were_put_back(home: Home) -> None:
    (finding,) = await home.scan(BOX, mail=[message(n) for n in (1, 2, 3)], in_box=12)
    items = await home.take(finding, Action.CLEANSE_MAILBOX)
    assert await home.listed() == []
    await home.restore(items[2], mailbox=True)
    again, numbers, complete = await home.only()
    assert (again.id, again.mailbox, numbers, complete) == (finding.id, 12, [3], True)
    await home.restore(items[0], mailbox=True)
    assert (await home.only())[1:] == ([1, 3], True)
    (first, third) = await home.take(again, Action.CLEANSE_MAILBOX)
    assert (first.start, third.start) == (0, 20)
    assert await home.listed() == []


async def test_a_message_put_back_after_a_later_scan_brings_what_was_told_of_it(home: Home) -> None:
    (finding,) = await home.scan(BOX, mail=[message(n) for n in (1, 2)], in_box=12)
    items = await home.take(finding, Action.CLEANSE_MAILBOX)
    await home.scan(BOX, mail=[message(3)], in_box=12)
    await home.restore(items[1], mailbox=True)
    again, numbers, complete = await home.only()
    assert (again.mailbox, numbers, complete) == (12, [2, 3], True)


async def test_of_an_appended_message_the_place_is_not_known(home: Home) -> None:
    (finding,) = await home.scan(BOX, mail=[message(n) for n in (1, 2)], in_box=12)
    items = await home.take(finding, Action.CLEANSE_MAILBOX)
    await home.restore(items[0], mailbox=True)
    await home.restore(items[1], mailbox=True, in_place=False)
    again, numbers, complete = await home.only()
    assert (again.mailbox, numbers, complete) == (0, [1], False)


async def test_a_message_of_a_finding_long_pruned_is_not_known(home: Home) -> None:
    (finding,) = await home.scan(BOX, mail=[message(1)], in_box=12)
    (item,) = await home.take(finding, Action.CLEANSE_MAILBOX)
    for _ in range(6):
        await home.scan(b"other")
    assert await home.store.get_scan(finding.scan_id) is None
    await home.restore(item, mailbox=True)
    (_, again) = await home.store.standing_findings(1001, "ann")
    found = await home.store.messages_of(again.id)
    assert (again.path, again.mailbox, found.messages, found.complete) == (BOX, 0, (), False)


async def test_a_message_as_a_file_is_a_mailbox_of_one(home: Home) -> None:
    (finding,) = await home.scan(BOX, mail=[message(n) for n in (1, 2)], in_box=12)
    items = await home.take(finding, Action.CLEANSE_MAILBOX)
    await home.restore(items[1], to=b"", mailbox=True)
    again, numbers, complete = await home.only()
    assert (again.path, again.mailbox) == (b"inbox.message-%d" % items[1].id, 1)
    assert (numbers, complete) == ([1], True)
    (told,) = (await home.store.messages_of(again.id)).messages
    assert (told.start, told.end, told.subject) == (0, 10, "subject 2")


async def test_a_whole_mailbox_brings_its_messages_back(home: Home) -> None:
    for in_between in ((), (b"other",)):
        (finding,) = await home.scan(BOX, mail=[message(n) for n in (1, 3)], in_box=12)
        (item,) = await home.take(finding)
        if in_between:
            await home.scan(*in_between)
            (other,) = await home.store.standing_findings(1001, "ann")
            await home.take(other)
        await home.restore(item, mailbox=True)
        again, numbers, complete = await home.only()
        assert (again.mailbox, numbers, complete) == (12, [1, 3], True)


async def test_a_mailbox_that_had_changed_when_it_was_taken_is_told_as_unknown(home: Home) -> None:
    (finding,) = await home.scan(BOX, mail=[message(1)], in_box=12)
    (item,) = await home.take(finding, content=CONTENT + b" and more")
    await home.restore(item, mailbox=True)
    again, numbers, complete = await home.only()
    assert (again.mailbox, numbers, complete) == (0, [], False)


async def test_a_file_that_is_one_message_is_told_as_before(home: Home) -> None:
    (finding,) = await home.scan(b"Maildir/cur/1", mail=[msgspec.structs.replace(message(1), number=0)])
    (item,) = await home.take(finding)
    await home.restore(item)
    again, numbers, _ = await home.only()
    assert (again.mailbox, numbers) == (None, [0])
