"""Tasks as they go and when they are over: `task`, and the waits of disinfections, restores and undos.

`--follow` asks by last_id, as --wait does, and not by Events.subscribe: a task is followed over a restart of the daemon
without a gap or a double, because the records are numbered and on disk. A poll each second is nothing to the daemon.
"""

import sys

import click

from clamscannerd.ctl import text
from clamscannerd.ctl.calls import INTERRUPTED, NOT_SCANNED, TROUBLE, Caller, Json, out, say
from clamscannerd.ctl.commands import columns, command, print_answer

ENDED = "done"


@command
@click.argument("task_id", metavar="[ID]", required=False)
@click.option("--follow", is_flag=True, help="Print each step as it comes, until the end.")
@click.option("--strict", is_flag=True, help="End with 3 when the latest scan has files that were not scanned.")
def task(caller: Caller, task_id: str | None, follow: bool, strict: bool) -> int:  # noqa: FBT001
    """Show task ID, or the latest, with what became of each file.

    With --json and --follow: one record a line.
    """
    known = task_id if task_id is not None else latest(caller)
    if known is None:
        say(f"no task of this account is known; begin one with: {caller.options.again('disinfect')}")
        return TROUBLE
    code = _follow(caller, known) if follow else _show(caller, known)
    if code or not strict:
        return code
    counts = caller.six("get_scan_status")["result"]["data"]["not_scanned"]
    return NOT_SCANNED if text.some_not_scanned(counts) else 0


def latest(caller: Caller, kind: str | None = None) -> str | None:
    """The id of the newest task, or of the newest of this kind."""
    answer = caller.call("Task.list", {"limit": 1 if kind is None else 1_000})
    tasks: list[Json] = answer["tasks"] if isinstance(answer, dict) else []
    return next((str(one["task_id"]) for one in tasks if kind in (None, one["kind"])), None)


def _show(caller: Caller, task_id: str) -> int:
    whole = _get(caller, task_id, 0)
    page: list[Json] = whole["details"]
    while page and whole["state"] != ENDED:  # more wait, or it is under way: then the next page is empty
        more = _get(caller, task_id, page[-1]["id"])
        page = more["details"]
        whole = {**more, "details": [*whole["details"], *page]}
    print_answer(caller, whole, [*text.task_lines(whole), *text.record_lines(whole["details"], columns())])
    return _code(whole["details"])


def _get(caller: Caller, task_id: str, after: int) -> Json:
    answer = caller.call("Task.get", {"task_id": task_id, **({"last_id": after} if after else {})})
    return answer if isinstance(answer, dict) else {}


def _follow(caller: Caller, task_id: str) -> int:
    from clamscannerd.ctl import waiting

    try:
        whole = waiting.restore_end(caller, _Lines(json=caller.options.json), task_id)
    except KeyboardInterrupt:
        say(f"the task goes on; come back with: {caller.options.again('task', task_id, '--follow')}")
        return INTERRUPTED
    return _code(whole["details"])


class _Lines:
    """Sees each record go by, and prints it at once: whoever reads a pipe reads it now."""

    def __init__(self, *, json: bool) -> None:
        self._json = json

    def scan(self, status: Json) -> None:
        pass

    def record(self, record: Json) -> None:
        for line in [text.json_line(record)] if self._json else text.record_lines([record], columns()):
            out(line)
        sys.stdout.flush()


def _code(details: list[Json]) -> int:
    return TROUBLE if details and details[-1]["type"] == "done" and details[-1]["state"] == "error" else 0


def wait_disinfection(caller: Caller, total: int | None) -> int:
    """To the end of the latest disinfection, which is printed with all its records. `total`: its files, if known."""
    from clamscannerd.ctl import waiting

    try:
        with waiting.watch(json=caller.options.json, total=total) as watcher:
            answer = waiting.task_end(caller, watcher)
    except KeyboardInterrupt:
        return interrupted(caller)
    data: Json = answer["result"]["data"]
    last: Json = data["details"][-1] if data["details"] else {"state": "error"}
    lines = text.record_lines(data["details"], columns())
    print_answer(caller, answer, [*lines, f"log: {text.safe(data['log'])}"])
    return TROUBLE if last["state"] == "error" else 0


def interrupted(caller: Caller) -> int:
    say(f"the disinfection goes on; come back with: {caller.options.again('task', '--follow')}")
    return INTERRUPTED


def print_latest(answer: Json) -> None:
    """From check_disinfection_status: one line, if there was a disinfection."""
    data: Json = answer["result"]["data"]
    if data["status"] != "none":
        out(f"disinfection: {text.safe(str(data['status']))}, its log is {text.safe(data['log'])}")
