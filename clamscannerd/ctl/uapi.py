"""`uapi`: cPanel's command of that name, as far as the module ClamScanner goes, for scripts that were written for it.

    clamscannerctl uapi --output=json --user=NAME ClamScanner start_scan scan_type=home

What its public description says holds here: parameters are key=value with URI-encoded values, or with --input=json one
object on standard input; the answer is the envelope on stdout. The description of disinfect_files has the map of files
to actions bare in its example and under `actions` in its text: both are taken. The exit code is 0 whenever there was an
answer, also with `status` 0: the description names none, and scripts that were written for it count on that. Here it is
2 when nobody answered, and the envelope says so too. Nothing but usage goes to stderr: scripts read the two together.

Without --output cPanel's prints YAML; here it is the JSON of jsonpretty, which is YAML as well.

Rejected: the controls of UAPI that are no parameters of a function (api.sort and others): nothing here is that long.
"""

import json
import os
import pwd
import sys
from collections.abc import Mapping, Sequence

import click

from clamscannerd.ctl import text
from clamscannerd.ctl.calls import TROUBLE, Caller, Json, is_envelope, out
from clamscannerd.ctl.commands import command
from clamscannerd.errors import ClamscannerdError

MODULE = "ClamScanner"
NUMBERS = {"check_disinfection_status": ("last_id",)}
"""Parameters that are numbers: everything is text on a command line, and often in a script's JSON."""


@command
@click.argument("module", metavar="ClamScanner")
@click.argument("function", metavar="FUNCTION")
@click.argument("pairs", metavar="[KEY=VALUE]...", nargs=-1, type=click.UNPROCESSED)
@click.option("--output", type=click.Choice(("json", "jsonpretty")), default="jsonpretty", help="On one line, or not.")
@click.option("--input", "source", type=click.Choice(("json",)), help="Read the parameters from standard input.")
def uapi(caller: Caller, module: str, function: str, pairs: Sequence[str], output: str, source: str | None) -> int:
    """Call a function as cPanel's `uapi` does.

    Values are URI-encoded. Ends with 0 whenever there is an answer: its `status` tells, as with uapi.
    """
    given = {**(_from_stdin() if source else {}), **_from_pairs(pairs)}
    if caller.options.user == _own_name():
        caller.options.user = None  # naming oneself is what administrators do; here it changes nothing
    code = 0
    if module != MODULE:
        answer = _failed(module, function, f"cannot call {module}::{function}: {MODULE} is the only module here")
    else:
        answer, code = _ask(caller, function, given)
    out(text.json_line(answer, indent=2 if output == "jsonpretty" else None))
    return code


def _ask(caller: Caller, function: str, given: Json) -> tuple[Json, int]:
    """The envelope, and the exit code. What is no envelope becomes one."""
    from clamscannerd.client import RemoteError

    try:
        answer = caller.call(f"{MODULE}.{function}", params_of(function, given))
    except RemoteError as error:
        return _failed(MODULE, function, str(error)), 0
    except ClamscannerdError as error:
        return _failed(MODULE, function, str(error)), TROUBLE
    if not is_envelope(answer):
        return _failed(MODULE, function, "cannot use the answer: it is not of UAPI's form"), TROUBLE
    return answer, 0


def params_of(function: str, given: Json) -> Json:
    """The call's parameters, of the right types."""
    if function == "disinfect_files":
        return _of_disinfect(given)
    return {
        name: int(value) if name in NUMBERS.get(function, ()) and _is_number(value) else value
        for name, value in given.items()
    }


def _of_disinfect(given: Json) -> Json:
    """`actions` that are a map, or the text of one, are the map; else all that is given is, and `actions` a file."""
    actions = given.get("actions")
    if isinstance(actions, str):
        try:
            actions = json.loads(actions)
        except (ValueError, RecursionError):
            actions = None
    return {**given, "actions": actions} if isinstance(actions, dict) else {"actions": given}


def _is_number(value: object) -> bool:
    return isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20


def _from_pairs(pairs: Sequence[str]) -> Json:
    found: Json = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise click.UsageError(f"expected KEY=VALUE, not {text.safe(pair)}")
        if (key := _decoded(key)) in found:
            raise click.UsageError(f"{text.safe(key)} is given twice")
        found[key] = _decoded(value)
    return found


def _decoded(word: str) -> str:
    """URI-decoded, + for a space as in forms. A byte that is not UTF-8 becomes \\xNN, as names have it on the wire."""
    from urllib.parse import unquote_to_bytes  # 4 ms that no other command needs

    return unquote_to_bytes(os.fsencode(word).replace(b"+", b" ")).decode(errors="backslashreplace")


def _from_stdin() -> Mapping[str, object]:
    try:
        given = json.loads(sys.stdin.buffer.read())
    except (ValueError, RecursionError) as error:
        raise click.UsageError(f"cannot read standard input: not JSON: {error}") from None
    if not isinstance(given, dict):
        raise click.UsageError("cannot read standard input: expected a JSON object")
    return given


def _failed(module: str, function: str, sentence: str) -> Json:
    result: Json = {"data": None, "errors": [sentence], "messages": None, "metadata": {}, "status": 0, "warnings": None}
    return {"apiversion": 3, "func": function, "module": module, "result": result}


def _own_name() -> str | None:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return None
