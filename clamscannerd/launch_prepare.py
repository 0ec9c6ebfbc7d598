"""[root, by the unit] The configuration of the private engine's units, which follows from clamscannerd.toml.

`python -m clamscannerd.launch_prepare [FILE]` is clamscannerd-prepare.service, before each start and reload of the
daemon: only root may write what clamd reads as its configuration. It writes it, has systemd restart the instances whose
configuration is another now, and leaves; nothing stays.

Rejected: tmpfiles.d (knows no configuration); ExecStartPre=+ of the daemon's unit (root without that unit's sandbox, to
read a file, where a unit of its own can have one); static files (engine.max_file_size would have no effect).
"""

import os
import subprocess
import sys
from pathlib import Path

from clamscannerd import config as configuration
from clamscannerd.errors import ClamscannerdError
from clamscannerd.launch_engine import prepare_units

UNIT = "clamscannerd-engine@{}.service"
_BOOTED = "/run/systemd/system"  # sd_booted(3)


def main(argv: list[str]) -> int:
    """The exit code: 0, 1 for a fault, 2 for usage, 78 for configuration."""
    if len(argv) > 1 or os.geteuid() != 0:
        sys.stderr.write("usage, as root: python -m clamscannerd.launch_prepare [FILE]\n")
        return 2
    os.umask(0o022)
    try:
        config = configuration.load(Path(argv[0]).absolute() if argv else None, system=True)
        changed = prepare_units(config)
    except ClamscannerdError as error:
        sys.stderr.write(f"clamscannerd: {error}\n")
        return error.exit_code
    return _restart(changed) if os.path.isdir(_BOOTED) else 0


def _restart(instances: list[str]) -> int:
    """Those that run; without waiting, as the units say that we come first."""
    if not instances:
        return 0
    units = [UNIT.format(instance) for instance in instances]
    return subprocess.run(["/usr/bin/systemctl", "--no-block", "try-restart", *units], check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
