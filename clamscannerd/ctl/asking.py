"""Questions to whoever sits at the terminal. A script is never asked: it says beforehand what it wants."""

import os
import sys

import click

from clamscannerd.ctl.calls import Caller


def on_terminal() -> bool:
    """Somebody is there to see the question and to answer it."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def colours() -> bool:
    """Whether stderr may be coloured: a terminal that can, and nobody who has said no (https://no-color.org)."""
    return sys.stderr.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM", "dumb") != "dumb"


def sure(caller: Caller, question: str) -> bool:
    """The default is no. A person may think for longer than the daemon keeps an idle connection: it is closed."""
    caller.close()
    return click.confirm(question, err=True)
