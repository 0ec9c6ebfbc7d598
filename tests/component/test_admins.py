"""Administrators by name, while passwd answers late, not at all, or wrongly."""

import pwd
import threading
from collections.abc import Iterator

import pytest
import trio
import trio.testing

from clamscannerd.errors import TimedOut
from clamscannerd.service import admins
from clamscannerd.service.accounts import Accounts
from clamscannerd.service.admins import Admins

ROOT, DAEMON = "root", "daemon"


class Passwd:
    """In front of the real one: hangs, or knows nobody, like LDAP that is not up yet."""

    def __init__(self) -> None:
        self.hangs = threading.Event()
        self.hangs.set()
        self.empty = False
        self._real = pwd.getpwnam

    def getpwnam(self, name: str) -> pwd.struct_passwd:
        self.hangs.wait(20)
        if self.empty:
            raise KeyError(name)
        return self._real(name)


@pytest.fixture
def passwd(monkeypatch: pytest.MonkeyPatch) -> Iterator[Passwd]:
    front = Passwd()
    monkeypatch.setattr(pwd, "getpwnam", front.getpwnam)
    monkeypatch.setattr(admins, "_AGAIN_S", 0.02)
    yield front
    front.hangs.set()


def accounts() -> Accounts:
    return Accounts(min_uid=1000, timeout_s=0.2, only_uid=None)


async def test_names_are_uids_and_root_is_always_one_of_them(passwd: Passwd, caplog: pytest.LogCaptureFixture) -> None:
    known = Admins([DAEMON, "nobody-of-this-name", "a\0b"], accounts())
    await known.look_up()
    await known.look_up()
    assert known.uids == {0, pwd.getpwnam(DAEMON).pw_uid}
    assert caplog.text.count("nobody-of-this-name") == 1, "said once"


async def test_a_passwd_that_hangs_costs_its_time_limit_and_takes_nobody_their_rights(passwd: Passwd) -> None:
    known = Admins([DAEMON], accounts())
    await known.look_up()
    passwd.hangs.clear()
    with trio.fail_after(10):
        with pytest.raises(TimedOut):
            await accounts().uid_of(ROOT)
        await known.look_up()
    assert len(known.uids) == 2
    late = Admins([DAEMON], accounts())
    await late.look_up()
    assert late.uids == {0}


async def test_who_was_not_known_at_the_start_is_asked_for_again(passwd: Passwd) -> None:
    passwd.empty = True
    known = Admins([DAEMON], accounts())
    await known.look_up()
    assert known.uids == {0}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(known.follow)
        passwd.empty = False
        with trio.fail_after(20):
            while len(known.uids) < 2:
                await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()


async def test_names_that_a_reload_replaced_do_not_come_back(passwd: Passwd) -> None:
    known = Admins([DAEMON], accounts())
    passwd.hangs.clear()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(known.look_up)
        await trio.testing.wait_all_tasks_blocked()
        known.names = ()
        passwd.hangs.set()
    assert known.uids == {0}
