"""What every command of clamscannerctl shares: its options, its one line of trouble, how answers are printed.

Apart from main.py so that vault.py makes its commands the same way without importing main.py in a circle.
"""

import os
import pwd
import shutil
import sys
from collections.abc import Callable, Sequence
from typing import Any

import click

from clamscannerd import __version__
from clamscannerd.ctl import advice, text
from clamscannerd.ctl.calls import PROGRAM, TROUBLE, Caller, Options, Refusal, absolute, out, say
from clamscannerd.errors import ClamscannerdError

Command = Callable[..., int]

_LEAST_COLUMNS = 40
"""Narrower is no place for a table; the terminal breaks the lines."""


def options(command: Any) -> Any:  # noqa: ANN401  click's decorators are typed so
    """The global options, taken before the command and after it: both are typed."""

    def keep(context: click.Context, parameter: click.Parameter, value: object) -> None:
        if value and parameter.name:
            setattr(context.ensure_object(Options), parameter.name, value)

    for option in (
        click.option("--socket", metavar="PATH", expose_value=False, callback=keep, help="The daemon's socket."),
        click.option(
            "--user", metavar="NAME", expose_value=False, callback=keep, help="For this user (administrators)."
        ),
        click.option("--json", is_flag=True, expose_value=False, callback=keep, help="Print the answer as JSON."),
    ):
        command = option(command)
    return command


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@options
@click.version_option(__version__, prog_name=PROGRAM, message="%(prog)s %(version)s")
def cli() -> None:
    """Have your files scanned by ClamAV and disinfected.

    Exit codes: 0 nothing found, 1 something found, 2 trouble; with --strict 3 when files were not scanned.
    """


def command(function: Command, group: click.Group = cli, name: str | None = None) -> click.Command:
    """A command: gets a Caller first, answers an exit code."""

    def run(**arguments: object) -> int:
        caller = Caller(click.get_current_context().ensure_object(Options))
        try:
            return function(caller, **arguments)
        except Refusal as refusal:
            return _refused(caller, refusal)
        except ClamscannerdError as error:
            return _failed(caller, error)
        except BrokenPipeError:
            return reader_left()  # before click sees it, whose exit code for this is 1: "found"
        finally:
            caller.close()

    run.__name__, run.__doc__ = name or function.__name__, function.__doc__
    run.__click_params__ = getattr(function, "__click_params__", [])  # type: ignore[attr-defined]
    made: click.Command = group.command()(options(run))
    return made


def strict_option(command: Any) -> Any:  # noqa: ANN401  as above
    """--strict, for what ends with the exit code of a scan."""
    words = "End with 3 when it is done and files were not scanned."
    return click.option("--strict", is_flag=True, help=words)(command)


def print_answer(caller: Caller, answer: object, lines: Sequence[str]) -> None:
    for line in [text.json_line(answer)] if caller.options.json else lines:
        out(line)


def columns() -> int | None:
    """Of the terminal that answers go to; None: they go to a pipe or a file, and every line stays one."""
    if not sys.stdout.isatty():
        return None
    return max(_LEAST_COLUMNS, shutil.get_terminal_size().columns)


def wire_names(options: Options, files: Sequence[str]) -> list[str]:
    """FILE arguments as the daemon lists them."""
    from clamscannerd.client import to_wire

    try:
        home = pwd.getpwnam(options.user).pw_dir if options.user else pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        home = "/"  # the daemon will say what is wrong with this account
    return [to_wire(absolute(os.fsencode(name), os.fsencode(home))) for name in files]


def reader_left() -> int:
    """Whoever read has left (`| head`). Python would complain at exit, when it flushes what was not taken."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return TROUBLE


def _refused(caller: Caller, refusal: Refusal) -> int:
    if caller.options.json:
        out(text.json_line(refusal.answer))
    for sentence in refusal.errors:
        say(sentence)
    _advise(caller, refusal.errors)
    return TROUBLE


def _failed(caller: Caller, error: ClamscannerdError) -> int:
    if caller.options.json:
        out(text.json_line({"error": {"code": error.code, "message": str(error), "data": error.data()}}))
    say(str(error))
    _advise(caller, [str(error)], mistyped=error.data()["kind"] == "invalid_params")
    return TROUBLE


def _advise(caller: Caller, sentences: Sequence[str], *, mistyped: bool = False) -> None:
    """What to do next, where that is known. `mistyped`: a value that was given broke a rule."""
    if words := advice.command_for(sentences):
        say(f"next: {caller.options.again(*words)}")
    elif act := advice.act_for(sentences):
        say(f"next: {act}")
    elif mistyped:
        say(f"next: {click.get_current_context().command_path} --help")
