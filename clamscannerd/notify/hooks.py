"""Finding, checking and running one hook. [notify]

A hook is what /etc/clamscannerd/hooks.d has under a plain name: an executable that root put there, or a link to one.
Nobody but root may be able to change which program that is: so the way is walked one name at a time from /, by fds and
never through a link unseen. Each directory and link on it, and the file, has to be root's; no directory and not the
file may be writable by group or others (a sticky directory like /tmp is fine: there nobody else can move what is
root's). What was checked is what runs: the file's own fd is executed, so that a name changed meanwhile changes nothing.

A hook runs in a session of its own, with the digest as its standard input and a bare environment; after its time its
whole process group is killed, and also what is left of the group after it has ended.

Rejected: run-parts (follows whatever it finds, no time limit); os.path.realpath and then exec (the path may be another
one by then).
"""

import contextlib
import os
import re
import select
import signal
import stat
import subprocess
import time
from collections.abc import Iterator
from typing import NamedTuple

HOOKS = "/etc/clamscannerd/hooks.d"
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "HOME": "/nonexistent"}

OUTPUT_BYTES = 2_000
"""Of what a hook says, kept for the journal: its last words tell why it failed."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
_LEFT_BY_DPKG = re.compile(r".*(~|\.(bak|disabled|rpmsave|rpmnew|dpkg-[a-z]+|ucf-[a-z]+))")
_PIPE_BYTES = 65_536
_LINKS = 40  # as many as the kernel follows
_READ_ONLY = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class HookRefused(Exception):
    """Why this is not run."""


class Outcome(NamedTuple):
    """`ok`: it ended with 0. `how`: in words. `output`: its last words, of both streams. `timed_out`: it was killed."""

    ok: bool
    how: str
    output: str
    timed_out: bool = False


def names(directory: str) -> list[str]:
    """What is meant as a hook, in order; none where there is no directory. What is not executable is switched off."""
    try:
        found = sorted(os.listdir(directory))
    except FileNotFoundError:
        return []
    return [
        name
        for name in found
        if _NAME.fullmatch(name) and not _LEFT_BY_DPKG.fullmatch(name) and _is_on(os.path.join(directory, name))
    ]


def _is_on(path: str) -> bool:
    """A link to nothing is on: it is meant to be something, and is refused aloud."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return True
    return not stat.S_ISREG(mode) or bool(mode & 0o111)


def open_hook(path: str, owners: frozenset[int]) -> int:
    """An fd of the program that `path`, absolute, leads to. Raises HookRefused. `owners`: root."""
    waiting = _parts(path)
    followed = 0
    with contextlib.ExitStack() as stack:
        above = [_enter("/", None, owners, stack)]
        while waiting:
            name = waiting.pop(0)
            if name == "..":
                above = above[:-1] or above
                continue
            try:
                status = os.lstat(name, dir_fd=above[-1])
            except OSError as error:
                raise HookRefused(f"{name} in the way of {path}: {error.strerror}") from None
            _need_owner(status, name, path, owners)
            if stat.S_ISLNK(status.st_mode):
                if (followed := followed + 1) > _LINKS:
                    raise HookRefused(f"{path}: too many links")
                target = os.readlink(name, dir_fd=above[-1])
                if target.startswith("/"):
                    above = above[:1]
                waiting = _parts(target) + waiting
            elif waiting or stat.S_ISDIR(status.st_mode):
                above.append(_enter(name, above[-1], owners, stack))
            else:
                return _open_file(name, above[-1], path, owners)
    raise HookRefused(f"{path} is a directory")


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")]


def _enter(name: str, above: int | None, owners: frozenset[int], stack: contextlib.ExitStack) -> int:
    try:
        fd = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=above)
    except OSError as error:
        raise HookRefused(f"cannot enter {name}: {error.strerror}") from None
    stack.callback(os.close, fd)
    status = os.fstat(fd)
    _need_owner(status, name, name, owners)
    if status.st_mode & 0o022 and not status.st_mode & stat.S_ISVTX:
        raise HookRefused(f"others can write to the directory {name} (mode {stat.S_IMODE(status.st_mode):o})")
    return fd


def _open_file(name: str, above: int, path: str, owners: frozenset[int]) -> int:
    try:
        fd = os.open(name, _READ_ONLY, dir_fd=above)
    except OSError as error:
        raise HookRefused(f"cannot open {path}: {error.strerror}") from None
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise HookRefused(f"{path} is no regular file")
        _need_owner(status, name, path, owners)
        if status.st_mode & 0o022:
            raise HookRefused(f"others can write to {path} (mode {stat.S_IMODE(status.st_mode):o})")
        if not os.access(f"/proc/self/fd/{fd}", os.X_OK):
            raise HookRefused(f"{path} is not executable for the user that hooks run as")
    except BaseException:
        os.close(fd)
        raise
    return fd


def _need_owner(status: os.stat_result, name: str, path: str, owners: frozenset[int]) -> None:
    if status.st_uid not in owners:
        raise HookRefused(f"{name} in the way of {path} belongs to uid {status.st_uid}, not root")


def run(path: str, digest: int, *, timeout_s: float, owners: frozenset[int]) -> Outcome:
    """One try. `digest`: an fd of it, at its beginning. Never raises for what a hook does."""
    try:
        program = open_hook(path, owners)
    except HookRefused as refused:
        return Outcome(ok=False, how=f"refused: {refused}", output="")
    reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        os.set_blocking(writing, True)
        process = subprocess.Popen(
            [path],
            executable=f"/proc/self/fd/{program}",  # a script's interpreter opens it again, so the fd goes along
            pass_fds=(program,),
            stdin=digest,
            stdout=writing,
            stderr=writing,
            cwd="/",
            env=ENVIRONMENT,
            start_new_session=True,
        )
    except OSError as error:
        os.close(reading)
        return Outcome(ok=False, how=f"cannot be run: {error.strerror}", output="")
    finally:
        os.close(program)
        os.close(writing)
    with _group_killed(process):
        output, ended = _listen(process, reading, timeout_s)
    code = process.returncode
    if not ended:
        return Outcome(ok=False, how=f"was killed after {timeout_s:g} s", output=output, timed_out=True)
    how = f"ended with {code}" if code >= 0 else f"ended by signal {-code}"
    return Outcome(ok=code == 0, how=how, output=output)


@contextlib.contextmanager
def _group_killed(process: "subprocess.Popen[bytes]") -> Iterator[None]:
    """Its session's first group; before the leader is waited for, or the number might be another's by then."""
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _listen(process: "subprocess.Popen[bytes]", reading: int, timeout_s: float) -> tuple[str, bool]:
    """Its last words, and whether it ended in time. What its children still hold open is not waited for."""
    until = time.monotonic() + timeout_s
    said, in_time = b"", False
    ended = os.pidfd_open(process.pid)
    try:
        poll = select.poll()
        poll.register(ended, select.POLLIN)
        poll.register(reading, select.POLLIN)
        while not in_time and (left := until - time.monotonic()) > 0:
            ready = {fd for fd, _ in poll.poll(left * 1000)}
            in_time = ended in ready
            if reading in ready:
                more = os.read(reading, _PIPE_BYTES)  # all that the pipe holds
                said = (said + more)[-OUTPUT_BYTES:]
                if not more:
                    poll.unregister(reading)
        return said.decode("utf-8", "backslashreplace").strip(), in_time
    finally:
        os.close(ended)
        os.close(reading)
