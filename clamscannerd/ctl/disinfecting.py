"""`disinfect`: act on infected files, named or all of them, or on a terminal one after the other, with one key each.

A script says what it wants and is not asked; mailboxes.py says what `--all` does about mailboxes. Without any argument
it is a walk through the findings (walking.py), and then it waits, shows what became of each file, and how to undo it.
"""

from collections.abc import Sequence

import click

from clamscannerd.ctl import asking, mailboxes, text
from clamscannerd.ctl.calls import INTERRUPTED, TROUBLE, Caller, Json, out, say
from clamscannerd.ctl.commands import command, print_answer, wire_names
from clamscannerd.ctl.completing import Names
from clamscannerd.ctl.tasks import wait_disinfection

ACTIONS = ("quarantine", "delete", "ignore", "cleanse_mailbox")


@command
@click.argument("action", metavar="[ACTION]", required=False, type=click.Choice(ACTIONS))
@click.argument("files", metavar="[FILE]...", nargs=-1, type=Names())
@click.option("--all", "everything", is_flag=True, help="Every infected file that is not ignored.")
@click.option("--whole", is_flag=True, help="With --all: mailboxes too, with all their messages.")
@click.option("--yes", is_flag=True, help="Do not ask before a mailbox is taken away with all its messages.")
@click.option("--wait", is_flag=True, help="Wait for the end and print what was done.")
def disinfect(
    caller: Caller,
    action: str | None,
    files: Sequence[str],
    everything: bool,  # noqa: FBT001
    whole: bool,  # noqa: FBT001
    yes: bool,  # noqa: FBT001
    wait: bool,  # noqa: FBT001
) -> int:
    """Act on infected files.

    ACTION is quarantine, delete, ignore or cleanse_mailbox, on the files named, or on --all that `infected`
    lists but for what is ignored there.
    Without ACTION, on a terminal: choose for each file with one key; nothing is done before the last question.

    What is deleted or quarantined is kept in the vault for a while; `undo` puts it back.
    A name that `infected` shows with backslashes can be given to bash as $'...'.

    With --all, mailboxes are cleansed where files are quarantined or deleted: their infected messages are taken out.
    To take away a mailbox of more than one message, name it or add --whole: this asks first, a script adds --yes.
    """
    if action is None:
        if everything or whole or yes or caller.options.json or not asking.on_terminal():
            raise click.UsageError(f"name an action ({', '.join(ACTIONS)}), and the files or --all")
        return _walk(caller)
    if bool(files) == everything:
        raise click.UsageError("name the files, or say --all")
    named = None if everything else wire_names(caller.options, files)
    chosen = mailboxes.Plan()
    if action in mailboxes.TAKING:
        chosen = mailboxes.plan(caller.six("list_infected_files")["result"]["data"], named, whole=whole)
    if chosen.taken and not yes:
        if not asking.on_terminal():
            raise click.UsageError(mailboxes.refusal(action, chosen))
        if not asking.sure(caller, mailboxes.question(action, chosen)):
            return TROUBLE
    if otherwise := mailboxes.said(action, chosen):
        say(otherwise)
    answer = caller.six("disinfect_files", **mailboxes.params(action, named, chosen))
    data: Json = answer["result"]["data"]
    if wait:
        return wait_disinfection(caller, None if everything else len(files))
    task_id = text.safe(data["task_id"])
    line = f"task {task_id} is under way, its log is {text.safe(data['log'])}"
    print_answer(caller, answer, [line, f"see how it goes: {caller.options.again('task', task_id, '--follow')}"])
    return 0


def none_stands(caller: Caller) -> str:
    """For an empty list of infected files: what the scan found and did not scan."""
    found: Json = caller.six("get_scan_status")["result"]["data"]
    left = "no infected file stands any more; " if text.found_count(found) else ""
    return f"{left}{text.scan_name(found)}, {text.state(found)}: {text.result(found)}"


def _walk(caller: Caller) -> int:
    from clamscannerd.ctl import walking

    scan: Json = caller.six("get_scan_status")["result"]["data"]
    if not scan["scan_complete"]:
        again = caller.options.again("status", "--wait")
        say(f"cannot disinfect: {text.scan_name(scan)} is {text.state(scan)}; wait for its end: {again}")
        return TROUBLE
    listed: list[Json] = caller.six("list_infected_files")["result"]["data"]
    findings = [finding for finding in listed if not finding.get("ignored")]
    if not findings:
        out(none_stands(caller))
        return 0
    count = text.plural(len(findings), "infected file stands", "infected files stand")
    out(f"{text.scan_name(scan)}, {text.state(scan)}: {text.result(scan)}")
    out(f"{count}; one key for each")
    try:
        actions = walking.choose(caller, findings)
    except KeyboardInterrupt:
        say("nothing has been changed")
        return INTERRUPTED
    if not actions:
        say("nothing has been changed" if actions is None else "nothing to do: every file was skipped")
        return TROUBLE if actions is None else 0
    caller.six("disinfect_files", actions=actions)
    code = wait_disinfection(caller, len(actions))
    if {"quarantine", "delete", "cleanse_mailbox"} & set(actions.values()):
        out(f"take it all back with: {caller.options.again('undo')}")
    return code
