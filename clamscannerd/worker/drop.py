"""[worker] The first lines after the exec: become the account, prove it, import what the job needs, seal, serve.

Starts as the service's user with the monitor's capabilities, in an isolated interpreter, and reads nothing but its
argv, passwd and group before all of that is gone. Standard library only, as far as the drop goes. What the job imports
comes after it, with the account's own rights, and before the seal, after which no file outside of the home opens.

Groups are looked up here, by uid, and not taken from a message: a hijacked daemon cannot ask for the group `shadow`,
and a slow LDAP delays this worker only. That an entry still has the name that was meant is checked for the same price:
state belongs to (uid, name).

From the change of uid on there is no exec any more, so the process stays non-dumpable: its user gets neither
/proc/PID/mem nor ptrace nor pidfd_getfd, from the first microsecond at which the uid is theirs. (fs.suid_dumpable = 1
would undo it; the launcher refuses to start then.) Rejected: preexec_fn and dropping before the exec, see monitor.py.
"""

import os
import pwd
import signal
import sys
import time
from importlib import import_module
from typing import NoReturn

from clamscannerd import rights
from clamscannerd.worker import seal

CHANNEL_FD, LOCK_FD = 3, 4
"""As in monitor.py, which this process has no reason to load. The lock is held by being open, nothing more."""


def run(target: str = "clamscannerd.worker.main") -> NoReturn:
    """The whole life of a worker. argv: uid, name, "system" or "user", the monitor's pid.

    `target`: the module whose `serve` does the job; it may name further modules to import in `PRELOAD`.
    """
    uid, name, system, parent = int(sys.argv[1]), sys.argv[2], sys.argv[3] == "system", int(sys.argv[4])
    rights.set_name(b"csd-worker")
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        _leave(rights.EXIT_ACCOUNT, f"cannot work for uid {uid}: it has no passwd entry any more")
    if entry.pw_name != name:
        _leave(rights.EXIT_ACCOUNT, f"cannot work for uid {uid}: its name is {entry.pw_name!r}, not {name!r}")
    try:
        groups = os.getgrouplist(name, entry.pw_gid)
        os.closerange(LOCK_FD + 1, os.sysconf("SC_OPEN_MAX"))  # what a passwd service may have left open
        if system:
            rights.become(uid, entry.pw_gid, groups)
        else:
            rights.set_capabilities(0)
            rights.harden()
            rights.prove(uid, os.getgid(), os.getgroups())
    except (OSError, rights.RightsError) as error:
        _leave(rights.EXIT_RIGHTS, f"cannot become uid {uid}: {error}")
    if not rights.die_with_parent(signal.SIGKILL, parent):
        os._exit(rights.EXIT_ORPHAN)
    home = os.fsencode(entry.pw_dir)
    module = import_module(target)
    for further in getattr(module, "PRELOAD", ()):
        import_module(further)
    time.tzset()  # reads /etc/localtime, which nobody can after this
    # Not sys.exit: nothing is buffered, and taking the interpreter apart cost 15 ms, a quarter of a short worker.
    os._exit(module.serve(channel_fd=CHANNEL_FD, home=home, uid=uid, seals=seal.seal(home)))


def _leave(status: int, why: str) -> NoReturn:
    os.write(2, f"clamscannerd: {why}\n".encode(errors="backslashreplace"))
    os._exit(status)
