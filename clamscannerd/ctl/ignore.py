"""What is to be passed over: `ignore add|list|remove`.

A file is named as `disinfect` takes it, and becomes the pattern of that one path; a glob, a signature or a SHA-256 has
an option of its own. Options and not words before the value: a file may be called "signature".
"""

import re
import time
from collections.abc import Sequence

import click

from clamscannerd.ctl import text
from clamscannerd.ctl.calls import Caller, Json
from clamscannerd.ctl.commands import Command, command, options, print_answer, wire_names
from clamscannerd.ctl.commands import cli as _cli
from clamscannerd.ctl.completing import Names

PAGE = 1_000
"""Entries asked for at once: the daemon's bound."""

_SECONDS = {"m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_STATES = {"in_effect": "", "expired": "  (expired: without effect)", "not_allowed": "  (not allowed: without effect)"}


@click.group()
@options
def ignore() -> None:
    """What is infected and to be passed over.

    It is listed as ignored, and left out by `disinfect --all`. Not the same as `disinfect ignore`, which leaves a file
    as it is this once, and listed as infected.
    """


def _command(function: Command) -> click.Command:
    return command(function, ignore)


def _list_command(function: Command) -> click.Command:
    return command(function, ignore, "list")


def _seconds(_context: click.Context, _parameter: click.Parameter, value: str | None) -> float | None:
    if value is None:
        return None
    found = re.fullmatch(r"(\d{1,6})([mhdw])", value)
    if not found:
        raise click.BadParameter('expected a time like "30d", "12h", "2w"')
    return float(found[1]) * _SECONDS[found[2]]


@_command
@click.argument("file", metavar="[FILE]", required=False, type=Names())
@click.option("--path", "glob", metavar="GLOB", type=click.UNPROCESSED, help="What fits this, as in .gitignore.")
@click.option("--signature", metavar="NAME", help="What is detected by this name.")
@click.option("--sha256", metavar="HEX", help="What has this content, wherever it is.")
@click.option("--note", default="", help="Why, for whoever reads the list.")
@click.option("--for", "seconds", metavar="TIME", callback=_seconds, help='So long: "30d", "12h". Else for ever.')
def add(
    caller: Caller,
    file: str | None,
    glob: str | None,
    signature: str | None,
    sha256: str | None,
    note: str,
    seconds: float | None,
) -> int:
    """Pass over one FILE, or what fits a glob, a signature or a content.

    GLOB is relative to the home: a slash in it or before it ties it to the home, without one it is for a name anywhere;
    ** is for any number of directories, and what is beneath a directory that fits goes with it.
    """
    given = [("path", _quoted(caller, file)), ("path", _glob(glob)), ("signature", signature), ("sha256", sha256)]
    chosen = [(kind, value) for kind, value in given if value is not None]
    if len(chosen) != 1:
        raise click.UsageError("name one FILE, or one of --path, --signature and --sha256")
    (kind, value), *_ = chosen
    until = {} if seconds is None else {"expires_at": time.time() + seconds}
    answer = _object(caller.call("Ignore.add", {"kind": kind, "value": value, "note": note, **until}))
    again = caller.options.again("ignore", "remove", str(answer["id"]))
    print_answer(caller, answer, [_line(answer), f"to take it back: {again}"])
    return 0


def _quoted(caller: Caller, file: str | None) -> str | None:
    """The pattern of this one file; the daemon takes the home off it."""
    if file is None:
        return None
    from clamscannerd.client import from_wire, to_wire
    from clamscannerd.globs import quoted

    (name,) = wire_names(caller.options, [file])
    return to_wire(quoted(from_wire(name).removeprefix(b"/")))


def _glob(glob: str | None) -> str | None:
    if glob is None:
        return None
    import os

    from clamscannerd.client import to_wire

    return to_wire(os.fsencode(glob))


@_list_command
def list_entries(caller: Caller) -> int:
    """List what is passed over."""
    answer = _object(caller.call("Ignore.list", {"limit": PAGE}))
    entries: Sequence[Json] = answer["entries"]
    lines = [_line(entry) for entry in entries] or ["nothing is ignored"]
    if not answer["allowed"]:
        lines.append("ignoring is not allowed here (ignore.allowed in the daemon's configuration)")
    print_answer(caller, answer, lines)
    return 0


@_command
@click.argument("entry", metavar="ID", type=click.IntRange(min=1, max=2**63 - 1))
def remove(caller: Caller, entry: int) -> int:
    """Take an entry off: what it covered is infected again at once."""
    answer = _object(caller.call("Ignore.remove", {"id": entry}))
    print_answer(caller, answer, [f"entry {answer['removed']} is off the list"])
    return 0


def _line(entry: Json) -> str:
    """`3  path  /samples/*.com  since 2026-01-31 12:00:00 until 2026-03-02 12:00:00: test files`."""
    until = f" until {text.moment(float(entry['expires_at']))}" if entry["expires_at"] else ""
    note = f": {text.safe(entry['note'])}" if entry["note"] else ""
    words = f"{text.safe(entry['kind'])}  {text.safe(entry['value'])}  since {text.moment(float(entry['added_at']))}"
    return f"{entry['id']:>3}  {words}{until}{note}{_STATES.get(entry['state'], '')}"


def _object(answer: object) -> Json:
    return answer if isinstance(answer, dict) else {}


_cli.add_command(ignore)
