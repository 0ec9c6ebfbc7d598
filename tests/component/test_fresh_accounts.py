"""service/accounts.py: who polls waits for no look-up after the first, and is told what is at most some seconds old."""

import os
import pwd
import threading

import pytest
import trio
import trio.testing

from clamscannerd.errors import UnknownAccount
from clamscannerd.service import accounts
from clamscannerd.service.accounts import Accounts

UID = os.geteuid() or 12345
FRESH_S = 0.2  # instead of the product's
LONG_S = 2.0
PERIOD_S = 0.02
ALLOWED = 3  # waits of who polls: the first, and what a busy machine makes late
SLACK_S = 0.5  # likewise


class Passwd:
    """What stands for the name service: answers of an account that has only this one user."""

    def __init__(self) -> None:
        self.name = "ann"
        self.looks = 0
        self.gone = False

    def getpwuid(self, uid: int) -> pwd.struct_passwd:
        self.looks += 1
        if self.gone:
            raise KeyError(uid)
        return pwd.struct_passwd((self.name, "x", uid, 1, "", "/home/ann", "/bin/sh"))

    def getpwnam(self, name: str) -> pwd.struct_passwd:
        """A second name of the same uid."""
        return pwd.struct_passwd((name, "x", UID, 1, "", "/home/ann", "/bin/sh"))

    def getpwall(self) -> list[pwd.struct_passwd]:
        return [self.getpwuid(UID)] if not self.gone else []


@pytest.fixture
def passwd(monkeypatch: pytest.MonkeyPatch) -> Passwd:
    fake = Passwd()
    monkeypatch.setattr(accounts, "_FRESH_S", FRESH_S)
    monkeypatch.setattr(pwd, "getpwuid", fake.getpwuid)
    monkeypatch.setattr(pwd, "getpwnam", fake.getpwnam)
    monkeypatch.setattr(pwd, "getpwall", fake.getpwall)
    monkeypatch.setattr(os, "getgrouplist", lambda _name, _gid: [])
    return fake


def known() -> Accounts:
    return Accounts(min_uid=1000, timeout_s=5.0, only_uid=UID)


async def poll(people: Accounts, seconds: float) -> int:
    """Both questions of a call each time; how many had to wait for a look-up."""
    waited = 0
    until = trio.current_time() + seconds
    while trio.current_time() < until:
        ticked = trio.Event()

        async def tick(ticked: trio.Event = ticked) -> None:
            ticked.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(tick)  # runs as soon as somebody waits
            entry, name = await people.by_uid(UID), await people.name_of(UID)
            waited += ticked.is_set()
        assert (entry.account.name, name) == ("ann", "ann")
        await trio.sleep(PERIOD_S)
    return waited


async def told_after(people: Accounts, name: str) -> float:
    """Polls until both questions are answered so; seconds."""
    began, told = trio.current_time(), set[str]()
    while told != {name}:
        await trio.sleep(PERIOD_S)
        told = {(await people.by_uid(UID)).account.name, await people.name_of(UID)}
    return trio.current_time() - began


@pytest.fixture
async def kept(passwd: Passwd, nursery: trio.Nursery) -> Accounts:
    """Looked up again beside."""
    people = known()
    nursery.start_soon(people.keep_fresh)
    return people


@pytest.mark.fails_with("accounts-looked-up-by-who-polls")
async def test_who_polls_waits_once(passwd: Passwd, kept: Accounts) -> None:
    assert await poll(kept, LONG_S) <= ALLOWED
    assert passwd.looks > LONG_S / FRESH_S, "and it is looked up all the same"


async def test_without_it_who_asks_looks_and_waits(passwd: Passwd) -> None:
    assert await poll(known(), LONG_S) > ALLOWED


async def test_another_name_is_told_in_time(passwd: Passwd, kept: Accounts) -> None:
    await poll(kept, LONG_S)
    passwd.name = "ben"
    assert await told_after(kept, "ben") <= FRESH_S + SLACK_S


async def test_who_is_gone_is_told_of_no_longer_than_without_it(passwd: Passwd, kept: Accounts) -> None:
    await poll(kept, LONG_S)
    passwd.gone = True
    gone_at = trio.current_time()
    with pytest.raises(UnknownAccount):
        await told_after(kept, "nobody")
    assert trio.current_time() - gone_at <= FRESH_S + SLACK_S
    assert await kept.name_of(UID) == ""


async def test_what_nobody_asks_for_is_not_looked_up(passwd: Passwd, kept: Accounts) -> None:
    await poll(kept, PERIOD_S)
    looks = passwd.looks
    await trio.sleep(LONG_S)
    assert passwd.looks == looks


async def test_of_two_names_of_a_uid_the_one_that_passwd_gives_for_it_counts(passwd: Passwd) -> None:
    """Or who is connected would be another by now as soon as an administrator used the second."""
    people = known()
    assert (await people.by_name("alias")).account.name == "alias"
    assert await people.name_of(UID) == "ann"


async def test_an_answer_that_was_asked_for_earlier_replaces_none(
    passwd: Passwd, monkeypatch: pytest.MonkeyPatch
) -> None:
    people = known()
    slow = threading.Event()
    at_once = passwd.getpwuid

    def getpwuid(uid: int) -> pwd.struct_passwd:
        answer = at_once(uid)
        assert slow.wait(5)
        return answer

    async with trio.open_nursery() as nursery:
        monkeypatch.setattr(pwd, "getpwuid", getpwuid)
        nursery.start_soon(people.name_of, UID)
        await trio.testing.wait_all_tasks_blocked(0.05)
        passwd.name = "ben"
        monkeypatch.setattr(pwd, "getpwuid", at_once)
        assert await people.name_of(UID) == "ben"
        slow.set()
    assert await people.name_of(UID) == "ben"
