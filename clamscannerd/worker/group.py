"""Many small files taken away together: the steps of actions.py, a group at each point instead of a file. [worker]

What costs is not the calls but the waits for the disk: a group needs one commit of its contents, two of its rows and
one fsync for each directory, where each file alone needed as many. The order for each single file is that of
actions.py, and so is what a crash leaves: a captured name that the daemon knows.

Only the plain case is done here: the very file that was found, unchanged. Everything else (gone, changed, replaced,
not permitted) is left as it was, and the daemon has it done by actions.py, which knows what to say about it.
"""

import hashlib
import os
import stat
from collections import deque
from collections.abc import Sequence

from clamscannerd.errors import RemoteProtocolError
from clamscannerd.model import Action, Outcome
from clamscannerd.worker import xattrs
from clamscannerd.worker.beneath import Kernel
from clamscannerd.worker.channel import Channel
from clamscannerd.worker.hashing import Stamp, is_same_file, stamp
from clamscannerd.worker.messages import (
    CHUNK_BYTES,
    GROUPS_AT_ONCE,
    SMALL_XATTRS_BYTES,
    Act,
    Acted,
    ActGroup,
    GroupActed,
    GroupStored,
    SmallFile,
    SmallFiles,
)

_DONE = {Action.DELETE: Outcome.DELETED, Action.QUARANTINE: Outcome.QUARANTINED}
_FILE_OVERHEAD_BYTES = 64


class _Taken:
    """A captured file."""

    __slots__ = ("dir_fd", "fd", "leaf", "stamp", "step")

    def __init__(self, step: Act, dir_fd: int, leaf: bytes, fd: int, when: Stamp) -> None:
        self.step = step
        self.dir_fd = dir_fd
        self.leaf = leaf
        self.fd = fd
        self.stamp = when


class Groups:
    """The groups under way: the next is captured before the one before is stored, so that neither end waits."""

    def __init__(self, channel: Channel, kernel: Kernel, home_fd: int) -> None:
        self._channel = channel
        self._kernel = kernel
        self._home_fd = home_fd
        self._groups: deque[_Group] = deque()

    def __bool__(self) -> bool:
        return bool(self._groups)

    def take(self, command: ActGroup) -> None:
        if len(self._groups) == GROUPS_AT_ONCE:
            raise RemoteProtocolError(f"cannot take another group: {GROUPS_AT_ONCE} are not stored yet")
        group = _Group(self._channel, self._kernel, self._home_fd)
        self._groups.append(group)
        group.take(command)

    def end(self, command: GroupStored) -> None:
        """In the order in which they were taken."""
        if not self._groups:
            raise RemoteProtocolError("cannot end a group: none is under way")
        self._groups.popleft().end(command)


