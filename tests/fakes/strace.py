"""strace on a running process: which calls it makes, and SIGKILL instead of one of them.

    with Strace(pid) as trace: ...                   # all of its threads, and what it starts
    for point in trace.points(): ...                 # each call that changes something, as (call, number, text)
    with Strace(pid, Point("renameat2", 1, "")) as trace:
        ...
        trace.wait_killed()

A point is the n-th call of its kind *within one thread*, which is how strace counts. The kernel drops a call on whose
entry SIGKILL arrives: what was to be done is not done.
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

_LINE = re.compile(r"^(\d+) +(\w+)\((.*)")
_ATTACH_S = 20.0


class Point(NamedTuple):
    """The `number`-th `call` of one thread; `text`: its arguments in the run that found it, for the report."""

    call: str
    number: int
    text: str


class Strace:
    """Attached while the context lasts."""

    def __init__(self, pid: int, point: Point | None = None) -> None:
        self._out = tempfile.NamedTemporaryFile(prefix="strace-", suffix=".out")  # noqa: SIM115  lives as long as this
        words = ["strace", "-f", "-o", self._out.name, "-s", "40", "-e", "trace=" + ",".join(CHANGING)]
        words += ["-e", "signal=KILL"]
        if point is not None:
            words += ["-e", f"inject={point.call}:signal=KILL:when={point.number}"]
        self._words = [*words, "-p", str(pid)]

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._words, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
        assert self._process.stderr is not None
        line = self._process.stderr.readline()
        assert b"attached" in line, line
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

        SIGKILL: on SIGTERM strace waits for each process by itself, for ever if one of several threads was killed.
        """
        self._process.kill()
        self._process.wait(END_TIMEOUT_S)

    def text(self) -> str:
        return Path(self._out.name).read_text(errors="backslashreplace")

    def killed(self) -> bool:
        return "+++ killed by SIGKILL +++" in self.text()

    def points(self) -> Iterator[Point]:
        """The calls that changed something, in their order."""
        counts: Counter[tuple[str, str]] = Counter()
        for line in self.text().splitlines():
            if (found := _LINE.match(line)) is None:
                continue
            thread, call, text = found.groups()
            counts[thread, call] += 1
            if " = -1 E" not in text and (call != "openat" or "O_CREAT" in text or "O_TMPFILE" in text):
                yield Point(call, counts[thread, call], text[:100])


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
