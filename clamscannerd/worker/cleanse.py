"""Take the infected messages out of a mailbox, and leave every other byte as and where it is. [worker]

The order of a step, and what a crash after each point leaves:
    know             which contents are infected: the scan's word, or the engine's where the mailbox changed since;
                     never under the locks, for which mail waits
    lock, look       one pass: each message is known by its SHA-256, wherever it stands now
    contents up      the mailbox as it was, and contents in the vault that the daemon drops
    intents up       the same; from here on the daemon knows each range, its hash before and its hash after
    overwrite        some ranges before, some after, one torn. Begun again: those before or torn are written, the
                     others left; done as often as it takes
    look again       every byte outside the ranges unchanged, every range as meant
    unlock, scan     not detected any more, or a further round for what was not known. Of a mailbox of more than
                     WHOLE_BYTES only the notices are scanned: all else has the hash that it had
    proof (Cleansed) the daemon commits the end of the step

A range that is neither before, after nor a mixture was rewritten by others: nothing is written there, the message stays
in the vault and the step ends in `error`. Mail that comes after the first look was not asked about: what of it is
infected goes if a further round meets it, and the next scan finds the rest.
"""

import hashlib
import os
import select
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, TypeVar

import msgspec

from clamscannerd.errors import EngineLost, RemoteProtocolError
from clamscannerd.model import Outcome, Reason, Verdict
from clamscannerd.worker.beneath import Kernel
from clamscannerd.worker.causes import cause
from clamscannerd.worker.channel import Channel, DaemonGone
from clamscannerd.worker.hashing import is_same_file
from clamscannerd.worker.mailbox import TRIES, Hit, Kept, Look, Mailbox, MailboxError, Replaced, is_mixture
from clamscannerd.worker.mailfile import sha256_of_range
from clamscannerd.worker.maillocks import Locked
from clamscannerd.worker.mailscan import BoxScan, Survey
from clamscannerd.worker.mailwire import (
    RANGES_IN_BATCH,
    Cleanse,
    Cleansed,
    Intent,
    Intents,
    Journaled,
    JournalRanges,
    KnownMessages,
    MessageContent,
    MessageStored,
    NeedOriginal,
    Original,
)
from clamscannerd.worker.mbox import Message
from clamscannerd.worker.messages import CHUNK_BYTES, MAX_TEXT, Chunk, ContentEnd

WHOLE_BYTES: Final = 32 << 20
"""Up to this size a cleansed mailbox is scanned whole: a second of the engine. Above, it would take minutes."""

C = TypeVar("C", KnownMessages, JournalRanges, MessageStored, Journaled)

_ROUNDS: Final = 3
_ITEMS_NAMED: Final = 50


class Engine:
    """What a cleanse needs of the engine; main.py gives it."""

    def __init__(self, rescan: Callable[[int, bytes], tuple[Verdict, str]], survey: Survey, max_file_size: int) -> None:
        self.rescan = rescan
        self.survey = survey
        self.max_file_size = max_file_size


class _End(Exception):
    """The step is decided."""

    def __init__(self, outcome: Outcome, message: str, *, gone: bool = False) -> None:
        super().__init__(message)
        self.outcome = outcome
        self.gone = gone


def _error(cause: str) -> _End:
    return _End(Outcome.ERROR, f"cannot cleanse it: {cause}")


def cleanse(channel: Channel, kernel: Kernel, home_fd: int, engine: Engine, step: Cleanse) -> None:
    """One step, from the intent to the proof."""
    work = _Cleansing(channel, engine, step)
    work.take_knowledge()
    box = Mailbox(kernel, home_fd, step.path, step.token, pause_on(channel), known=bool(work.done))
    try:
        end = work.run(box)
    except _End as decided:
        end = decided
    except Locked as error:
        end = _error(f"others hold {error}, and did so for {box.waited_s:.0f} s")
    except (MailboxError, EngineLost) as error:
        end = _error(str(error))
    except FileNotFoundError:
        end = _End(Outcome.NO_ACTION, "it is gone: nothing was there to act on", gone=True)
    except OSError as error:
        end = _error(cause(error))
    message, outcome = str(end), end.outcome
    if work.done and outcome is not Outcome.MAILBOX_CLEANSED:
        outcome, message = Outcome.ERROR, f"{message}; messages of it are in the vault: {work.items()}"
    channel.send(Cleansed(seq=step.seq, outcome=outcome, message=message[:MAX_TEXT], gone=end.gone))


