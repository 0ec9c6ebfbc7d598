"""The commands of clamscannerctl. One function a command: ask, print, return the exit code.

Exit codes are clamscan's: 0 nothing found, 1 found, 2 trouble of any kind (usage, daemon not there, refused); 3 with
--strict when files were not scanned; 130 after Ctrl-C, which ends a --wait and never the job. Answers go to stdout,
everything else to stderr, a line each. With `--json` stdout is the JSON-RPC result as one line of ASCII, for the six
calls UAPI's whole envelope.
"""

import json
import os
import sys
from collections.abc import Sequence

import click

from clamscannerd.ctl import doctor as _doctor  # noqa: F401  registers its command
from clamscannerd.ctl import explain as _explain  # noqa: F401  likewise
from clamscannerd.ctl import health as _health  # noqa: F401  likewise
from clamscannerd.ctl import history as _history  # noqa: F401  likewise
from clamscannerd.ctl import hooks as _hooks  # noqa: F401  the same
from clamscannerd.ctl import ignore as _ignore  # noqa: F401  likewise
from clamscannerd.ctl import metrics as _metrics  # noqa: F401  the same
from clamscannerd.ctl import scans, tasks, text, vault
from clamscannerd.ctl import uapi as _uapi  # noqa: F401  the same
from clamscannerd.ctl.calls import FOUND, INTERRUPTED, PROGRAM, TROUBLE, Caller, Json, Refusal, is_envelope, out, say
from clamscannerd.ctl.commands import cli, columns, command, print_answer, reader_left, strict_option
from clamscannerd.ctl.completing import SCAN_TYPES, Names
from clamscannerd.ctl.disinfecting import none_stands

NO_RECORDS = (1 << 53) - 1
"""A last_id beyond any record: check_disinfection_status then answers how things stand, without the records."""


@command
def paths(caller: Caller) -> int:
    """List what can be scanned."""
    answer = caller.six("get_scan_paths")
    print_answer(caller, answer, text.paths_lines(answer["result"]["data"]))
    return 0


@command
@click.argument("what", metavar="TYPE|PATH...", nargs=-1, required=True, type=Names(words=SCAN_TYPES))
@click.option("--recent", metavar="TIME", callback=scans.seconds, help="Only of what changed within TIME: 2d, 12h, 1w.")
@click.option("--wait", is_flag=True, help="Wait for its end and print what was found.")
@click.option("--scheduled", is_flag=True, help="Let scans that somebody waits for go first: for timers.")
@click.option("--depth", type=click.Choice(["full", "rapid", "nocache"]), help="What verdicts of before are worth.")
@strict_option
def scan(
    caller: Caller,
    what: Sequence[str],
    recent: float | None,
    wait: bool,  # noqa: FBT001
    scheduled: bool,  # noqa: FBT001
    depth: str | None,
    strict: bool,  # noqa: FBT001
) -> int:
    """Start a scan of TYPE (see `paths`), or of files of yours.

    Where a type and a file have the same name, the word is the type and ./WORD the file.
    """
    asked = scans.wanted(caller, what, recent, scheduled=scheduled, depth=depth)
    if asked.keys() == {"scan_type"}:
        answer: object = caller.six("start_scan", **asked)
    else:
        answer = caller.call("Scan.start", asked)
    data = scans.begun(caller, answer)
    if wait:
        return _wait_scan(caller, data.get("scan_id"), strict=strict)
    position = data.get("queue_position")
    how = f"is number {position} in the queue" if position else "has been started"
    lines = [f"scan {text.safe(str(data.get('scan_id', '?')))} ({text.scanned(asked)}) {how}"]
    print_answer(caller, answer, [*lines, f"see how it goes: {caller.options.again('status')}"])
    return 0


@command
@click.option("--wait", is_flag=True, help="Wait for the end of what is under way.")
@click.option("--watch", is_flag=True, help="Show what happens, as it happens, until Ctrl-C.")
@strict_option
def status(caller: Caller, wait: bool, watch: bool, strict: bool) -> int:  # noqa: FBT001
    """Show the latest scan, and the disinfection."""
    if watch and wait:
        raise click.UsageError("say --wait or --watch, not both")
    if watch:
        from clamscannerd.ctl import watching

        return watching.watch(caller)
    if wait:
        return (_wait_scan if caller.options.json else _wait_all)(caller, None, strict=strict)
    answer = caller.six("get_scan_status")
    data: Json = answer["result"]["data"]
    print_answer(caller, answer, [*text.status_lines(data, columns()), *scans.paused_lines(caller, data)])
    if not caller.options.json:
        tasks.print_latest(caller.six("check_disinfection_status", last_id=NO_RECORDS))
    return text.scan_exit(data, strict=strict)


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
        lines = [none_stands(caller)]
    print_answer(caller, answer, lines)
    return FOUND if any(not finding.get("ignored") for finding in findings) else 0


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


def _wait_scan(caller: Caller, scan_id: object, *, strict: bool) -> int:
    from clamscannerd.ctl import waiting

    seen = waiting.Seen()
    try:
        with waiting.watch(json=caller.options.json) as seen.watch:
            answer = waiting.scan_end(caller, seen, scan_id)
    except KeyboardInterrupt:
        how = "is paused" if seen.state == "paused" else "goes on"
        say(f"the scan {how}; come back with: {caller.options.again('status', '--wait')}")
        say(f"stop it with: {caller.options.again('cancel')}")
        return INTERRUPTED
    found: Json = answer["result"]["data"]
    if scan_id is not None and found.get("scan_id") != scan_id:
        say(
            f"cannot say how scan {scan_id} ended: another has been started since; see: "
            f"{caller.options.again('history')}"
        )
        return TROUBLE
    findings: list[Json] = []
    if not caller.options.json and text.found_count(found):
        findings = caller.six("list_infected_files")["result"]["data"]
    print_answer(caller, answer, [*text.infected_lines(findings), *text.status_lines(found, columns())])
    return text.scan_exit(found, strict=strict)


def _wait_all(caller: Caller, scan_id: object, *, strict: bool) -> int:
    """The scan, and then the disinfection that may have followed it; an account has one of them at a time."""
    from clamscannerd.ctl import waiting

    code = _wait_scan(caller, scan_id, strict=strict)
    if code != INTERRUPTED:
        try:
            tasks.print_latest(waiting.task_end(caller, waiting.Silent(), after=NO_RECORDS))
        except KeyboardInterrupt:
            return tasks.interrupted(caller)
    return code


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
