"""The command `clamscannerd` as a user types it: its exit code, its lines, its usual places. No configuration of ours.

tests/fakes/running.py always names a configuration; here the places that the contract names are what is looked at.
"""

import os
import pwd
import signal
import subprocess
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from tests.fakes.running import CLAMSCANNERD, PeerClient, wait_for

END_S = 20.0


class Ended(NamedTuple):
    code: int
    out: str
    err: str


def environment(home: Path | str, **more: Path | str) -> dict[str, str]:
    """Nothing that the tests' own environment holds."""
    return {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "HOME": str(home), **{key: str(more[key]) for key in more}}


def run(*arguments: str, user: str | None = None, env: dict[str, str] | None = None) -> Ended:
    """A start that is to end by itself."""
    with _popen(arguments, user, env) as process:
        try:
            out, err = process.communicate(timeout=END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            raise AssertionError(f"clamscannerd {' '.join(arguments)} does not end") from None
    return Ended(process.returncode, out.decode(), err.decode())


class Command:
    """A daemon that stays, on a socket that the test expects somewhere. Its messages are in `err` after the end."""

    def __init__(self, *arguments: str, user: str | None = None, env: dict[str, str], socket: Path | str) -> None:
        self.socket = str(socket)
        self.ended: Ended | None = None
        self.process = _popen(arguments, user, env)

    def __enter__(self) -> Self:
        try:
            wait_for(self._answers, f"an answer on {self.socket}", END_S)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def client(self, uid: int | None = None) -> PeerClient:
        return PeerClient(self.socket, uid)

    def stop(self) -> Ended:
        if self.ended is None:
            if self.process.poll() is None:
                self.process.send_signal(signal.SIGTERM)
            out, err = self.process.communicate(timeout=END_S)
            self.ended = Ended(self.process.returncode, out.decode(), err.decode())
        return self.ended

    def _answers(self) -> bool:
        assert self.process.poll() is None, f"the daemon ended: {self.stop().err}"
        try:
            with self.client() as client:
                client.call("Daemon.version")
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        return True


def _popen(arguments: tuple[str, ...], user: str | None, env: dict[str, str] | None) -> subprocess.Popen[bytes]:
    entry = pwd.getpwnam(user) if user is not None else None
    return subprocess.Popen(
        [CLAMSCANNERD, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=env if env is not None else dict(os.environ),
        cwd="/",
        user=None if entry is None else entry.pw_uid,
        group=None if entry is None else entry.pw_gid,
        extra_groups=None if entry is None else os.getgrouplist(entry.pw_name, entry.pw_gid),
        start_new_session=True,
    )
