"""For doctor: why nobody answers, as far as it can be seen from outside: the socket, and what systemd says.

What systemd and the journal say is shown as it is, made safe; a machine without systemd has no unit to look at.
"""

import errno
import os
import socket
import stat
import subprocess
from collections.abc import Callable

from clamscannerd.ctl.calls import Json

SYSTEM_SOCKET = "/run/clamscannerd/clamscannerd.sock"
SERVICE = "clamscannerd.service"
SOCKET_UNIT = "clamscannerd.socket"
_BOOTED = "/run/systemd/system"  # sd_booted(3)
_TOOL_S = 10.0
_CONFIGURATION = 78  # the daemon's exit code for it
_START = "systemctl enable --now clamscannerd.socket"


def check(name: str, grade: str, message: str, cure: str = "") -> Json:
    """One check, of the form that the daemon's have."""
    return {"id": name, "grade": grade, "message": message, "cure": "" if grade == "ok" else cure}


def misconfigured(message: str) -> Json:
    """The daemon is there to say that its configuration is broken, and for nothing else."""
    cure = "mend that file, try it with clamscannerd --check-config, then: systemctl restart clamscannerd"
    return check("daemon", "error", f"The daemon does not serve: {message}.", cure)


def diagnosis(said: str, given: str | None) -> list[Json]:
    """`said`: by the client, why there is no connection. `given`: the socket that the command line names."""
    path = given or os.environ.get("CLAMSCANNERD_SOCKET") or SYSTEM_SOCKET
    found = [_of_socket(path, said)]
    if path == SYSTEM_SOCKET and os.path.isdir(_BOOTED):
        found += units(_shown(SERVICE), _shown(SOCKET_UNIT), _last_line)
    return found


def _of_socket(path: str, said: str) -> Json:
    number = _connect(path)
    if number == errno.ENOENT:
        cure = f"{_START}; without systemd, start clamscannerd"
        return check("daemon", "error", f"The daemon is not running: there is no socket {path}.", cure)
    if number == errno.ECONNREFUSED:
        cure = "systemctl restart clamscannerd.socket clamscannerd; without systemd, start clamscannerd"
        return check("daemon", "error", f"The daemon ended: nobody listens at {path} any more.", cure)
    if number in (errno.EACCES, errno.EPERM):
        cure = f"chmod 0666 {path}, and o+x for the directories above it: the daemon itself judges who may ask what"
        return check("daemon", "error", f"You may not connect to {path}{_mode(path)}.", cure)
    if number == 0:
        cure = "systemctl restart clamscannerd; journalctl -u clamscannerd says what it did last"
        return check("daemon", "error", f"The daemon takes connections and does not answer: {said}.", cure)
    return check("daemon", "error", f"The daemon is out of reach: {said}.", "systemctl status clamscannerd")


def _connect(path: str) -> int:
    """errno of a connect, 0 for one that works."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(_TOOL_S)
        try:
            return sock.connect_ex(path)
        except OSError as error:  # a path that is no address
            return error.errno or -1


def _mode(path: str) -> str:
    try:
        return f": its mode is {stat.S_IMODE(os.stat(path).st_mode):04o}"
    except OSError:
        return ""


def units(service: dict[str, str], listening: dict[str, str], last_line: Callable[[], str]) -> list[Json]:
    """What `systemctl show` of both says. `last_line()`: the end of the service's log, asked for where it failed."""
    if service.get("LoadState") == "not-found":
        cure = "apt install ./clamscannerd_*.deb, or packaging/quickstart"
        return [check("unit", "error", f"{SERVICE} is not installed.", cure)]
    found = []
    if service.get("ActiveState") == "failed" or service.get("Result", "success") != "success":
        words = f"{SERVICE} failed: {service.get('Result', '?')}, exit code {service.get('ExecMainStatus', '?')}"
        line = last_line()
        cure = "journalctl -u clamscannerd -e, and what is said there"
        if service.get("ExecMainStatus") == str(_CONFIGURATION):
            cure = "clamscannerd --check-config says what is wrong with the configuration"
        found.append(check("unit", "error", f"{words}{f': {line}' if line else ''}.", cure))
    if listening.get("ActiveState") not in ("active", None):
        enabled = "" if listening.get("UnitFileState") == "enabled" else ", and not enabled"
        found.append(check("unit.socket", "error", f"{SOCKET_UNIT} does not listen{enabled}.", _START))
    return found


def _shown(unit: str) -> dict[str, str]:
    wanted = "LoadState,ActiveState,Result,ExecMainStatus,UnitFileState"
    lines = output(["systemctl", "show", "-p", wanted, unit]).splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)


def _last_line() -> str:
    """The journal is for root and some groups; others get nothing."""
    return output(["journalctl", "-u", SERVICE, "-n", "1", "-o", "cat", "-q", "-p", "warning"]).strip()


def output(words: list[str]) -> str:
    """Of a program that may not be there, or not for us: then "". Its own errors are not shown."""
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, errors="backslashreplace", timeout=_TOOL_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout
