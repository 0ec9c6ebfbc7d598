"""The commands of clamscannerctl. One function a command: ask, print, return the exit code.

Exit codes are clamscan's: 0 nothing found, 1 found, 2 trouble of any kind (usage, daemon not there, refused); 130 after
Ctrl-C, which ends a --wait and never the job. Answers go to stdout, everything else to stderr, a line each. With
`--json` stdout is the JSON-RPC result as one line of ASCII, for the six calls UAPI's whole envelope.
"""

import json
import os
import sys
from collections.abc import Sequence

import click

from clamscannerd.ctl import asking, mailboxes, text, vault
from clamscannerd.ctl import health as _health  # noqa: F401  registers its command
from clamscannerd.ctl import history as _history  # noqa: F401  likewise
from clamscannerd.ctl import ignore as _ignore  # noqa: F401  likewise
from clamscannerd.ctl import metrics as _metrics  # noqa: F401  the same
from clamscannerd.ctl import uapi as _uapi  # noqa: F401  the same
from clamscannerd.ctl.calls import FOUND, INTERRUPTED, PROGRAM, TROUBLE, Caller, Json, Refusal, is_envelope, out, say
from clamscannerd.ctl.commands import cli, command, print_answer, reader_left, wire_names

ACTIONS = ("quarantine", "delete", "ignore", "cleanse_mailbox")
NO_RECORDS = (1 << 53) - 1
"""A last_id beyond any record: check_disinfection_status then answers how things stand, without the records."""


@command
def paths(caller: Caller) -> int:
    """List what can be scanned."""
    answer = caller.six("get_scan_paths")
    print_answer(caller, answer, text.paths_lines(answer["result"]["data"]))
    return 0


@command
@click.argument("scan_type", metavar="TYPE")
@click.option("--wait", is_flag=True, help="Wait for its end and print what was found.")
def scan(caller: Caller, scan_type: str, wait: bool) -> int:  # noqa: FBT001
    """Start a scan of TYPE (see `paths`)."""
    answer = caller.six("start_scan", scan_type=scan_type)
    data: Json = answer["result"]["data"] or {}
    if wait:
        return _wait_scan(caller, data.get("scan_id"))
    position = data.get("queue_position")
    how = f"is number {position} in the queue" if position else "has been started"
    lines = [f"scan {text.safe(str(data.get('scan_id', '?')))} ({text.safe(scan_type)}) {how}"]
    print_answer(caller, answer, [*lines, f"see how it goes: {caller.options.again('status')}"])
    return 0


@command
@click.option("--wait", is_flag=True, help="Wait for the end of what is under way.")
def status(caller: Caller, wait: bool) -> int:  # noqa: FBT001
    """Show the latest scan, and the disinfection."""
    if wait:
        return _wait_scan(caller, None) if caller.options.json else _wait_all(caller)
    answer = caller.six("get_scan_status")
    data: Json = answer["result"]["data"]
    print_answer(caller, answer, text.status_lines(data))
    if not caller.options.json:
        _print_task(caller.six("check_disinfection_status", last_id=NO_RECORDS))
    return text.scan_exit(data)


@command
def cancel(caller: Caller) -> int:
    """Stop the scan; what it has found stays listed."""
    answer = caller.call("Scan.cancel", {})
    known: Json = answer if isinstance(answer, dict) else {}
    lines = [f"scan {text.safe(str(known.get('scan_id', '?')))}: {text.safe(str(known.get('state', 'cancelled')))}"]
    print_answer(caller, answer, lines)
    return 0


@command
def infected(caller: Caller) -> int:
    """List the infected files that still stand."""
    answer = caller.six("list_infected_files")
    findings: list[Json] = answer["result"]["data"]
    lines = text.infected_lines(findings)
    if not findings and not caller.options.json:
        found: Json = caller.six("get_scan_status")["result"]["data"]
        left = "no infected file stands any more; " if text.found_count(found) else ""
        lines = [f"{left}{text.scan_name(found)}, {text.state(found)}: {text.result(found)}"]
    print_answer(caller, answer, lines)
    return FOUND if any(not finding.get("ignored") for finding in findings) else 0


@command
@click.argument("action", type=click.Choice(ACTIONS))
@click.argument("files", metavar="[FILE]...", nargs=-1, type=click.UNPROCESSED)
@click.option("--all", "everything", is_flag=True, help="Every infected file that is not ignored.")
@click.option("--whole", is_flag=True, help="With --all: mailboxes too, with all their messages.")
@click.option("--yes", is_flag=True, help="Do not ask before a mailbox is taken away with all its messages.")
@click.option("--wait", is_flag=True, help="Wait for the end and print what was done.")
def disinfect(
    caller: Caller,
    action: str,
    files: Sequence[str],
    everything: bool,  # noqa: FBT001
    whole: bool,  # noqa: FBT001
    yes: bool,  # noqa: FBT001
    wait: bool,  # noqa: FBT001
) -> int:
    """Act on infected files.

    Those named, or --all on the list of `infected` but for what is ignored there. What is deleted or quarantined is
    kept in the vault for a while.
    A name that `infected` shows with backslashes can be given to bash as $'...'.

    With --all, mailboxes are cleansed where files are quarantined or deleted: their infected messages are taken out.
    To take away a mailbox of more than one message, name it or add --whole: this asks first, a script adds --yes.
    """
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
        return _wait_task(caller, None if everything else len(files))
    line = f"task {text.safe(data['task_id'])} is under way, its log is {text.safe(data['log'])}"
    print_answer(caller, answer, [line, f"see how it goes: {caller.options.again('status')}"])
    return 0


@command
@click.argument("method")
@click.argument("params", metavar="[JSON]", default="{}")
def call(caller: Caller, method: str, params: str) -> int:
    """Make any call and print its result.

    JSON: the parameters, an object or an array.
    """
    try:
        given = json.loads(params)
    except (ValueError, RecursionError) as error:
        raise click.BadParameter(f"not JSON: {error}", param_hint="JSON") from None
    if not isinstance(given, dict | list):
        raise click.BadParameter("expected an object or an array", param_hint="JSON")
    if caller.options.user is not None and given and not isinstance(given, dict):
        raise click.BadParameter("--user needs parameters by name: an object", param_hint="JSON")
    answer = caller.call(method, given)
    if is_envelope(answer) and not answer["result"]["status"]:
        raise Refusal(answer)
    out(text.json_line(answer, indent=None if caller.options.json else 2))
    return 0


def _wait_scan(caller: Caller, scan_id: object) -> int:
    from clamscannerd.ctl import waiting

    try:
        with waiting.watch(json=caller.options.json) as watcher:
            answer = waiting.scan_end(caller, watcher, scan_id)
    except KeyboardInterrupt:
        say(f"the scan goes on; come back with: {caller.options.again('status', '--wait')}")
        say(f"stop it with: {caller.options.again('cancel')}")
        return INTERRUPTED
    found: Json = answer["result"]["data"]
    if scan_id is not None and found.get("scan_id") != scan_id:
        say(f"cannot say how scan {scan_id} ended: another has been started since")
        return TROUBLE
    findings: list[Json] = []
    if not caller.options.json and text.found_count(found):
        findings = caller.six("list_infected_files")["result"]["data"]
    print_answer(caller, answer, [*text.infected_lines(findings), *text.status_lines(found)])
    return text.scan_exit(found)


def _wait_all(caller: Caller) -> int:
    """The scan, and then the disinfection that may have followed it; an account has one of them at a time."""
    from clamscannerd.ctl import waiting

    code = _wait_scan(caller, None)
    if code != INTERRUPTED:
        try:
            _print_task(waiting.task_end(caller, waiting.Silent(), after=NO_RECORDS))
        except KeyboardInterrupt:
            return _interrupted_task(caller)
    return code


def _print_task(answer: Json) -> None:
    task: Json = answer["result"]["data"]
    if task["status"] != "none":
        out(f"disinfection: {task['status']}, its log is {text.safe(task['log'])}")


def _interrupted_task(caller: Caller) -> int:
    say(f"the disinfection goes on; come back with: {caller.options.again('status', '--wait')}")
    return INTERRUPTED


def _wait_task(caller: Caller, total: int | None) -> int:
    from clamscannerd.ctl import waiting

    try:
        with waiting.watch(json=caller.options.json, total=total) as watcher:
            answer = waiting.task_end(caller, watcher)
    except KeyboardInterrupt:
        return _interrupted_task(caller)
    data: Json = answer["result"]["data"]
    last: Json = data["details"][-1] if data["details"] else {"state": "error"}
    lines = [text.record_line(record) for record in data["details"]]
    print_answer(caller, answer, [*lines, f"log: {text.safe(data['log'])}"])
    return TROUBLE if last["state"] == "error" else 0


cli.add_command(vault.quarantine)


def main() -> int:
    """The console script. One line for every trouble; a traceback is a bug."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by the caller (`>&-`)
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115  for as long as the process lives
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a terminal that is not UTF-8
    try:
        code = cli.main(prog_name=PROGRAM, standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        _misused(error)
        return TROUBLE
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except BrokenPipeError:
        return reader_left()
    return code if isinstance(code, int) else 0


def _misused(error: click.ClickException) -> None:
    """One line, as all trouble here; only a command without anything at all gets the whole help."""
    message = error.format_message()
    if "\n" in message:
        error.show()
        return
    context = error.ctx if isinstance(error, click.UsageError) else None
    say(message.rstrip(".") + (f"; see {context.command_path} --help" if context else ""))
