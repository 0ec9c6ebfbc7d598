"""What of the findings an account's ignore list covers. [daemon]

Seen when findings are shown or acted on, and kept nowhere: an entry that is removed, expires, or is not allowed any
more gives its findings back at once, without a scan. Globs are the account's own, and so may be its 100,000 findings:
the comparison goes on in a thread, two of them for all accounts, and each time for so long at most. What was not
compared by then is infected, as it would be without a list; who is about to act on "all the others" is refused, as what
to leave out is not known.

A signature says nothing of a mailbox, whose other messages may have other ones, and a SHA-256 only counts where the
worker had read the whole content as it was found.

Rejected: a column of the finding (a change of the list, of the configuration and of the time would each have to touch
every finding), and leaving ignored files out in the worker (they would be neither infected nor clean, and gone from the
list).
"""

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import trio

from clamscannerd.globs import Glob, Globs, literal
from clamscannerd.model import Account, Finding, IgnoreEntry, IgnoreKind, Scan, ScanState
from clamscannerd.state.store import Store
from clamscannerd.state.store_values import FoundFile

_BUDGET_S: Final = 2.0  # of processor time: 100,000 findings by 20 globs
_THREADS: Final = 2
_COUNTED: Final = 4_096  # accounts whose count is remembered; then the memory starts over
_AGAIN_S: Final = 2.0  # between two counts of a running scan,
_REST: Final = 20.0  # and so many times as long as one takes
_NO_SHA256: Final = bytes(32)  # what a worker says that could not take it of what it had found


NOT_COMPARED = "not all of what was found could be compared with the ignore list of this account: it takes too long"


class Judged(NamedTuple):
    """Finding's id -> the entry by which it is ignored. `complete`: no finding was left uncompared."""

    entries: Mapping[int, IgnoreEntry]
    complete: bool = True


class Rules:
    """Entries, made ready for comparing. [thread] for what has globs: they may take some time to make."""

    def __init__(self, entries: Iterable[IgnoreEntry]) -> None:
        self._plain: dict[tuple[IgnoreKind, bytes], IgnoreEntry] = {}
        self._globs: list[tuple[re.Pattern[bytes], IgnoreEntry]] = []
        for entry in entries:
            if entry.kind is not IgnoreKind.PATH:
                self._plain[entry.kind, entry.value] = entry
            elif (path := literal(entry.value)) is not None:
                self._plain[entry.kind, path] = entry
            else:
                self._globs.append((Glob(entry.value).covering(), entry))

    def by_path(self, path: bytes) -> IgnoreEntry | None:
        """The first entry whose glob is for this path or a directory above it."""
        above = path
        while above:
            if entry := self._plain.get((IgnoreKind.PATH, above)):
                return entry
            above = above.rpartition(b"/")[0]
        return next((entry for compiled, entry in self._globs if compiled.fullmatch(path)), None)

    def covering(self, found: FoundFile) -> IgnoreEntry | None:
        """The entry by which it is ignored."""
        if found.sha256 != _NO_SHA256 and (entry := self._plain.get((IgnoreKind.SHA256, found.sha256))):
            return entry
        if not found.is_box and (entry := self._plain.get((IgnoreKind.SIGNATURE, found.signature.encode()))):
            return entry
        return self.by_path(found.path)


class Budget:
    """Processor time for what belongs together; used up in a thread, by one at a time."""

    def __init__(self, left_s: float = _BUDGET_S) -> None:
        self.left_s = left_s


def judge(entries: Sequence[IgnoreEntry], found: Iterable[FoundFile], budget: Budget) -> Judged:
    """[thread]"""
    began = time.thread_time()
    covered: dict[int, IgnoreEntry] = {}
    complete = True
    rules = Rules(entries)
    for one in found:
        if time.thread_time() - began > budget.left_s:
            complete = False
            break
        if entry := rules.covering(one):
            covered[one.id] = entry
    budget.left_s -= time.thread_time() - began
    return Judged(covered, complete)


def as_found(findings: Iterable[Finding]) -> Iterator[FoundFile]:
    """Made where they are judged."""
    return (
        FoundFile(one.id, one.path, one.signature, one.identity.sha256, one.mailbox is not None) for one in findings
    )


