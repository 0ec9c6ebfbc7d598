"""The base of all messages between [daemon] and [worker], sans-IO; apart, so that messages.py and mailwire.py can
both be made of it without importing each other in a circle."""

import msgspec


class Message(msgspec.Struct, frozen=True, kw_only=True, tag=True, forbid_unknown_fields=True):
    """Base: the tag on the wire is the class's name."""


HELD_BACK = 1 << 20
"""In Progress.wants: more than any window."""