def pause_on(channel: Channel) -> Callable[[float], None]:
    """Waits, unless the daemon goes: a worker does not outlive its job, and least of all for a lock."""

    def pause(seconds: float) -> None:
        poll = select.poll()
        poll.register(channel.fileno(), 0)
        if poll.poll(seconds * 1000):
            raise DaemonGone

    return pause


class _Cleansing:
    """One step. `done`: what the journal holds, replaced or to be."""

    def __init__(self, channel: Channel, engine: Engine, step: Cleanse) -> None:
        self._channel = channel
        self._engine = engine
        self._step = step
        self._known: dict[bytes, str] = {}
        self._complete = False
        self._notes: list[str] = []
        self._until = 0  # what lies behind is mail that came since the locks were taken first
        self.done: list[Kept] = []

    def take_knowledge(self) -> None:
        """The lists that follow the command."""
        last = False
        while not last:
            known = self._expect(KnownMessages)
            self._known.update((one.sha256, one.signature) for one in known.messages)
            self._complete, last = known.complete, known.last
        last = False
        while not last:
            journal = self._expect(JournalRanges)
            self.done += [Kept(**msgspec.structs.asdict(one)) for one in journal.ranges]
            last = journal.last

    def _expect(self, kind: type[C]) -> C:
        command, fds = self._channel.receive()
        if not isinstance(command, kind) or command.seq != self._step.seq or fds:
            raise RemoteProtocolError(f"cannot go on: expected {kind.__name__}, not {type(command).__name__}")
        return command

    def run(self, box: Mailbox) -> _End:
        """All of it, but for telling the daemon."""
        with box:
            if self.done:
                self._redo(box)
            else:
                self._replace(box, self._infected(box))
            self._prove(box)
        if box.waited_s >= 1:
            self._notes.append(f"waited {box.waited_s:.0f} s for the locks of the mailbox")
        count = "1 message" if len(self.done) == 1 else f"{len(self.done)} messages"
        text = "; ".join([f"{count} replaced by a notice: {self.items()}", *self._notes])
        return _End(Outcome.MAILBOX_CLEANSED, text, gone=True)

    def items(self) -> str:
        """The vault's numbers of what was replaced."""
        items = ", ".join(str(kept.item) for kept in self.done[:_ITEMS_NAMED])
        return f"item{'s' * (len(self.done) > 1)} {items}{', ...' * (len(self.done) > _ITEMS_NAMED)}"

    # --- which contents are infected

    def _infected(self, box: Mailbox) -> Mapping[bytes, str]:
        status = os.fstat(box.fd)
        if is_same_file(status, self._step.identity) and self._complete:
            if not self._known:
                raise _error("it is detected as a whole, and no single message of it is")
            return self._known
        if status.st_size <= self._engine.max_file_size:
            verdict, text = self._rescan(box)
            if verdict is Verdict.CLEAN:
                raise _End(Outcome.NO_ACTION, "it changed since the scan and is clean now: left as it is", gone=True)
            if verdict is Verdict.NOT_SCANNED:
                raise _error(f"it changed since the scan and cannot be scanned again: {text}")
        size, sha256 = self._step.identity.size, self._step.identity.sha256
        unchanged = self._complete and size <= status.st_size and sha256_of_range(box.fd, 0, size) == sha256
        return self._survey(box, size if unchanged else 0)

    def _rescan(self, box: Mailbox) -> tuple[Verdict, str]:
        """The whole. Mail that comes during it makes no verdict: then once more."""
        verdict, text = self._engine.rescan(box.fd, self._step.path)
        for _ in range(TRIES):
            if verdict is not Verdict.NOT_SCANNED or text != Reason.CHANGED:
                break
            verdict, text = self._engine.rescan(box.fd, self._step.path)
        return verdict, text

    def _survey(self, box: Mailbox, known_until: int) -> Mapping[bytes, str]:
        """Have the engine look at each message that ends after `known_until` and is not known to be infected."""

        def known(message: Message) -> bool:
            return message.end <= known_until or sha256_of_range(box.fd, message.start, message.end) in self._known

        parts = BoxScan(self._step.path, os.dup(box.fd), self._engine.max_file_size, known)
        try:
            self._engine.survey.run(parts)
        finally:
            parts.close()
        self._known.update((one.sha256, one.signature) for one in parts.infected)
        if parts.unscanned:
            self._note(f"messages that could not be scanned: {parts.unscanned} ({parts.why_unscanned})")
        if not self._known:
            raise _error("it is detected as a whole, and no single message of it is")
        return self._known

    def _note(self, text: str) -> None:
        if text not in self._notes:
            self._notes.append(text[:200])

    # --- under the locks

    def _replace(self, box: Mailbox, infected: Mapping[bytes, str]) -> None:
        """Find what is infected, keep it, journal it, overwrite it."""
        for _ in range(TRIES):
            try:
                with box.locked():
                    self._replace_in(box, infected)
                return
            except Replaced:
                box.reopen()
                infected = self._infected(box)
        raise _error("it is replaced again and again")

    def _replace_in(self, box: Mailbox, infected: Mapping[bytes, str]) -> None:
        look = box.look(infected)
        self._until = self._until or max(look.bounds, default=0)
        if not look.hits:
            raise _error("none of its messages is one that was found infected")
        kept = [self._keep(box, len(self.done) + number, hit) for number, hit in enumerate(look.hits, start=1)]
        kept = [
            msgspec.structs.replace(one, after=_sha256(box.notice_for(one.hit, one.item, one.kept_at))) for one in kept
        ]
        self._journal(kept)
        self.done += kept
        self._overwrite(box, look, kept, {})

    def _keep(self, box: Mailbox, part: int, hit: Hit) -> Kept:
        """The content of one message into the vault."""
        seq, status = self._step.seq, os.fstat(box.fd)
        self._channel.send(
            MessageContent(
                seq=seq,
                part=part,
                start=hit.start,
                end=hit.end,
                signature=hit.signature,
                mode=status.st_mode,
                uid=status.st_uid,
                gid=status.st_gid,
                mtime_ns=max(-(2**63), min(status.st_mtime_ns, 2**63 - 1)),
            )
        )
        digest, offset = hashlib.sha256(), hit.start
        while offset < hit.end and (block := os.pread(box.fd, min(CHUNK_BYTES, hit.end - offset), offset)):
            digest.update(block)
            offset += len(block)
            self._channel.send(Chunk(seq=seq, data=block))
        reason = "" if digest.digest() == hit.before else "not the expected content"
        self._channel.send(ContentEnd(seq=seq, sha256=digest.digest(), signature="", reason=reason))
        if reason:
            raise _error("it is being written to by somebody who takes no lock")
        stored = self._expect(MessageStored)
        if stored.reason:
            raise _End(Outcome.ERROR, stored.reason)
        values = msgspec.structs.asdict(hit)
        return Kept(**values, after=b"", item=stored.item, kept_at=stored.kept_at, part=part)

    def _journal(self, kept: Sequence[Kept]) -> None:
        """Committed by the daemon when this returns."""
        for start in range(0, len(kept), RANGES_IN_BATCH):
            batch = tuple(Intent(part=one.part, after=one.after) for one in kept[start : start + RANGES_IN_BATCH])
            last = start + RANGES_IN_BATCH >= len(kept)
            self._channel.send(Intents(seq=self._step.seq, intents=batch, last=last))
        self._expect(Journaled)

    def _overwrite(self, box: Mailbox, look: Look, kept: Sequence[Kept], originals: Mapping[int, int]) -> None:
        """Write the notices and look again. `originals`: files that hold messages torn by a crash, by part."""
        sources = {part: (fd, 0) for part, fd in originals.items()}
        box.overwrite(
            (one.start, box.notice_for(one.hit, one.item, one.kept_at, sources.get(one.part))) for one in kept
        )
        for one in kept:
            if sha256_of_range(box.fd, one.start, one.end) != one.after:
                raise _error("others who take no lock wrote to it meanwhile")
        if box.rest_of(look) != look.rest:
            raise _error("others who take no lock wrote to it meanwhile")

    def _redo(self, box: Mailbox) -> None:
        """Begun before: what the journal says, as far as it is not done."""
        for _ in range(TRIES):
            try:
                with box.locked():
                    self._redo_in(box)
                return
            except Replaced:
                box.reopen()
        raise _error("it is replaced again and again")

    def _redo_in(self, box: Mailbox) -> None:
        originals: dict[int, int] = {}
        try:
            ranges = sorted(self.done, key=lambda one: one.start)
            look = box.look_at([(one.start, one.end) for one in ranges])
            self._until = max(look.bounds)
            left = [one for one in ranges if sha256_of_range(box.fd, one.start, one.end) != one.after]
            todo = [one for one in left if self._is_before_or_torn(box, one, originals)]
            self._overwrite(box, look, todo, originals)
            if len(todo) < len(left):
                raise _error(
                    f"it was rewritten by others; messages that are not where they were: {len(left) - len(todo)}"
                )
        finally:
            for fd in originals.values():
                os.close(fd)

    def _is_before_or_torn(self, box: Mailbox, one: Kept, originals: dict[int, int]) -> bool:
        if sha256_of_range(box.fd, one.start, one.end) == one.before:
            return _sha256(box.notice_for(one.hit, one.item, one.kept_at)) == one.after
        self._channel.send(NeedOriginal(seq=self._step.seq, part=one.part))
        command, fds = self._channel.receive()
        if not isinstance(command, Original) or command.part != one.part or len(fds) != (not command.reason):
            raise RemoteProtocolError("cannot go on: expected Original")
        if command.reason:
            raise _error(command.reason)
        originals[one.part] = fds[0]
        source = (fds[0], 0)
        if _sha256(box.notice_for(one.hit, one.item, one.kept_at, source)) != one.after:
            return False
        return is_mixture(box.fd, one.start, fds[0], box.notice_for(one.hit, one.item, one.kept_at, source))

    # --- afterwards

    def _prove(self, box: Mailbox) -> None:
        """Not detected any more; what turns up that was not known is taken out too."""
        for _ in range(_ROUNDS):
            verdict, text = self._check(box)
            if verdict is Verdict.NOT_SCANNED:
                self._note(f"it could not be scanned again: {text}")
            if verdict is not Verdict.INFECTED:
                return
            replaced = len(self.done)
            try:
                infected = self._survey(box, 0)
                if any(one.after in infected for one in self.done):
                    raise _error(
                        "what is detected is in what a notice keeps of its message: `From ` line and addresses"
                    )
                self._replace(box, infected)
            except _End as end:
                if len(self.done) > replaced:
                    raise
                raise _error(f"it is still detected as a whole ({text}): {str(end)[:300]}") from None
            if all(one.start >= self._until for one in self.done[replaced:]):
                self._note("infected mail came meanwhile, and more may have: scan it again")
                return
        raise _error(f"it is still detected after {_ROUNDS} rounds")

    def _check(self, box: Mailbox) -> tuple[Verdict, str]:
        if os.fstat(box.fd).st_size <= min(WHOLE_BYTES, self._engine.max_file_size):
            return self._rescan(box)
        notices = iter([_as_message(one) for one in self.done])
        parts = BoxScan(self._step.path, os.dup(box.fd), self._engine.max_file_size, messages=notices)
        try:
            self._engine.survey.run(parts)
        except EngineLost as error:
            return Verdict.NOT_SCANNED, str(error)
        finally:
            parts.close()
        if parts.infected:
            return Verdict.INFECTED, parts.infected[0].signature
        return (Verdict.NOT_SCANNED, parts.why_unscanned) if parts.unscanned else (Verdict.CLEAN, "")


def _as_message(kept: Kept) -> Message:
    return Message(number=kept.part, start=kept.start, end=kept.end, header_end=kept.start)


def _sha256(pieces: Iterable[bytes]) -> bytes:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.digest()
