"""[root, by the unit] The configuration of the private engines' units, which follows from clamscannerd.toml.

`python -m clamscannerd.launch_prepare [FILE]` is clamscannerd-prepare.service, before each start and reload of the
daemon: only root may write what clamd reads as its configuration, and tell systemd of units. It decides how many
engines fit (engine/fitting.py), writes what they are configured by, has systemd listen for so many and for no more,
restarts the instances whose configuration is another now, and leaves; nothing stays.

The sockets of the first engine and of the built-in one are wanted by the daemon's unit; those of the others are started
here, before the daemon is. What is stopped or restarted is not waited for: those units say that we come first.

Rejected: tmpfiles.d (knows no configuration); ExecStartPre=+ of the daemon's unit (root without that unit's sandbox, to
read a file, where a unit of its own can have one); static files (engine.max_file_size would have no effect); eight
sockets with ConditionPathExists= (conditions are seen at a start and not at a reload); letting the daemon start and
stop units (unit.py).
"""

import os
import subprocess
import sys
from pathlib import Path

from clamscannerd import config as configuration
from clamscannerd import orders
from clamscannerd.errors import ClamscannerdError
from clamscannerd.launch_engine import Units, name, prepare_units

UNIT = "clamscannerd-engine@{}"
_SYSTEMCTL = "/usr/bin/systemctl"
_BOOTED = "/run/systemd/system"  # sd_booted(3)


def main(argv: list[str]) -> int:
    """The exit code: 0, 1 for a fault, 2 for usage, 78 for configuration."""
    if len(argv) > 1 or os.geteuid() != 0:
        sys.stderr.write("usage, as root: python -m clamscannerd.launch_prepare [FILE]\n")
        return 2
    os.umask(0o022)
    try:
        config = configuration.load(Path(argv[0]).absolute() if argv else None, system=True)
        booted = os.path.isdir(_BOOTED)
        units = prepare_units(config, _running() if booted else 0)
    except ClamscannerdError as error:
        sys.stderr.write(f"clamscannerd: {error}\n")
        return error.exit_code
    return _apply(units) if booted else 0


def _running() -> int:
    """Engines that have signatures in memory, or are about to."""
    units = [f"{UNIT.format(name(job))}.service" for job in orders.ENGINE_JOBS if job != orders.BUILTIN_ENGINE]
    shown = subprocess.run(
        [_SYSTEMCTL, "show", "--property=ActiveState", *units], check=False, stdout=subprocess.PIPE, text=True
    )
    return shown.stdout.split().count("ActiveState=active")


def _apply(units: Units) -> int:
    """The first exit code that is none of success."""
    codes = []
    if units.engines < orders.MAX_ENGINES:
        beyond = UNIT.format(f"[{units.engines + 1}-{orders.MAX_ENGINES}]")  # a glob: those that are loaded
        codes.append(_systemctl("--no-block", "stop", f"{beyond}.socket", f"{beyond}.service"))
    if more := [f"{UNIT.format(name(job))}.socket" for job in range(2, units.engines + 1)]:
        codes.append(_systemctl("start", *more))
    if units.changed:
        codes.append(_systemctl("--no-block", "try-restart", *(f"{UNIT.format(one)}.service" for one in units.changed)))
    return next((code for code in codes if code), 0)


def _systemctl(*words: str) -> int:
    return subprocess.run([_SYSTEMCTL, *words], check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
