"""The messages between [daemon] and [worker] about what stands at a path, sans-IO. Part of messages.py.

daemon  Look, as the whole job
worker  Looked
"""

from typing import Annotated

from msgspec import Meta

from clamscannerd.model import PATH_MAX_BYTES, Place
from clamscannerd.worker.wire import Message


class Look(Message, frozen=True, kw_only=True, tag=True, forbid_unknown_fields=True):
    """What stands at these paths beneath the home; b"." is the home itself."""

    paths: tuple[Annotated[bytes, Meta(min_length=1, max_length=PATH_MAX_BYTES)], ...]


class Looked(Message, frozen=True, kw_only=True, tag=True, forbid_unknown_fields=True):
    """For each path of Look what stands there: as it was at that moment, no more."""

    places: tuple[Place, ...]


LookCommand = Look
LookReply = Looked
