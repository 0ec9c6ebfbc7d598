"""A real daemon for the tests: own state, socket and engine database, as root's or as an ordinary user's.

    with RunningDaemon(directory) as daemon:            # root: the system daemon; workers for every account
        answer = daemon.client(uid).uapi("start_scan", {"scan_type": "home"})

Clients connect under the uid they are asked for (SO_PEERCRED is the effective uid at connect), so one test process
plays all users. Every answer of the six calls is checked against the contract's schema, in every test.
"""

import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import jsonschema

from tests.fakes.manager import Manager
from tests.fakes.realclamd import EICAR, MARKER, ndb

CLAMSCANNERD = os.environ.get("CLAMSCANNERD_PROGRAM") or str(Path(sys.executable).with_name("clamscannerd"))
STEPS = str(Path(__file__).with_name("steps.py"))
T = TypeVar("T")
START_TIMEOUT_S = 30.0
END_TIMEOUT_S = 60.0
POLL_S = 0.02
_SCHEMA = json.loads(Path(__file__).parent.parent.joinpath("uapi.schema.json").read_text())
_CHECK = jsonschema.Draft202012Validator(_SCHEMA)


def check_answer(func: str, answer: dict[str, Any]) -> None:
    """An envelope of the six calls: the whole, and its data."""
    _CHECK.validate(answer)
    assert answer["func"] == func
    if answer["result"]["status"]:
        data = jsonschema.Draft202012Validator({"$ref": f"#/$defs/{func}", "$defs": _SCHEMA["$defs"]})
        data.validate(answer["result"]["data"])


@contextmanager
def acting_as(uid: int | None) -> Iterator[None]:
    """The effective ids of `uid` for a moment; None: as we are."""
    if uid is None or uid == os.geteuid():
        yield
        return
    entry = pwd.getpwuid(uid)
    os.setegid(entry.pw_gid)
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


