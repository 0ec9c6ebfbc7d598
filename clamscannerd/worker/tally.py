"""What a scan has counted and not yet reported, sent up in batches. [worker]"""

from collections.abc import Callable, Sequence

from clamscannerd.model import Counts, Identity, MailMessage, Reason
from clamscannerd.worker.channel import Channel
from clamscannerd.worker.line import Flight
from clamscannerd.worker.mailwire import MESSAGES_IN_BATCH, FoundMessages
from clamscannerd.worker.messages import (
    BATCH_BYTES,
    MAX_TEXT,
    Cleared,
    Found,
    FoundFile,
    Progress,
    Skipped,
    SkippedFile,
)

_MOST_EXCLUDED = 1_000  # paths of such files that are reported: the patterns say the same, and others need the room
_FOUND_OVERHEAD_BYTES = 256  # of one finding beside its path: keys, identity, signature


class Tally:
    """Counters and batches. Totals come from the count that runs ahead or from the scan, whichever is further."""

    def __init__(self, channel: Channel, max_skipped: int) -> None:
        self._channel = channel
        self._max_skipped = max_skipped
        self._skipped_sent = 0
        self.met_files = 0
        self.met_bytes = 0
        self.counted_files = 0
        self.counted_bytes = 0
        self.scanned_files = 0
        self.scanned_bytes = 0
        self.infected_files = 0
        self.cached_files = 0
        self.not_scanned: dict[Reason, int] = {}
        self.earlier: dict[int, int] = {}
        self.current = b""
        self.wants: Callable[[], int] = lambda: 0  # what goes up as Progress.wants
        self._found: list[FoundFile] = []
        self._skipped: list[SkippedFile] = []
        self._cleared: list[bytes] = []
        self._batch_bytes = 0

    def scanned(self, size: int) -> None:
        """One file with a verdict."""
        self.scanned_files += 1
        self.scanned_bytes += size

    def known(self, number: int, size: int, database: int | None = None) -> None:
        """Files that are known to be clean: met, and scanned as far as anybody is concerned. `database`: an earlier one
        says so."""
        if database is not None:
            self.earlier[database] = self.earlier.get(database, 0) + number
        self.met_files += number
        self.met_bytes += size
        self.scanned_files += number
        self.scanned_bytes += size
        self.cached_files += number

    def recognised(self, size: int) -> None:
        """A file that was met, of which the content is known to be clean."""
        self.scanned(size)
        self.cached_files += 1

    def found(self, flight: Flight, identity: Identity, signature: str, *, mailbox: bool) -> None:
        """One infected file, counted by the caller (a file looked at again is not counted twice)."""
        one = FoundFile(
            path=flight.path,
            identity=identity,
            signature=signature[:MAX_TEXT],
            mailbox=mailbox,
            owner=flight.status.st_uid,
            engine=flight.engine,
        )
        self._found.append(one)
        self._grow(len(flight.path) + _FOUND_OVERHEAD_BYTES)

    def found_messages(self, path: bytes, messages: Sequence[MailMessage], total: int, in_box: int) -> None:
        """The infected messages of a file that was found; the finding itself goes first."""
        self.flush()
        for start in range(0, max(1, len(messages)), MESSAGES_IN_BATCH):
            batch = tuple(messages[start : start + MESSAGES_IN_BATCH])
            self._channel.send(FoundMessages(path=path, messages=batch, total=total, in_box=in_box))

    def skipped(self, path: bytes, reason: Reason) -> None:
        """One file without a verdict. Paths are reported up to the limit; all are counted.

        What is unchanged is counted alone: it would fill the list, and hide in it what somebody should look at.
        """
        number = self.not_scanned[reason] = self.not_scanned.get(reason, 0) + 1
        if reason is Reason.UNCHANGED or (reason is Reason.EXCLUDED and number > _MOST_EXCLUDED):
            return
        if self._skipped_sent < self._max_skipped and path != b".":
            self._skipped_sent += 1
            self._skipped.append(SkippedFile(path=path, reason=reason))
            self._grow(len(path) + 64)

    def cleared(self, path: bytes) -> None:
        """One file that was infected before and is not any more."""
        self._cleared.append(path)
        self._grow(len(path) + 8)

    def _grow(self, size: int) -> None:
        self._batch_bytes += size
        if self._batch_bytes > BATCH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Send what has been gathered, findings first."""
        if self._found:
            self._channel.send(Found(files=tuple(self._found)))
        if self._cleared:
            self._channel.send(Cleared(paths=tuple(self._cleared)))
        if self._skipped:
            self._channel.send(Skipped(files=tuple(self._skipped)))
        self._found, self._skipped, self._cleared, self._batch_bytes = [], [], [], 0

    def counts(self) -> Counts:
        """The counters as they stand."""
        return Counts(
            total_files=max(self.met_files, self.counted_files),
            total_bytes=max(self.met_bytes, self.counted_bytes),
            scanned_files=self.scanned_files,
            scanned_bytes=self.scanned_bytes,
            infected_files=self.infected_files,
            cached_files=self.cached_files,
            not_scanned=dict(self.not_scanned),
            earlier=dict(self.earlier),
        )

    def report(self) -> None:
        """Everything gathered, then the counters."""
        self.flush()
        self._channel.send(Progress(counts=self.counts(), current=self.current, wants=self.wants()))

    def balance(self) -> None:
        """At the end of a whole walk: what was counted ahead and then was not met has vanished meanwhile."""
        missing = self.counted_files - self.met_files
        if missing > 0:
            self.not_scanned[Reason.VANISHED] = self.not_scanned.get(Reason.VANISHED, 0) + missing
