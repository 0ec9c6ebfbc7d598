"""`hooks test`: every hook on a made-up digest, as clamscannerd-notify.service runs it. For root.

The digest goes the way of real ones, through the outbox and that service: so what is tried is the hook within that
sandbox and under that user, and with it the path unit. What came of it stands in the service's record of the digest.

Rejected: running the hooks here, as the other user (a mail that NoNewPrivileges= or the network keeps from going out
would go out); a unit of its own for the test (its sandbox would be another one some day).
"""

import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from clamscannerd.ctl import text
from clamscannerd.ctl.calls import TROUBLE, Caller, out, say
from clamscannerd.ctl.commands import cli, command, options

if TYPE_CHECKING:
    from clamscannerd.notify.records import Record
    from clamscannerd.notify.service import Setup

UNIT = "clamscannerd-notify.service"
_BOOTED = "/run/systemd/system"  # sd_booted(3)
_POLL_S = 0.1
_MORE_S = 30.0  # than its hooks' time-outs: for the service to start, and to end what it is at
_MAIL = "/usr/lib/clamscannerd/hooks/mail"  # of the package; quickstart has it beside the program


@click.group()
@options
def hooks() -> None:
    """What is run on notifications: try it (root)."""


def _test(caller: Caller) -> int:
    """Run every hook on a made-up digest (root)."""
    if os.geteuid() != 0:
        say(f"cannot test the hooks: this is for root: sudo {caller.options.again('hooks', 'test')}")
        return TROUBLE
    from clamscannerd import config  # no other command needs them
    from clamscannerd.errors import ConfigError
    from clamscannerd.notify.hooks import HOOKS
    from clamscannerd.notify.records import RECORDS
    from clamscannerd.notify.service import Setup

    try:
        settings = config.load(None, system=True).notify
    except ConfigError as error:
        say(str(error))
        return TROUBLE
    if not os.path.isdir(_BOOTED):
        say(f"cannot test the hooks: it is {UNIT} that runs them, and systemd is not booted here")
        return TROUBLE
    setup = Setup(settings.outbox, RECORDS, HOOKS, settings.hook_timeout_s, settings.hook_tries)
    return tried(caller, setup, _start)


command(_test, hooks, "test")
cli.add_command(hooks)


def _enabling(hooks: str) -> str:
    own = os.path.join(sys.prefix, "hooks", "mail")
    return f"ln -s {own if os.path.exists(own) else _MAIL} {hooks}/mail"


def _start() -> None:
    """Also where the path unit is not enabled; one that is at work takes what there is."""
    subprocess.run(["/usr/bin/systemctl", "start", "--no-block", UNIT], check=False)


def tried(caller: Caller, setup: "Setup", start: Callable[[], None]) -> int:
    """The exit code: 0 if every hook succeeded."""
    from clamscannerd.notify import example
    from clamscannerd.notify.hooks import names
    from clamscannerd.notify.outbox import Outbox

    there = names(setup.hooks)
    if not there:
        say(f"there is no hook in {setup.hooks}; mail is enabled by: {_enabling(setup.hooks)}")
        return TROUBLE
    digest_id = secrets.token_hex(16)
    outbox = Outbox(setup.outbox, most=1, most_bytes=1)
    try:
        outbox.put(digest_id, example.digest(digest_id, host=os.uname().nodename, now=time.time()))
    except OSError as error:
        say(f"cannot test the hooks: {setup.outbox}: {(error.strerror or str(error)).lower()}")
        return TROUBLE
    start()
    record = _wait(setup, digest_id, (len(there) + 1) * setup.timeout_s + _MORE_S)
    if record is None:
        outbox.remove(digest_id)
        say(f"{UNIT} has not run the hooks: see `systemctl status {UNIT}` and `journalctl -u {UNIT}`")
        return TROUBLE
    _print(caller, record)
    return 0 if all(entry.state == "done" for entry in record.hooks.values()) else TROUBLE


def _wait(setup: "Setup", digest_id: str, seconds: float) -> "Record | None":
    from clamscannerd.notify.records import read

    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            record = read(setup.records, digest_id)
        except OSError:
            record = None
        if record is not None and record.ended_at is not None:
            return record
        time.sleep(_POLL_S)
    return None


def _print(caller: Caller, record: "Record") -> None:
    """What the hooks said is theirs: never to a terminal as it is."""
    found = sorted(record.hooks.items())
    if caller.options.json:
        listed = [{"hook": n, "ok": e.state == "done", "how": e.how, "output": e.output} for n, e in found]
        out(text.json_line({"hooks": listed}))
        return
    for name, entry in found:
        out(text.safe(f"{name}: {'ok' if entry.state == 'done' else 'failed'}, {entry.how}"))
        for line in entry.output.splitlines():
            out(f"  {text.safe(line)}")