class RpcError(Exception):
    """The daemon answered with a JSON-RPC error."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(error["message"])
        self.code: int = error["code"]
        self.kind: str = error.get("data", {}).get("kind", "")


class PeerClient:
    """JSON lines over one connection, nothing of the product in it."""

    def __init__(self, path: str, uid: int | None = None) -> None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with acting_as(uid):
                sock.connect(path)
        except BaseException:
            sock.close()
            raise
        self._begin(sock)

    @classmethod
    def over(cls, sock: socket.socket) -> Self:
        """On a connection that somebody else made."""
        client = cls.__new__(cls)
        client._begin(sock)
        return client

    def _begin(self, sock: socket.socket) -> None:
        self.sock = sock
        self.sock.settimeout(END_TIMEOUT_S)
        self._stream = self.sock.makefile("rwb")
        self._id = 0

    def close(self) -> None:
        with suppress(BrokenPipeError):  # what was not taken before is still in its buffer
            self._stream.close()
        self.sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def raw(self, line: bytes) -> Any:
        """Send a line as it is; the next answer."""
        self._stream.write(line + b"\n")
        self._stream.flush()
        return self.answer()

    def answer(self) -> Any:
        line = self._stream.readline()
        assert line.endswith(b"\n"), "the daemon closed the connection"
        return json.loads(line)

    def call(self, method: str, params: object = None) -> Any:
        self._id += 1
        request: dict[str, object] = {"jsonrpc": "2.0", "id": self._id, "method": method}
        if params is not None:
            request["params"] = params
        answer = self.raw(json.dumps(request).encode())
        assert answer["id"] == self._id
        if "error" in answer:
            raise RpcError(answer["error"])
        return answer["result"]

    def uapi(self, func: str, params: object = None) -> dict[str, Any]:
        """One of the six calls; `result` of its envelope, schema checked."""
        answer = self.call(f"ClamScanner.{func}", params)
        check_answer(func, answer)
        result: dict[str, Any] = answer["result"]
        return result

    def good(self, func: str, params: object = None) -> Any:
        """`data` of a call that must succeed."""
        result = self.uapi(func, params)
        assert result["status"] == 1, result["errors"]
        return result["data"]

    def scan(self, scan_type: str = "home", timeout_s: float = END_TIMEOUT_S) -> dict[str, Any]:
        """A whole scan; its last status."""
        self.good("start_scan", {"scan_type": scan_type})
        return self.wait_scan(timeout_s)

    def wait_scan(self, timeout_s: float = END_TIMEOUT_S) -> dict[str, Any]:
        def ended() -> dict[str, Any] | None:
            status: dict[str, Any] = self.good("get_scan_status")
            return status if status["scan_complete"] else None

        return wait_for(ended, "the scan to end", timeout_s)

    def disinfect(self, actions: Mapping[str, str], others: str | None = None) -> list[dict[str, Any]]:
        """A whole disinfection; its records."""
        params: dict[str, object] = {"actions": dict(actions)}
        if others is not None:
            params["others"] = others
        self.good("disinfect_files", params)
        return self.wait_disinfection()

    def wait_disinfection(self, timeout_s: float = END_TIMEOUT_S) -> list[dict[str, Any]]:
        """All its records, however many answers they come in."""
        details: list[dict[str, Any]] = []

        def ended() -> list[dict[str, Any]] | None:
            data = self.good("check_disinfection_status", {"last_id": details[-1]["id"] if details else None})
            details.extend(data["details"])
            return details if data["status"] == "done" else None

        return wait_for(ended, "the disinfection to end", timeout_s)


def wait_for(look: Callable[[], T | None], what: str, timeout_s: float = END_TIMEOUT_S) -> T:
    """Poll a state of another process until `look` gives something; AssertionError after `timeout_s`."""
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        found = look()
        if found is not None and found is not False:
            return found
        time.sleep(POLL_S)
    raise AssertionError(f"waited {timeout_s:g} s for {what}")


class RunningDaemon:
    """clamscannerd on `socket_path`. `config`: TOML text to add. `user`: started as that user (root needed).

    `private_engines`: as TOML; one, where it does not matter how many there are: each costs a start.

    At its end no step of its loop may have held the others up (steps.py). `timed` False: nobody looks; for benches, for
    who stops it on purpose (strace, SIGSTOP), and for who sends it lines of a megabyte.
    """

    def __init__(
        self,
        directory: Path | str | None = None,
        *,
        config: str = "",
        sockets: str = '"private"',
        signatures: bytes | None = None,
        user: str | None = None,
        private_engines: str = "1",
        timed: bool = True,
    ) -> None:
        self._private_engines = private_engines
        self.directory = Path(tempfile.mkdtemp(prefix="csd-", dir="/var/tmp") if directory is None else directory)
        self._own = directory is None
        self.directory.mkdir(exist_ok=True)
        self.directory.chmod(0o755)
        self.state = self.directory / "state"
        self.database = self.directory / "db"
        self.database.mkdir(exist_ok=True)
        text = ndb("Eicar-Test", EICAR) + ndb("Test.Marker", MARKER) if signatures is None else signatures
        if text:
            (self.database / "test.ndb").write_bytes(text)
        self.socket_path = str(self.directory / "run" / "s.sock")
        self.config_path = self.directory / "clamscannerd.toml"
        # On no disk while it runs: a busy one has who writes to it wait.
        self._logs = tempfile.mkdtemp(prefix="csd-", dir="/dev/shm")
        self.log_path = Path(self._logs, "log")
        self._user = user
        self.process: subprocess.Popen[bytes] | None = None
        self.prefix: list[str] = []  # a program to start it under (strace)
        self.slow_path = self.directory / "slow"
        self.slow_path.touch()
        self.slow_path.chmod(0o666)
        self.program = [sys.executable, STEPS, str(self.slow_path)] if timed else [CLAMSCANNERD]
        self.manager: Manager | None = None  # what stands for systemd
        self.write_config(config, sockets)
        if user is not None:
            shutil.chown(self.directory, user)

    def write_config(self, config: str = "", sockets: str = '"private"') -> None:
        base = (
            f'[server]\nsocket = "{self.socket_path}"\n[state]\ndirectory = "{self.state}"\n'
            f'[engine]\nsockets = {sockets}\ndatabase = "{self.database}"\ncheck_interval_s = 0.5\n'
            f"private_engines = {self._private_engines}\n"
            "[accounts]\ngone_after_s = 0\n"
        )
        self.config_path.write_text(base)
        extra = self.directory / "conf.d"
        extra.mkdir(exist_ok=True)
        (extra / "test.toml").write_text(config)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def log(self) -> str:
        return self.log_path.read_text(errors="backslashreplace") if self.log_path.exists() else ""

    def start(self, *, wait: bool = True, engine: bool = True) -> None:
        """Start it; `wait`: until it answers, `engine`: until its engine is ready."""
        before = len(self.log())
        with self.log_path.open("ab") as log:
            words = [*self.prefix, *self.program, "--config", str(self.config_path)]
            manager = self.manager
            self.process = subprocess.Popen(
                words if manager is None else manager.activating(words),
                pass_fds=() if manager is None else manager.fds,
                env=None if manager is None else {**os.environ, **manager.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                user=self._user,
                group=pwd.getpwnam(self._user).pw_gid if self._user else None,
                extra_groups=os.getgrouplist(self._user, pwd.getpwnam(self._user).pw_gid) if self._user else None,
                start_new_session=True,
            )
        if wait:
            wait_for(self._answers, f"the daemon to answer: {self.log()}", START_TIMEOUT_S)
        if wait and engine:
            wait_for(lambda: "engine ready" in self.log()[before:], "the engine", START_TIMEOUT_S)

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"the daemon ended: {self.log()}"
        try:
            with PeerClient(self.socket_path) as client:
                client.call("Daemon.version")
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        return True

    def client(self, uid: int | None = None) -> PeerClient:
        return PeerClient(self.socket_path, uid)

    def kill(self) -> None:
        """kill -9 of the daemon; its monitor ends the rest."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(END_TIMEOUT_S)

    def stop(self) -> int:
        """SIGTERM; the exit code. Under a tracer the daemon is the tracer's child."""
        assert self.process is not None
        os.kill(self.daemon_pid(), signal.SIGTERM)
        return self.process.wait(END_TIMEOUT_S)

    def daemon_pid(self) -> int:
        assert self.process is not None
        if not self.prefix:
            return self.process.pid
        return int(Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()[0])

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            try:
                self.stop()
            except (subprocess.TimeoutExpired, ProcessLookupError):
                self.process.kill()
                self.process.wait(END_TIMEOUT_S)
        temporary = Path(f"{self.state}-engine/tmp")
        if temporary.is_mount():
            subprocess.run(["umount", "-l", str(temporary)], check=False)
        if self.log_path.parent != self.directory:
            self.log_path.touch()
            shutil.copy(self.log_path, self.directory)
            shutil.rmtree(self._logs)
            self.log_path = self.directory / "log"
        slow = self.slow_path.read_text()
        if self._own:
            subprocess.run(["rm", "-rf", str(self.directory)], check=False)
        assert not slow or sys.exc_info()[1] is not None, f"the daemon's loop was held up:\n{slow}"
