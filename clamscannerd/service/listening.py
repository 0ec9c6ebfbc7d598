"""Events.subscribe: what happens to an account's scans and tasks, told to whoever listens. [daemon]

Nothing is queued for a listener: a task of its own looks what is new, says it, and looks again. The rows are the truth
here too, with a cursor for each listener; of a scan under way the progress is in memory. So nothing is said that is not
committed, and nothing twice. A reader who is slow is looked for less often: that costs it progress, of which only the
latest counts, and never a finding. One that reads nothing for server.write_timeout_s is cut off, as with any answer.

The first look says the present state: the latest scan with what it found and still stands, the latest task, the
engine. While nothing of the account is under way a listener sleeps until a job is queued, starts or ends. Before each
look it is asked again whether the call would be allowed now: administrators come and go, and so do users.

Each reads at its own pace and has a cursor of its own, but what it looks for and hears is that of all listeners of the
account: rows are read once for those who look at the same moment, and a notification is written once (looks.py).

Rejected: hooks in the pipeline for each kind of event, with a queue for each listener (bounded, so that a finding is
lost, or the listener).
"""

from collections.abc import Awaitable, Callable
from typing import Literal, get_args

import msgspec
import trio

from clamscannerd.errors import Refused
from clamscannerd.model import SCAN_ENDED, Account, Finding, Scan, ScanState, Task, TaskState
from clamscannerd.rpc.table import Call, Notice
from clamscannerd.service.clamscanner import scan_status
from clamscannerd.service.context import Context
from clamscannerd.service.ignoring import as_found
from clamscannerd.service.looks import Looks
from clamscannerd.service.status import ignored_shown, shown

Kind = Literal["Scan.progress", "Scan.finding", "Scan.done", "Task.step", "Task.done", "Engine.changed"]
KINDS: tuple[Kind, ...] = get_args(Kind)

PAUSE_S = 0.2
"""Between two looks while a job runs: at most five notifications of progress a second."""

QUEUED_S = 1.0
"""While one waits. What starts it says so; this is for what does not."""

MOST_LOOKS = 250.0
"""In a second, over all listeners: one costs 0.1 ms with its writing, so that 500 listeners take 2.5 % of a core."""

PAGE = 500
"""Findings or records read at once, and written before the next are read."""

Say = Callable[[Notice], Awaitable[None]]


class Listener:
    """One connection's subscription. `crowd`: how many listeners there are. `confirm`: still allowed, or CallError."""

    def __init__(
        self,
        context: Context,
        account: Account,
        kinds: frozenset[str],
        crowd: Callable[[], int],
        confirm: Callable[[], Awaitable[object]],
        looks: Looks,
    ) -> None:
        self._context = context
        self._account = account
        self._kinds = kinds
        self._crowd = crowd
        self._confirm = confirm
        self._looks = looks
        self._who = account.uid, account.name
        self._changed: object = None  # the event of the account's jobs at this look
        self._tasks_seen: object = None  # at the last look at its tasks
        # What was said: the newest ids, and how far.
        self._scan = self._finding = self._task = self._record = 0
        self._scan_ended = self._task_ended = True
        self._found = -1  # LiveScan.found at the last look
        self._status: Notice | None = None
        self._engine_state: object = None
        self._engine: object = None

    async def run(self, say: Say) -> None:
        """For ever; `say` returns when the notification is written, and raises when nobody reads any more."""
        who = self._account
        while True:
            # Before the look, so that nothing is missed.
            self._changed = changed = self._context.live.changed(who.uid, who.name)
            await self._confirm()
            await self._look_at_engine(say)
            under_way = await self._look_at_scans(say)
            under_way = await self._look_at_tasks(say) or under_way
            pause_s = max(PAUSE_S, self._crowd() / MOST_LOOKS)
            await trio.sleep(pause_s)
            if not under_way or self._is_waiting():
                with trio.move_on_after(QUEUED_S if under_way else float("inf")):
                    await changed.wait()

    def _is_waiting(self) -> bool:
        """Nothing runs, as far as was seen."""
        return self._context.live.scan_of(self._account.uid, self._account.name) is None and self._task_ended

    async def _tell(self, say: Say, method: Kind, params: dict[str, object]) -> None:
        if method in self._kinds:
            await say(self._notice(method, params))

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
            if notice.method in self._kinds:
                await say(notice)
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
            ("scan", *self._who), (self._changed,), lambda: store.latest_scan(who.uid, who.name), PAUSE_S / 2
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
            for _, notice in notices:
                if notice.method in self._kinds:
                    await say(notice)
            self._finding = notices[-1][0]

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
        if self._task_ended and self._tasks_seen is self._changed:
            return False
        self._tasks_seen = self._changed
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
            ("task", *self._who), (self._changed,), lambda: store.list_tasks(who.uid, who.name, 1, 0), PAUSE_S / 2
        )
        if not self._task or not latest or latest[0].id == self._task:
            return latest
        newer = await store.list_tasks(who.uid, who.name, PAGE, 0)
        return [task for task in reversed(newer) if task.id >= self._task]

    async def _look_at_records(self, say: Say, task: Task) -> None:
        """The task was read before its records, so that an end is only said after all of them."""
        while notices := await self._records(task):
            for notice in notices:
                if notice.method in self._kinds:
                    await say(notice)
            self._record += len(notices)
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


class Listeners:
    """All of them: one for each connection at most."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._connections: set[int] = set()
        self._looks = Looks()

    def begin(self, account: Account, kinds: frozenset[str], call: Call) -> dict[str, object]:
        """Have the connection told of these kinds. Raises Refused when it is told of some already."""
        connection_id = call.connection_id
        if connection_id in self._connections:
            raise Refused("cannot subscribe: this connection has a subscription already")
        self._connections.add(connection_id)
        listener = Listener(self._context, account, kinds, lambda: len(self._connections), call.confirm, self._looks)

        async def run(say: Say) -> None:
            try:
                await listener.run(say)
            finally:
                self._connections.discard(connection_id)
                if not self._connections:
                    self._looks.clear()

        call.push(run)
        return {"user": account.name, "kinds": [kind for kind in KINDS if kind in kinds]}
