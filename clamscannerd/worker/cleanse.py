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
                     WHOLE_BYTES only the notices are scanned: all else has the hash that it had. One that does not keep
                     still for a scan of the whole is scanned message by message
    proof (Cleansed) the daemon commits the end of the step

A range that is neither before, after nor a mixture was rewritten by others: nothing is written there, the message stays
in the vault and the step ends in `error`. Mail that comes after the first look was not asked about: what of it is
infected goes if a further round meets it, and the next scan finds the rest.
"""

import contextlib
import hashlib
import os
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from typing import Final

import msgspec

from clamscannerd.errors import EngineLost
from clamscannerd.model import Outcome, Reason, Verdict
from clamscannerd.worker.beneath import Kernel
from clamscannerd.worker.causes import cause
from clamscannerd.worker.channel import Channel, pause_on
from clamscannerd.worker.hashing import is_same_file
from clamscannerd.worker.mailbox import TRIES, Hit, Kept, Look, Mailbox, MailboxError, Replaced, is_mixture
from clamscannerd.worker.mailfile import copy_of_ranges, sha256_of_range
from clamscannerd.worker.maillocks import Locked
from clamscannerd.worker.mailscan import HELD_BYTES, BoxScan, Engine
from clamscannerd.worker.mailtalk import LOCKLESS, NotKept, Talk
from clamscannerd.worker.mailwire import Cleanse, Cleansed
from clamscannerd.worker.mbox import Message
from clamscannerd.worker.messages import MAX_TEXT

WHOLE_BYTES: Final = 32 << 20
"""Up to this size a cleansed mailbox is scanned whole: a second of the engine. Above, it would take minutes."""

CLEAN_NOW: Final = "it changed since the scan and is clean now: left as it is"
_ROUNDS: Final = 3
_ITEMS_NAMED: Final = 50


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
    work = _Cleansing(Talk(channel, step), engine, step)
    box = Mailbox(kernel, home_fd, step.path, step.token, pause_on(channel), known=bool(work.done))
    try:
        end = work.run(box)
    except _End as decided:
        end = decided
    except Locked as error:
        end = _error(f"others hold {error}, and did so for {box.waited_s:.0f} s")
    except (MailboxError, EngineLost) as error:
        end = _error(str(error))
    except NotKept as refused:
        end = _End(Outcome.ERROR, str(refused))
    except FileNotFoundError:
        end = _End(Outcome.NO_ACTION, "it is gone: nothing was there to act on", gone=True)
    except OSError as error:
        end = _error(cause(error))
    message, outcome = str(end), end.outcome
    if work.done and outcome is not Outcome.MAILBOX_CLEANSED:
        outcome, message = Outcome.ERROR, f"{message}; messages of it are in the vault: {work.items()}"
    channel.send(Cleansed(seq=step.seq, outcome=outcome, message=message[:MAX_TEXT], gone=end.gone))


class _Cleansing:
    """One step. `done`: what the journal holds, replaced or to be."""

    def __init__(self, talk: Talk, engine: Engine, step: Cleanse) -> None:
        self._talk = talk
        self._engine = engine
        self._step = step
        self._places, self._complete = talk.known()
        self._known = {hit.before: hit.signature for hit in self._places}
        self._notes: list[str] = []
        self._until = 0  # what lies behind is mail that came since the locks were taken first
        self.done = talk.journaled()

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
        status, restless = os.fstat(box.fd), False
        if is_same_file(status, self._step.identity) and self._complete:
            if not self._known:
                raise _error("it is detected as a whole, and no single message of it is")
            return self._known
        if status.st_size <= self._engine.max_file_size:
            verdict, text = self._rescan(box)
            if verdict is Verdict.CLEAN:
                raise _End(Outcome.NO_ACTION, CLEAN_NOW, gone=True)
            restless = verdict is Verdict.NOT_SCANNED and text == Reason.CHANGED  # mail keeps coming: its messages tell
            if verdict is Verdict.NOT_SCANNED and not restless:
                raise _error(f"it changed since the scan and cannot be scanned again: {text}")
        size, sha256 = self._step.identity.size, self._step.identity.sha256
        unchanged = self._complete and size <= status.st_size and sha256_of_range(box.fd, 0, size) == sha256
        return self._survey(box, size if unchanged else 0, restless=restless)

    def _rescan(self, box: Mailbox) -> tuple[Verdict, str]:
        """The whole. Mail that comes during it makes no verdict: then once more."""
        verdict, text = self._engine.rescan(box.fd, self._step.path)
        for _ in range(TRIES):
            if verdict is not Verdict.NOT_SCANNED or text != Reason.CHANGED:
                break
            verdict, text = self._engine.rescan(box.fd, self._step.path)
        return verdict, text

    def _survey(self, box: Mailbox, known_until: int, *, restless: bool = False) -> Mapping[bytes, str]:
        """Have the engine look at each message that ends after `known_until` and is not known to be infected.

        `restless`: nothing is known of the whole, so that no infected message means that it is clean now.
        """
        present = bool(known_until and self._known)

        def known(message: Message) -> bool:
            nonlocal present
            if message.end <= known_until:
                return True
            infected = sha256_of_range(box.fd, message.start, message.end) in self._known
            present = present or infected
            return infected

        parts = BoxScan(
            self._step.path, os.dup(box.fd), self._engine.max_file_size, known, cpu_s=self._engine.file_cpu_s
        )
        try:
            self._engine.survey.run(parts)
        finally:
            parts.close()
        self._known.update((one.sha256, one.signature) for one in parts.infected)
        if parts.unscanned:
            self._note(f"messages that could not be scanned: {parts.unscanned} ({parts.why_unscanned})")
        if present or parts.infected:
            return self._known
        if not restless:
            raise _error("it is detected as a whole, and no single message of it is")
        if parts.unscanned:
            raise _error(f"it changed since the scan and cannot be scanned again: {parts.why_unscanned}")
        raise _End(Outcome.NO_ACTION, CLEAN_NOW, gone=True)

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
        look = self._look_where(box) or box.look(infected)
        self._until = self._until or max(look.bounds, default=0)
        if not look.hits:
            raise _error("none of its messages is one that was found infected")
        kept = [self._talk.keep(box, len(self.done) + number, hit) for number, hit in enumerate(look.hits, start=1)]
        kept = [msgspec.structs.replace(one, after=_sha256(_notice(box, one))) for one in kept]
        # Two readings of the whole mailbox, before and after, become one: it has the hash that the scan took.
        copies = _copies(box, look.hits) if look.whole else -1
        try:
            _need_name(box)
            self._talk.journal(kept)
            self.done += kept
            box.overwrite(_notices(box, kept))
            _verify(box, look, kept, copies)
        finally:
            if copies >= 0:
                os.close(copies)

    def _look_where(self, box: Mailbox) -> Look | None:
        """What was found, in its places, when nothing of the mailbox has changed since the scan. None: look."""
        places = sorted(self._places, key=lambda hit: hit.start)
        if self.done or not self._complete or sum(hit.end - hit.start for hit in places) > HELD_BYTES:
            return None
        return box.look_where(self._step.identity, places)

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
        ranges = sorted(self.done, key=lambda one: one.start)
        look = box.look_at([(one.start, one.end) for one in ranges])
        self._until = max(look.bounds)
        strange: set[int] = set()
        with contextlib.closing(self._left(box, ranges, strange)) as left:
            box.overwrite(left, again=self._step.identity)
        _verify(box, look, [one for one in ranges if one.part not in strange])
        if strange:
            raise _error(f"it was rewritten by others; messages that are not where they were: {len(strange)}")

    def _left(
        self, box: Mailbox, ranges: Sequence[Kept], strange: set[int]
    ) -> Generator[tuple[int, Iterable[bytes]], None, None]:
        """What is still to be written where. `strange` gets the parts whose ranges are neither before, after nor torn.

        One original is open at a time: after a power cut there may be more torn ranges than a worker may have fds.
        """
        for one in ranges:
            stands = sha256_of_range(box.fd, one.start, one.end)
            if stands == one.after:
                continue
            if stands == one.before and _sha256(_notice(box, one)) == one.after:
                yield one.start, _notice(box, one)
                continue
            original = self._talk.original(one.part)
            try:
                if _sha256(_notice(box, one, original)) == one.after and is_mixture(
                    box.fd, one.start, original, _notice(box, one, original)
                ):
                    yield one.start, _notice(box, one, original)
                else:
                    strange.add(one.part)
            finally:
                os.close(original)

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
        messages: Iterator[Message | None] | None = iter([_as_message(one) for one in self.done])
        if os.fstat(box.fd).st_size <= min(WHOLE_BYTES, self._engine.max_file_size):
            verdict, text = self._rescan(box)
            if verdict is not Verdict.NOT_SCANNED or text != Reason.CHANGED:
                return verdict, text
            messages = None  # mail keeps coming: all of them one by one, which nothing disturbs
        size, cpu_s = self._engine.max_file_size, self._engine.file_cpu_s
        parts = BoxScan(self._step.path, os.dup(box.fd), size, messages=messages, cpu_s=cpu_s)
        try:
            self._engine.survey.run(parts)
        except EngineLost as error:
            return Verdict.NOT_SCANNED, str(error)
        finally:
            parts.close()
        if parts.infected:
            return Verdict.INFECTED, parts.infected[0].signature
        return (Verdict.NOT_SCANNED, parts.why_unscanned) if parts.unscanned else (Verdict.CLEAN, "")


def _need_name(box: Mailbox) -> None:
    """What is replaced in a file that has no name any more is replaced nowhere."""
    try:
        box.need_name()
    except Replaced:
        raise _error("another file took its name meanwhile, from somebody who takes no lock") from None


def _copies(box: Mailbox, hits: Sequence[Hit]) -> int:
    """A file with all that stands in these ranges, one after the other, and nothing else than what was found."""
    copies = copy_of_ranges(box.fd, [(hit.start, hit.end) for hit in hits])
    try:
        at = 0
        for hit in hits:
            start, at = at, at + hit.end - hit.start
            if sha256_of_range(copies, start, at) != hit.before:
                raise _error(LOCKLESS)
    except BaseException:
        os.close(copies)
        raise
    return copies


def _notice(box: Mailbox, one: Kept, original: int = -1) -> Iterator[bytes]:
    """What is to stand there. `original`: a file with the message, where it is torn in the mailbox."""
    return box.notice_for(one.hit, one.item, one.kept_at, (original, 0) if original >= 0 else None)


def _notices(box: Mailbox, kept: Sequence[Kept]) -> Iterator[tuple[int, Iterable[bytes]]]:
    """What to write where; each message is looked at once more at the last moment."""
    for one in kept:
        if sha256_of_range(box.fd, one.start, one.end) != one.before:
            raise _error(LOCKLESS)
        yield one.start, _notice(box, one)


def _verify(box: Mailbox, look: Look, kept: Sequence[Kept], copies: int = -1) -> None:
    """Every range as meant, every byte outside as it was. `copies`: after look_where, what stood in the ranges."""
    for one in kept:
        if sha256_of_range(box.fd, one.start, one.end) != one.after:
            raise _error("others who take no lock wrote to it meanwhile")
    if not box.is_rest_unchanged(look, copies):
        raise _error("others wrote to it since it was looked at, without a lock or a trace in its times")
    _need_name(box)


def _as_message(kept: Kept) -> Message:
    return Message(number=kept.part, start=kept.start, end=kept.end, header_end=kept.start)


def _sha256(pieces: Iterable[bytes]) -> bytes:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.digest()
