"""What tests of engine/sessions.py share: settings with short times, waiting for a state, a private engine to run."""

import socket
from pathlib import Path
from types import TracebackType
from typing import Self

import trio

from clamscannerd.engine.clamproto import ReplyKind, Session
from clamscannerd.engine.health import EngineState
from clamscannerd.engine.private import PrivatePaths, builtin_signatures, clamd_conf
from clamscannerd.engine.privately import EngineSettings, PrivateKind
from clamscannerd.engine.sessions import Engines
from clamscannerd.errors import SpawnRefused
from tests.fakes.clamdclient import receive, send_content
from tests.fakes.realclamd import RealClamd

PATIENCE_S = 20.0


def settings(
    sockets: str | tuple[str, ...],
    *,
    clamd_conf: str = "/nonexistent/clamd.conf",
    database: str = "/nonexistent",
    first_ping_timeout_s: float = 5.0,
    ping_timeout_s: float = 5.0,
    auto_wait_s: float = 5.0,
    confs: dict[str, str] | None = None,
    max_signature_lag_s: float = 0.0,
) -> EngineSettings:
    return EngineSettings(
        confs=confs or {},
        max_signature_lag_s=max_signature_lag_s,
        sockets=sockets,
        clamd_conf=clamd_conf,
        database=database,
        max_file_size=50 << 20,
        max_threads=6,
        first_ping_timeout_s=first_ping_timeout_s,
        ping_timeout_s=ping_timeout_s,
        check_interval_s=0.05,
        auto_wait_s=auto_wait_s,
    )


def free_port() -> int:
    """Of 127.0.0.1, for a clamd that is started at once."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


async def until(engines: Engines, kind: str, *, signatures: bool | None = None) -> EngineState:
    with trio.fail_after(PATIENCE_S):
        state = engines.state()
        while state.kind != kind or signatures not in (None, state.signatures):
            state = await engines.wait_changed(state)
        return state


async def until_ready(engines: Engines, count: int) -> None:
    with trio.fail_after(PATIENCE_S):
        while engines.statistics().ready != count:
            await engines.changed().wait()


def scan(sock: socket.socket, content: bytes) -> ReplyKind:
    with sock:
        sock.settimeout(PATIENCE_S)
        session = Session()
        send_content(sock, session, content)
        return receive(sock, session, 1)[0].kind


class Private:
    """A private engine as the monitor provides it: a clamd of `conf`, here run by the test itself."""

    def __init__(self, place: Path, signatures: dict[str, bytes]) -> None:
        self.clamds: dict[PrivateKind, RealClamd] = {}
        self.started: list[PrivateKind] = []
        self.refuse = 0
        self._start_seen = trio.Event()
        contents: dict[PrivateKind, dict[str, bytes]] = {"signatures": signatures, "builtin": builtin_signatures()}
        for kind, files in contents.items():
            clamd = self.clamds[kind] = RealClamd(place / kind, signatures=files)
            paths = PrivatePaths(
                socket=clamd.socket_path, temporary=str(clamd.directory / "tmp"), database=str(clamd.database)
            )
            text = clamd_conf(paths, max_file_size=50 << 20, max_threads=6, max_scan_time_s=120)
            clamd.options = dict(line.split(" ", 1) for line in text.splitlines() if not line.startswith("#"))
        self.database = self.clamds["signatures"].database

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for clamd in self.clamds.values():
            clamd.close()

    def conf(self, _kind: PrivateKind) -> None:
        """By the settings of its test."""

    async def start(self, kind: PrivateKind) -> None:
        self.started.append(kind)
        self._start_seen.set()
        self._start_seen = trio.Event()
        if self.refuse:
            self.refuse -= 1
            raise SpawnRefused("cannot start the private engine: refused by the test")
        self.clamds[kind].start(wait=False)

    async def wait_started(self, times: int) -> None:
        with trio.fail_after(PATIENCE_S):
            while len(self.started) < times:
                await self._start_seen.wait()

    async def stop(self) -> None:
        for clamd in self.clamds.values():
            clamd.kill()

    def running(self) -> bool:
        return any(clamd.running for clamd in self.clamds.values())

    def address(self, kind: PrivateKind) -> str:
        return self.clamds[kind].socket_path
