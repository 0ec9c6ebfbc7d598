"""Take one file away, or leave everything as it was. [worker]

The order of a step, and what a crash after each point leaves:
    open, compare    the file as it was
    capture          the file under a random name that the daemon committed before: found again, the step goes on
    content up       the same, and perhaps an incomplete content in the vault, which the daemon drops
    stored           the same, and the content on disk in the vault
    verify, unlink   only the content in the vault
    proof (Acted)    the daemon commits the end of the step

Deciding by name and then unlinking by name deleted the wrong file 2,058 times in 34,590 races. So the name
is captured first, by a rename that replaces nothing, and what was captured is compared with the file that is open:
the wrong one is put back. Any doubt ends in `error` with the file where it was.
"""

import contextlib
import hashlib
import os
import stat
from collections.abc import Callable, Iterator

import msgspec

from clamscannerd.errors import RemoteProtocolError
from clamscannerd.model import Action, Outcome, Verdict
from clamscannerd.worker import xattrs
from clamscannerd.worker.beneath import Kernel
from clamscannerd.worker.causes import cause
from clamscannerd.worker.channel import Channel
from clamscannerd.worker.hashing import identity_of, is_same_file, is_same_inode, sha256_of, stamp
from clamscannerd.worker.messages import CHUNK_BYTES, Act, Acted, Chunk, Content, ContentEnd, Stored

Rescan = Callable[[int, bytes], tuple[Verdict, str]]
"""(fd, path) -> verdict of the engine now, and the signature or the reason as text."""

_DONE = {Action.DELETE: Outcome.DELETED, Action.QUARANTINE: Outcome.QUARANTINED}
_VERB = {Action.DELETE: "delete", Action.QUARANTINE: "quarantine"}


class _End(Exception):
    """The step is decided."""

    def __init__(self, outcome: Outcome, message: str, *, gone: bool = False, put_back: bool = False) -> None:
        super().__init__(message)
        self.outcome = outcome
        self.gone = gone
        self.put_back = put_back


