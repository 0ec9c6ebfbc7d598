"""Tries, over and over, to get hold of each new process of the machine, until its standard input ends.

A script of its own: it runs as another user. For each new pid (the newest stands in /proc/loadavg), until a hundred
newer ones: /proc/PID/mem for reading and writing, PTRACE_SEIZE, pidfd_getfd of the first fds. A line for each pid that
was met, as soon as it was tried, and one for each success: "tried PID", "got PID what". First it proves on a child of
its own that it can: "able what".
"""

import ctypes
import os
import select
import signal

LIBC = ctypes.CDLL(None, use_errno=True)
PIDFD_GETFD = 438
PTRACE_SEIZE, PTRACE_DETACH = 0x4206, 17
AHEAD, BEHIND = 4, 100


def attempts(pid: int) -> list[str]:
    """What could be had of `pid`. Raises ProcessLookupError if there is no such process."""
    got = []
    for mode, name in ((os.O_RDONLY, "mem"), (os.O_RDWR, "mem, writing")):
        try:
            os.close(os.open(f"/proc/{pid}/mem", mode))
            got.append(name)
        except FileNotFoundError:
            raise ProcessLookupError from None
        except PermissionError:
            pass
    if LIBC.ptrace(ctypes.c_long(PTRACE_SEIZE), ctypes.c_long(pid), None, None) == 0:
        got.append("ptrace")
        LIBC.ptrace(ctypes.c_long(PTRACE_DETACH), ctypes.c_long(pid), None, None)
    pidfd = os.pidfd_open(pid)
    for fd in range(5):
        if (copy := LIBC.syscall(ctypes.c_long(PIDFD_GETFD), pidfd, fd, 0)) >= 0:
            got.append("pidfd_getfd")
            os.close(copy)
    os.close(pidfd)
    return got


def main() -> None:
    victim = os.fork()
    if victim == 0:
        signal.pause()
    for what in sorted(set(attempts(victim))):
        print("able", what, flush=True)
    os.kill(victim, signal.SIGKILL)
    os.waitpid(victim, 0)
    print("ready", flush=True)
    tried: set[int] = set()
    live: set[int] = set()
    newest = victim
    loadavg = os.open("/proc/loadavg", os.O_RDONLY)
    stdin = select.poll()
    stdin.register(0, select.POLLIN | select.POLLHUP)
    while not stdin.poll(0):
        before, newest = newest, int(os.pread(loadavg, 99, 0).split()[-1])
        if newest < before:  # the numbers began anew
            before, live = max(1, newest - BEHIND), set()
        live = {pid for pid in live if pid > newest - BEHIND} | set(range(before + 1, newest + AHEAD))
        for pid in sorted(live, reverse=True):
            try:
                got = attempts(pid)
            except OSError:
                continue
            for what in got:
                print("got", pid, what, flush=True)
            if pid not in tried:
                tried.add(pid)
                print("tried", pid, flush=True)


if __name__ == "__main__":
    main()
