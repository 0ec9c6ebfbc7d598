"""What `disinfect` does about mailboxes. Pure: from the list of infected files and the command to words and a decision.

A mailbox is many people's letters in one file, and one of them is infected. So `--all` cleanses mailboxes, message by
message, whatever it does to files, and says so; and whoever takes away one of several messages as a whole, by naming it
or by `--whole`, is asked first. A file that is one message (Maildir) is a file like any other.

Rejected: `--yes` for "whole" too: it answers a question, and a script that has it for that must not get another deed
by it; asking about each mailbox under `--all` (a home has hundreds of folders).
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from clamscannerd.ctl.text import plural, safe

Json = dict[str, Any]

TAKING = ("quarantine", "delete")
"""Actions after which the file is gone from where it was."""

CLEANSE = "cleanse_mailbox"


class Plan(NamedTuple):
    """`cleansed`: mailboxes that get CLEANSE instead. `taken`: those of more than one message that go as a whole."""

    cleansed: Sequence[Json] = ()
    taken: Sequence[Json] = ()


def plan(findings: Sequence[Json], named: Collection[str] | None, *, whole: bool) -> Plan:
    """For an action that takes files away. `named`: the files, None for all on the list; `whole`: mailboxes as well."""
    boxes = [found for found in findings if "messages" in found]
    if named is None:  # what the ignore list covers is not among "all"
        boxes = [box for box in boxes if not box.get("ignored")]
    if named is None and not whole:
        return Plan(cleansed=boxes)
    chosen = [box for box in boxes if named is None or box["file"] in named]
    return Plan(taken=[box for box in chosen if box.get("message_count") != 1])


def params(action: str, named: Collection[str] | None, plan: Plan) -> Mapping[str, object]:
    """Of disinfect_files. What a scan that ended just now put on the list is `others`, mailbox or not."""
    actions = {str(box["file"]): CLEANSE for box in plan.cleansed}
    if named is not None:
        return {"actions": actions | dict.fromkeys(named, action)}
    return {"actions": actions, "others": action}


def said(action: str, plan: Plan) -> str:
    """What is done otherwise than asked; "" if nothing."""
    if not plan.cleansed:
        return ""
    boxes = plural(len(plan.cleansed), "mailbox is", "mailboxes are")
    return f"{boxes} cleansed: infected messages are taken out, the others stay (to {action} it all, add --whole)"


def question(action: str, plan: Plan) -> str:
    return f"{action.capitalize()} {_boxes(plan)}?"


def refusal(action: str, plan: Plan) -> str:
    """When nobody can be asked."""
    return f"cannot {action} {_boxes(plan)} unasked: say --yes, or {CLEANSE} to take out the infected messages alone"


def _boxes(plan: Plan) -> str:
    if len(plan.taken) > 1:
        return f"{len(plan.taken)} mailboxes with all their messages"
    (box,) = plan.taken
    count = box.get("message_count")
    return f"{safe(box['file'])} with all its {f'{count} ' if count else ''}messages"
