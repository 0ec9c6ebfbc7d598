r"""clamd's wire format, sans-IO: what a file costs on the wire, and which reply means what.

Runs in the worker (a synchronous loop: about 2 us a reply) and in the daemon (health). No clock, no socket.

The daemon opens a session and sends HANDSHAKE, that is zIDSESSION and a PING; clamd answers `1: PONG` on a thread that
scans never block. The worker gets the socket after that, so its first command has id FIRST_ID. It sends
FILDES_MESSAGE with one fd in one sendmsg and says `sent()`; replies come in any order:

    <id>: fd[<n>]: OK\0     <id>: fd[<n>]: <signature> FOUND\0     <id>: fd[<n>]: <text> ERROR\0

Facts about clamd 1.4.6, measured, that whoever uses this has to live with:

- An empty file answers `fd[<n>]: OK` like any other, whatever the offset of the fd; a directory `Not a regular file
  ERROR` and the session goes on. A FILDES whose fd got lost on the way (two messages in one sendmsg, an fd that
  AppArmor took) answers `<id>: No file descriptor received. ERROR`, without the fd part, and then the session ends.
- **A session without a *new command* for ReadTimeout (120 s by default, 180 s in Debian) is ended, even while its
  scans are running**, and their replies are lost: `COMMAND READ TIMED OUT\n`, with a newline and no NUL, then EOF.
  IdleTimeout has nothing to do with it: that is how long clamd's idle threads live. So whoever waits for replies sends
  PING every KEEPALIVE_S; a paused scan closes its session and asks for a new one when it goes on.
- **A refused command leaves the session, not the buffer**: `zSHUTDOWN\0zSHUTDOWN\0` in one write is refused once and
  then obeyed. A session that goes down to a worker is therefore no protection against SHUTDOWN; what protects is that
  the worker is sealed, and that a private engine is started again. SCAN of a path is obeyed in a session too: so
  clamd's own user must not be able to read what an account may not know of.
- A reload does not end sessions. With ConcurrentDatabaseReload off and a broken database clamd still answers PING and
  ends each session at its first file, without a word: only a scan proves that an engine scans.
- MaxScanTime exceeded, a file over a limit and an unreadable fd (O_PATH, O_WRONLY) all answer OK unless AlertExceedsMax
  is on (and the last one even then): clamdconf.blind() says so, fstat before and after does the rest.

Rejected: the n-form (breaks on names), path commands (clamd opens the path, not we), ALLMATCHSCAN (several
replies for one id).
"""

import re
from enum import StrEnum

import msgspec

from clamscannerd.errors import LocalProtocolError, RemoteProtocolError
from clamscannerd.model import Reason, Verdict

OPEN_SESSION = b"zIDSESSION\0"
PING = b"zPING\0"
END = b"zEND\0"
"""What is outstanding is still answered, then clamd closes."""

FILDES = b"zFILDES\0"
FILDES_MESSAGE = FILDES + b"."
"""FILDES and the one byte that carries the fd: exactly this, and one fd, in one sendmsg."""

INSTREAM = b"zINSTREAM\0"
INSTREAM_END = b"\0\0\0\0"
INSTREAM_CHUNK_BYTES = 64 << 10
"""A read of this size is where larger ones bring nothing; clamd takes up to StreamMaxLength."""

HANDSHAKE = OPEN_SESSION + PING
HANDSHAKE_REPLY = b"1: PONG\0"
FIRST_ID = 2
"""The id of the first command after HANDSHAKE: 1 was its PING."""

KEEPALIVE_S = 20.0
"""A session that waits sends PING this often: a third of the shortest ReadTimeout met in the wild (60 s)."""

MAX_REPLY_BYTES = 8 << 10
"""A reply is an id, an fd number and a signature name or a cause: under 1 KiB. STATS is never asked for here."""

LIMIT_PREFIX = "Heuristics.Limits.Exceeded"
"""1.4.6 has .MaxFileSize .MaxScanSize .MaxFiles .MaxRecursion .MaxScanTime and five .Email* ones."""

ENCRYPTED_PREFIX = "Heuristics.Encrypted."
"""1.4.6 has Zip, RAR, 7Zip, EGG and PDF."""

SIZE_LIMIT_EXCEEDED = "INSTREAM size limit exceeded."
"""More than StreamMaxLength was streamed: not scanned, and the session ends."""

_TIMED_OUT = b"COMMAND READ TIMED OUT"
_REPLY = re.compile(rb"([1-9][0-9]{0,9}): (?:fd\[[0-9]{1,10}\]|stream): (?:(OK)|(.*[^ ]) (FOUND|ERROR))", re.DOTALL)
_PONG = re.compile(rb"([1-9][0-9]{0,9}): PONG")
_BARE_ERROR = re.compile(rb"([1-9][0-9]{0,9}): (No file descriptor received\.|INSTREAM size limit exceeded\.) ERROR")


class ReplyKind(StrEnum):
    OK = "ok"
    FOUND = "found"
    ERROR = "error"


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """One file's answer. `text` (ASCII, escaped): "" for OK, the signature for FOUND, clamd's words for ERROR."""

    id: int
    kind: ReplyKind
    text: str


