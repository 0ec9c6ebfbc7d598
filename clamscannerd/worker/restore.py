"""Put one item of the vault back into the home, whole and under its name, or leave everything as it was. [worker]

The order of a step, and what a crash after each point leaves:
    content checked, engine asked    nothing
    written, attributes, fsync       an unnamed file, which is gone with this process; where the file system has none,
                                     one under the random name that the daemon committed before: removed when the step
                                     is begun again
    read back, then named            the file, complete; a name that is taken is never replaced
    directory fsynced                the same
    proof (Restored)                 the daemon commits the end, takes the item off its list, removes its content

A step that is begun again finds out by the content whether the file got its name before the crash: a regular file of
this size and SHA-256 at the target is the restored one, and there is nothing left to do. Should the user have put the
same content there meanwhile, the answer is right all the same. (Rejected: to compare inode numbers, committed before
the name is given: a commit more for each file, and ext4 gives a freed number to the next file.) The daemon drops the
vault's copy only after `restored`; every other end keeps it.

The parent must be the account's own and not everybody's: in a directory of somebody else, the name would be theirs to
exchange the moment it is there.
"""

import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Callable

from clamscannerd.model import RestoreOutcome, Verdict
from clamscannerd.worker import xattrs
from clamscannerd.worker.beneath import Kernel
from clamscannerd.worker.causes import cause
from clamscannerd.worker.channel import Channel
from clamscannerd.worker.hashing import NO_SHA256, identity_of, sha256_of
from clamscannerd.worker.mailbox import MailboxError
from clamscannerd.worker.mailfile import is_mailbox, sha256_of_range
from clamscannerd.worker.mailrestore import has_begun, restore_message
from clamscannerd.worker.restorewire import Restore, Restored, Standing

Rescan = Callable[[int, bytes], tuple[Verdict, str]]
"""(fd, path) -> verdict of the engine now, and the signature or the reason as text."""

_BLOCK_BYTES = 256 * 1024
_WAY = frozenset({errno.ELOOP, errno.ENOTDIR})
ANOTHER = "name another directory for it (to)"


class _End(Exception):
    """The step is decided, and nothing was written."""

    def __init__(self, message: str, *, outcome: RestoreOutcome = RestoreOutcome.ERROR, signature: str = "") -> None:
        super().__init__(message)
        self.outcome = outcome
        self.signature = signature


def _cannot(cause: str) -> _End:
    return _End(f"cannot restore it: {cause}")


