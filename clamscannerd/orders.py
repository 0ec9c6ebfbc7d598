"""What can be asked of the monitor, and what it answers: the binary messages between [daemon] and [monitor], sans-IO.

One packet of a SOCK_SEQPACKET pair is one message. All but SETUP have one form, so that there is next to nothing to
parse in the privileged process: verb, job, one number, and for two verbs a short text. Anything else raises
MalformedMessage, which ends the monitor. Standard library only.

Which messages are legal when:
    launcher ->  SETUP                                        first of all, once
    daemon   ->  SPAWN(job, uid, name) + 2 fds                 <- STARTED(job, pid) ... EXITED(job, status)
                                                               <- or REFUSED(job, errno, why)
                 KILL(job)                                     no answer of its own: EXITED tells
                 ENGINE_START(kind), ENGINE_STOP               the same answers with job ENGINE_JOB
                 PING(token)                                   <- PONG(token)

Rejected: JSON or msgpack (a parser, and third-party code, where the privileges are); a message class for each verb
(eleven of them, for the same four fields).
"""

import struct
from collections.abc import Iterable
from typing import NamedTuple

# Daemon to monitor. SETUP comes first and once.
SETUP, SPAWN, KILL, PING, ENGINE_START, ENGINE_STOP = range(1, 7)
# Monitor to daemon. STARTED: value is the pid. EXITED: the wait status. REFUSED: an errno, and text. PONG: as in PING.
STARTED, EXITED, REFUSED, PONG = range(65, 69)

TO_MONITOR = (SPAWN, KILL, PING, ENGINE_START, ENGINE_STOP)
TO_DAEMON = (STARTED, EXITED, REFUSED, PONG)

ENGINE_JOB = 0
"""The engine's place among the children: STARTED, EXITED, REFUSED and KILL (at once, where STOP asks) name it so."""

ENGINE_KINDS = ("signatures", "builtin")
"""ENGINE_START's value is an index into this."""

MAX_TEXT_BYTES = 255
"""A name of an account, or a sentence."""

MAX_MESSAGE_BYTES = 32 * 1024
"""SETUP with its paths (4,096 bytes each at most, six of them) is the longest."""

NOBODY, INVALID_UID = 65534, 0xFFFFFFFF

_HEAD = struct.Struct("<BQq")
_SETUP_HEAD = struct.Struct("<B?IIIiiiI?IIi")


class MalformedMessage(Exception):
    """The other end sent what no correct daemon (or monitor) sends."""


class Message(NamedTuple):
    """Every message but SETUP: `job` a number of the daemon's choice, `value` and `text` as the verb says."""

    verb: int
    job: int
    value: int = 0
    text: bytes = b""

    def encode(self) -> bytes:
        return _HEAD.pack(self.verb, self.job, self.value) + self.text


def decode(data: bytes, verbs: Iterable[int]) -> Message:
    """The message in `data`, which must be one of `verbs`. Raises MalformedMessage."""
    if not _HEAD.size <= len(data) <= _HEAD.size + MAX_TEXT_BYTES:
        raise MalformedMessage(f"a message of {len(data)} bytes")
    verb, job, value = _HEAD.unpack_from(data)
    message = Message(verb, job, value, data[_HEAD.size :])
    if message.verb not in verbs:
        raise MalformedMessage(f"verb {message.verb}")
    if (message.text != b"") != (message.verb in (SPAWN, REFUSED)) or b"\0" in message.text:
        raise MalformedMessage(f"text {message.text!r} with verb {message.verb}")
    if message.verb in (ENGINE_START, ENGINE_STOP) and message.job != ENGINE_JOB:
        raise MalformedMessage(f"job {message.job} with verb {message.verb}")
    return message


class Engine(NamedTuple):
    """The private engine: `commands` in the order of ENGINE_KINDS; `clear`: a directory of its own to empty, or b""."""

    uid: int
    gid: int
    nice: int
    clear: bytes
    commands: tuple[tuple[bytes, ...], ...]


class Setup(NamedTuple):
    """What the launcher fixes for good. `worker`: program and first arguments, to which a job adds its own."""

    system: bool
    uid: int
    gid: int
    min_uid: int
    worker_nice: int
    worker_io_priority: int  # as ioprio_set(2) takes it: class and level
    worker_cpu_policy: int  # as sched_setscheduler(2) takes it; 0: the usual one
    worker_cpu_s: int
    worker: tuple[bytes, ...]
    engine: Engine | None

    def encode(self) -> bytes:
        engine = self.engine or Engine(0, 0, 0, b"", ())
        head = _SETUP_HEAD.pack(SETUP, *self[:8], self.engine is not None, *engine[:3])
        lists = (self.worker, (engine.clear,), *engine.commands)
        return head + b"".join(struct.pack("<H", len(words)) + b"".join(map(_pack, words)) for words in lists)


def _pack(word: bytes) -> bytes:
    return struct.pack("<H", len(word)) + word


def decode_setup(data: bytes) -> Setup:
    """Raises MalformedMessage."""
    try:
        head = _SETUP_HEAD.unpack_from(data)
        lists, at = [], _SETUP_HEAD.size
        while at < len(data):
            (count,) = struct.unpack_from("<H", data, at)
            at, words = at + 2, []
            for _ in range(count):
                (size,) = struct.unpack_from("<H", data, at)
                words.append(struct.unpack_from(f"{size}s", data, at + 2)[0])
                at += 2 + size
            lists.append(tuple(words))
    except struct.error as error:
        raise MalformedMessage(f"SETUP: {error}") from None
    verb, system, uid, gid, min_uid, nice, io_priority, policy, cpu_s, with_engine, *ids = head
    expected = 2 + len(ENGINE_KINDS) * with_engine
    if verb != SETUP or len(lists) != expected or not lists[0] or len(lists[1]) != 1:
        raise MalformedMessage(f"SETUP: verb {verb}, {len(lists)} lists")
    (clear,) = lists[1]
    built = Engine(ids[0], ids[1], ids[2], clear, tuple(lists[2:])) if with_engine else None
    return Setup(system, uid, gid, min_uid, nice, io_priority, policy, cpu_s, lists[0], built)


def refusal(setup: Setup, uid: int) -> str:
    """Why no worker may run as `uid`, or ""."""
    if uid in (0, NOBODY, INVALID_UID) or not 0 < uid < INVALID_UID:
        return f"uid {uid} is never an account"
    if setup.system:
        return f"uid {uid} is below {setup.min_uid}" if uid < setup.min_uid else ""
    return "" if uid == setup.uid else f"uid {uid} is not the user who started the daemon"
