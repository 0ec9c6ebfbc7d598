"""What stands for journald where none runs: its socket, in a mount namespace of the daemon's own, and what came there.

The native protocol as systemd's documentation has it: `FIELD=text` lines, or FIELD, a 64-bit length and the bytes.
"""

import socket
import struct
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.fakes.running import CLAMSCANNERD

PATIENCE_S = 30.0

_SCRIPT = """
mount -t tmpfs none /run && mkdir /run/systemd && ln -s "$1" /run/systemd/journal || exit 99
export JOURNAL_STREAM=$(stat -L -c %d:%i /proc/self/fd/2)
shift; exec "$@"
"""


class Journal:
    """`entries`: each a mapping of fields, in order."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        directory.chmod(0o755)
        self.program = ["unshare", "--mount", "bash", "-c", _SCRIPT, "bash", str(directory), CLAMSCANNERD]
        self.entries: list[Mapping[str, str]] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(directory / "socket"))
        (directory / "socket").chmod(0o777)
        self._news = threading.Condition(threading.RLock())
        self._reader = threading.Thread(target=self._read)

    def __enter__(self) -> Self:
        self._reader.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.shutdown(socket.SHUT_RD)
        self._reader.join()
        self._socket.close()

    def wait(self, holds: Callable[[list[Mapping[str, str]]], bool], what: str) -> None:
        with self._news:
            assert self._news.wait_for(lambda: holds(self.entries), PATIENCE_S), f"no {what}: {self.entries}"

    def of(self, **fields: str) -> list[Mapping[str, str]]:
        """The entries that have all these."""
        with self._news:
            return [entry for entry in self.entries if fields.items() <= entry.items()]

    def wait_of(self, count: int, **fields: str) -> list[Mapping[str, str]]:
        self.wait(lambda _: len(self.of(**fields)) >= count, f"{count} entries with {fields}")
        return self.of(**fields)

    def _read(self) -> None:
        while data := self._socket.recv(1 << 18):
            with self._news:
                self.entries.append(_parsed(data))
                self._news.notify_all()


def _parsed(data: bytes) -> dict[str, str]:
    fields: dict[str, str] = {}
    while data:
        line, _, data = data.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            (size,) = struct.unpack_from("<Q", data)
            value, data = data[8 : 8 + size], data[8 + size + 1 :]
        fields[name.decode()] = value.decode()
    return fields
