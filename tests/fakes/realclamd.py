"""A real clamd for the tests: own socket, own tiny signatures, own limits, in one temporary directory.

Used as a context manager in any tier; it needs no root, and with `user` it runs as that user when started by root.
Starting takes about 0.1 s with such signatures. It is stopped by its own process, never by name. Text for its
clamd.conf is written here, not by engine/private.py: a fixture must not depend on what it tests.

    with RealClamd() as clamd:
        ... clamd.socket_path ...            # answers PING
        clamd.add("more.ndb", ndb("Test.More", b"marker"))
        clamd.kill(); clamd.start()

The signatures that are always there (unless `signatures` is given) find EICAR under the name `Eicar-Test` and
MARKER under `Test.Marker`; clamd itself puts `.UNOFFICIAL` behind names that are not signed.
"""

import hashlib
import io
import os
import shutil
import socket
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self

CLAMD = "/usr/sbin/clamd"
EICAR = b"X5O!P%@AP[4\\PZX54(P^)7CC)7}$" + b"EICAR-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*"
"""In two parts, so that no scanner takes this file for the test file."""

MARKER = b"clamscannerd-test-marker-" + b"5a9ec8dd4c345d"
EICAR_NAME = "Eicar-Test.UNOFFICIAL"
MARKER_NAME = "Test.Marker.UNOFFICIAL"

START_TIMEOUT_S = 60.0
POLL_S = 0.01


def ndb(name: str, content: bytes) -> bytes:
    """One line of an .ndb file: `content` anywhere in a file of any type is `name`."""
    return f"{name}:0:*:{content.hex()}\n".encode()


def official(version: int, moment: float, content: bytes) -> dict[str, bytes]:
    """A database that clamd takes for the official daily one of this version and time. `content`: of an .ndb file.

    As .cud, the one kind of container that need not be signed.
    """
    head = (
        f"ClamAV-VDB:{time.strftime('%d %b %Y %H-%M +0000', time.gmtime(moment))}:{version}:1:90:X:X:test:{moment:.0f}"
    )
    files = {"daily.info": f"{head}\ndaily.ndb:{len(content)}:{hashlib.sha256(content).hexdigest()}\n".encode()}
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in {**files, "daily.ndb": content}.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return {"daily.cud": head.encode().ljust(512) + packed.getvalue()}


class RealClamd:
    """clamd -F on `socket_path`, with the database in `database` and its log in `log`."""

    def __init__(
        self,
        directory: Path | str | None = None,
        *,
        signatures: Mapping[str, bytes] | None = None,
        options: Mapping[str, str] | None = None,
        user: str | None = None,
        prefix: Sequence[str] = (),
    ) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="clamd-") if directory is None else directory)
        self._own_directory = directory is None
        self.database = self.directory / "db"
        self.socket_path = str(self.directory / "s")
        self.conf_path = self.directory / "clamd.conf"
        self.log_path = self.directory / "log"
        self._user = user
        self._prefix = prefix  # a program that becomes clamd
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None
        self.directory.mkdir(exist_ok=True)
        self.database.mkdir(exist_ok=True)
        (self.directory / "tmp").mkdir(exist_ok=True)
        if signatures is None:
            signatures = {"test.ndb": ndb("Eicar-Test", EICAR) + ndb("Test.Marker", MARKER)}
        for name, content in signatures.items():
            (self.database / name).write_bytes(content)
        self.options = self._defaults() | dict(options or {})
        if user is not None:
            for place in (self.directory, self.database, self.directory / "tmp"):
                shutil.chown(place, user)

    def _defaults(self) -> dict[str, str]:
        return {
            "LocalSocket": self.socket_path,
            "LocalSocketMode": "666",
            "DatabaseDirectory": str(self.database),
            "TemporaryDirectory": str(self.directory / "tmp"),
            "Foreground": "yes",
            "AlertExceedsMax": "yes",
            "AlertEncrypted": "yes",
            "MaxFileSize": "100M",
            "MaxScanSize": "100M",
            "StreamMaxLength": "100M",
        }

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
        assert self._process is not None, "clamd was not started"
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self, *, wait: bool = True) -> None:
        """Start it; with `wait`, come back when it answers PING. Its options may have been changed before."""
        assert not self.running, "clamd is running already"
        self.conf_path.write_text("".join(f"{key} {value}\n" for key, value in self.options.items()))
        if self._log is None:
            self._log = self.log_path.open("ab")
        self._process = subprocess.Popen(
            [*self._prefix, CLAMD, "-F", "-c", str(self.conf_path)],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            user=self._user,
            group=self._user,
            extra_groups=None if self._user is None else [],
            cwd="/",
        )
        if wait:
            self.wait_ready()

    def wait_ready(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self.answers():
            assert self.running, f"clamd ended: {self.log()}"
            assert time.monotonic() < deadline, f"clamd does not answer: {self.log()}"
            time.sleep(POLL_S)  # a child that is no Python of ours: there is no event to wait for

    def answers(self) -> bool:
        """Whether it answers PING at once."""
        try:
            return self.ask(b"PING") == b"PONG"
        except OSError:
            return False

    def ask(self, command: bytes, timeout_s: float = 10.0) -> bytes:
        """The answer to one z-command on a connection of its own."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(timeout_s)
            sock.connect(self.socket_path)
            sock.sendall(b"z" + command + b"\0")
            answer = b""
            while data := sock.recv(65_536):
                answer += data
        return answer.rstrip(b"\0")

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def add(self, name: str, content: bytes) -> None:
        """Put one more signature file into the database, at once, as freshclam does; it is not loaded yet."""
        fresh = self.directory / "fresh"
        fresh.write_bytes(content)
        os.replace(fresh, self.database / name)

    def stop(self) -> None:
        """SIGTERM, then wait."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()

    def kill(self) -> None:
        """SIGKILL, then wait: the socket's file stays behind."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def close(self) -> None:
        self.kill()
        if self._log is not None:
            self._log.close()
            self._log = None
        if self._own_directory:
            shutil.rmtree(self.directory, ignore_errors=True)
