"""`health`: whether all is as it should be, and what to do where it is not. Exit codes: 0, 2 where something is wrong.

A warning is no trouble: everything works, within the limits that it names.
"""

from clamscannerd.ctl import text
from clamscannerd.ctl.calls import TROUBLE, Caller, Json
from clamscannerd.ctl.commands import columns, command, print_answer
from clamscannerd.ctl.visible import folded


@command
def health(caller: Caller) -> int:
    """Say whether all is as it should be.

    For yourself: the engine, your home, what the kernel gives. As an administrator: every home. `doctor` tries more.
    """
    answer = caller.call("Daemon.health", {})
    known: Json = answer if isinstance(answer, dict) else {}
    print_answer(caller, answer, [line for check in known.get("checks", []) for line in check_lines(check, columns())])
    return TROUBLE if known.get("grade") == "error" else 0


def check_lines(check: Json, width: int | None) -> list[str]:
    """The grade and what is said; beneath it the cure."""
    lines = folded(f"{text.safe(str(check['grade'])):8} {text.safe(str(check['message']))}", width, 9)
    return [*lines, *folded(f"         -> {text.safe(str(check['cure']))}", width, 12)] if check["cure"] else lines
