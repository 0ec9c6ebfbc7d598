"""One scan: worker, engine sessions, findings and counts into the store. [daemon]

The worker reports; this side records. Sessions that the worker lost are replaced when an engine is back
(scan_sessions.py), while its reports keep coming. A worker that dies under the job is started again, a few times: the
scan starts over under its id, with what it had found looked at again first. Only the end of the whole walk is `done`.
"""

import contextlib
import logging
import math
import socket
import time
from collections.abc import Sequence

import trio

from clamscannerd import events
from clamscannerd.errors import EngineLost, StateError, WorkerFailed, WorkerSpent
from clamscannerd.model import Account, Finding, FindingState, Frozen, Scan, ScanState
from clamscannerd.pipeline import cached, courtesy
from clamscannerd.pipeline.cached import KeptVerdicts, VerdictCache
from clamscannerd.pipeline.engineview import EngineState, EngineView
from clamscannerd.pipeline.link import HomeUnusable, Spawner, WorkerLink, one_of, open_worker, pause_s
from clamscannerd.pipeline.scan_sessions import ScanSessions
from clamscannerd.pipeline.shares import Share, Shares
from clamscannerd.rpc.names import to_wire
from clamscannerd.state.live import Live, LiveScan
from clamscannerd.state.store import Store
from clamscannerd.state.store_values import NewFinding
from clamscannerd.stop import Stop
from clamscannerd.worker.cachewire import Known, Verified
from clamscannerd.worker.linewire import Terms
from clamscannerd.worker.mailwire import FoundMessages
from clamscannerd.worker.messages import (
    BATCH_BYTES,
    Cancel,
    Cleared,
    Found,
    NeedSession,
    Progress,
    Recheck,
    Reply,
    ScanJob,
    Scanned,
    Skipped,
    Window,
)

log = logging.getLogger(__name__)

CANCELLED = "the scan was cancelled: what it found until then stands"

_SAVE_S = 5.0  # counts of a running scan reach the disk this often: after a crash it starts over anyway
_MOST_RESUMED = 20  # a scan that is interrupted more often has to do with why
_CANCEL_S = 10.0  # a worker told to cancel answers within one reply of the engine


class ScanLimits(Frozen, frozen=True, kw_only=True):
    """Bounds of a scan; defaults and reasons stand in config.Scans and config.State."""

    silence_s: float
    deadline_s: float
    file_deadline_s: float
    retries: int
    max_skipped: int
    file_cpu_s: float = math.inf
    excludes: tuple[bytes, ...] = ()  # patterns (globs.py)


class ScanJobs:
    """Runs scans; one `run` is one job."""

    def __init__(
        self,
        *,
        store: Store,
        live: Live,
        spawner: Spawner,
        engines: EngineView,
        limits: ScanLimits,
        stop: Stop | None = None,
        cache: VerdictCache | None = None,
    ) -> None:
        self.store = store
        self.spawner = spawner
        self.engines = engines
        self.limits = limits  # replaced by a reload
        self.shares = Shares(engines.budget)
        self.cache = cache
        self._live = live
        self._stop = stop or Stop()

    async def watch_others(self) -> None:
        """Until cancelled: scans make room for others at the engine."""
        await courtesy.watch(self.engines.courtesy, self.engines.scan, self.engines.others_wait, self.shares)

    async def run(self, scan: Scan, account: Account, lock_fd: int, cancelled: trio.Event) -> None:
        """From queued to an end. When the daemon stops meanwhile, the scan is parked and goes on at its next start.

        `cancelled` is set by Scan.cancel. Raises SpawnRefused when no worker can be had now: it is queued, as it was.
        """
        live = LiveScan(scan, cancelled)
        kept = KeptVerdicts(self.cache, account)
        self._live.add(live)
        share = self.shares.join(scheduled=scan.scheduled)
        ended = False
        try:
            state, message = await self._attempts(live, account, lock_fd, share, kept)
            await self.store.end_scan(scan.id, state, live.counts, message, time.time())
            ended = True
            who = events.about(account.uid, scan=scan.id)
            log.info("scan %d of uid %d: %s", scan.id, account.uid, state.value, extra=who)
        finally:
            share.leave()
            self._live.remove(live)
            if live.begun and not ended:
                with self._stop.shield():
                    await self.store.park_scan(scan.id, live.counts)
        await kept.end()

    async def _attempts(
        self, live: LiveScan, account: Account, lock_fd: int, share: Share, kept: KeptVerdicts
    ) -> tuple[ScanState, str]:
        attempt = 0
        with trio.move_on_after(self.limits.deadline_s):
            while True:
                if live.cancelled.is_set():
                    return ScanState.CANCELLED, CANCELLED
                if (times := live.scan.resumed - live.scan.pauses) > _MOST_RESUMED:
                    return ScanState.FAILED, f"cannot finish the scan: it was interrupted {times} times"
                try:
                    return await _Attempt(self, live, account, share, kept).run(lock_fd)
                except HomeUnusable as error:
                    return ScanState.FAILED, f"cannot scan: {error}"
                except WorkerSpent as error:
                    who = events.about(account.uid, scan=live.scan.id)
                    log.warning("scan %d: %s", live.scan.id, error, extra=who)
                    return ScanState.FAILED, "cannot finish the scan: it used up its processor time (scans.job_cpu_s)"
                except WorkerFailed as error:
                    attempt += 1
                    who = events.about(account.uid, scan=live.scan.id)
                    log.warning("scan %d: attempt %d: %s", live.scan.id, attempt, error, extra=who)
                    if attempt > self.limits.retries:
                        return ScanState.FAILED, f"cannot finish the scan: {error}"
                    if live.begun:
                        live.parked(await self.store.park_scan(live.scan.id))
                    with trio.move_on_after(pause_s(attempt)):
                        await live.cancelled.wait()
                except EngineLost as error:
                    return ScanState.FAILED, f"cannot finish the scan: {error}"
        return ScanState.FAILED, f"cannot finish the scan: it took longer than {self.limits.deadline_s:g} s"


