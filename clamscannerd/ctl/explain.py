"""`explain PATH`: why a path is scanned or not, and what was last said of it.

The daemon answers from its configuration, the ignore list and its rows; it has no right to look at the path. What only
a look tells comes from here, where the user's own rights hold: is it there, a link, a special file, on another file
system, too large, changed since. Nothing is opened. With --user nobody looks: root's look into somebody's home could
hang there, and would see what that user's worker does not.
"""

import os
import pwd
import stat
from collections.abc import Iterator
from typing import NamedTuple

import click

from clamscannerd.ctl import text
from clamscannerd.ctl.calls import FOUND, Caller, Json, absolute
from clamscannerd.ctl.commands import columns, command, print_answer, wire_names
from clamscannerd.ctl.completing import Names
from clamscannerd.ctl.visible import folded

_KINDS = {stat.S_IFLNK: "a link: links are not followed", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket"}
_KINDS |= {stat.S_IFBLK: "a device", stat.S_IFCHR: "a device"}


class Look(NamedTuple):
    """What stat says. `hinders`: why it is not scanned, or ""."""

    hinders: str = ""
    directory: bool = False
    size: int = 0
    changed: float = 0.0


@command
@click.argument("path", metavar="PATH", type=Names())
def explain(caller: Caller, path: str) -> int:
    """Say why PATH is scanned or not, and what was last found in it."""
    (wire,) = wire_names(caller.options, [path])
    look = None if caller.options.user is not None else _look(path)
    found = caller.call("Scan.explain", {"path": wire, "directory": look is not None and look.directory})
    answer: Json = found if isinstance(found, dict) else {}
    told = None if look is None else look._asdict()
    lines = [part for line in _lines(answer, look) for part in ([line] if "/" in line else folded(line, columns(), 14))]
    print_answer(caller, {**answer, "look": told}, lines)
    finding = answer["finding"]
    return FOUND if finding and finding["state"] == "standing" and not answer["ignored"] else 0


def _look(path: str) -> Look:
    """As the worker meets it: from the home down, following nothing."""
    try:
        home = os.fsencode(pwd.getpwuid(os.getuid()).pw_dir).rstrip(b"/")
    except KeyError:  # the daemon says what is wrong with this account
        return Look()
    name = absolute(os.fsencode(path), home)
    try:
        device = os.lstat(home or b"/").st_dev
        for at in (i for i, byte in enumerate(name) if byte == ord("/") and i > len(home)):
            if stat.S_ISLNK(os.lstat(name[:at]).st_mode):
                return Look(hinders="behind a link: links are not followed")
        status = os.lstat(name)
    except OSError as error:
        return Look(hinders=f"not to be seen: {error.strerror}")
    kind = stat.S_IFMT(status.st_mode)
    look = Look(directory=kind == stat.S_IFDIR, size=status.st_size, changed=status.st_ctime)
    if kind not in (stat.S_IFREG, stat.S_IFDIR):
        return look._replace(hinders=_KINDS.get(kind, "a special file"))
    if status.st_dev != device:
        return look._replace(hinders="on another file system than the home")
    if not os.access(name, os.R_OK):
        return look._replace(hinders="not readable for you")
    return look


def _lines(answer: Json, look: Look | None) -> Iterator[str]:
    yield f"{text.safe(answer['file'])}: {_verdict(answer, look)}"
    if not answer["in_home"]:
        return
    types = ", ".join(text.safe(kind["id"]) for kind in answer["scan_types"])
    yield f"  scans:      {types or 'none that you may start'}"
    if out := answer["excluded"]:
        what = "" if out["file"] == answer["file"] else f" fits {text.safe(out['file'])}"
        yield f"  left out:   {text.safe(out['pattern'])}{what} (scans.exclude of the configuration)"
    if entry := answer["ignored"]:
        yield f"  ignored:    what is found in it, by {text.ignored_by(entry)}"
    if look is None:
        yield "  the file:   nobody looked; the user's own `explain` does"
    elif look.size and not look.directory:
        yield f"  the file:   {text.size(look.size)}, of at most {text.limit(answer['max_file_size'])}"
    if found := answer["finding"]:
        when = text.moment(float(found["found_at"]))
        yield f"  found:      {text.safe(found['virus_type'])} at {when}, {text.safe(found['state'])}"
    yield f"  last scan:  {_last(answer, look)}"


def _verdict(answer: Json, look: Look | None) -> str:
    """The first of what keeps it from being scanned."""
    if not answer["in_home"]:
        return "is not scanned: outside of the home directory"
    if not answer["scan_types"]:
        return "is not scanned: no scan type that is permitted covers it"
    if answer["excluded"]:
        return "is not scanned: the configuration leaves it out"
    if look is not None and look.hinders:
        return f"is not scanned: {look.hinders}"
    if look is not None and not look.directory and look.size > answer["max_file_size"]:
        return f"is not scanned: over {text.limit(answer['max_file_size'])} (of a mailbox, its messages are)"
    return "is scanned" if look is not None else "is scanned, as far as can be told without a look at it"


def _last(answer: Json, look: Look | None) -> str:
    scan: Json | None = answer["last_scan"]
    if scan is None:
        return "none has covered it yet"
    name = f"{text.scan_name(scan)}, {text.safe(scan['state'])} {text.moment(float(scan['time_ended']))}"
    changed = look is not None and scan["time_started"] is not None and look.changed > float(scan["time_started"])
    if left := scan["not_scanned"]:
        what = "it" if left["file"] == answer["file"] else text.safe(left["file"])
        return f"{name}: not scanned: {what} was {text.reason(left['reason'])}"
    outcome = scan["outcome"]
    if outcome == "infected":
        return f"{name}: infected"
    if outcome != "nothing_found":
        return f"{name}: not known, its lists do not have everything"
    if look is not None and look.directory:
        return f"{name}: it was not kept from looking into it"
    return f"{name}: nothing found{', but it was changed since' if changed else ', if it was there'}"
