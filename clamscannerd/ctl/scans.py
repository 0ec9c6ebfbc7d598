"""`pause` and `resume`; and what `scan` means by its words: a type of scan, or files and directories.

Several words, and one with a slash in it, are paths; so are `.` and `..`. A single plain word is the type of that name
if there is one, and else the file or directory that is called so here: where `mail` is a type, `./mail` is the
directory.
"""

import os
from collections.abc import Sequence

import click

from clamscannerd.ctl import durations, text
from clamscannerd.ctl.calls import Caller, Json, is_envelope
from clamscannerd.ctl.commands import command, print_answer, wire_names

_QUOTED = 40  # characters of what is no time


def seconds(context: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
    """Click's callback for a time."""
    try:
        return None if value is None else durations.seconds(value)
    except ValueError as error:
        raise click.BadParameter(f"{text.safe(value or '')[:_QUOTED]}: {error}", context, parameter) from None


def wanted(
    caller: Caller, words: Sequence[str], recent_s: float | None, *, scheduled: bool, depth: str | None = None
) -> Json:
    """The parameters of Scan.start: `scan_type` or `paths`, and the others where they are wanted."""
    asked = _wanted(caller, words)
    if recent_s is not None:
        asked["recent_s"] = recent_s
    if scheduled:
        asked["scheduled"] = True
    if depth is not None:
        asked["depth"] = depth
    return asked


def _wanted(caller: Caller, words: Sequence[str]) -> Json:
    if any(not word for word in words):
        raise click.UsageError("cannot scan '': the name is empty")
    if len(words) == 1 and not _is_path(words[0]) and (not _is_here(words[0]) or _is_type(caller, words[0])):
        return {"scan_type": _in_utf8(words[0])}
    try:
        return {"paths": wire_names(caller.options, words)}
    except OSError as error:
        raise click.UsageError(f"cannot name a path from here: {error.strerror}") from None


def _is_path(word: str) -> bool:
    return "/" in word or word in (".", "..")


def _is_here(word: str) -> bool:
    return os.path.lexists(word)


def _is_type(caller: Caller, word: str) -> bool:
    return word in (kind["id"] for kind in caller.six("get_scan_paths")["result"]["data"])


def _in_utf8(word: str) -> str:
    """No type is called like that, and JSON could not hold it."""
    return os.fsencode(word).decode(errors="backslashreplace")


def begun(caller: Caller, answer: object) -> Json:
    """Number and place of the scan, from the answer of start_scan or of Scan.start, whose warnings are told."""
    if is_envelope(answer):  # its warnings have been told
        return answer["result"]["data"] or {}
    known: Json = answer if isinstance(answer, dict) else {}
    caller.warn(known.get("warnings") or ())
    return known


@command
def pause(caller: Caller) -> int:
    """Hold the scan, until `resume`; what it has found stays listed."""
    answer = caller.call("Scan.pause", {})
    known: Json = answer if isinstance(answer, dict) else {}
    print_answer(caller, answer, [_told(known), *paused_lines(caller, known)])
    return 0


@command
def resume(caller: Caller) -> int:
    """Let a paused scan go on."""
    answer = caller.call("Scan.resume", {})
    known: Json = answer if isinstance(answer, dict) else {}
    print_answer(caller, answer, [_told(known), f"see how it goes: {caller.options.again('status')}"])
    return 0


def _told(known: Json) -> str:
    position = known.get("queue_position")
    place = f", number {position} in the queue" if position else ""
    return f"scan {text.safe(str(known.get('scan_id', '?')))}: {text.safe(str(known.get('state', '?')))}{place}"


def paused_lines(caller: Caller, status: Json) -> list[str]:
    """What to do about a scan that is paused or failed; nothing about any other."""
    match status.get("state"):
        case "paused":
            return [f"go on with: {caller.options.again('resume')}"]
        case "failed":
            return [f"see what is wrong: {caller.options.again('health')}"]
        case _:
            return []
