"""What the tables of clamscannerd.toml are made of: the base of a table, and values with units. Pure."""

import msgspec


class Duration(float):
    """Seconds. In the file a number of seconds or text like "90s", "15m", "12h", "7d", "2w"."""


class Size(int):
    """Bytes. In the file a number or text like "512K", "25M", "1G"."""


class Share(float):
    """A part of one, 0.0 to 1.0. In the file text like "5%"."""


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of the configuration's tables."""
