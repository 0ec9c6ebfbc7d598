"""Events.subscribe: what happens to an account's scans and tasks, told to whoever listens. [daemon]

Nothing is queued for a listener: it looks what is new, says it, and looks again. The rows are the truth here too, with
a cursor; of a scan under way the progress is in memory. So nothing is said that is not committed, and nothing twice. A
reader who is slow is looked for less often: that costs it progress, of which only the latest counts, and never a
finding. One that reads nothing for server.write_timeout_s is cut off, as with any answer.

The first look says the present state: the latest scan with what it found and still stands, the latest task, the
engine. While nothing of the account is under way a listener sleeps until a job is queued, starts or ends. Before each
look it is asked again whether the call would be allowed now: administrators come and go, and so do users.

Those who have heard the same are one listener (together.py). Who is not as far, or slow, looks alone: rows are read
once for those who look at the same moment, and a notification is written once (looks.py).

Rejected: hooks in the pipeline for each kind of event, with a queue for each listener (bounded, so that a finding is
lost, or the listener).
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Literal, get_args

import msgspec

from clamscannerd.model import SCAN_ENDED, Account, Finding, Scan, ScanState, Task, TaskState
from clamscannerd.rpc.table import Notice
from clamscannerd.service.clamscanner import scan_status
from clamscannerd.service.context import Context
from clamscannerd.service.ignoring import as_found
from clamscannerd.service.looks import Looks
from clamscannerd.service.status import ignored_shown, shown

Kind = Literal["Scan.progress", "Scan.finding", "Scan.done", "Task.step", "Task.done", "Engine.changed"]
KINDS: tuple[Kind, ...] = get_args(Kind)

PAUSE_S = 0.2
"""Between two looks while a job runs: at most five notifications of progress a second."""

PAGE = 500
"""Findings or records read at once, and written before the next are read."""

Say = Callable[[Sequence[Notice]], Awaitable[None]]


class Listener:
    """What an account's listeners hear, and how far they are. A copy goes on from the same place."""

    def __init__(self, context: Context, account: Account, kinds: frozenset[str], looks: Looks) -> None:
        self._context = context
        self._account = account
        self._kinds = kinds
        self._looks = looks
        self._who = account.uid, account.name
        self.changed = context.live.changed(*self._who)
        """Set when there may be something new, since the last look."""
        self._tasks_seen: object = None  # `changed` at the last look at its tasks
        # What was said: the newest ids, and how far.
        self._scan = self._finding = self._task = self._record = 0
        self._scan_ended = self._task_ended = True
        self._found = -1  # LiveScan.found at the last look
        self._status: Notice | None = None
        self._engine_state: object = None
        self._engine: object = None

    @property
    def place(self) -> tuple[object, ...]:
        """Who has heard all up to the same place can go on together. But for the progress, see `join`."""
        scan = self._scan, self._scan_ended, self._finding
        return *scan, self._task, self._task_ended, self._record, self._engine

    def join(self, other: "Listener") -> None:
        """Somebody at the same place, who may have heard of another progress, hears it from here from now on."""
        mine, theirs = self._status, other._status
        if mine is not theirs and not self._scan_ended and (not mine or not theirs or mine.params != theirs.params):
            self._status = None

    def begin_again(self) -> None:
        """After a look that was broken off, or in the midst of one: nothing counts as looked at."""
        self._tasks_seen, self._found = None, -1

    async def look(self, say: Say) -> bool:
        """Say what is new; `say` returns when that is written, and raises when nobody reads any more. It may come to
        more than one page, and to many. Whether something is under way, of which nobody will say when there is more."""
        # Before the look, so that nothing is missed.
        self.changed = self._context.live.changed(*self._who)
        await self._look_at_engine(say)
        under_way = await self._look_at_scans(say)
        return await self._look_at_tasks(say) or under_way

    def is_waiting(self) -> bool:
        """Nothing runs, as far as was seen."""
        return self._context.live.scan_of(*self._who) is None and self._task_ended

    async def _tell(self, say: Say, method: Kind, params: dict[str, object]) -> None:
        await self._say_wanted(say, [self._notice(method, params)])

    async def _say_wanted(self, say: Say, notices: Sequence[Notice]) -> None:
        """All cursors are behind these already: who goes on from a copy has heard them."""
        if wanted := [notice for notice in notices if notice.method in self._kinds]:
            await say(wanted)

    def _notice(self, method: Kind, params: dict[str, object]) -> Notice:
        return Notice(method, {"user": self._account.name, **params})

    async def _look_at_engine(self, say: Say) -> None:
        state = self._context.engine()
        if state == self._engine_state:
            return
        self._engine_state = state
        told = {"state": state.kind, "reason": state.reason, "signatures": state.signatures, "engine": state.info}
        if told != self._engine:
            self._engine = told
            await self._tell(say, "Engine.changed", told)

    async def _look_at_scans(self, say: Say) -> bool:
        """Whether one is under way. One that is paused is not: that it goes on or ends says itself."""
        paused = False
        for scan in await self._new_scans():
            paused = scan.state is ScanState.PAUSED
            if scan.id != self._scan:
                self._scan, self._scan_ended, self._finding, self._found = scan.id, False, 0, -1
            if self._scan_ended:
                continue
            await self._look_at_findings(say, scan)
            notice = await self._progress(scan)
            if scan.state in SCAN_ENDED:
                self._scan_ended = True
            elif notice is self._status or (self._status and notice.params == self._status.params):
                continue
            self._status = notice
            await self._say_wanted(say, [notice])
        return not self._scan_ended and not paused

    async def _progress(self, scan: Scan) -> Notice:
        """How it stands, or how it ended."""

        async def look() -> Notice:
            status = await scan_status(self._context, self._account, scan, judged=True)
            return self._notice("Scan.done" if scan.state in SCAN_ENDED else "Scan.progress", status)

        return await self._looks.once(("progress", *self._who), (scan,), look, PAUSE_S)

    async def _new_scans(self) -> list[Scan]:
        """Oldest first: the one seen last, unless its end was seen, and those asked for since; at first the latest."""
        who, store = self._account, self._context.store
        live = self._context.live.scan_of(who.uid, who.name)
        if live is not None and live.scan.id == self._scan:
            return [live.scan]
        latest = await self._looks.once(
            ("scan", *self._who), (self.changed,), lambda: store.latest_scan(who.uid, who.name), PAUSE_S / 2
        )
        if latest is None or (latest.id == self._scan and self._scan_ended):
            return []
        if not self._scan or latest.id == self._scan:
            return [latest]
        newer = await store.list_scans(who.uid, who.name, PAGE)
        return [scan for scan in reversed(newer) if scan.id >= self._scan]

    async def _look_at_findings(self, say: Say, scan: Scan) -> None:
        live = self._context.live.scan_of(self._account.uid, self._account.name)
        if live is not None and live.scan.id == scan.id:
            if live.found == self._found:
                return
            self._found = live.found
        while notices := await self._findings(scan):
            self._finding = notices[-1][0]
            await self._say_wanted(say, [notice for _, notice in notices])

    async def _findings(self, scan: Scan) -> list[tuple[int, Notice]]:
        """The next page, with their ids. Those that a value of the scan counts were committed before it was made."""
        after = self._finding

        async def look() -> list[tuple[int, Notice]]:
            page = await self._context.store.standing_after(scan.id, after, PAGE)
            ignored = (await self._context.ignores.of(self._account, as_found(page))).entries
            return [
                (one.id, self._notice("Scan.finding", {**self._shown(one), **ignored_shown(ignored.get(one.id))}))
                for one in page
            ]

        return await self._looks.once(("findings", *self._who), (scan, after, self._found), look, PAUSE_S)

    def _shown(self, finding: Finding) -> dict[str, object]:
        return {
            "scan_id": finding.scan_id,
            "file": shown(self._account.home, finding.path),
            "virus_type": finding.signature or "unknown",
        }

    async def _look_at_tasks(self, say: Say) -> bool:
        """Whether one is under way. While no job of the account was queued, started or ended, there is no new one."""
        if self._task_ended and self._tasks_seen is self.changed:
            return False
        self._tasks_seen = self.changed
        for task in await self._new_tasks():
            if task.id != self._task:
                self._task, self._task_ended, self._record = task.id, False, 0
            if not self._task_ended:
                await self._look_at_records(say, task)
        return not self._task_ended

    async def _new_tasks(self) -> list[Task]:
        """As _new_scans."""
        who, store = self._account, self._context.store
        latest = await self._looks.once(
            ("task", *self._who), (self.changed,), lambda: store.list_tasks(who.uid, who.name, 1, 0), PAUSE_S / 2
        )
        if not self._task or not latest or latest[0].id == self._task:
            return latest
        newer = await store.list_tasks(who.uid, who.name, PAGE, 0)
        return [task for task in reversed(newer) if task.id >= self._task]

    async def _look_at_records(self, say: Say, task: Task) -> None:
        """The task was read before its records, so that an end is only said after all of them."""
        while notices := await self._records(task):
            self._record += len(notices)
            await self._say_wanted(say, notices)
        if task.state is TaskState.DONE:
            self._task_ended = True
            await self._tell(say, "Task.done", {"task_id": task.public_id, "kind": task.kind.value})

    async def _records(self, task: Task) -> list[Notice]:
        after = self._record

        async def look() -> list[Notice]:
            about: dict[str, object] = {"task_id": task.public_id, "kind": task.kind.value}
            return [
                self._notice("Task.step", {**about, "record": msgspec.Raw(record)})
                for record in await self._context.store.records(task.id, after, PAGE)
            ]

        return await self._looks.once(("records", *self._who), (task, after), look, PAUSE_S)
