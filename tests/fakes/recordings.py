"""What real clients send, recorded, and the same changed at random: bytes, words and whole messages.

`record` has an account go through every call that there is. `Changer` makes as many inputs of these lines as are
wanted: some as they are, most with one to four changes. Each gets a number of its own first, so that its answer can be
told from all others, unless a change spoils just that.
"""

import json
import random
import re
from collections.abc import Callable, Sequence
from typing import Any

from tests.fakes.accounts import Person
from tests.fakes.realclamd import EICAR
from tests.fakes.restoring import ended, items, put
from tests.fakes.running import PeerClient, RunningDaemon

_NUMBER = re.compile(rb'(?<="id": )\d+')
_WORD = re.compile(rb'"(?:[^"\\]|\\.)*"|-?\d+|true|false|null')
_WORDS = (
    b"null", b"true", b"0", b"-0", b"-1", b"1.5", b"1e999", b"9223372036854775807", b"9223372036854775808", b"NaN",
    b"1" + b"0" * 400, b'""', b'"\\u0000"', b'"\\ud800"', b'"\\udc00\\ud800"', b'"\\ud83d\\ude00"', b'"../../etc"',
    b'"/proc/self/root"', b'"\\\\xff"', b'"\\n"', b'"home"', b'"delete"', b'"root"', b"[]", b"{}", b'{"a":1,"a":2}',
    b'"' + b"x" * 5_000 + b'"', b'"\xff"', b'"\xf0\x9f\x98\x80"', b"[" * 33 + b"]" * 33, b"[" * 3_000, b'"user"',
)  # fmt: skip
_BYTES = b'\0\n\r\t "\\{}[]:,0-9eE.+u/\x7f\x80\xc0\xe2\xed\xff'
_RARE = 2_000
"""One input of so many is a line about as long as the limit: decoding it takes as long as hundreds of others."""


_MAILBOX = (
    b"From a@example.org Mon Jan  1 00:00:00 2024\nSubject: one\n\nhello\n\n"
    b"From c@example.org Mon Jan  1 00:00:00 2024\nSubject: bad\n\n" + EICAR + b"\n\n"
)


class _Recorder(PeerClient):
    """Keeps what it sends."""

    def __init__(self, path: str, uid: int, into: list[bytes]) -> None:
        super().__init__(path, uid)
        self._into = into

    def raw(self, line: bytes) -> Any:
        self._into.append(line)
        return super().raw(line)


def record(daemon: RunningDaemon, person: Person) -> list[bytes]:
    """The lines of one who scans, disinfects, looks at the vault, takes back and undoes; and of root for them."""
    lines: list[bytes] = []
    for name, content in {"bad": EICAR, "worse": EICAR + b"x", "mail/inbox": _MAILBOX, "fine": b"fine"}.items():
        put(person, name, content)
    with _Recorder(daemon.socket_path, person.uid, lines) as client:
        client.good("get_scan_paths")
        client.scan()
        client.good("list_infected_files")
        client.disinfect({"bad": "quarantine", f"{person.home}/worse": "delete"}, "ignore")
        client.good("check_disinfection_status", {"last_id": 1})
        kept = items(client, state="quarantined", offset=0)
        client.call("Quarantine.show", {"id": kept[0]["id"]})
        ended(
            client, client.call("Quarantine.restore", {"ids": [kept[0]["id"]], "to": "kept", "force": True})["task_id"]
        )
        task_id = client.call("Task.list", {"limit": 10, "offset": 0})["tasks"][-1]["task_id"]
        ended(client, client.call("Task.undo", {"task_id": task_id, "force": True})["task_id"])
        client.scan("mail")
        client.disinfect({"mail/inbox": "cleanse_mailbox"})
        client.call("Quarantine.delete", {"ids": [items(client)[0]["id"]]})
        client.call("Quarantine.verify")
        client.good("start_scan", {"scan_type": "home"})
        client.raw(b'{"jsonrpc": "2.0", "id": 1, "method": "Scan.cancel"}')
        client.wait_scan()
    with _Recorder(daemon.socket_path, 0, lines) as client:
        client.uapi("get_scan_status", {"user": person.name})
        client.call("Quarantine.list", {"user": person.name})
        client.call("Daemon.version")
        client.call("Daemon.reload")
    return _once_each(lines)


def _once_each(lines: Sequence[bytes]) -> list[bytes]:
    """Polls come many times."""
    return sorted({_NUMBER.sub(b"0", line, count=1) for line in lines})


class Changer:
    """`seed`: the same inputs again."""

    def __init__(self, lines: Sequence[bytes], seed: int) -> None:
        self._lines = lines
        self._random = random.Random(seed)
        self._numbers = 0
        self._changes: tuple[Callable[[bytearray], None], ...] = (
            self._flip, self._put_byte, self._take, self._double, self._replace_word, self._replace_word,
            self._move_word, self._splice, self._cut, self._batch,
        )  # fmt: skip

    def next(self) -> bytes:
        line = bytearray(self._plain())
        for _ in range(self._random.choice((0, 0, 1, 1, 1, 2, 2, 3, 4))):
            self._random.choice(self._changes)(line)
        if self._random.randrange(_RARE) == 0:
            line[:0] = b" " * ((1 << 20) - 1_000)
        return bytes(line)

    def _plain(self) -> bytes:
        self._numbers += 1
        return _NUMBER.sub(b"%d" % self._numbers, self._random.choice(self._lines), count=1)

    def _place(self, line: bytearray) -> int:
        return self._random.randrange(len(line) + 1)

    def _part(self, line: bytearray) -> slice:
        start = self._place(line)
        return slice(start, start + self._random.randrange(1, 20))

    def _flip(self, line: bytearray) -> None:
        if line:
            line[self._random.randrange(len(line))] ^= 1 << self._random.randrange(8)

    def _put_byte(self, line: bytearray) -> None:
        line.insert(self._place(line), self._random.choice(_BYTES))

    def _take(self, line: bytearray) -> None:
        del line[self._part(line)]

    def _double(self, line: bytearray) -> None:
        part = self._part(line)
        line[part] = line[part] * self._random.choice((2, 3, 50))

    def _word(self, line: bytearray) -> slice:
        found = [match.span() for match in _WORD.finditer(line)]
        return slice(*self._random.choice(found)) if found else self._part(line)

    def _replace_word(self, line: bytearray) -> None:
        line[self._word(line)] = self._random.choice(_WORDS)

    def _move_word(self, line: bytearray) -> None:
        """One from elsewhere in its place."""
        other = bytearray(self._plain())
        line[self._word(line)] = other[self._word(other)]

    def _splice(self, line: bytearray) -> None:
        other = self._plain()
        line[self._place(line) :] = other[self._random.randrange(len(other)) :]

    def _cut(self, line: bytearray) -> None:
        del line[self._place(line) :]

    def _batch(self, line: bytearray) -> None:
        others = [self._plain() for _ in range(self._random.choice((0, 1, 2, 5, 5, 101)))]
        line[:] = b"[" + b",".join([bytes(line), *others]) + b"]"


def words(lines: Sequence[bytes]) -> list[str]:
    """Names of methods and parameters in these lines."""
    calls = [json.loads(line) for line in lines]
    return sorted({call["method"] for call in calls} | {name for call in calls for name in call.get("params", {})})