class _Group:
    """One group, from the captures to the proofs."""

    def __init__(self, channel: Channel, kernel: Kernel, home_fd: int) -> None:
        self._channel = channel
        self._kernel = kernel
        self._home_fd = home_fd
        self._directories: dict[bytes, int] = {}
        self._taken: dict[int, _Taken] = {}
        self._files: list[SmallFile] = []
        self._size = 0

    def take(self, command: ActGroup) -> None:
        """Capture and send all."""
        for step in command.steps:
            self._capture(step)
        self._channel.send(SmallFiles(files=tuple(self._files), last=True))
        self._files = []

    def end(self, command: GroupStored) -> None:
        """Unlink what is stored, put back what is not, say which ended."""
        try:
            self._channel.send(GroupActed(ends=tuple(self._unlink(command.seqs))))
        finally:
            for taken in self._taken.values():
                os.close(taken.fd)
            for dir_fd in self._directories.values():
                os.close(dir_fd)

    def _capture(self, step: Act) -> None:
        parent, _, leaf = step.path.rpartition(b"/")
        try:
            dir_fd = self._directories.get(parent)
            if dir_fd is None:
                dir_fd = self._directories[parent] = self._kernel.open_dir(self._home_fd, parent or b".")
            fd = self._kernel.open_file(dir_fd, leaf)
        except OSError:
            return
        taken: _Taken | None = None
        try:
            status = os.fstat(fd)
            packed, unkept = xattrs.collect(fd, SMALL_XATTRS_BYTES)
            if stat.S_ISREG(status.st_mode) and is_same_file(status, step.identity) and not unkept:
                self._kernel.capture(dir_fd, leaf, step.capture)
                taken = _Taken(step, dir_fd, leaf, fd, stamp(os.fstat(fd)))  # the rename itself moved ctime
                if self._is_captured(taken) and (data := self._content(taken)) is not None:
                    self._taken[step.seq] = taken
                    self._send(step, status, data, packed)
                    return
        except OSError:
            pass  # untouched, or put back below: the daemon asks again for this one alone, and then the error is told
        if taken is not None:
            self._put_back(taken)
        os.close(fd)

    def _content(self, taken: _Taken) -> bytes | None:
        """All of it, if it is what was found infected."""
        data = os.pread(taken.fd, CHUNK_BYTES, 0)
        identity = taken.step.identity
        fits = len(data) == identity.size and hashlib.sha256(data).digest() == identity.sha256
        return data if fits else None

    def _send(self, step: Act, status: os.stat_result, data: bytes, packed: bytes) -> None:
        size = len(data) + len(packed) + _FILE_OVERHEAD_BYTES
        if self._files and self._size + size > CHUNK_BYTES:
            self._channel.send(SmallFiles(files=tuple(self._files), last=False))
            self._files, self._size = [], 0
        self._files.append(
            SmallFile(
                seq=step.seq,
                data=data,
                mode=status.st_mode,
                uid=status.st_uid,
                gid=status.st_gid,
                mtime_ns=step.identity.mtime_ns,
                xattrs=packed,
            )
        )
        self._size += size

    def _is_captured(self, taken: _Taken) -> bool:
        """Whether the captured name is the open file, which nobody wrote to since."""
        name = os.stat(taken.step.capture, dir_fd=taken.dir_fd, follow_symlinks=False)
        ours = os.fstat(taken.fd)
        return (name.st_dev, name.st_ino) == (ours.st_dev, ours.st_ino) and stamp(ours) == taken.stamp

    def _unlink(self, stored: Sequence[int]) -> list[Acted]:
        """The proofs: unlinked, and the directories on disk."""
        unlinked: list[_Taken] = []
        wanted = frozenset(stored)
        for seq, taken in self._taken.items():
            try:
                if seq in wanted and self._is_captured(taken):
                    os.unlink(taken.step.capture, dir_fd=taken.dir_fd)
                    unlinked.append(taken)
                    continue
            except OSError:
                pass  # as above
            self._put_back(taken)
        failures: dict[int, str] = {}
        for dir_fd in {taken.dir_fd for taken in unlinked}:
            try:
                os.fsync(dir_fd)
            except OSError as error:
                failures[dir_fd] = f"done, but the directory could not be synced: {error.strerror}"
        return [
            Acted(
                seq=taken.step.seq,
                outcome=_DONE[taken.step.action],
                message=failures.get(taken.dir_fd, ""),
                gone=True,
                put_back=False,
            )
            for taken in unlinked
        ]

    def _put_back(self, taken: _Taken) -> None:
        """Its name again, if that is free; else it is found under the captured one when it is asked for alone.

        What is not ours (swapped in before the capture) will not be looked for again: it gets a name in any case.
        """
        try:
            name, ours = os.stat(taken.step.capture, dir_fd=taken.dir_fd, follow_symlinks=False), os.fstat(taken.fd)
            foreign = (name.st_dev, name.st_ino) != (ours.st_dev, ours.st_ino)
            self._kernel.put_back(taken.dir_fd, taken.step.capture, taken.leaf, or_beside=foreign)
        except OSError:
            return
