"""For doctor: what of the machine matters and the daemon cannot see from within its sandbox. As whoever typed.

The clock by adjtimex(2), which anybody may read; denials by the kernel's log, which is root's. What cannot be read is
not mentioned: no check is better than one that is green for want of rights.
"""

import ctypes
import os
import re
from collections.abc import Iterable

from clamscannerd.ctl import text
from clamscannerd.ctl.absent import check, output
from clamscannerd.ctl.calls import Json

_TIME_ERROR = 5  # of adjtimex(2): the clock is not synchronized
_TIMEX_BYTES = 512  # struct timex has 208

_DENIED = re.compile(r'apparmor="DENIED"|avc:\s+denied')
_OURS = re.compile(r"clam(?:scannerd|d|av)", re.IGNORECASE)
_SINCE = "-7 days"
_SHOWN = 3
_CURE_APPARMOR = (
    "allow it in /etc/apparmor.d/local/ (usr.sbin.clamd for the system's clamd), then apparmor_parser -r the profile"
)
_CURE_SELINUX = "setsebool -P antivirus_can_scan_system 1; ausearch -m avc -c clamd says more"


def checks() -> list[Json]:
    """Those that can be made here."""
    found = [synchronized(_adjtimex())]
    if os.geteuid() == 0:
        kernel = output(["journalctl", "-k", "-q", "-o", "cat", "--since", _SINCE, "--no-pager"]) or output(["dmesg"])
        found.append(denials(kernel.splitlines()))
    return [one for one in found if one is not None]


def synchronized(state: int) -> Json | None:
    """`state`: what adjtimex(2) answers; -1: it may not be asked."""
    if state < 0:
        return None
    if state == _TIME_ERROR:
        words = "The clock is not synchronized: dates of reports and of what is kept are as wrong as it is."
        return check("clock.synchronized", "warning", words, "timedatectl set-ntp true, or install chrony")
    return check("clock.synchronized", "ok", "The clock is synchronized.")


def _adjtimex() -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(_TIMEX_BYTES)  # modes = 0: it only reads
    return int(libc.adjtimex(buffer))


def denials(lines: Iterable[str]) -> Json:
    """Of the kernel's log: what AppArmor or SELinux denied to a clamd or to us."""
    denied = [line for line in lines if _DENIED.search(line) and _OURS.search(line)]
    if not denied:
        return check("denials", "ok", "The kernel's log has no denial of AppArmor or SELinux for clamd or the daemon.")
    latest = "; ".join(text.safe(line.strip())[:300] for line in dict.fromkeys(denied[-_SHOWN:]))
    cures = (("apparmor=", _CURE_APPARMOR), ("avc:", _CURE_SELINUX))
    cure = "; ".join(cure for word, cure in cures if any(word in line for line in denied))
    words = f"AppArmor or SELinux denied {text.plural(len(denied), 'access', 'accesses')}, lately: {latest}"
    return check("denials", "warning", words, cure)
