"""Long lists are made into text a slice at a time, between which the loop sees to everybody else. [daemon]

Rejected: a thread (it has Python's lock for a while at a time, and the loop waits for it at each call to the system).
"""

from collections.abc import Iterable

import msgspec
import trio

SLICE_ROWS = 250
SLICE_BYTES = 128 << 10
"""About 1 ms of work, for a row of list_infected_files; and where the names are long, and all escapes."""


async def encoded(rows: Iterable[object]) -> list[msgspec.Raw]:
    """What `rows` gives, each made when its turn comes. A short list is made at once."""
    made = list[msgspec.Raw]()
    left_rows, left_bytes = SLICE_ROWS, SLICE_BYTES
    for row in rows:
        text = msgspec.json.encode(row)
        made.append(msgspec.Raw(text))
        left_rows, left_bytes = left_rows - 1, left_bytes - len(text)
        if not left_rows or left_bytes <= 0:
            await trio.lowlevel.checkpoint()
            left_rows, left_bytes = SLICE_ROWS, SLICE_BYTES
    return made
