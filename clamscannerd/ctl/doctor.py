"""`doctor`: everything that health says, and what only trying tells. Exit codes: 0 all well, 1 advice, 2 trouble.

    the daemon   Daemon.health, Daemon.self_test (a test file by the way of every scan), Daemon.verify (administrators)
    from here    whether the daemon can be reached at all (absent.py), what else of the machine: the clock, denials of
                 AppArmor and SELinux (machine.py): its sandbox keeps the daemon from those

One list of checks, of one form, so that `health` and `doctor` never say two things. Who is no administrator hears what
concerns them: their home, their part of the vault, their last scan, their own test file.

Rejected: repairing (what is wrong is said with its cure; a tool that changes clamd.conf or modes of homes by itself is
one more thing that can be wrong).
"""

from clamscannerd.ctl import text
from clamscannerd.ctl.calls import FOUND, TROUBLE, Caller, Json
from clamscannerd.ctl.commands import columns, command, print_answer
from clamscannerd.ctl.health import check_lines

TRY_S = 600.0
"""For one of the daemon's own tries: a database of 40 GB is read at 70 MB/s."""

GRADES = ("error", "warning", "ok")
_EXIT = {"error": TROUBLE, "warning": FOUND, "ok": 0}


@command
def doctor(caller: Caller) -> int:
    """Find what is wrong, and say how to cure it.

    Tries things too: a test file is scanned in your home (it never has a name), as root the database is read whole.
    Exit codes: 0 all is well, 1 there is advice, 2 there is trouble.
    """
    caller.timeout_s = TRY_S
    checks = sorted(_checks(caller), key=lambda check: _rank(str(check["grade"])))
    grade = checks[0]["grade"]
    lines = [line for check in checks for line in check_lines(check, columns())]
    print_answer(caller, {"grade": grade, "checks": checks}, [*lines, _summary(checks)])
    return _EXIT.get(grade, TROUBLE)


def _checks(caller: Caller) -> list[Json]:
    from clamscannerd.client import RemoteError, Unreachable
    from clamscannerd.ctl import absent, machine

    try:
        answer = caller.call("Daemon.health", {})
        found: list[Json] = answer["checks"] if isinstance(answer, dict) else []
    except Unreachable as error:
        return [*absent.diagnosis(str(error), caller.options.socket), *machine.checks()]
    except RemoteError as error:
        if error.kind != "misconfigured":
            raise
        return [absent.misconfigured(str(error)), *machine.checks()]
    return [*found, *_tried(caller, "Daemon.self_test"), *_tried(caller, "Daemon.verify"), *machine.checks()]


def _tried(caller: Caller, method: str) -> list[Json]:
    """What the daemon says of a try. Nothing, where it is for administrators, or newer than the daemon."""
    from clamscannerd.client import RemoteError, Unreachable
    from clamscannerd.ctl import absent

    try:
        answer = caller.call(method, {})
    except RemoteError as error:
        if error.kind in ("denied", "unknown_method"):
            return []
        return [absent.check("daemon", "error", f"{method} fails: {error}.", "journalctl -u clamscannerd")]
    except Unreachable as error:
        cure = "journalctl -u clamscannerd says why it went; a restart does no harm"
        return [absent.check("daemon", "error", f"{method} got no answer: {error}.", cure)]
    return [answer] if isinstance(answer, dict) else []


def _rank(grade: str) -> int:
    """Worst first; what a newer daemon may say besides, before all."""
    return GRADES.index(grade) if grade in GRADES else -1


def _summary(checks: list[Json]) -> str:
    trouble, advice = (sum(check["grade"] == grade for check in checks) for grade in ("error", "warning"))
    if not trouble and not advice:
        return f"all is well: {text.plural(len(checks), 'check')}"
    well = len(checks) - trouble - advice
    return f"{text.plural(trouble, 'trouble')}, {text.plural(advice, 'piece')} of advice, {well} well"