class Restorer:
    """Does the steps of one restore or undo, one at a time."""

    def __init__(self, channel: Channel, kernel: Kernel, home_fd: int, rescan: Rescan) -> None:
        self._channel = channel
        self._kernel = kernel
        self._home_fd = home_fd
        self._rescan = rescan

    def restore(self, step: Restore, fd: int) -> None:
        """One step, from the intent to the proof. Closes `fd`, the content. OSErrors become an `error` of this step."""
        standing = None
        try:
            message, signature = self._place(step, fd) if step.message is None else self._put_back(step, fd)
            outcome = RestoreOutcome.RESTORED
            standing = self._standing(step) if signature else None
        except _End as end:
            outcome, message, signature = end.outcome, str(end), end.signature
        except OSError as error:
            outcome, message, signature = RestoreOutcome.ERROR, f"cannot restore it: {cause(error)}", ""
        finally:
            os.close(fd)
        self._channel.send(
            Restored(seq=step.seq, outcome=outcome, message=message, signature=signature, standing=standing)
        )

    def _standing(self, step: Restore) -> Standing | None:
        """What is infected and has the name now. The restore is over: nothing here makes an error of it."""
        try:
            fd = self._kernel.open_file(self._home_fd, step.path)
        except OSError:
            return None  # taken away again
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                return None
            if (place := step.message) is None:
                return Standing(identity=identity_of(status, step.sha256), mailbox=is_mailbox(fd), in_place=False)
            # The mailbox as a whole was not hashed: an action asks the engine first.
            in_place = sha256_of_range(fd, place.start, place.end) == step.sha256
            return Standing(identity=identity_of(status, NO_SHA256), mailbox=True, in_place=in_place)
        except OSError:
            return None  # unreadable: the next scan says so
        finally:
            os.close(fd)

    def _place(self, step: Restore, fd: int) -> tuple[str, str]:
        """What is to be said of a file that stands at its place now, and what is detected in it."""
        dir_fd, leaf = self._open_parent(step)
        try:
            if step.again:
                self._remove_captured(step, dir_fd)
            stands = step.again and self._stands(step, dir_fd, leaf)
            if not stands:
                self._need_free_name(dir_fd, leaf)
            if os.fstat(fd).st_size != step.size or sha256_of(fd) != step.sha256:
                raise _cannot("what came from the vault is not what was kept")
            said, signature = ("", "") if stands and not step.force else self._ask_engine(step, fd)
            notes = [said] if said else []
            if not stands:
                notes += self._write(step, dir_fd, leaf, fd)
            try:
                os.fsync(dir_fd)
            except OSError as error:
                raise _cannot(
                    f"it stands at its place, but its directory could not be synced ({error.strerror});"
                    " the vault keeps it too"
                ) from None
        finally:
            os.close(dir_fd)
        return "; ".join(notes), signature

    def _put_back(self, step: Restore, fd: int) -> tuple[str, str]:
        """A message, into its mailbox."""
        if os.fstat(fd).st_size != step.size or sha256_of(fd) != step.sha256:
            raise _cannot("what came from the vault is not what was kept")
        begun = step.again and has_begun(self._channel, self._kernel, self._home_fd, step, fd)
        said, signature = ("", "") if begun and not step.force else self._ask_engine(step, fd)
        try:
            how = restore_message(self._channel, self._kernel, self._home_fd, step, fd)
        except MailboxError as error:
            raise _cannot(f"{error}; {ANOTHER}") from None
        return "; ".join(filter(None, (said, how))), signature

    def _open_parent(self, step: Restore) -> tuple[int, bytes]:
        parent, _, leaf = step.path.rpartition(b"/")
        try:
            if step.make_dirs and parent:
                dir_fd = self._make_directories(parent)
            else:
                dir_fd = self._kernel.open_dir(self._home_fd, parent or b".")
        except FileNotFoundError:
            raise _cannot(f"its directory is not there any more; {ANOTHER}") from None
        except OSError as error:
            if error.errno in _WAY:
                raise _cannot(f"a link or a file is in the way to it; {ANOTHER}") from None
            raise
        try:
            if parent:  # the home itself was looked at when it was opened
                _need_own(dir_fd)
        except BaseException:
            os.close(dir_fd)
            raise
        return dir_fd, leaf

    def _make_directories(self, path: bytes) -> int:
        """The directory at `path`; each missing one is made, 0700, in one that is the account's own."""
        here = os.dup(self._home_fd)
        at_home = True
        try:
            for name in path.split(b"/"):
                try:
                    below = self._kernel.open_dir(here, name)
                except FileNotFoundError:
                    if not at_home:
                        _need_own(here)
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(name, 0o700, dir_fd=here)
                    os.fsync(here)
                    below = self._kernel.open_dir(here, name)
                os.close(here)
                here, at_home = below, False
        except BaseException:
            os.close(here)
            raise
        return here

    def _remove_captured(self, step: Restore, dir_fd: int) -> None:
        """What an earlier try wrote under its random name: incomplete, or a second name of the file that stands."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(step.capture, dir_fd=dir_fd)

    def _stands(self, step: Restore, dir_fd: int, leaf: bytes) -> bool:
        """Whether an earlier try got as far as the name."""
        try:
            fd = self._kernel.open_file(dir_fd, leaf)
        except OSError:
            return False
        try:
            status = os.fstat(fd)
            return stat.S_ISREG(status.st_mode) and status.st_size == step.size and sha256_of(fd) == step.sha256
        finally:
            os.close(fd)

    def _need_free_name(self, dir_fd: int, leaf: bytes) -> None:
        """Asked before the work; what counts is that the name is given without replacing."""
        with contextlib.suppress(FileNotFoundError):
            os.stat(leaf, dir_fd=dir_fd, follow_symlinks=False)
            raise _cannot(f"its name is taken; {ANOTHER}")

    def _ask_engine(self, step: Restore, fd: int) -> tuple[str, str]:
        """What the present signatures say, as a note, and the signature. Without `force` only `clean` goes on."""
        verdict, text = self._rescan(fd, step.path)
        if verdict is Verdict.CLEAN:
            return "", ""
        if verdict is Verdict.INFECTED:
            if step.force:
                return f"restored by force: {text} is detected in it", text
            said = f"left in the vault: {text} is detected in it; it is restored only with force"
            raise _End(said, outcome=RestoreOutcome.NO_ACTION, signature=text)
        if step.force:
            return f"restored by force: it could not be scanned ({text})", ""
        raise _cannot(f"it cannot be scanned ({text}); it is restored unscanned only with force")

    def _write(self, step: Restore, dir_fd: int, leaf: bytes, content: int) -> list[str]:
        """The file, complete and verified, under its name; what could not be given back."""
        while True:
            fd, named = self._kernel.create(dir_fd, step.capture)
            try:
                notes = _fill(fd, step, content)
                if self._kernel.give_name(dir_fd, fd, step.capture if named else b"", leaf):
                    return notes
                # Unnamed files cannot be named here: once more, with a random name from the start.
            except FileExistsError:
                raise _cannot(f"its name was taken meanwhile; {ANOTHER}") from None
            finally:
                os.close(fd)
                if named:  # after the rename there is none
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(step.capture, dir_fd=dir_fd)


def _need_own(dir_fd: int) -> None:
    status = os.fstat(dir_fd)
    if status.st_uid != os.geteuid():
        raise _cannot(f"its directory belongs to uid {status.st_uid}; {ANOTHER}")
    if status.st_mode & stat.S_IWOTH:
        raise _cannot(f"everybody may write to its directory; {ANOTHER}")


def _fill(fd: int, step: Restore, content: int) -> list[str]:
    """Content and attributes, on disk and read back; notes about what the user may not set."""
    offset = 0
    while block := os.pread(content, _BLOCK_BYTES, offset):
        rest = memoryview(block)
        while rest:
            rest = rest[os.write(fd, rest) :]
        offset += len(block)
    notes = []
    if os.fstat(fd).st_gid != step.gid:
        try:
            os.fchown(fd, -1, step.gid)
        except OSError:
            notes.append("its group could not be given back")
    if refused := xattrs.give_back(fd, step.xattrs):
        notes.append(f"{refused} of its extended attributes could not be given back")
    # No setuid, setgid or sticky: what comes out of quarantine gets no rights that its owner does not see at once.
    os.fchmod(fd, step.mode & 0o777)
    os.utime(fd, ns=(os.fstat(fd).st_atime_ns, step.mtime_ns))
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)  # read back from the disk, as far as the kernel agrees
    digest = hashlib.sha256()
    size = 0
    while block := os.pread(fd, _BLOCK_BYTES, size):
        digest.update(block)
        size += len(block)
    if size != step.size or digest.digest() != step.sha256:
        raise _cannot("what was written is not what came from the vault; does the disk work?")
    return notes
