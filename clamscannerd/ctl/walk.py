"""The walk through the findings that `disinfect` without arguments offers: which keys there are, and what they decide.

Pure: a key in, a new state out; walking.py has the terminal. Nothing is decided but by a key, and nothing is done here
at all: what comes out are the `actions` of disinfect_files, after a last question that sums up.

A capital letter means the same for all later findings of this signature. It stays with its kind: what is chosen for a
file never takes away a mailbox, which is many people's letters in one file, and the other way round.

Rejected: Enter as a key (who holds it down agrees to everything), a default for each finding (it would be somebody
else's opinion about a file that nobody has looked at), one question for all (that is `--all`).
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from clamscannerd.ctl.text import moment, plural, safe, size

Json = dict[str, Any]

SKIP = "skip"
"""Left out of what is asked for; `ignore` is an action, and stands in the log."""

ACTIONS: Mapping[str, str] = {"q": "quarantine", "d": "delete", "c": "cleanse_mailbox", "i": "ignore", "s": SKIP}
BACK, LEAVE, HELP = "b", "x", "?"
ESCAPE = "\x1b"

MAILS_SHOWN = 3
FILES_SHOWN = 8
"""In the last question: so that it fits a screen of 24 lines with three actions."""

_WORDS: Mapping[str, str] = {
    "quarantine": "quarantine",
    "delete": "delete",
    "cleanse_mailbox": "cleanse",
    "ignore": "ignore",
    SKIP: "skip",
}
_MEANS: Mapping[str, str] = {
    "quarantine": "into the vault, from where it can be taken back",
    "delete": "away, with a copy in the vault for some days",
    "cleanse_mailbox": "take out the infected messages, leave the others",
    "ignore": "leave the file; the log says that it was left",
    SKIP: "leave it for another time",
}


class Walk(NamedTuple):
    """`at`: the finding that is asked about; len(findings): the last question. `chosen`: by place, where decided."""

    findings: Sequence[Json]
    chosen: Mapping[int, str] = {}
    at: int = 0

    @property
    def ended(self) -> bool:
        return self.at >= len(self.findings)


def is_mailbox(found: Json) -> bool:
    return "messages" in found


def keys(walk: Walk) -> Mapping[str, str]:
    """Key -> action, of those that make sense for the finding at hand."""
    cleansable = is_mailbox(walk.findings[walk.at])
    return {key: action for key, action in ACTIONS.items() if cleansable or action != "cleanse_mailbox"}


def alike(walk: Walk) -> list[int]:
    """The places of later findings of the same signature and kind."""
    here = walk.findings[walk.at]
    return [
        place
        for place in range(walk.at + 1, len(walk.findings))
        if walk.findings[place]["virus_type"] == here["virus_type"]
        and is_mailbox(walk.findings[place]) == is_mailbox(here)
    ]


def press(walk: Walk, key: str) -> Walk:
    """The state after a key; the same one if the key means nothing here. At a finding, not at the last question."""
    if key == BACK:
        return walk._replace(at=max(0, walk.at - 1))
    known = keys(walk)
    if key in known:
        return _onward(walk, {**walk.chosen, walk.at: known[key]})
    others = alike(walk)
    if others and key.lower() in known and key.isupper():
        same = dict.fromkeys([walk.at, *others], known[key.lower()])
        return _onward(walk, {**walk.chosen, **same})
    return walk


def _onward(walk: Walk, chosen: Mapping[int, str]) -> Walk:
    """To the next finding that nobody has decided about, after this one."""
    at = walk.at + 1
    while at < len(walk.findings) and at in chosen:
        at += 1
    return walk._replace(chosen=chosen, at=at)


def actions(walk: Walk) -> dict[str, str]:
    """Of disinfect_files."""
    return {str(walk.findings[at]["file"]): action for at, action in sorted(walk.chosen.items()) if action != SKIP}


def finding_lines(walk: Walk, owners: Mapping[int, str]) -> list[str]:
    """The finding at hand. `owners`: names of uids, as far as known."""
    found = walk.findings[walk.at]
    lines = [f"{walk.at + 1} of {len(walk.findings)}: {safe(found['file'])}"]
    lines.append(f"  signature:  {safe(str(found['virus_type']))}")
    lines += [f"  file:       {facts}"] if (facts := _facts(found, owners)) else []
    lines += _mail_lines(found)
    if walk.at in walk.chosen:
        lines.append(f"  chosen:     {_WORDS[walk.chosen[walk.at]]}")
    return lines


def _facts(found: Json, owners: Mapping[int, str]) -> str:
    """`68 B, of anna, written 2026-01-31 11:00:00`: what the daemon says of it; an older one does not."""
    parts = [size(int(found["size"]))] if "size" in found else []
    if (owner := found.get("owner")) is not None:
        parts.append(f"of {safe(owners.get(owner, f'uid {owner}'))}")
    if "mtime" in found:
        parts.append(f"written {moment(float(found['mtime']))}")
    return ", ".join(parts)


def _mail_lines(found: Json) -> list[str]:
    if not is_mailbox(found):
        return _letter(found) if "subject" in found else []
    messages: Sequence[Json] = found["messages"]
    count = found.get("message_count")
    whole = f"of {count}" if count else "of a number not known"
    lines = [f"  mailbox:    {plural(len(messages), 'infected message')} {whole}"]
    for message in messages[:MAILS_SHOWN]:
        lines += _letter(message)
    if len(messages) > MAILS_SHOWN:
        lines.append(f"              and {len(messages) - MAILS_SHOWN} more")
    return lines


def _letter(message: Json) -> list[str]:
    lines = []
    if message.get("from"):
        lines.append(f"  From:       {safe(str(message['from']))}")
    date = f" ({safe(str(message['date']))})" if message.get("date") else ""
    lines.append(f"  Subject:    {safe(str(message['subject'])) or '(none)'}{date}")
    return lines


def menu_lines(walk: Walk) -> list[str]:
    """Which keys there are."""
    known = keys(walk)
    words = [f"{key} {_WORDS[action]}" for key, action in known.items()]
    words += [f"{BACK} back"] if walk.at else []
    lines = [f"  {'  '.join([*words, f'{LEAVE} leave', f'{HELP} help'])}"]  # at most 78 columns
    if others := len(alike(walk)):
        kind = "mailbox" if is_mailbox(walk.findings[walk.at]) else "file"
        more = plural(others, f"more {kind}", f"more {kind}es" if kind == "mailbox" else None)
        lines.append(f"  capital letter: the same for {more} of this signature")
    return lines


def help_lines(walk: Walk) -> list[str]:
    lines = [f"  {key}  {_WORDS[action]}: {_MEANS[action]}" for key, action in keys(walk).items()]
    lines.append(f"  {BACK}  back to the one before")
    lines.append(f"  {LEAVE}  leave; nothing is done")
    return [*lines, "Nothing is done before the last question, which sums up."]


def summary_lines(walk: Walk) -> list[str]:
    """The last question's: what is to be done, with names as far as they fit."""
    lines = []
    for action in ACTIONS.values():
        chosen = [walk.findings[at] for at, what in sorted(walk.chosen.items()) if what == action]
        if not chosen:
            continue
        lines.append(f"{_WORDS[action]} {plural(len(chosen), 'file')}: {_MEANS[action]}")
        lines += [f"  {safe(found['file'])}{_whole(found, action)}" for found in chosen[:FILES_SHOWN]]
        if len(chosen) > FILES_SHOWN:
            lines.append(f"  and {len(chosen) - FILES_SHOWN} more{_more(chosen[FILES_SHOWN:], action)}")
    return lines


def _whole(found: Json, action: str) -> str:
    """What goes with a mailbox that is taken away."""
    if action not in ("quarantine", "delete") or not is_mailbox(found) or found.get("message_count") == 1:
        return ""
    count = found.get("message_count")
    return f"  (the whole mailbox, with all its {f'{count} ' if count else ''}messages)"


def _more(found: Sequence[Json], action: str) -> str:
    boxes = sum(1 for one in found if _whole(one, action))
    return f" ({plural(boxes, 'mailbox', 'mailboxes')} among them with all messages)" if boxes else ""
