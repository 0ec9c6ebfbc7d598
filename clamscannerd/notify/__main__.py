"""[notify] python -m clamscannerd.notify: what clamscannerd-notify.service runs. Ends when the outbox is empty.

The options are for those who run it by hand, as an ordinary user with a daemon of their own may: `--owner UID` says
whose hooks are run beside root's. Exit codes: 0, 1 where outbox or records cannot be used, 2 for usage.
"""

import argparse
import logging
import os
import signal
import sys
from pathlib import Path

from clamscannerd import config as configuration
from clamscannerd.config import Config
from clamscannerd.errors import ConfigError
from clamscannerd.notify.hooks import HOOKS
from clamscannerd.notify.records import RECORDS
from clamscannerd.notify.service import Service, Setup

log = logging.getLogger(__name__)

_LEVELS = {logging.INFO: "<6>", logging.WARNING: "<4>", logging.ERROR: "<3>"}  # sd-daemon(3)


class _Lines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        level = _LEVELS.get(record.levelno, "") if "JOURNAL_STREAM" in os.environ else ""
        return f"{level}{record.getMessage()}"


def main() -> int:
    arguments = _parse()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines())
    logging.basicConfig(handlers=[handler], level=logging.INFO)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # a hook under way goes with us
    settings = _config(arguments.config).notify
    setup = Setup(
        outbox=arguments.outbox or settings.outbox,
        records=arguments.records,
        hooks=arguments.hooks,
        timeout_s=settings.hook_timeout_s,
        tries=settings.hook_tries,
        owners=frozenset({0, *arguments.owner}),
    )
    try:
        Service(setup).run()
    except OSError as error:
        log.error("cannot take digests: %s: %s", error.strerror, error.filename)
        return 1
    return 0


def _config(path: str | None) -> Config:
    """What the daemon refuses is the daemon's to say: digests that were made go on meanwhile."""
    try:
        return configuration.load(None if path is None else Path(path), system=True)
    except ConfigError as error:
        log.warning("going on with the defaults: %s", error)
        return configuration.load(Path(os.devnull), system=True)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m clamscannerd.notify", description="Run the hooks on digests.")
    parser.add_argument("--config", metavar="FILE", help="configuration in place of the usual file")
    parser.add_argument("--outbox", metavar="DIR", help="where digests are taken from, in place of notify.outbox")
    parser.add_argument("--records", metavar="DIR", default=RECORDS, help="where is kept what became of them")
    parser.add_argument("--hooks", metavar="DIR", default=HOOKS, help="where the hooks are")
    parser.add_argument("--owner", metavar="UID", type=int, action="append", default=[], help="besides root")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
