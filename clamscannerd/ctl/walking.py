"""`disinfect` without arguments, on a terminal: one finding after the other, one key each. walk.py decides; this asks.

Everything that is asked goes to stderr, a block of lines for each finding, without moving the cursor: it works in any
terminal, stands in its history afterwards, and a screen reader reads it. A key counts only alone, and only after its
question: what was typed ahead, pasted, or sent by an arrow key decides nothing. The connection is closed meanwhile.

Rejected: a full-screen list (a library more, and nothing left to read once it is closed), click.prompt (a name of an
action and Enter, for each of 200 files), click.getchar (between two calls the terminal is as it was: keys are echoed,
and whether one that comes then is lost or counts is a matter of luck).
"""

import os
import pwd
import sys
import termios
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import click

from clamscannerd.ctl import asking, walk
from clamscannerd.ctl.calls import Caller, Json
from clamscannerd.ctl.text import plural
from clamscannerd.ctl.walk import Walk

END, INTERRUPT = "\x04", "\x03"
LEAVING = ("", walk.LEAVE, walk.ESCAPE, END)
YES, NO = "y", "n"


def choose(caller: Caller, findings: list[Json]) -> Mapping[str, str] | None:
    """`actions` of disinfect_files, agreed to in the last question; None: left, and nothing is to be done.

    Raises KeyboardInterrupt.
    """
    caller.close()
    owners = _names(found.get("owner") for found in findings)
    state = Walk(findings)
    with _single_keys():
        while True:
            while not state.ended:
                key = _ask([*walk.finding_lines(state, owners), "", *walk.menu_lines(state)])
                if key in LEAVING:
                    return None
                if key == walk.HELP:
                    _show(walk.help_lines(state))
                state = walk.press(state, key)
            if not (chosen := walk.actions(state)):
                return {}
            if (agreed := _agreed(walk.summary_lines(state), len(chosen))) is not None:
                return chosen if agreed else None
            state = state._replace(at=len(findings) - 1)


def _agreed(summary: list[str], number: int) -> bool | None:
    """None: back. Only these keys answer: a slip of the finger must not throw away what was chosen for 200 files."""
    files = plural(number, "file")
    question = f"Nothing has been changed yet. Do this with {files} now?  y yes  n no  {walk.BACK} back"
    while True:
        key = _ask([*summary, "", question]).lower()
        if key == walk.BACK:
            return None
        if key == YES:
            return True
        if key == NO or key in LEAVING:
            return False


def _names(owners: Iterable[Any]) -> dict[int, str]:
    found = {}
    for owner in {one for one in owners if isinstance(one, int)}:
        try:
            found[owner] = pwd.getpwuid(owner).pw_name
        except (KeyError, OverflowError):
            continue
    return found


@contextmanager
def _single_keys() -> Iterator[None]:
    """Keys come one by one and are not echoed, Ctrl-C among them, until the end of the block."""
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    changed = termios.tcgetattr(fd)
    changed[3] &= ~(termios.ICANON | termios.ECHO | termios.ISIG)
    changed[6][termios.VMIN], changed[6][termios.VTIME] = 1, 0
    termios.tcsetattr(fd, termios.TCSAFLUSH, changed)
    try:
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSAFLUSH, before)


def _ask(lines: list[str]) -> str:
    """The key that answers; what means nothing to anybody, if it was several characters at once."""
    termios.tcflush(sys.stdin.fileno(), termios.TCIFLUSH)
    _show(lines, bold=True)
    key = os.read(sys.stdin.fileno(), 64).decode(errors="replace")
    if key == INTERRUPT:
        raise KeyboardInterrupt
    return key if len(key) <= 1 else "\0"


def _show(lines: list[str], *, bold: bool = False) -> None:
    click.echo("", err=True)
    for number, line in enumerate(lines):
        click.echo(click.style(line, bold=True) if bold and not number and asking.colours() else line, err=True)
