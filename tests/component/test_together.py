"""service/together.py: a group hears all once, whoever leads it, leaves it, or does not read."""

from collections.abc import Callable
from typing import Any, cast

import pytest
import trio
import trio.testing

from clamscannerd.errors import UnknownAccount
from clamscannerd.model import Peer
from clamscannerd.rpc.table import Call, Notice
from clamscannerd.service.listening import Listener, Say
from clamscannerd.service.together import AT_ONCE, Group, Member

PAUSE_S = 0.2
MEMBERS = 2 * AT_ONCE + 10


class Voice(Listener):
    """Says one number a look, for ever, and that something is under way."""

    def __init__(self) -> None:
        self.said = 0

    @property
    def place(self) -> tuple[object, ...]:
        return ()

    def join(self, other: Listener) -> None:
        pass

    def begin_again(self) -> None:
        pass

    async def look(self, say: Say) -> bool:
        self.said += 1
        await say([Notice("n", {"at": self.said})])
        return True

    def is_waiting(self) -> bool:
        return False


class Ear:
    """`takes`: how many it takes at once."""

    def __init__(self, takes: int = 1_000_000) -> None:
        self.heard: list[bytes] = []
        self._takes = takes
        self.then: Callable[[], None] = lambda: None

    def tell(self, lines: bytes) -> bool:
        self.heard.append(lines)
        self.then()
        return len(self.heard) <= self._takes

    async def say(self, lines: bytes) -> None:
        raise AssertionError("nobody says anything here")


class Crowd:
    """A group, and who is in it."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.voice = Voice()
        self.group = Group(self.voice, lambda: PAUSE_S)
        self.behind: dict[Ear, Listener] = {}
        self.refused = 0
        self.may = True
        self._nursery = nursery

    async def confirm(self) -> None:
        if not self.may:
            raise UnknownAccount("cannot listen")

    def enter(self, ear: Ear) -> trio.CancelScope:
        member = self.group.take(self.voice, ear)
        assert member is not None
        scope = trio.CancelScope()
        self._nursery.start_soon(self._stay, member, ear, scope)
        return scope

    async def _stay(self, member: Member, ear: Ear, scope: trio.CancelScope) -> None:
        call = Call(
            peer=Peer(uid=1, gid=1),
            connection_id=1,
            user=None,
            is_admin=False,
            push=cast("Any", None),
            confirm=self.confirm,
            alike=None,
        )
        with scope:
            try:
                self.behind[ear] = await self.group.stay(member, call)
            except UnknownAccount:
                self.refused += 1


def numbers(ear: Ear) -> list[int]:
    return [int(line.partition(b'"at":')[2].partition(b"}")[0]) for line in ear.heard]


@pytest.fixture
def crowd(nursery: trio.Nursery) -> Crowd:
    return Crowd(nursery)


async def test_all_hear_each_thing_once_and_at_the_pace_of_one(autojump_clock: object, crowd: Crowd) -> None:
    ears = [Ear() for _ in range(MEMBERS)]
    for ear in ears:
        crowd.enter(ear)
    await trio.sleep(10.1)
    assert 40 <= crowd.voice.said <= 51
    assert all(numbers(ear) == list(range(1, crowd.voice.said + 1)) for ear in ears)


async def test_when_the_leader_goes_in_the_midst_of_telling_the_next_one_goes_on(
    autojump_clock: object, crowd: Crowd
) -> None:
    ears = [Ear() for _ in range(MEMBERS)]
    scopes = [crowd.enter(ear) for ear in ears]
    ears[0].then = scopes[0].cancel  # it leads, and is the first to be told
    ears[AT_ONCE].then = scopes[1].cancel  # whose turn it is when the first has gone
    await trio.sleep(2.1)
    assert (len(ears[0].heard), len(crowd.group)) == (1, MEMBERS - 2)
    assert crowd.voice.said > 5
    assert all(numbers(ear) == list(range(1, crowd.voice.said + 1)) for ear in ears[2:])


async def test_one_that_does_not_take_it_all_leaves_and_holds_up_nobody(autojump_clock: object, crowd: Crowd) -> None:
    slow = [Ear(takes=3), Ear(takes=4)]  # the first of them leads
    quick = Ear()
    for ear in (*slow, quick):
        crowd.enter(ear)
    await trio.sleep(5.1)
    assert [len(ear.heard) for ear in slow] == [4, 5]
    assert crowd.voice.said > 20
    assert numbers(quick) == list(range(1, crowd.voice.said + 1))
    assert [cast("Voice", crowd.behind[ear]).said for ear in slow] == [4, 5], "it goes on from there"


async def test_when_the_leader_may_not_listen_any_more_each_asks_for_itself(
    autojump_clock: object, crowd: Crowd
) -> None:
    ears = [Ear() for _ in range(3)]
    for ear in ears:
        crowd.enter(ear)
    await trio.sleep(1)
    crowd.may = False
    await trio.sleep(1)
    assert (crowd.refused, len(crowd.behind), len(crowd.group)) == (1, 2, 0)


async def test_a_group_that_all_have_left_is_empty(autojump_clock: object, crowd: Crowd) -> None:
    for scope in [crowd.enter(Ear()) for _ in range(3)]:
        scope.cancel()
    await trio.testing.wait_all_tasks_blocked()
    assert len(crowd.group) == 0
