"""What tests of engine/sessions.py share: settings with short times, waiting for a state, a private engine to run."""

import socket
from collections.abc import Sequence
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
    """Private engines as the monitor provides them: clamds of `conf`, here run by the test itself.

    `clamds`: the first of each kind; `all`: those with the signatures, `number` of them.
    """

    def __init__(self, place: Path, signatures: dict[str, bytes], number: int = 1) -> None:
        self.started: list[PrivateKind] = []
        self.refuse = 0
        self._start_seen = trio.Event()
        builtin = self._engine(place, "builtin", builtin_signatures(), "builtin")
        first = self._engine(place, "signatures", signatures, "signatures")
        self.database = first.clamd.database
        more = [self._engine(place, f"more{n}", {}, "signatures", first.clamd.database) for n in range(1, number)]
        self._engines: dict[PrivateKind, list[OneEngine]] = {"builtin": [builtin], "signatures": [first, *more]}
        self.clamds: dict[PrivateKind, RealClamd] = {"builtin": builtin.clamd, "signatures": first.clamd}
        self.all = [engine.clamd for engine in self._engines["signatures"]]

    def _engine(
        self, place: Path, name: str, files: dict[str, bytes], kind: PrivateKind, database: Path | None = None
    ) -> "OneEngine":
        clamd = RealClamd(place / name, signatures=files)
        paths = PrivatePaths(
            socket=clamd.socket_path,
            temporary=str(clamd.directory / "tmp"),
            database=str(database or clamd.database),
        )
        text = clamd_conf(paths, max_file_size=50 << 20, max_threads=6, max_scan_time_s=120)
        clamd.options = dict(line.split(" ", 1) for line in text.splitlines() if not line.startswith("#"))
        return OneEngine(self, kind, clamd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for clamd in (*self.clamds.values(), *self.all):
            clamd.close()

    def of(self, kind: PrivateKind) -> Sequence["OneEngine"]:
        return self._engines[kind]

    def starts(self, kind: PrivateKind) -> None:
        """Raises SpawnRefused, as long as the test wants it."""
        self.started.append(kind)
        self._start_seen.set()
        self._start_seen = trio.Event()
        if self.refuse:
            self.refuse -= 1
            raise SpawnRefused("cannot start the private engine: refused by the test")

    async def wait_started(self, times: int) -> None:
        with trio.fail_after(PATIENCE_S):
            while len(self.started) < times:
                await self._start_seen.wait()

    def running(self) -> bool:
        return any(clamd.running for clamd in (*self.clamds.values(), *self.all))


class OneEngine:
    """privately.PrivateEngine."""

    def __init__(self, private: Private, kind: PrivateKind, clamd: RealClamd) -> None:
        self._private = private
        self._kind = kind
        self.clamd = clamd
        self.address = clamd.socket_path
        self.conf = str(clamd.conf_path)

    async def start(self) -> None:
        self._private.starts(self._kind)
        self.clamd.start(wait=False)

    async def stop(self) -> None:
        self.clamd.kill()

    async def dismiss(self) -> None:
        """It was stopped."""

    def running(self) -> bool:
        return self.clamd.running
