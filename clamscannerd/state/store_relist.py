"""What a restore by force brought back is listed as infected again. [daemon, writer thread] See store_rows.

In the transaction that commits the proof of the restore: from the moment the item is off the vault's list, the file is
on the other one, and the next disinfection can act on it without a scan. The finding is one of the latest scan,
whatever that covered, for that is the list that call 4 shows; `restored` keeps it apart from what the scan found.

Of mail, what the scan knew of its messages holds still where the content is the same: by it a cleanse knows them
again. What is not known is marked so (finding.mailbox 0), and then a cleanse asks the engine.
"""

import sqlite3

from clamscannerd.model import FindingState, Item, RestoreStep
from clamscannerd.state import store_scans
from clamscannerd.state.store_rows import find_account
from clamscannerd.state.store_values import NewFinding, Redetected, StoreLimits

_COPY = (
    "INSERT INTO finding_message SELECT :to, number, range_start, range_end, message_id, subject, sender, date,"
    " signature, sha256, 1 FROM finding_message"
)


def relist(
    c: sqlite3.Connection, limits: StoreLimits, step: RestoreStep, item: Item, found: Redetected, now: float
) -> bool:
    """False: the list is full, or there is none."""
    scan, account = store_scans.latest(c, item.uid, item.name), find_account(c, item.uid, item.name)
    if scan is None or account is None:
        return False
    old = c.execute("SELECT * FROM finding WHERE scan = ? AND path = ?", (scan.id, step.target)).fetchone()
    if old is None and _count(c, scan.id) >= limits.max_findings_per_scan:
        return False
    source = c.execute(
        "SELECT f.* FROM step s JOIN finding f ON f.id = s.finding WHERE s.task = ? AND s.seq = ?",
        (item.task_id, item.seq),
    ).fetchone()
    new = NewFinding(path=step.target, identity=found.identity, signature=found.signature, mailbox=found.mailbox)
    finding_id = store_scans.stand(c, account, scan.id, new, old, now, restored=True).id
    if item.part and step.target == item.path:
        _message_in_its_box(c, finding_id, old, source, item, found)
    elif item.part:
        _message_as_file(c, finding_id, source, item)
    else:
        _whole_file(c, finding_id, source, item)
    return True


def _id_of(source: sqlite3.Row | None) -> int:
    """0: no finding has it."""
    return 0 if source is None else source["id"]


def _count(c: sqlite3.Connection, scan_id: int) -> int:
    return int(c.execute("SELECT count(*) FROM finding WHERE scan = ?", (scan_id,)).fetchone()[0])


def _message_in_its_box(
    c: sqlite3.Connection,
    finding_id: int,
    old: sqlite3.Row | None,
    source: sqlite3.Row | None,
    item: Item,
    found: Redetected,
) -> None:
    """One message more that is infected; others may have been put back before it, and the rest are notices."""
    total, in_box = 0, source["mailbox"] if source is not None else 0
    if old is not None and old["state"] == FindingState.STANDING:
        total, in_box = old["messages"], old["mailbox"]
    elif old is not None:
        c.execute("UPDATE finding_message SET listed = 0 WHERE finding = ?", (finding_id,))
    this = {"to": finding_id, "from": _id_of(source), "start": item.start, "sha256": item.sha256}
    known = c.execute(
        "SELECT number, listed FROM finding_message WHERE finding = :to AND range_start = :start AND sha256 = :sha256",
        this,
    ).fetchone()
    if not found.in_place:  # appended: at a place and under a number that nobody has told
        in_box = 0
    elif known is not None:
        c.execute(
            "UPDATE finding_message SET listed = 1 WHERE finding = ? AND number = ?", (finding_id, known["number"])
        )
        total -= known["listed"]
    else:
        c.execute(
            f"{_COPY} WHERE finding = :from AND range_start = :start AND sha256 = :sha256 ON CONFLICT DO NOTHING", this
        )
    c.execute("UPDATE finding SET messages = ?, mailbox = ? WHERE id = ?", (total + 1, in_box or 0, finding_id))


def _message_as_file(c: sqlite3.Connection, finding_id: int, source: sqlite3.Row | None, item: Item) -> None:
    """A mailbox of one message, if it can be seen to be one."""
    c.execute("DELETE FROM finding_message WHERE finding = ?", (finding_id,))
    c.execute(
        "INSERT INTO finding_message SELECT :to, 1, 0, :size, message_id, subject, sender, date, signature, sha256, 1"
        " FROM finding_message WHERE finding = :from AND range_start = :start AND sha256 = :sha256 LIMIT 1",
        {
            "to": finding_id,
            "from": _id_of(source),
            "start": item.start,
            "sha256": item.sha256,
            "size": item.size,
        },
    )
    c.execute(
        "UPDATE finding SET messages = 1, mailbox = CASE WHEN mailbox IS NOT NULL THEN 1 END WHERE id = ?",
        (finding_id,),
    )


def _whole_file(c: sqlite3.Connection, finding_id: int, source: sqlite3.Row | None, item: Item) -> None:
    """Its messages are those that were found, if it is what was found."""
    same = source is not None and source["sha256"] == item.sha256
    if source is None or not same or source["id"] != finding_id:
        c.execute("DELETE FROM finding_message WHERE finding = ?", (finding_id,))
    if source is None or not same:
        return
    if source["id"] != finding_id:
        c.execute(f"{_COPY} WHERE finding = :from AND listed", {"to": finding_id, "from": source["id"]})
    c.execute(
        "UPDATE finding SET messages = ?, mailbox = ? WHERE id = ?",
        (source["messages"], source["mailbox"], finding_id),
    )
