"""A time as people type it: `2d`, `12h`, `1.5w`. Pure. The units are those of the configuration, and never left out."""

import re

LONGEST_S = 36_500 * 86_400
"""A hundred years: the daemon's bound."""

EXPECTED = 'expected a time like "2d" or "12h" (s, m, h, d, w)'

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_FORM = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,9})?)([smhdw])")


def seconds(text: str) -> float:
    """More than 0, at most LONGEST_S. ValueError, fit to be shown, on anything else."""
    form = _FORM.fullmatch(text)
    if form is None:
        raise ValueError(EXPECTED)
    number = float(form[1]) * _SECONDS[form[2]]
    if number <= 0:
        raise ValueError(f"{EXPECTED}, more than 0")
    if number > LONGEST_S:
        raise ValueError(f"{EXPECTED}, at most 36500d")
    return number
