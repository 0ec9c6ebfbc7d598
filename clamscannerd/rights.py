"""Giving up rights, and the proof that they are gone: the kernel calls that Python's standard library lacks.

Runs in every process: [as started] and [monitor] while they still have rights, [worker] and [private engine] before
they do anything else. Standard library only, and nothing of this package: whoever trusts the monitor has to read this
file and monitor.py, and no third one.

`become()` is the only place where ids change, because its order is what matters: groups before gid before uid (the
other way round the right to do it is gone), ambient capabilities cleared by hand (setresuid keeps them when no uid
was 0), capset after the ids (it would take away the right to change them), not dumpable last (every change of ids
sets it anew, from fs.suid_dumpable), and then everything is read back from the kernel, not remembered.

Rejected: subprocess.Popen(user=...) (without `group` and `extra_groups` it keeps root's groups, and it cannot speak of
capabilities); python-prctl and libcap through cffi (third-party code in the privileged process); three copies of these
lines in monitor, drop and launch, for the sake of "imports nothing".
"""

import ctypes
import errno
import os
from collections.abc import Iterable

CAP_KILL, CAP_SETGID, CAP_SETUID = 5, 6, 7
MONITOR_CAPS = 1 << CAP_KILL | 1 << CAP_SETGID | 1 << CAP_SETUID
"""What the monitor keeps, as a mask: ids for the worker to become, and the right to kill what is not its own uid."""

EXIT_EXEC, EXIT_ACCOUNT, EXIT_RIGHTS, EXIT_ORPHAN = 80, 81, 82, 83
"""A child's exit status before its work begins: the program would not run; the passwd entry is gone or has another
name; rights could not be given up or were not gone; the monitor died meanwhile. Above what Python and shells use."""

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_KEEPCAPS, _PR_SET_NAME = 1, 4, 8, 15
_PR_GET_SECCOMP, _PR_CAPBSET_READ, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT = 21, 23, 24, 38, 47
_PR_CAP_AMBIENT_RAISE, _PR_CAP_AMBIENT_CLEAR_ALL = 2, 4
_CAPABILITY_VERSION_3 = 0x20080522
_IOPRIO_SET = {"x86_64": 251, "aarch64": 30}
_IOPRIO_WHO_PROCESS = 1

_libc = ctypes.CDLL(None, use_errno=True)
_libc.prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4


class RightsError(Exception):
    """The kernel did not take, or did not give up, what it was asked to. Nothing may go on after it."""


class _CapHeader(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


class _CapData(ctypes.Structure):
    _fields_ = [("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32)]


def _failed(what: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{what}: {os.strerror(number)}")


def prctl(option: int, second: int = 0, third: int = 0) -> int:
    """prctl(2) with integer arguments. Raises OSError."""
    result: int = _libc.prctl(option, second, third, 0, 0)
    if result < 0:
        raise _failed(f"prctl {option}")
    return result


def permitted() -> int:
    """The permitted capabilities of this process as a mask."""
    header, data = _CapHeader(_CAPABILITY_VERSION_3, 0), (_CapData * 2)()
    if _libc.capget(ctypes.byref(header), data) < 0:
        raise _failed("capget")
    return int(data[0].permitted) | int(data[1].permitted) << 32


def set_capabilities(mask: int) -> None:
    """Exactly `mask` as permitted, effective, inheritable and ambient. Raises OSError."""
    prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    header, data = _CapHeader(_CAPABILITY_VERSION_3, 0), (_CapData * 2)()
    for half in range(2):
        bits = mask >> 32 * half & 0xFFFFFFFF
        data[half] = _CapData(bits, bits, bits)
    if _libc.capset(ctypes.byref(header), data) < 0:
        raise _failed("capset")
    for cap in range(mask.bit_length()):
        if mask >> cap & 1:
            prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, cap)


def drop_bounding(keep: int) -> None:
    """Drop the bounding set but for `keep`, as far as allowed: without CAP_SETPCAP it stays what the unit set."""
    for cap in range(64):
        try:
            if not keep >> cap & 1 and prctl(_PR_CAPBSET_READ, cap):
                prctl(_PR_CAPBSET_DROP, cap)
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.EPERM):  # past the kernel's last capability; not permitted
                return
            raise


def become(uid: int, gid: int, groups: Iterable[int], *, keep: int = 0) -> None:
    """Be `uid`, `gid` and `groups` four times over, with the capabilities `keep` and no way to gain any; prove it.

    Raises OSError or RightsError; the process must end then.
    """
    if keep:
        prctl(_PR_SET_KEEPCAPS, 1)
    else:
        prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    drop_bounding(keep)
    os.setgroups(sorted(set(groups)))
    os.setresgid(gid, gid, gid)
    former = set(os.getresuid())
    os.setresuid(uid, uid, uid)
    set_capabilities(keep)
    prctl(_PR_SET_KEEPCAPS, 0)
    harden()
    prove(uid, gid, groups, keep=keep)
    if not keep:
        _prove_final(former | {0}, uid)


def harden() -> None:
    """No rights through exec, and no look into this process for others of its uid."""
    prctl(_PR_SET_NO_NEW_PRIVS, 1)
    prctl(_PR_SET_DUMPABLE, 0)


def prove(uid: int, gid: int, groups: Iterable[int], *, keep: int = 0) -> None:
    """Raise RightsError unless the kernel itself says that these are this process's rights, all of them."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as stream:
        status = dict(line.rstrip("\n").split(":\t", 1) for line in stream if ":\t" in line)
    # CapBnd is no right by itself, and cannot be dropped by a process that has the three capabilities alone.
    expected = {"Uid": [uid] * 4, "Gid": [gid] * 4, "NoNewPrivs": [1]}
    actual = {key: [int(word) for word in status[key].split()] for key in expected}
    # setgroups keeps duplicates out of neither the call nor the list.
    expected["Groups"], actual["Groups"] = sorted(set(groups)), sorted(map(int, status["Groups"].split()))
    for key in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
        expected[key], actual[key] = [keep], [int(status[key], 16)]
    wrong = [f"{key} is {actual[key]}, not {expected[key]}" for key in expected if actual[key] != expected[key]]
    if wrong:
        raise RightsError(f"cannot give up rights: {'; '.join(wrong)}")


def _prove_final(others: set[int], uid: int) -> None:
    """Try to be somebody else again: it must fail."""
    for other in others - {uid}:
        try:
            os.setresuid(other, other, other)
        except PermissionError:
            continue
        raise RightsError(f"cannot give up rights: uid {other} could be taken back")


def die_with_parent(signum: int, parent: int) -> bool:
    """Have the kernel send `signum` when the parent ends; False if `parent` is not the parent any more.

    To be called after the last change of ids: each one clears it.
    """
    prctl(_PR_SET_PDEATHSIG, signum)
    return os.getppid() == parent


def set_io_priority(value: int) -> None:
    """Class and level for reads and writes of this process, as ioprio_set(2) takes them. Raises OSError."""
    number = _IOPRIO_SET.get(os.uname().machine)
    if number is not None and _libc.syscall(*map(ctypes.c_long, (number, _IOPRIO_WHO_PROCESS, 0, value))) < 0:
        raise _failed("ioprio_set")


def has_seccomp() -> bool:
    """Whether this kernel has seccomp at all."""
    return int(_libc.prctl(_PR_GET_SECCOMP, 0, 0, 0, 0)) >= 0


def set_name(name: bytes) -> None:
    """The name that ps and top show: at most 15 bytes."""
    _libc.prctl(_PR_SET_NAME, ctypes.cast(ctypes.c_char_p(name), ctypes.c_void_p).value or 0, 0, 0, 0)
