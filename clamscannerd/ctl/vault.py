"""What was taken away: `quarantine list|show|restore|delete|verify` and `undo`.

What the engine still detects goes back only by force. On a terminal, with --wait, this asks; a script says --force.
Deleting for good is asked about on a terminal too. Exit codes: 0 everything as asked, 2 trouble: also when something
was left in the vault.
"""

from collections.abc import Sequence

import click

from clamscannerd.ctl import asking, tasks, text
from clamscannerd.ctl.calls import INTERRUPTED, TROUBLE, Caller, Json, say
from clamscannerd.ctl.commands import Command, columns, command, options, print_answer, wire_names
from clamscannerd.ctl.completing import Names

PAGE = 1_000
"""Items of a list asked for at once: the daemon's bound."""

STATES = ("quarantined", "deleted", "mailbox-cleansed")
VERIFY_S = 3600.0
"""A whole vault is read at the speed of its disk."""

_ID = click.IntRange(min=1, max=2**63 - 1)


@click.group()
@options
def quarantine() -> None:
    """What was taken away: see it, restore it, or remove it."""


def _command(function: Command) -> click.Command:
    return command(function, quarantine)


def _list_command(function: Command) -> click.Command:
    return command(function, quarantine, "list")


@_list_command
@click.option("--state", type=click.Choice(STATES), help="Only what came here this way.")
def list_items(caller: Caller, state: str | None) -> int:
    """List what the vault keeps."""
    items: Sequence[Json] = []
    total = 0
    while len(items) < total or not items:
        wanted: dict[str, object] = {"limit": PAGE, "offset": len(items)}
        answer = _object(caller.call("Quarantine.list", wanted | ({"state": state} if state else {})))
        items, total = [*items, *answer["items"]], answer["total"]
        if not answer["items"]:
            break
    print_answer(caller, {"items": items, "total": total}, text.items_lines(items, columns()))
    return 0


@_command
@click.argument("item", metavar="ID", type=_ID)
def show(caller: Caller, item: int) -> int:
    """Show one item."""
    answer = _object(caller.call("Quarantine.show", {"id": item}))
    print_answer(caller, answer, text.item_lines(answer))
    return 0


@_command
@click.argument("items", metavar="ID...", nargs=-1, required=True, type=_ID)
@click.option(
    "--to", metavar="DIR", type=Names("dir"), help="Into this directory of the home, made at need, not where they were."
)
@click.option("--force", is_flag=True, help="Also what is still detected as infected.")
@click.option("--wait", is_flag=True, help="Wait for the end and print what was done.")
def restore(caller: Caller, items: Sequence[int], to: str | None, force: bool, wait: bool) -> int:  # noqa: FBT001
    """Put items back to where they were.

    A name that is taken is never replaced.
    """
    where = {} if to is None else {"to": wire_names(caller.options, [to])[0]}
    answer = _object(caller.call("Quarantine.restore", {"ids": [*items], "force": force, **where}))
    return _follow(caller, answer, where, ask=not force, wait=wait, total=len(items))


@_command
@click.argument("items", metavar="ID...", nargs=-1, required=True, type=_ID)
@click.option("--yes", is_flag=True, help="Do not ask.")
def delete(caller: Caller, items: Sequence[int], yes: bool) -> int:  # noqa: FBT001
    """Remove items for good."""
    which = text.plural(len(items), "item")
    if not yes and asking.on_terminal() and not asking.sure(caller, f"Remove {which} for good?"):
        return TROUBLE
    answer = _object(caller.call("Quarantine.delete", {"ids": [*items]}))
    print_answer(caller, answer, [f"{text.plural(int(answer['deleted']), 'item')} removed for good"])
    return 0


@_command
def verify(caller: Caller) -> int:
    """Read every content and compare it with what was kept."""
    caller.timeout_s = VERIFY_S
    answer = _object(caller.call("Quarantine.verify"))
    print_answer(caller, answer, text.verified_lines(answer))
    return TROUBLE if answer["damaged_count"] or answer.get("stray_count") else 0


@command
@click.argument("task", metavar="[TASK]", required=False)
@click.option("--force", is_flag=True, help="Also what is still detected as infected.")
@click.option("--wait", is_flag=True, help="Wait for the end and print what was done.")
def undo(caller: Caller, task: str | None, force: bool, wait: bool) -> int:  # noqa: FBT001
    """Put back all that a disinfection took away.

    TASK is what `disinfect` printed; without it, the latest disinfection. Then it waits, where a terminal is.
    """
    if task is None:
        task = tasks.latest(caller, "disinfect")
        wait = wait or (asking.on_terminal() and not caller.options.json)
    if task is None:
        say(f"cannot undo: no disinfection of this account is known; see: {caller.options.again('quarantine', 'list')}")
        return TROUBLE
    answer = _object(caller.call("Task.undo", {"task_id": task, "force": force}))
    return _follow(caller, answer, {}, ask=not force, wait=wait, total=None)


def _follow(caller: Caller, answer: Json, where: Json, *, ask: bool, wait: bool, total: int | None) -> int:
    """From the answer that names the task to its end, if that is waited for."""
    task_id = str(answer["task_id"])
    if not wait:
        again = caller.options.again("task", task_id, "--follow")
        print_answer(caller, answer, [f"task {text.safe(task_id)} is under way", f"see how it goes: {again}"])
        return 0
    task = _wait_task(caller, task_id, total)
    if task is None:
        return INTERRUPTED
    left = [record["item"] for record in task["details"] if record.get("state") == "no-action"]
    if left and ask and not caller.options.json and asking.on_terminal():
        files = "1 file that is" if len(left) == 1 else f"{len(left)} files that are"
        if asking.sure(caller, f"Restore {files} still detected as infected?"):
            forced = _object(caller.call("Quarantine.restore", {"ids": left, "force": True, **where}))
            return _follow(caller, forced, where, ask=False, wait=True, total=len(left)) or _code(task, left_out=True)
    return _code(task, left_out=False)


def _wait_task(caller: Caller, task_id: str, total: int | None) -> Json | None:
    """Printed. None: Ctrl-C."""
    from clamscannerd.ctl import waiting

    try:
        with waiting.watch(json=caller.options.json, total=total) as watcher:
            task = waiting.restore_end(caller, watcher, task_id)
    except KeyboardInterrupt:
        say(f"the task goes on; come back with: {caller.options.again('task', task_id, '--follow')}")
        return None
    print_answer(caller, task, text.record_lines(task["details"], columns()))
    return task


def _code(task: Json, *, left_out: bool) -> int:
    """`left_out`: what was left at first has been restored since."""
    last = task["details"][-1]["state"] if task["details"] else "error"
    return 0 if last == "success" or (last == "info" and left_out) else TROUBLE


def _object(answer: object) -> Json:
    return answer if isinstance(answer, dict) else {}