class Actor:
    """Does the steps of one task, one at a time."""

    def __init__(self, channel: Channel, kernel: Kernel, home_fd: int, rescan: Rescan) -> None:
        self._channel = channel
        self._kernel = kernel
        self._home_fd = home_fd
        self._rescan = rescan
        self._unkept = 0  # extended attributes of the step at hand that did not go up

    def act(self, step: Act) -> None:
        """One step, from the intent to the proof. OSErrors become an `error` of this step."""
        self._unkept = 0
        try:
            self._take(step)
            said = f"{self._unkept} of its extended attributes could not be kept" if self._unkept else ""
            end = _End(_DONE[step.action], said, gone=True)
        except _End as decided:
            end = decided
        except OSError as error:
            end = _End(Outcome.ERROR, f"cannot {_VERB[step.action]} it: {cause(error)}")
        self._channel.send(
            Acted(seq=step.seq, outcome=end.outcome, message=str(end), gone=end.gone, put_back=end.put_back)
        )

    def _take(self, step: Act) -> None:
        try:
            dir_fd, leaf = self._kernel.open_parent(self._home_fd, step.path)
        except OSError as error:
            if step.again:  # it may lie in there under its random name, wherever the directory is now
                raise _End(
                    Outcome.ERROR, f"cannot {_VERB[step.action]} it: its directory: {error.strerror}{_hint(step)}"
                ) from None
            if isinstance(error, FileNotFoundError):
                raise _gone() from None
            raise
        try:
            captured = self._reopen_captured(step, dir_fd, leaf) if step.again else None
            if captured is None:
                self._start(step, dir_fd, leaf)
                return
            with _closing(captured):
                self._finish(step, dir_fd, leaf, captured)
        finally:
            os.close(dir_fd)

    def _reopen_captured(self, step: Act, dir_fd: int, leaf: bytes) -> int | None:
        """After a crash: the fd of the captured file, if the capture had happened and was not undone."""
        try:
            fd = self._kernel.open_file(dir_fd, step.capture)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _End(Outcome.ERROR, f"cannot {_VERB[step.action]} it: {error.strerror}{_hint(step)}") from None
        ours = os.fstat(fd)
        if not stat.S_ISREG(ours.st_mode):
            os.close(fd)
            raise _End(
                Outcome.ERROR, f"cannot {_VERB[step.action]} it: what was captured is no file any more{_hint(step)}"
            )
        if _inode_at(dir_fd, leaf) == (ours.st_dev, ours.st_ino):
            # Given back by link and unlink (no NOREPLACE here), and the crash was between the two.
            os.close(fd)
            os.unlink(step.capture, dir_fd=dir_fd)
            return None
        return fd

    def _start(self, step: Act, dir_fd: int, leaf: bytes) -> None:
        try:
            fd = self._kernel.open_file(dir_fd, leaf)
        except FileNotFoundError:
            if step.stored:
                return  # stored and unlinked before the crash, only the proof was missing
            raise _gone() from None
        with _closing(fd):
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise _End(Outcome.ERROR, f"cannot {_VERB[step.action]} it: it is no regular file any more")
            if step.stored and not is_same_inode(status, step.identity):
                return  # ours was stored and unlinked; this is a new file that took its name
            if not is_same_file(status, step.identity):
                # Perhaps ours, stored, put back and written to since: what was stored is not what is here now.
                step = msgspec.structs.replace(self._still_infected(step, fd), stored=b"")
            try:
                self._kernel.capture(dir_fd, leaf, step.capture)
            except FileNotFoundError:
                raise _gone() from None
            self._finish(step, dir_fd, leaf, fd)

    def _still_infected(self, step: Act, fd: int) -> Act:
        """Not the content that was found: the engine decides afresh. Returns the step with what is there now."""
        verb = _VERB[step.action]
        status = os.fstat(fd)
        sha256 = sha256_of(fd)
        verdict, text = self._rescan(fd, step.path)
        if stamp(os.fstat(fd)) != stamp(status):
            raise _End(Outcome.ERROR, f"cannot {verb} it: it is being written to")
        if verdict is Verdict.CLEAN:
            raise _End(Outcome.NO_ACTION, "it changed since the scan and is clean now: left as it is", gone=True)
        if verdict is not Verdict.INFECTED:
            raise _End(
                Outcome.ERROR, f"cannot {verb} it: it changed since the scan and cannot be scanned again: {text}"
            )
        return msgspec.structs.replace(step, identity=identity_of(status, sha256))

    def _finish(self, step: Act, dir_fd: int, leaf: bytes, fd: int) -> None:
        """From the captured name on. Whatever goes wrong, the file gets its name back."""
        try:
            self._check_captured(step, dir_fd, fd)
            before = stamp(os.fstat(fd))
            if step.keep:
                # What was stored before a crash counts only if nobody who has the file open wrote to it since.
                if not step.stored or sha256_of(fd) != step.stored:
                    self._store(step, fd)
            elif sha256_of(fd) != step.identity.sha256:
                self._still_infected(step, fd)
            if stamp(os.fstat(fd)) != before:
                raise _End(Outcome.ERROR, f"cannot {_VERB[step.action]} it: it was written to meanwhile")
            self._check_captured(step, dir_fd, fd)
            os.unlink(step.capture, dir_fd=dir_fd)
        except (_End, OSError) as trouble:
            self._put_back(step, dir_fd, leaf, trouble)
        try:
            # The proof must not outrun the disk: after a power cut the name would be back, and the step ended.
            os.fsync(dir_fd)
        except OSError as error:
            raise _End(
                _DONE[step.action], f"done, but the directory could not be synced: {error.strerror}", gone=True
            ) from None

    def _check_captured(self, step: Act, dir_fd: int, fd: int) -> None:
        """The captured name must be the open file: else somebody swapped it between open and capture."""
        name, ours = os.stat(step.capture, dir_fd=dir_fd, follow_symlinks=False), os.fstat(fd)
        if (name.st_dev, name.st_ino) != (ours.st_dev, ours.st_ino):
            raise _End(Outcome.ERROR, f"cannot {_VERB[step.action]} it: another file took its name meanwhile")

    def _store(self, step: Act, fd: int) -> None:
        """Send the content up and wait until it is on disk. Content that was not meant is asked of the engine first."""
        if self._upload(step, fd) != step.identity.sha256:
            step = self._still_infected(step, fd)
            if self._upload(step, fd) != step.identity.sha256:
                raise _End(Outcome.ERROR, f"cannot {_VERB[step.action]} it: it is being written to")
        command, _ = self._channel.receive()
        if not isinstance(command, Stored) or command.seq != step.seq:
            raise RemoteProtocolError("cannot go on: expected Stored")
        if command.reason:
            raise _End(Outcome.ERROR, command.reason)

    def _upload(self, step: Act, fd: int) -> bytes:
        """All of the content; ContentEnd carries a reason when it is not what was meant. Returns the hash."""
        status = os.fstat(fd)
        packed, self._unkept = xattrs.collect(fd)
        self._channel.send(
            Content(
                seq=step.seq,
                size=status.st_size,
                mode=status.st_mode,
                uid=status.st_uid,
                gid=status.st_gid,
                mtime_ns=max(-(2**63), min(status.st_mtime_ns, 2**63 - 1)),
                xattrs=packed,
            )
        )
        digest = hashlib.sha256()
        offset = 0
        while offset < status.st_size and (block := os.pread(fd, min(CHUNK_BYTES, status.st_size - offset), offset)):
            digest.update(block)
            offset += len(block)
            self._channel.send(Chunk(seq=step.seq, data=block))
        sha256 = digest.digest()
        fits = offset == status.st_size and sha256 == step.identity.sha256
        self._channel.send(
            ContentEnd(seq=step.seq, sha256=sha256, signature="", reason="" if fits else "not the expected content")
        )
        return sha256

    def _put_back(self, step: Act, dir_fd: int, leaf: bytes, trouble: Exception) -> None:
        """Undo the capture and end the step; the message names the file's place when it is not the old one."""
        if isinstance(trouble, _End):
            outcome, message, gone = trouble.outcome, str(trouble), trouble.gone
        else:
            cause = trouble.strerror if isinstance(trouble, OSError) else str(trouble)
            outcome, message, gone = Outcome.ERROR, f"cannot {_VERB[step.action]} it: {cause}", False
        try:
            name = self._kernel.put_back(dir_fd, step.capture, leaf)
        except OSError as error:
            where = step.capture.decode("ascii", "replace")
            message += f"; its name could not be given back ({error.strerror}): it is called {where} now"
            raise _End(Outcome.ERROR, message) from None
        if name != leaf:
            message += f"; its name was taken meanwhile: it is called {name.decode('utf-8', 'backslashreplace')} now"
        put_back = True
        try:
            # The daemon drops its copy on this word: a power cut must not bring the random name back.
            os.fsync(dir_fd)
        except OSError:
            put_back = False
        raise _End(outcome, message, gone=gone, put_back=put_back) from None


def _gone() -> _End:
    return _End(Outcome.NO_ACTION, "it is gone: nothing was there to act on", gone=True)


def _hint(step: Act) -> str:
    return f"; if it is missing, it is called {step.capture.decode('ascii', 'replace')} now"


def _inode_at(dir_fd: int, name: bytes) -> tuple[int, int] | None:
    try:
        status = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    except OSError:
        return None
    return status.st_dev, status.st_ino


@contextlib.contextmanager
def _closing(fd: int) -> Iterator[None]:
    try:
        yield
    finally:
        os.close(fd)
