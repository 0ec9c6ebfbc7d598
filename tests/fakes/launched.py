"""Starts the real launcher with tests/fakes/probe_daemon.py in the daemon's place, in each of the three ways."""

import contextlib
import json
import os
import select
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.fakes.monitored import ROOT

SCRIPT = str(ROOT / "tests/fakes/probe_daemon.py")


def configure(place: Path, more: str = "") -> None:
    text = f'[server]\nsocket = "{place}/run/s.sock"\n[state]\ndirectory = "{place}/state"\n'
    (place / "c.toml").write_text(text + '[engine]\nsockets = "private"\n' + more)


class Started:
    """A launched probe daemon; commands and answers as lines."""

    def __init__(self, words: list[str], pass_fds: tuple[int, ...] = ()) -> None:
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=pipe, pass_fds=pass_fds)
        assert self.process.stdin
        assert self.process.stdout
        self._in, self._out = self.process.stdin, self.process.stdout
        line = self._out.readline()
        assert line, self.process.communicate()[1].decode()
        self.hello = json.loads(line)

    def ask(self, *words: str) -> dict[str, object]:
        self._in.write(json.dumps(words).encode() + b"\n")
        self._in.flush()
        answer: dict[str, object] = json.loads(self._out.readline())
        return answer

    def spawn(self, name: str) -> int:
        answer = self.ask("spawn", name)
        assert "pid" in answer, answer
        pid = answer["pid"]
        assert isinstance(pid, int)
        return pid


@contextlib.contextmanager
def started(words: list[str], pass_fds: tuple[int, ...] = ()) -> Iterator[Started]:
    daemon = Started(words, pass_fds)
    monitor = os.pidfd_open(daemon.hello["monitor"])
    try:
        yield daemon
    finally:
        daemon.process.communicate(timeout=20)
        assert ended(monitor), "the monitor outlives the daemon"


def ended(pidfd: int) -> bool:
    """Whether the process ends within 10 s; closes the pidfd."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    try:
        return bool(poll.poll(10_000))
    finally:
        os.close(pidfd)


def as_root(place: Path) -> list[str]:
    return [sys.executable, SCRIPT, "--config", f"{place}/c.toml"]


def as_unit(place: Path, caps: str = "+setuid,+setgid,+kill") -> list[str]:
    """As systemd does for User= and AmbientCapabilities=."""
    words = ["setpriv", "--reuid=clamscannerd", "--regid=clamscannerd", "--init-groups", "--no-new-privs"]
    return [*words, f"--inh-caps=-all,{caps}", f"--ambient-caps=-all,{caps}", *as_root(place)]


def as_user(place: Path, name: str, *environment: str) -> list[str]:
    words = ["setpriv", f"--reuid={name}", f"--regid={name}", "--init-groups", "--inh-caps=-all"]
    return [*words, "env", *environment, *as_root(place)]


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, capture_output=True, text=True, timeout=30, stdin=subprocess.DEVNULL)


def scan(address: str, content: bytes) -> bytes:
    """One INSTREAM, as soon as the engine listens."""
    for _ in range(10_000):
        with socket.socket(socket.AF_UNIX) as client:
            if client.connect_ex(address) == 0:
                client.sendall(b"zINSTREAM\0" + len(content).to_bytes(4, "big") + content + bytes(4))
                return client.recv(4096)
            select.select([], [], [], 0.002)  # nothing tells when a socket appears
    raise AssertionError("the engine does not listen")
