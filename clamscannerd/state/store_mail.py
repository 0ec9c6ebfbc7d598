"""Infected messages of findings, and the journal of a cleanse. [daemon, writer or reader thread] See store_rows.

The journal has no table of its own: an item that is a message says which bytes of the mailbox it took, their hash, and
the hash of the notice that is to stand there. So a restore finds in the item all it needs when the task is long pruned.
"""

import sqlite3
from collections.abc import Mapping, Sequence

from clamscannerd.errors import LocalProtocolError
from clamscannerd.model import Item, MailMessage
from clamscannerd.state.store_rows import clipped, item_of
from clamscannerd.state.store_values import FoundMail

MAX_PER_FINDING = 10_000
"""Infected messages kept of one mailbox: 1 MB of rows, a list that nobody reads to its end."""

MAX_PER_SCAN = 100_000
"""As many as findings."""

_TEXT_CHARS = 200


def add_messages(
    c: sqlite3.Connection, scan_id: int, path: bytes, messages: Sequence[MailMessage], total: int, in_box: int
) -> int:
    """Add to what is kept of a finding; how many were kept. A path that is no finding of the scan keeps none.

    `total`: infected ones, kept or not. `in_box`: all messages of the mailbox, 0 if that is not known.
    """
    row = c.execute(
        "SELECT id FROM finding WHERE scan = ? AND path = ? AND state = 'standing'", (scan_id, path)
    ).fetchone()
    if row is None:
        return 0
    kept = c.execute("SELECT count(*) FROM finding_message WHERE finding = ?", (row["id"],)).fetchone()[0]
    in_scan = c.execute("SELECT sum(messages) FROM finding WHERE scan = ? AND id <> ?", (scan_id, row["id"])).fetchone()
    room = max(0, min(MAX_PER_FINDING - kept, MAX_PER_SCAN - (in_scan[0] or 0) - kept))
    c.execute(
        "UPDATE finding SET messages = ?, mailbox = CASE WHEN mailbox IS NOT NULL THEN ? END WHERE id = ?",
        (max(total, kept + len(messages)), in_box, row["id"]),
    )
    c.executemany(
        "INSERT INTO finding_message VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 1) ON CONFLICT DO NOTHING",
        [
            (
                row["id"],
                one.number,
                one.start,
                one.end,
                *(clipped(text, _TEXT_CHARS) for text in (one.message_id, one.subject, one.sender, one.date)),
                clipped(one.signature, _TEXT_CHARS),
                one.sha256,
            )
            for one in messages[:room]
        ],
    )
    return int(min(room, len(messages)))


def _message_of(row: sqlite3.Row) -> MailMessage:
    return MailMessage(
        number=row["number"],
        start=row["range_start"],
        end=row["range_end"],
        message_id=row["message_id"],
        subject=row["subject"],
        sender=row["sender"],
        date=row["date"],
        signature=row["signature"],
        sha256=row["sha256"],
    )


def messages_of(c: sqlite3.Connection, finding_id: int) -> FoundMail:
    """Not complete where more were found than are kept, or where the mailbox was not read to its end."""
    row = c.execute("SELECT messages, mailbox FROM finding WHERE id = ?", (finding_id,)).fetchone()
    rows = c.execute("SELECT * FROM finding_message WHERE finding = ? AND listed ORDER BY number", (finding_id,))
    messages = tuple(_message_of(one) for one in rows)
    complete = row is not None and bool(row["mailbox"]) and row["messages"] == len(messages)
    return FoundMail(messages=messages, complete=complete)


def standing_messages(c: sqlite3.Connection, scan_id: int) -> dict[int, list[MailMessage]]:
    """Of all that stands in a scan, by finding."""
    found: dict[int, list[MailMessage]] = {}
    for row in c.execute(
        "SELECT m.* FROM finding f JOIN finding_message m ON m.finding = f.id"
        " WHERE f.scan = ? AND f.state = 'standing' AND f.messages > 0 AND m.listed ORDER BY m.finding, m.number",
        (scan_id,),
    ):
        found.setdefault(row["finding"], []).append(_message_of(row))
    return found


def items_of_step(c: sqlite3.Connection, task_id: int, seq: int) -> list[Item]:
    """All that the vault keeps of a step, by part."""
    rows = c.execute(
        "SELECT i.*, a.uid, a.name FROM item i JOIN account a ON a.id = i.account"
        " WHERE i.task = ? AND i.seq = ? AND i.state = 'kept' ORDER BY i.part, i.id",
        (task_id, seq),
    )
    return [item_of(row) for row in rows]


def journal(c: sqlite3.Connection, task_id: int, seq: int, notices: Mapping[int, bytes]) -> None:
    """The intent of a cleanse, all of it or nothing: what will stand in the place of each part that is kept."""
    for part, sha256 in notices.items():
        changed = c.execute(
            "UPDATE item SET notice = ? WHERE task = ? AND seq = ? AND part = ? AND state = 'kept' AND notice = x''",
            (sha256, task_id, seq, part),
        ).rowcount
        if changed != 1:
            raise LocalProtocolError(f"cannot journal part {part} of step {seq} of task {task_id}: it is not kept")
