"""What workers open and read, by strace on the monitor that starts them.

with Opens(monitor) as opens:
    ...
opens.started()                       # programs that were started
opens.of("/home/somebody")            # what was opened or read there; O_PATH, which reads nothing, is left out
"""

import os
import re
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.fakes.running import END_TIMEOUT_S

_CALLS = "execve,open,openat,openat2,creat,readlink,readlinkat,getdents64,listxattr,llistxattr,flistxattr"
_OPENED = re.compile(r" = \d+<(/[^>]*)>$")
_READ = re.compile(r"^(?:getdents64|flistxattr)\(\d+<(/[^>]*)>.* = \d+$")
_BY_PATH = re.compile(r"^(?:readlink|l?listxattr)\(\"([^\"]*)\".* = \d+$")


class Opens:
    """Attached while the context lasts; asked afterwards."""

    def __init__(self, pid: int) -> None:
        self._out = tempfile.NamedTemporaryFile(prefix="strace-", suffix=".out")  # noqa: SIM115  lives as long as this
        self._words = ["strace", "-f", "-y", "-o", self._out.name, "-s", "4096", "-e", f"trace={_CALLS}"]
        self._words += ["-e", "signal=none", "-p", str(pid)]
        self._calls: list[str] = []

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._words, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
        assert self._process.stderr is not None
        line = self._process.stderr.readline()
        assert b"attached" in line, line
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.wait(END_TIMEOUT_S)
        assert self._process.stderr is not None
        self._process.stderr.close()
        self._calls = _whole(Path(self._out.name).read_text(errors="backslashreplace"))
        self._out.close()

    def started(self) -> int:
        return sum(call.startswith("execve(") and call.endswith(" = 0") for call in self._calls)

    def of(self, place: str | Path) -> list[str]:
        """The calls that opened or read something at or beneath this place."""
        return [call for call in self._calls if any(_is_in(path, str(place)) for path in _touched(call))]


def _touched(call: str) -> list[str]:
    if "O_PATH" in call:
        return []
    return [found.group(1) for pattern in (_OPENED, _READ, _BY_PATH) if (found := pattern.search(call))]


def _is_in(path: str, place: str) -> bool:
    return os.path.commonpath([os.path.abspath(path), place]) == place


def _whole(text: str) -> list[str]:
    """Calls without pid and padding; halves of one that another process interrupted are put together."""
    begun: dict[str, str] = {}
    calls = []
    for line in text.splitlines():
        pid, _, call = line.partition(" ")
        call = call.strip()
        if call.endswith("<unfinished ...>"):
            begun[pid] = call.removesuffix("<unfinished ...>")
            continue
        if call.startswith("<... "):
            call = begun.pop(pid, "") + call.partition("resumed>")[2]
        calls.append(re.sub(r"\s+= ", " = ", call))
    return calls
