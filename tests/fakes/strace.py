"""strace on running processes: which calls they make, and SIGKILL or an error instead of one of them.

    with Strace(pid) as trace: ...                   # all of its threads, and what it starts
    for point in trace.points(): ...                 # each call that changes something, as (call, number, text)
    with Strace(pid, fault=at(Point("renameat2", 1, ""), "signal=KILL")) as trace:
        ...
        assert trace.hit()

A point is the n-th call of its kind *within one thread*, which is how strace counts. The kernel drops a call on whose
entry SIGKILL arrives: what was to be done is not done. Nor is it when the call is given an error.
"""

import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from tests.fakes.running import END_TIMEOUT_S

CHANGING = (
    "mkdir", "mkdirat", "openat", "rename", "renameat", "renameat2", "link", "linkat", "unlink", "unlinkat", "rmdir",
    "write", "pwrite64", "ftruncate", "fsync", "fdatasync", "sendmsg",
)  # fmt: skip
"""What changes a file, or the state of another process (sendmsg: monitor and workers speak so). Plain sendto is left
out: it wakes threads, and answers clients."""

KILL = "signal=KILL"
_LINE = re.compile(r"^(\d+) +(\w+)\((.*)")


class Point(NamedTuple):
    """The `number`-th `call` of one thread; `text`: its arguments in the run that found it, for the report."""

    call: str
    number: int
    text: str


def at(point: Point, what: str) -> str:
    """The fault `what` (KILL, "error=EIO") instead of this call.

    What is done instead of a call with an error is a call that does nothing: none at all, as is strace's own way, would
    be a fault of another kind for a sealed worker, whose filter kills it.
    """
    instead = "" if what == KILL else ":syscall=getpid"
    return f"{point.call}:{what}{instead}:when={point.number}"


class Strace:
    """Attached to `pids` while the context lasts. `fault`: as strace's `inject`. `paths`: only calls on these files."""

    def __init__(self, *pids: int, fault: str = "", paths: tuple[Path, ...] = ()) -> None:
        self._out = tempfile.NamedTemporaryFile(prefix="strace-", suffix=".out")  # noqa: SIM115  lives as long as this
        self._kills = KILL in fault
        words = ["strace", "-f", "-y", "-o", self._out.name, "-s", "40", "-e", "trace=" + ",".join(CHANGING)]
        words += ["-e", KILL]
        if fault:
            words += ["-e", f"inject={fault}"]
        for path in paths:
            words += ["-P", str(path)]
        for pid in pids:
            words += ["-p", str(pid)]
        self._words = words
        self._attached = len(pids)

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._words, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
        assert self._process.stderr is not None
        for _ in range(self._attached):
            while b"attached" not in (line := self._process.stderr.readline()):
                assert b"Requested path" in line, line
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.detach()
        assert self._process.stderr is not None
        self._process.stderr.close()
        self._out.close()

    def detach(self) -> None:
        """Let go of what is left; it goes on untraced.

        SIGTERM lets each call end with the error that it was to have. Not after a kill: then strace waits for each
        process by itself, for ever if one of several threads was killed.
        """
        if self._process.poll() is None:
            (self._process.kill if self._kills else self._process.terminate)()
        self._process.wait(END_TIMEOUT_S)

    def text(self) -> str:
        return Path(self._out.name).read_text(errors="backslashreplace")

    def hit(self) -> bool:
        """Whether the fault came about."""
        return ("+++ killed by SIGKILL +++" if self._kills else "(INJECTED)") in self.text()

    def struck(self) -> list[str]:
        """The calls that were given an error, as they were made: `call(arguments`."""
        began: dict[str, str] = {}
        struck = []
        for line in self.text().splitlines():
            thread, _, words = line.partition(" ")
            if not words.lstrip().startswith("<"):  # else its beginning stands further up
                began[thread] = words.lstrip()
            if "(INJECTED)" in line:
                struck.append(began.get(thread, ""))
        return struck

    def points(self) -> Iterator[tuple[int, Point]]:
        """(thread, call) of what changed something, in their order."""
        counts: Counter[tuple[str, str]] = Counter()
        for line in self.text().splitlines():
            if (found := _LINE.match(line)) is None:
                continue
            thread, call, text = found.groups()
            counts[thread, call] += 1
            opens = call == "openat" and "O_CREAT" not in text and "O_TMPFILE" not in text
            if " = -1 E" not in text and not opens and not text.startswith("2<"):  # no lines of a log on stderr
                yield int(thread), Point(call, counts[thread, call], text[:100])


class CallTimes:
    """How long calls on files take in a process and in all that it starts; `calls` is known when the context has ended.

    Syncs are left out: how long they take is the disk's affair.
    """

    _TRACED = "%file,read,pread64,write,pwrite64,fstat,fchmod,fchown,ftruncate,flock,fcntl,close,getdents64"
    _BEGUN = re.compile(r"^(\d+) +(\d+\.\d+) (\w+)\((.*)")
    _RESUMED = re.compile(r"^(\d+) +(\d+\.\d+) <\.\.\. (\w+) resumed>")
    _TOOK = re.compile(r" <(\d+\.\d+)>$")

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self.calls: list[tuple[float, str]] = []

    def __enter__(self) -> Self:
        self._out = tempfile.NamedTemporaryFile(prefix="strace-", suffix=".out")
        words = ["strace", "-f", "-T", "-ttt", "-o", self._out.name, "-s", "40", "-e", f"trace={self._TRACED}"]
        self._process = subprocess.Popen(
            [*words, "-e", "signal=none", "-p", str(self._pid)], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        assert self._process.stderr is not None
        line = self._process.stderr.readline()
        assert b"attached" in line, line
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait(END_TIMEOUT_S)
        assert self._process.stderr is not None
        self._process.stderr.close()
        self.calls = list(self._read(Path(self._out.name).read_text(errors="backslashreplace")))
        self._out.close()

    def _read(self, text: str) -> Iterator[tuple[float, str]]:
        """(seconds, call) for each; one that was interrupted by others' is told in two lines."""
        begun: dict[str, tuple[float, str]] = {}
        for line in text.splitlines():
            if found := self._RESUMED.match(line):
                since, call = begun.pop(found[1], (float(found[2]), found[3]))
                yield float(found[2]) - since, call
            elif found := self._BEGUN.match(line):
                call = f"{found[3]}({found[4][:100]}"
                if "<unfinished ...>" in line:
                    begun[found[1]] = float(found[2]), call
                elif took := self._TOOK.search(line):
                    yield float(took[1]), call
