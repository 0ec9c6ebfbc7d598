"""What the tables of clamscannerd.toml are made of: the base of a table, and values with units ("90d", "1G", "5%").
Pure."""

import re

import msgspec

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_BYTES = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of the configuration's tables."""


class Duration(float):
    """Seconds. In the file a number of seconds or text like "90s", "15m", "12h", "7d", "2w"."""


class Size(int):
    """Bytes. In the file a number or text like "512K", "25M", "1G"."""


class Share(float):
    """A part of one, 0.0 to 1.0. In the file text like "5%"."""


def units(kind: type, value: object) -> object:
    """msgspec's hook for Duration, Size and Share."""
    text = str(value).strip()
    if kind is Duration and (m := re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw]?)", text)):
        return Duration(float(m[1]) * _SECONDS[m[2] or "s"])
    if kind is Size and (m := re.fullmatch(r"(\d+)([KMGT]?)", text)):
        return Size(int(m[1]) * _BYTES[m[2]])
    if kind is Share and (m := re.fullmatch(r"(\d+(?:\.\d+)?)%", text)) and float(m[1]) <= 100:
        return Share(float(m[1]) / 100)
    expected = {Duration: 'a time like "7d"', Size: 'a size like "25M"', Share: 'a percentage like "5%"'}
    raise ValueError(f"Expected {expected.get(kind, kind.__name__)}, got {value!r}")
