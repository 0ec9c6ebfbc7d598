"""Every account's home scanned, one after the other: what clamscannerd-scan-all.service runs, as an administrator.

`python -m clamscannerd.ctl.scan_all`: one line for each account; the exit code is the worst that `scan --wait` has, of
all accounts. Which there are passwd says, and which are served the daemon: nothing of its configuration is known here.
One account's trouble (a scan under way, or paused by its user, a home that is gone) does not keep the others waiting.

Rejected: all at once (the daemon would queue them, but users who come by day would find a queue of hundreds); a
command of clamscannerctl (an ordinary user cannot do it; `--user NAME scan home` is there for the administrator).
"""

import pwd
import sys

from clamscannerd.ctl import scans, text, waiting
from clamscannerd.ctl.calls import TROUBLE, Caller, Json, Options, Refusal, out, say
from clamscannerd.errors import ClamscannerdError

SCAN_TYPE = "home"
_NOT_SERVED = "unknown_account"


def main() -> int:
    codes = [_account(name) for name in names()]
    return max(codes, default=0)


def names() -> list[str]:
    """Of all accounts that passwd lists, by uid; each uid once, by its first name."""
    found: dict[int, str] = {}
    for entry in pwd.getpwall():
        found.setdefault(entry.pw_uid, entry.pw_name)
    return [found[uid] for uid in sorted(found)]


def _account(name: str) -> int:
    options = Options()
    options.user = name
    caller = Caller(options)
    try:
        return _scan(caller, name)
    except Refusal as refusal:
        say(f"{name}: {'; '.join(refusal.errors)}")
    except ClamscannerdError as error:
        if error.kind == _NOT_SERVED:
            return 0
        say(f"{name}: {error}")
    finally:
        caller.close()
    return TROUBLE


def _scan(caller: Caller, name: str) -> int:
    permitted = caller.six("get_scan_paths")["result"]["data"]
    if SCAN_TYPE not in (kind["id"] for kind in permitted):
        return 0
    started = scans.begun(caller, caller.call("Scan.start", {"scan_type": SCAN_TYPE, "scheduled": True}))
    answer = waiting.scan_end(caller, waiting.Silent(), started["scan_id"], or_paused=True)
    ended: Json = answer["result"]["data"]
    out(f"{text.safe(name)}: {text.state(ended)}: {text.result(ended)}")
    sys.stdout.flush()
    return text.scan_exit(ended) if ended["scan_complete"] else TROUBLE


if __name__ == "__main__":
    sys.exit(main())
