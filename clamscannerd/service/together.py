"""Who listens to one account, and those who have heard the same as one. [daemon]

Of 500 who listen to one scan nearly all have heard the same, and are told the same next. To look 500 times what that
is, each in a task of its own that sleeps and wakes, took 3 % of a core, and half a second of it when a scan began and
ended. So they are a group: one of their tasks leads, which looks for all and writes to all; the others' sleep. A write
is all that each of them costs.

Nothing is kept for a member: whoever did not take all that was written at once leaves the group with a copy of its
cursors, writes the rest, and looks alone until it is where the group is, as does who begins. So a slow one holds up
nobody. Who may not listen any more leaves with everybody, and each asks for itself.

Rejected: a task of the daemon's for each group (it would need somebody to begin it, to end it and to hear of its
faults: a connection has all that); a queue for each member (full some day).
"""

import copy
from collections import deque
from collections.abc import Callable, Hashable, Sequence

import trio

from clamscannerd.errors import CallError, Refused
from clamscannerd.model import Account
from clamscannerd.rpc.table import Call, Hearer, Notice
from clamscannerd.service.context import Context
from clamscannerd.service.listening import KINDS, PAUSE_S, Listener
from clamscannerd.service.looks import Looks

QUEUED_S = 1.0
"""Between two looks while a job waits. What starts it says so; this is for what does not."""

MOST_LOOKS = 250.0
"""In a second, over all who look: one costs 0.1 ms, so that 500 who are each alone take 2.5 % of a core."""

MOST_WRITES = 1_000.0
"""In a second, over all who are told of progress: one costs 0.01 ms, and its reader at least as much."""

AT_ONCE = 50
"""Members that are written to before others may do something: half a millisecond."""


class Member:
    """One connection of a group. `behind`: it has to go on alone, from there."""

    __slots__ = ("behind", "hearer", "woken")

    def __init__(self, hearer: Hearer) -> None:
        self.hearer = hearer
        self.behind: Listener | None = None
        self.woken = trio.Event()


class Group:
    """`listener`: theirs. `pause_s`: between two looks."""

    def __init__(self, listener: Listener, pause_s: Callable[[], float]) -> None:
        self._listener = listener
        self._pause_s = pause_s
        self._members: dict[Member, None] = {}  # an ordered set
        self._leader: Member | None = None
        self._looking = False
        self.looked = trio.Event()
        """Set when they have next heard all that there is."""
        self._not_before = trio.current_time() + pause_s()  # who begins it has just looked

    def __len__(self) -> int:
        return len(self._members)

    def take(self, listener: Listener, hearer: Hearer) -> Member | None:
        """Who has heard what `listener` has said; None: that is not where the group is. To be followed by `stay`."""
        if self._looking or listener.place != self._listener.place:
            return None
        self._listener.join(listener)
        member = Member(hearer)
        self._members[member] = None
        return member

    async def stay(self, member: Member, call: Call) -> Listener:
        """Until it falls behind. Raises the CallError that its call would be refused with."""
        try:
            while member.behind is None:
                if self._leader is None:
                    self._leader = member
                    await self._lead(member, call)
                else:
                    await member.woken.wait()
                    member.woken = trio.Event()
            return member.behind
        finally:
            self._members.pop(member, None)
            if self._leader is member:
                self._leader = None
            if self._leader is None and self._members:
                next(iter(self._members)).woken.set()

    async def _lead(self, member: Member, call: Call) -> None:
        """Look for all, for as long as it is one of them."""
        await trio.sleep_until(self._not_before)  # others led, and looked just now
        while member.behind is None:
            try:
                await call.confirm()
            except CallError:
                for other in list(self._members):
                    self._part(other)
                raise
            under_way = await self._look()
            if member.behind is not None:
                return
            await trio.sleep_until(self._not_before)
            if not under_way or self._listener.is_waiting():
                with trio.move_on_after(QUEUED_S if under_way else float("inf")):
                    await self._listener.changed.wait()

    async def _look(self) -> bool:
        self._looking = True
        under_way = None
        try:
            under_way = await self._listener.look(self._tell)
            self.looked.set()
            self.looked = trio.Event()
        finally:
            self._looking = False
            self._not_before = trio.current_time() + self._pause_s()
            if under_way is None:
                self._listener.begin_again()
        return under_way

    async def _tell(self, notices: Sequence[Notice]) -> None:
        """All of them, or none: also when the leader goes meanwhile."""
        lines = b"".join([notice.line for notice in notices])
        left = deque(self._members)
        try:
            while left:
                for _ in range(min(AT_ONCE, len(left))):
                    self._tell_one(left.popleft(), lines)
                if left:
                    await trio.lowlevel.checkpoint()
        finally:
            for member in left:  # no await
                self._tell_one(member, lines)

    def _tell_one(self, member: Member, lines: bytes) -> None:
        if member in self._members and not member.hearer.tell(lines):
            self._part(member)

    def _part(self, member: Member) -> None:
        """It goes on from here by itself."""
        del self._members[member]
        member.behind = copy.copy(self._listener)
        member.behind.begin_again()
        member.woken.set()


class Listeners:
    """All of them: one for each connection at most."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._connections: set[int] = set()
        self._looks = Looks()
        self._alone = 0  # who are in no group
        self._groups: dict[Hashable, Group] = {}

    def begin(self, account: Account, kinds: frozenset[str], call: Call) -> dict[str, object]:
        """Have the connection told of these kinds. Raises Refused when it is told of some already."""
        connection_id = call.connection_id
        if connection_id in self._connections:
            raise Refused("cannot subscribe: this connection has a subscription already")
        self._connections.add(connection_id)
        listener = Listener(self._context, account, kinds, self._looks)

        async def run(hearer: Hearer) -> None:
            try:
                await self._run(listener, (account, kinds, call.alike), hearer, call)
            finally:
                self._connections.discard(connection_id)
                if not self._connections:
                    self._looks.clear()

        call.push(run)
        return {"user": account.name, "kinds": [kind for kind in KINDS if kind in kinds]}

    async def _run(self, listener: Listener, key: Hashable, hearer: Hearer, call: Call) -> None:
        """For ever. Alone at first, and whenever it was too slow; then with those who are as far."""
        while True:
            await self._look_alone(listener, hearer, call)
            group = self._groups.get(key)
            if group is None:
                group = self._groups[key] = Group(listener, self._pause_s)
            if (member := group.take(listener, hearer)) is None:
                await self._wait_alone(group)
                continue
            try:
                listener = await group.stay(member, call)
            finally:
                if not group and self._groups.get(key) is group:
                    del self._groups[key]
            await hearer.say(b"")  # what it did not take

    async def _look_alone(self, listener: Listener, hearer: Hearer, call: Call) -> None:
        async def say(notices: Sequence[Notice]) -> None:
            for notice in notices:
                await hearer.say(notice.line)

        self._alone += 1
        try:
            await call.confirm()
            await listener.look(say)
        finally:
            self._alone -= 1

    async def _wait_alone(self, group: Group) -> None:
        """Until those who are as far as can be may be met there."""
        self._alone += 1
        try:
            await trio.sleep(self._pause_s())
            with trio.move_on_after(self._pause_s()):
                await group.looked.wait()
        finally:
            self._alone -= 1

    def _pause_s(self) -> float:
        """Longer where there are many."""
        looking = self._alone + len(self._groups)
        return max(PAUSE_S, looking / MOST_LOOKS + len(self._connections) / MOST_WRITES)