class _Attempt:
    """One worker's try at a scan."""

    def __init__(self, jobs: ScanJobs, live: LiveScan, account: Account, share: Share, kept: KeptVerdicts) -> None:
        self._jobs = jobs
        self._kept = kept
        self._live = live
        self._account = account
        self._share = share
        self._store = jobs.store
        self._sessions = ScanSessions(jobs.engines, live, kept)

    async def run(self, lock_fd: int) -> tuple[ScanState, str]:
        jobs = self._jobs
        first = await self._first_sessions()
        if not first:
            return ScanState.CANCELLED, CANCELLED
        with contextlib.ExitStack() as stack:
            for session, _ in first:
                stack.enter_context(session)
            self._sessions.taken(first)
            # The worker first: without one nothing was begun, and so nothing is interrupted.
            async with open_worker(jobs.spawner, self._account, lock_fd, jobs.limits.silence_s) as link:
                excludes = jobs.limits.excludes
                scan = await self._store.begin_scan(self._live.scan.id, self._live.scan.engine, time.time(), excludes)
                self._live.begun = True
                earlier = [f.path for f in await self._store.scan_findings(scan.id) if f.state is FindingState.STANDING]
                self._live.restart(scan, earlier)
                if scan.since is not None:  # it may leave them out, and then nothing would be known of them
                    earlier += await self._store.older_standing(scan.id)
                await self._send_job(link, first)
                await _send_rechecks(link, earlier)
                return await self._follow(link)

    async def _first_sessions(self) -> list[tuple[socket.socket, EngineState]]:
        """Sessions for the start; none when the scan was cancelled while waiting for an engine."""
        found: list[tuple[socket.socket, EngineState]] = []
        with one_of(EngineLost):
            async with trio.open_nursery() as nursery:

                async def give_up_when_cancelled() -> None:
                    await self._live.cancelled.wait()
                    nursery.cancel_scope.cancel()

                nursery.start_soon(give_up_when_cancelled)
                found += await self._sessions.first()
                nursery.cancel_scope.cancel()
        return found

    async def _send_job(self, link: WorkerLink, first: Sequence[tuple[socket.socket, EngineState]]) -> None:
        known, fd = await self._kept.begin([engine for _, engine in first], self._live.scan.depth)
        fds = [session.fileno() for session, _ in first]
        try:
            await link.send(self._job(self._sessions.terms(first), known), [*fds, *([fd] if fd >= 0 else [])])
        finally:
            cached.close(fd)

    def _job(self, terms: tuple[Terms, ...], known: Known | None) -> ScanJob:
        jobs, since = self._jobs, self._live.scan.since
        return ScanJob(
            roots=self._live.scan.paths,
            excludes=self._live.scan.excludes,
            named=not self._live.scan.scan_type,
            since_ns=None if since is None else int(since * 1e9),
            window=self._window(),
            max_file_size=max(one.max_file_size for one in terms),
            clean_allowed=all(one.clean_allowed for one in terms),
            file_deadline_s=jobs.limits.file_deadline_s,
            file_cpu_s=jobs.limits.file_cpu_s,
            max_skipped=jobs.limits.max_skipped,
            known=known,
            fds=len(terms),
            terms=terms,
        )

    async def _follow(self, link: WorkerLink) -> tuple[ScanState, str]:
        """Take replies until Scanned; beside it, tell the worker of its share and of a cancel."""
        outcome: list[Scanned] = []
        with one_of(WorkerFailed, EngineLost, StateError):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._tell_share, link)
                nursery.start_soon(self._tell_cancel, link)
                nursery.start_soon(self._sessions.serve, link)
                nursery.start_soon(self._kept.check)
                saved = trio.current_time()
                while True:
                    reply = await link.receive()
                    if isinstance(reply, Scanned):
                        outcome.append(reply)
                        break
                    if isinstance(reply, NeedSession):
                        self._sessions.need(reply.engine, reply.reason)
                        continue
                    await self._record(reply)
                    if trio.current_time() - saved > _SAVE_S:
                        saved = trio.current_time()
                        await self._store.save_progress(self._live.scan.id, self._live.counts, self._live.scan.engine)
                nursery.cancel_scope.cancel()
        return self._end(outcome[0])

    def _end(self, reply: Scanned) -> tuple[ScanState, str]:
        self._live.progress(reply.counts, b"", final=reply.complete)
        if reply.complete:
            return ScanState.DONE, ""
        if self._live.cancelled.is_set():
            return ScanState.CANCELLED, CANCELLED
        return ScanState.FAILED, f"cannot finish the scan: {reply.reason}"

    async def _record(self, reply: Reply) -> None:
        scan_id = self._live.scan.id
        match reply:
            case Progress():
                self._live.progress(reply.counts, reply.current)
                self._share.wanted(reply.wants)
            case Found():
                new = [
                    NewFinding(
                        path=f.path,
                        identity=f.identity,
                        signature=f.signature,
                        mailbox=f.mailbox,
                        owner=f.owner,
                        engine=self._sessions.info(f.engine),
                    )
                    for f in reply.files
                ]
                added = await self._store.add_findings(scan_id, new, time.time())
                self._live.found += len(added)
                for finding in added:
                    if finding.path not in self._live.infected:
                        self._live.infected[finding.path] = None
                        self._tell(finding)
            case FoundMessages():
                await self._store.add_messages(scan_id, reply.path, reply.messages, reply.total, reply.in_box)
            case Cleared():
                await self._store.clear_findings(scan_id, list(reply.paths))
                for path in reply.paths:
                    self._live.infected.pop(path, None)
            case Verified():
                await self._kept.take(reply)
            case Skipped():
                await self._store.add_not_scanned(scan_id, [(f.path, f.reason) for f in reply.files])
            case _:
                raise WorkerFailed(f"worker sent {type(reply).__name__} during a scan")

    def _tell(self, finding: Finding) -> None:
        """Each by itself: that is what somebody looks for. events.EventLimit bounds them."""
        uid, path = self._account.uid, to_wire(self._account.home.rstrip(b"/") + b"/" + finding.path)
        extra = events.infection(uid, scan=finding.scan_id, path=path, signature=finding.signature)
        log.info("scan %d of uid %d: %r in %r", finding.scan_id, uid, finding.signature, path, extra=extra)

    def _window(self) -> int:
        return max(self._share.window, self._jobs.engines.least())

    async def _tell_share(self, link: WorkerLink) -> None:
        told = self._window()
        while True:
            while (window := self._window()) == told:
                await self._share.wait_changed()
            await link.send(Window(window=window))
            told = window

    async def _tell_cancel(self, link: WorkerLink) -> None:
        await self._live.cancelled.wait()
        await link.send(Cancel())
        await trio.sleep(_CANCEL_S)
        raise WorkerFailed("worker did not cancel in time")


async def _send_rechecks(link: WorkerLink, paths: Sequence[bytes]) -> None:
    """What was found before, in messages of bounded size; the last says so."""
    batch: list[bytes] = []
    size = 0
    for path in paths:
        batch.append(path)
        size += len(path) + 8
        if size > BATCH_BYTES:
            await link.send(Recheck(paths=tuple(batch), last=False))
            batch, size = [], 0
    await link.send(Recheck(paths=tuple(batch), last=True))
