"""`metrics`: what the daemon counts, for node_exporter's textfile collector or whoever scrapes. For administrators.

The collector reads a file at any moment, so `--textfile` puts the new one in its place whole, under a name that the
collector does not read until then; and where there is no answer the old file stays, and its age tells.
Rejected: leaving this to `> FILE` in a timer (half a file is read now and then, and none is left after a failure).
"""

import os
from contextlib import suppress

import click

from clamscannerd.ctl.calls import TROUBLE, Caller, Json, say
from clamscannerd.ctl.commands import command, print_answer
from clamscannerd.ctl.completing import Names


@command
@click.option("--textfile", metavar="FILE", type=Names(), help="Write them there, in one move: FILE ends in .prom.")
def metrics(caller: Caller, textfile: str | None) -> int:
    """Print what the daemon counts, for Prometheus (administrators)."""
    if textfile is not None and not textfile.endswith(".prom"):
        raise click.BadParameter("node_exporter reads no file whose name does not end in .prom", param_hint="FILE")
    answer = caller.call("Daemon.metrics", {})
    known: Json = answer if isinstance(answer, dict) else {}
    text = str(known.get("text", ""))
    if textfile is None:
        print_answer(caller, answer, text.splitlines())
        return 0
    try:
        _replace(textfile, text)
    except OSError as error:
        say(f"cannot write {textfile}: {(error.strerror or str(error)).lower()}")
        return TROUBLE
    return 0


def _replace(path: str, text: str) -> None:
    import tempfile  # 10 ms that no other command needs

    fd, fresh = tempfile.mkstemp(prefix=".clamscannerd-", dir=os.path.dirname(path) or ".")
    try:
        with open(fd, "w", encoding="utf-8") as stream:
            stream.write(text)
            os.fchmod(stream.fileno(), 0o644)  # node_exporter is another user, and numbers are all there is in it
        os.rename(fresh, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(fresh)
        raise
