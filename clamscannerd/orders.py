"""What can be asked of the monitor, and what it answers: the binary messages between [daemon] and [monitor], sans-IO.

One packet of a SOCK_SEQPACKET pair is one message. All but SETUP have one form, so that there is next to nothing to
parse in the privileged process: verb, job, one number, and for two verbs a short text. Anything else raises
MalformedMessage, which ends the monitor. Standard library only.

Which messages are legal when:
    launcher ->  SETUP                                        first of all, once
    daemon   ->  SPAWN(job, uid, name) + 2 fds                 <- STARTED(job, pid) ... EXITED(job, status)
                                                               <- or REFUSED(job, errno, why)
                 KILL(job)                                     no answer of its own: EXITED tells
                 ENGINE_START(job), ENGINE_STOP(job)           the same answers; the job is one of ENGINE_JOBS
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

BUILTIN_ENGINE = 0
MAX_ENGINES = 8
ENGINE_JOBS = range(1 + MAX_ENGINES)
"""Engines' places among the children: 0 is the one with the built-in test signature, those with the signatures count
from 1. Each is an index into what SETUP has of them. KILL ends one at once, where ENGINE_STOP asks it to."""

MAX_TEXT_BYTES = 255
"""A name of an account, or a sentence."""

MAX_MESSAGE_BYTES = 128 * 1024
"""SETUP with its paths (4,096 bytes each at most, three of each engine and a few more) is the longest."""

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
    if message.verb in (SPAWN, ENGINE_START, ENGINE_STOP) and (message.verb == SPAWN) == (message.job in ENGINE_JOBS):
        raise MalformedMessage(f"job {message.job} with verb {message.verb}")
    return message


class Engine(NamedTuple):
    """Private engines, all of one user. `commands` by job; `clear`: of each a directory of its own to empty, or b""."""

    uid: int
    gid: int
    nice: int
    clear: tuple[bytes, ...]
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
        engine = self.engine or Engine(0, 0, 0, (), ())
        head = _SETUP_HEAD.pack(SETUP, *self[:8], self.engine is not None, *engine[:3])
        lists = (self.worker, engine.clear, *engine.commands)
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
    if verb != SETUP or len(lists) < 2 or not lists[0]:
        raise MalformedMessage(f"SETUP: verb {verb}, {len(lists)} lists")
    worker, clear, *commands = lists
    if len(clear) != len(commands) or not (1 <= len(commands) <= len(ENGINE_JOBS) if with_engine else not commands):
        raise MalformedMessage(f"SETUP: {len(commands)} engines")
    built = Engine(ids[0], ids[1], ids[2], clear, tuple(commands)) if with_engine else None
    return Setup(system, uid, gid, min_uid, nice, io_priority, policy, cpu_s, worker, built)


def refusal(setup: Setup, uid: int) -> str:
    """Why no worker may run as `uid`, or ""."""
    if uid in (0, NOBODY, INVALID_UID) or not 0 < uid < INVALID_UID:
        return f"uid {uid} is never an account"
    if setup.system:
        return f"uid {uid} is below {setup.min_uid}" if uid < setup.min_uid else ""
    return "" if uid == setup.uid else f"uid {uid} is not the user who started the daemon"
