"""What a verdict rests on: engine, signatures, settings and our own rules. Pure.

An era is one such basis, with what is to be said of it. A verdict counts again in a scan of the same basis and of no
other, but for a rapid scan where the administrator permits it (config.Cache). What makes no difference to a verdict
makes none here: not the patterns that are left out (what they leave out is not looked up), the ignore list (what is
ignored is infected all the same), limits of time and number, our version. What does: the engine's version, its
database as far as health.py can tell them apart, its settings, what is too big for it, and RULES.

An engine whose settings cannot be read gives none: they could change, and nobody would see it.
"""

import hashlib
import math
from collections.abc import Sequence
from typing import Annotated, Final, Protocol

import msgspec
from msgspec import Meta

from clamscannerd.model import Count, EngineInfo, Frozen

RULES: Final = 1
"""Counts up when this program calls clean what it would not have before, or no longer what it did: an upgrade that
does not change it keeps all verdicts."""

Digest16 = Annotated[bytes, Meta(min_length=16, max_length=16)]

PRESENT: Final = 1
EARLIER: Final = 2


class EngineState(Protocol):
    """What is read of engine/health.EngineState."""

    @property
    def info(self) -> EngineInfo: ...
    @property
    def signatures(self) -> bool: ...
    @property
    def max_file_size(self) -> int: ...
    @property
    def generation(self) -> str: ...
    @property
    def settings(self) -> str: ...


class Era(Frozen, frozen=True, kw_only=True):
    """`basis` of all, `settings` of all but the database. `at`: when it was first met; epoch seconds."""

    basis: Digest16
    settings: Digest16
    version: str
    database: Count
    database_time: float
    at: float


def era_of(engine: EngineState, now: float) -> Era | None:
    """Of verdicts that this engine gives now; None: they are not to be kept."""
    if not engine.signatures or not engine.settings or not engine.generation:
        return None
    info = engine.info
    parts = (RULES, info.version, engine.settings, engine.max_file_size, info.blind)
    settings = _digest(msgspec.msgpack.encode(parts))
    return Era(
        basis=_digest(settings + engine.generation.encode()),
        settings=settings,
        version=info.version,
        database=info.database,
        database_time=info.database_time,
        at=now,
    )


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


def standing(eras: Sequence[Era], present: Era, now: float, recheck_after_s: float = -math.inf) -> bytes:
    """For each era number what it is worth: PRESENT, EARLIER (as long as `recheck_after_s` allows it) or 0.

    Number 0 is a free slot. `now`: epoch seconds.
    """
    worth = bytearray(256)
    for number, era in enumerate(eras, 1):
        if era.basis == present.basis:
            worth[number] = PRESENT
        elif era.settings == present.settings and now - era.at <= recheck_after_s:
            worth[number] = EARLIER
    return bytes(worth)
