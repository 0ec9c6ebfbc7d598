"""Answers of get_scan_status as text, kept while they do not change: most polls hear the same again. [daemon]

An answer is made of a scan as it is known now, a value that is replaced and never changed in place, and of a few
numbers beside it. While these are the same objects and numbers, the text is. 200 panels that watch one scan, or look
at the last one, so cost the daemon one answer and its sending.

Rejected: to note in each place where a scan changes that its answer is old (one that is forgotten shows a wrong number
for ever).
"""

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from clamscannerd.model import Account

KEPT = 2_048
"""Accounts; then the memory starts over."""

KEPT_BYTES = 2_048
"""Of one answer: one that lists infected files is made anew each time."""

KEPT_PATHS = 20
"""One with more is longer."""


class _Kept(NamedTuple):
    account: Account
    subject: object
    numbers: tuple[int | None, ...]
    text: msgspec.Raw


class Polls:
    """By account."""

    def __init__(self) -> None:
        self._kept: dict[tuple[int, str], _Kept] = {}
        self._encoder = msgspec.json.Encoder()

    def get(self, account: Account, subject: object, *numbers: int | None) -> msgspec.Raw | None:
        """The answer that was made of the same."""
        kept = self._kept.get((account.uid, account.name))
        if kept and kept.subject is subject and kept.account is account and kept.numbers == numbers:
            return kept.text
        return None

    def put(self, answer: Mapping[str, object], account: Account, subject: object, *numbers: int | None) -> msgspec.Raw:
        """`answer` as text. `subject`: of which it was made; it must not be changed in place."""
        encoded = self._encoder.encode(answer)
        text = msgspec.Raw(encoded)
        if len(encoded) <= KEPT_BYTES:
            if len(self._kept) >= KEPT:
                self._kept.clear()
            self._kept[account.uid, account.name] = _Kept(account, subject, numbers, text)
        return text
