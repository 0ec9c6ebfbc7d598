"""Names of files that say something to whoever copies them into a line, a record, a terminal or a shell unescaped."""

import random
import re

from clamscannerd.events import ACTION_TAKEN

PIECES = (
    b"x", b"victim", b" ", b"\n", b"\r\n", b"\t", b"-rf", b"...", b"\\", b"\\\\", b"\\n", b"\\x0a", b"\\xff",
    b": X FOUND", b": Test.Marker.UNOFFICIAL FOUND", b": OK", b"fd[10]: OK", b"2: fd[9]: OK", b"1: PONG",
    b"\nvictim: Test.Marker.UNOFFICIAL FOUND\n", b"stream: victim FOUND",
    b'"', b"'", b'","state":"deleted"}', b'"}\n{"id":1,"type":"step","file":"victim","state":"deleted"}\n{"a":"',
    b'{"jsonrpc":"2.0","id":1,"result":{}}\n', b"\\u0022", b"\\ud800", b"null",
    b"\nMESSAGE=forged\n", b"\nPRIORITY=0\nCLAMSCANNERD_UID=0\n", b"\nMESSAGE_ID=" + ACTION_TAKEN.encode() + b"\n",
    b"CLAMSCANNERD_PATH\n\1\0\0\0\0\0\0\0x\n".replace(b"\0", b"\1"), b"\nREADY=1\nSTATUS=forged",
    b"\nINFO clamscannerd.pipeline.scan: scan 1 of uid 0: done\n", b"\nTraceback (most recent call last):\n",
    b"\xff\xfe", b"\xc3", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", "\u2028".encode(), "\u202e".encode(), "é".encode(),
    "e\u0301".encode(), "\ufeff".encode(), b"\x7f", b"\x1b[2K\r", b"\x1b]0;forged\x07", b"\x01", b"\x9b2J",
    b"%s%n%(uid)s{0}", b"$(touch pwned)", b"`touch pwned`", b"';DROP TABLE finding;--", b"* ? [a]", b"#",
    b".clamscannerd-00112233445566778899aabbccddeeff", b"x.restored-00112233", b"From a Thu Jan  1 00:00:00 2026\n",
)  # fmt: skip

_ESCAPE = re.compile(rb"\\(\\|x[0-9a-f]{2})")


def paths(number: int, seed: int = 16) -> list[bytes]:
    """Different ones, each piece by itself among them, some in directories with such names, some of 255 bytes."""
    choose = random.Random(seed)
    made = dict.fromkeys(piece for piece in PIECES)
    directories: set[bytes] = set()
    while len(made) < number + 2:
        components = []
        for _ in range(choose.choice((1, 1, 1, 2, 3))):
            name = b"".join(choose.choices(PIECES, k=choose.choice((2, 2, 3, 4))))
            components.append((name * 255)[:255] if choose.random() < 0.05 else name[:255])
        path = b"/".join((b"d%d" % (len(made) % 100), *components))
        above = [path[: slash.start()] for slash in re.finditer(b"/", path)]
        if path in directories or not made.keys().isdisjoint(above):
            continue  # a file and a directory
        directories.update(above)
        made[path] = None
    return [path for path in made if path not in (b"victim", b"x")][:number]


def decoded(text: str) -> bytes:
    """The bytes of a name in wire form (contract, "File names"), read independently of the product."""
    return _ESCAPE.sub(lambda match: b"\\" if match[1] == b"\\" else bytes([int(match[1][1:], 16)]), text.encode())