class _Counted(NamedTuple):
    """A count that was taken. `state`: all that it rests on; `next_at`: until then it does for a scan that runs."""

    scan: int
    state: object
    number: int | None
    next_at: float


class Ignores:
    """One per daemon. `kinds`: what the configuration allows now."""

    def __init__(self, store: Store, kinds: Callable[[], frozenset[IgnoreKind]]) -> None:
        self._store = store
        self._kinds = kinds
        self._threads = trio.CapacityLimiter(_THREADS)
        self._counts: dict[tuple[int, str], _Counted] = {}

    def in_effect(self, entries: Iterable[IgnoreEntry]) -> list[IgnoreEntry]:
        now, kinds = time.time(), self._kinds()
        return [
            entry for entry in entries if entry.kind in kinds and (entry.expires_at is None or entry.expires_at > now)
        ]

    def state_of(self, entry: IgnoreEntry) -> str:
        if entry.kind not in self._kinds():
            return "not_allowed"
        return "in_effect" if self.in_effect([entry]) else "expired"

    async def not_allowed(self, account: Account) -> int:
        """Entries without effect, as the configuration forbids them."""
        kinds = self._kinds()
        if len(kinds) == len(IgnoreKind):
            return 0
        return sum(entry.kind not in kinds for entry in await self._store.ignores(account.uid, account.name))

    async def of(self, account: Account, findings: Iterable[FoundFile], budget: Budget | None = None) -> Judged:
        """Which of these findings of the account are ignored now."""
        entries = self.in_effect(await self._store.ignores(account.uid, account.name))
        return await self._judge(entries, findings, budget or Budget())

    async def by_path(self, account: Account, path: bytes) -> IgnoreEntry | None:
        """The entry in effect whose glob covers this path, found infected or not."""
        entries = self.in_effect(await self._store.ignores(account.uid, account.name))
        paths = [entry for entry in entries if entry.kind is IgnoreKind.PATH]
        found = FoundFile(id=0, path=path, signature="", sha256=_NO_SHA256, is_box=False)
        return (await self._judge(paths, [found], Budget())).entries.get(0)

    async def left_out(self, patterns: Sequence[bytes], path: bytes, *, directory: bool) -> tuple[bytes, bytes] | None:
        """As Globs.why, of which somebody's path of 2,000 directories makes work."""

        def work() -> tuple[bytes, bytes] | None:
            return Globs(patterns).why(path, directory=directory)

        if not patterns or path == b".":
            return None
        return await trio.to_thread.run_sync(work, limiter=self._threads)

    async def count(self, account: Account, scan: Scan, kept: int) -> int | None:
        """Of the findings of the latest scan that are kept, how many are ignored now. None: it took too long.

        While it runs, the number is of some seconds ago: it is asked for many times a second, and each finding would
        have all of them compared anew.
        """
        if not kept:
            return 0
        who, now, runs = (account.uid, account.name), trio.current_time(), scan.state is ScanState.RUNNING
        known = self._counts.get(who)
        if known is not None and known.scan != scan.id:
            known = None
        if known is not None and runs and now < known.next_at:
            return known.number
        entries = self.in_effect(await self._store.ignores(account.uid, account.name))
        state = (scan.state, kept, tuple(entry.id for entry in entries))
        if known is not None and known.state == state:
            return known.number
        if not entries and not runs:
            return 0
        if len(self._counts) >= _COUNTED:
            self._counts.clear()
        if runs:  # who asks meanwhile gets what is known
            number = known.number if known is not None else 0
            self._counts[who] = _Counted(scan.id, None, number, now + _AGAIN_S)
        judged = await self._judge(entries, await self._store.found_by(scan.id) if entries else (), Budget())
        number = len(judged.entries) if judged.complete else None
        next_at = trio.current_time() + max(_AGAIN_S, _REST * (trio.current_time() - now))
        self._counts[who] = _Counted(scan.id, state, number, next_at)
        return number

    async def _judge(self, entries: Sequence[IgnoreEntry], found: Iterable[FoundFile], budget: Budget) -> Judged:
        if not entries:
            return Judged({})
        return await trio.to_thread.run_sync(judge, entries, found, budget, limiter=self._threads)