class Session:
    """One IDSESSION as its client sees it: counts commands, takes bytes, gives replies.

    `first_id`: the id clamd gives the next command; FIRST_ID after HANDSHAKE, 1 after a bare OPEN_SESSION.
    Every RemoteProtocolError is final: the session must be closed and what is outstanding asked again elsewhere.
    """

    __slots__ = ("_buffer", "_failed", "_files", "_next_id", "_pings")

    def __init__(self, first_id: int = FIRST_ID) -> None:
        self._next_id = first_id
        self._files: set[int] = set()
        self._pings: set[int] = set()
        self._buffer = b""
        self._failed = False

    @property
    def outstanding(self) -> int:
        """Files sent and not answered."""
        return len(self._files)

    def sent(self) -> int:
        """One FILDES (or INSTREAM) was sent: its id."""
        number = self._take_id()
        self._files.add(number)
        return number

    def sent_ping(self) -> int:
        """One PING was sent, to keep the session alive; its PONG is checked and swallowed."""
        number = self._take_id()
        self._pings.add(number)
        return number

    def _take_id(self) -> int:
        if self._failed:
            raise LocalProtocolError("cannot use the clamd session: it has failed")
        number = self._next_id
        self._next_id = number + 1
        return number

    def receive_data(self, data: bytes) -> list[Reply]:
        """What clamd sent, in any pieces: the files it answers. Raises RemoteProtocolError."""
        if self._failed:
            raise LocalProtocolError("cannot use the clamd session: it has failed")
        self._failed = True  # until all of it proves to be right
        *frames, rest = (self._buffer + data).split(b"\0")
        replies = [reply for frame in frames if (reply := self._parse(frame)) is not None]
        if rest.startswith(_TIMED_OUT):
            raise RemoteProtocolError("cannot use the clamd session: clamd ended it: COMMAND READ TIMED OUT")
        if len(rest) > MAX_REPLY_BYTES:
            raise RemoteProtocolError(f"cannot read clamd's reply: over {MAX_REPLY_BYTES} bytes without an end")
        self._buffer = rest
        self._failed = False
        return replies

    def receive_eof(self) -> None:
        """clamd closed the session. Raises RemoteProtocolError, unless nothing was outstanding."""
        self._failed = True
        if self._buffer:
            raise RemoteProtocolError(f"cannot read clamd's reply: it ends after {self._buffer[:100]!r}")
        if self._files:
            raise RemoteProtocolError(
                f"cannot use the clamd session: clamd closed it, {len(self._files)} files unanswered"
            )

    def _parse(self, frame: bytes) -> Reply | None:
        match = _REPLY.fullmatch(frame)
        if match is None:
            return self._parse_rare(frame)
        number, ok, text, status = match.groups()
        answered = self._answered(int(number), self._files, frame)
        if ok is not None:
            return Reply(id=answered, kind=ReplyKind.OK, text="")
        kind = ReplyKind.FOUND if status == b"FOUND" else ReplyKind.ERROR
        return Reply(id=answered, kind=kind, text=_printable(text))

    def _parse_rare(self, frame: bytes) -> Reply | None:
        if match := _PONG.fullmatch(frame):
            self._answered(int(match[1]), self._pings, frame)
            return None
        if match := _BARE_ERROR.fullmatch(frame):
            number = self._answered(int(match[1]), self._files, frame)
            return Reply(id=number, kind=ReplyKind.ERROR, text=_printable(match[2]))
        raise RemoteProtocolError(f"cannot understand clamd's reply: {frame[:100]!r}")

    def _answered(self, number: int, waiting: set[int], frame: bytes) -> int:
        if number not in waiting:
            cause = "answers nothing that waits" if number < self._next_id else "answers what was never asked"
            raise RemoteProtocolError(f"cannot understand clamd's reply: {cause}: {frame[:100]!r}")
        waiting.remove(number)
        return number


def instream_header(size: int) -> bytes:
    """What goes before a chunk of `size` bytes; INSTREAM_END goes after the last one."""
    if not 0 < size <= 0xFFFFFFFF:
        raise LocalProtocolError(f"cannot send a chunk to clamd: {size} bytes")
    return size.to_bytes(4, "big")


def classify(reply: Reply, *, signatures: bool = True) -> tuple[Verdict, Reason | None, str]:
    """What a reply lets us say of a file: verdict, reason if not scanned, signature or cause.

    `signatures`: False on the built-in engine, where OK means nothing. The caller still owns rule 4's other half: OK is
    clean only for a regular file within the limits that is unchanged after the scan.
    """
    if reply.kind is ReplyKind.OK:
        return (Verdict.CLEAN, None, "") if signatures else (Verdict.NOT_SCANNED, Reason.NO_SIGNATURES, "")
    if reply.kind is ReplyKind.ERROR:
        return Verdict.NOT_SCANNED, Reason.ENGINE_ERROR, reply.text
    if reply.text.startswith(LIMIT_PREFIX):
        return Verdict.NOT_SCANNED, Reason.LIMIT, reply.text
    if reply.text.startswith(ENCRYPTED_PREFIX):
        return Verdict.NOT_SCANNED, Reason.ENCRYPTED, reply.text
    return Verdict.INFECTED, None, reply.text


def _printable(text: bytes) -> str:
    """ASCII with everything else escaped: a third party's signature name may hold any byte but NUL."""
    plain = text.decode("ascii", "backslashreplace")
    return plain if plain.isprintable() else plain.encode("unicode_escape").decode("ascii")
