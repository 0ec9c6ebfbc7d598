"""`health`: whether all is as it should be, and what to do where it is not. Exit codes: 0, 2 where something is wrong.

A warning is no trouble: everything works, within the limits that it names.
"""

from clamscannerd.ctl import text
from clamscannerd.ctl.calls import TROUBLE, Caller, Json
from clamscannerd.ctl.commands import command, print_answer


@command
def health(caller: Caller) -> int:
    """Say whether all is as it should be.

    For yourself: the engine, your home, what the kernel gives. As an administrator: every home.
    """
    answer = caller.call("Daemon.health", {})
    known: Json = answer if isinstance(answer, dict) else {}
    lines = []
    for check in known.get("checks", []):
        lines.append(f"{text.safe(str(check['grade'])):8} {text.safe(str(check['message']))}")
        if check["cure"]:
            lines.append(f"         -> {text.safe(str(check['cure']))}")
    print_answer(caller, answer, lines)
    return TROUBLE if known.get("grade") == "error" else 0
