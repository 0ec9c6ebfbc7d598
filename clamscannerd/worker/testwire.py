"""The message of a self-test and its answer, sans-IO: a part of messages.py, apart only because that would be too long.

SelfTest:   daemon, with one session; worker SelfTested
"""

from typing import Annotated

from msgspec import Meta

from clamscannerd.model import Verdict
from clamscannerd.worker.wire import Message

MAX_TEST_BYTES = 1_024
"""The EICAR test file has 68, and may have 128 by its definition."""


class SelfTest(Message, frozen=True, kw_only=True, tag=True, forbid_unknown_fields=True):
    """Have `content` scanned, in a file in the home that has no name and so is gone with its last fd."""

    content: Annotated[bytes, Meta(max_length=MAX_TEST_BYTES)]
    deadline_s: float


class SelfTested(Message, frozen=True, kw_only=True, tag=True, forbid_unknown_fields=True):
    """`signature` of what was found; `reason` when nothing can be said: a sentence."""

    verdict: Verdict
    signature: str
    reason: str
