"""[worker] The seal: seccomp takes away the calls that this job never needs, Landlock every place but the home.

Put on by drop.py when the ids are the account's, everything is imported, and no message was read. From then on a fault
in reading mail or archives of a hostile user owns a process that cannot run a program, open a connection, start a
thread, look into another process of its user, or open a file outside of the home. Open fds go on working, those that
come down later as well. Standard library only: the filter is classic BPF, put together below.

A list of what is refused, not of what is allowed: an allow-list is stronger, but it is written for one Python on one
libc, and breaks with the next security update of either, when a job is half done. To come near to it, calls newer than
the table (`_NEWEST`) get ENOSYS, which libc knows as "old kernel", and ioctl is an allow-list. Refused calls get EPERM
and not a signal, so that the traceback says which. Only another ABI than the interpreter's own kills: that can be
nothing but an exploit.

No executable memory can be made after the seal. Plain calls through ctypes need none; callbacks and further shared
objects do, so everything is imported before.

Rejected: libseccomp (third party, in the process that must be small); bubblewrap and namespaces (an exec, and user
namespaces are switched off on many shared servers); a Landlock rule for /proc or /etc (nothing there is needed:
/proc/self/fd/N as a link's source is no open, and works).
"""

import ctypes
import os
import struct

from clamscannerd import rights

_REFUSED = """
# another program: what the drop proved would be void
execve:59:221 execveat:322:281 uselib:134:-
# another process or thread: the seal is for one of each, and one job needs no more
fork:57:- vfork:58:- clone:56:220
# a new connection or name: sessions and the channel came from above, open
socket:41:198 socketpair:53:199 connect:42:203 bind:49:200 listen:50:201 accept:43:202 accept4:288:242
sendmmsg:307:269 recvmmsg:299:243
# into other processes of this user
ptrace:101:117 process_vm_readv:310:270 process_vm_writev:311:271 process_madvise:440:440 process_mrelease:448:448
kcmp:312:272 pidfd_open:434:434 pidfd_getfd:438:438 pidfd_send_signal:424:424 kill:62:129 tkill:200:130
tgkill:234:131 rt_sigqueueinfo:129:138 rt_tgsigqueueinfo:297:240 migrate_pages:256:238 move_pages:279:239
perf_event_open:298:241
# ids and rights: there are none to gain, so there is no reason to ask
setuid:105:146 setgid:106:144 setreuid:113:145 setregid:114:143 setresuid:117:147 setresgid:119:149 setfsuid:122:151
setfsgid:123:152 setgroups:116:159 capset:126:91 prctl:157:167 personality:135:92 seccomp:317:277 setpgid:109:154
setsid:112:157
# priority at others' cost
setpriority:141:140 sched_setparam:142:118 sched_setscheduler:144:119 sched_setattr:314:274
sched_setaffinity:203:122 ioprio_set:251:30 mbind:237:235 set_mempolicy:238:237
# mounts, roots and namespaces
mount:165:40 umount2:166:39 pivot_root:155:41 chroot:161:51 move_mount:429:429 open_tree:428:428 fsopen:430:430
fsconfig:431:431 fsmount:432:432 fspick:433:433 mount_setattr:442:442 unshare:272:97 setns:308:268
# files by other means than a name beneath a directory; devices
open_by_handle_at:304:265 name_to_handle_at:303:264 mknod:133:- mknodat:259:33 quotactl:179:60 quotactl_fd:443:443
fanotify_init:300:262 fanotify_mark:301:263 lookup_dcookie:212:18
# keys, which outlive the process
add_key:248:217 request_key:249:218 keyctl:250:219
# large and often broken parts of the kernel that this job does not need
bpf:321:280 userfaultfd:323:282 io_uring_setup:425:425 io_uring_enter:426:426 io_uring_register:427:427
io_setup:206:0 io_submit:209:2 vmsplice:278:75 splice:275:76 tee:276:77 remap_file_pages:216:234
memfd_secret:447:447 modify_ldt:154:-
# System V and POSIX memory and queues: ways around the fds that were given
shmget:29:194 shmat:30:196 shmctl:31:195 msgget:68:186 msgsnd:69:189 msgrcv:70:188 msgctl:71:187 semget:64:190
semop:65:193 semtimedop:220:192 semctl:66:191 mq_open:240:180 mq_unlink:241:181
# the machine: refused without rights anyway
reboot:169:142 kexec_load:246:104 kexec_file_load:320:294 init_module:175:105 finit_module:313:273
delete_module:176:106 swapon:167:224 swapoff:168:225 acct:163:89 syslog:103:116 settimeofday:164:170
clock_settime:227:112 clock_adjtime:305:266 adjtimex:159:171 sethostname:170:161 setdomainname:171:162
vhangup:153:58 iopl:172:- ioperm:173:- ustat:136:- sysfs:139:- _sysctl:156:- nfsservctl:180:42
"""
"""name:x86_64:aarch64, by reason; "-" where an architecture has no such call."""

_NEWEST = 462
"""mseal, Linux 6.10: the last call that was looked at for the table. From 403 on all architectures count alike."""

_CLONE3 = 435
_ABIS: dict[str, tuple[int, int, dict[str, int]]] = {
    # machine: its column in the table, its AUDIT_ARCH, and the calls that are refused by argument or made here
    "x86_64": (
        1,
        0xC000003E,
        {"mmap": 9, "mprotect": 10, "pkey_mprotect": 329, "ioctl": 16, "prlimit64": 302, "seccomp": 317},
    ),
    "aarch64": (
        2,
        0xC00000B7,
        {"mmap": 222, "mprotect": 226, "pkey_mprotect": 288, "ioctl": 29, "prlimit64": 261, "seccomp": 277},
    ),
}
_X32_BIT = 0x40000000

_IOCTLS = (
    0x5401,  # TCGETS: isatty, asked by Python's open()
    0x5421,  # FIONBIO: socket.setblocking
    0x541B,  # FIONREAD
    0x5450,  # FIONCLEX
    0x5451,  # FIOCLEX: os.set_inheritable
    0x40049409,  # FICLONE: a copy without copying, where the file system can
    0x80086601,  # FS_IOC_GETFLAGS: immutable or append-only, for a better message
)
_PROT_EXEC = 4

# Classic BPF, linux/filter.h and linux/seccomp.h
_LOAD, _EQUAL, _GREATER, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x25, 0x35, 0x45, 0x06
_ALLOW, _ERRNO, _KILL_PROCESS = 0x7FFF0000, 0x00050000, 0x80000000
_AT_NR, _AT_ARCH, _AT_ARGS = 0, 4, 16
_EPERM, _ENOSYS = 1, 38

# linux/landlock.h
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446
_FS_BITS = {1: 13, 2: 14, 3: 15, 4: 15}  # rights of an ABI: 13 at first, then REFER, then TRUNCATE
_FS_BITS_NOW = 16  # and IOCTL_DEV from 5 on
_EXECUTE, _MAKE_CHAR, _MAKE_BLOCK = 1 << 0, 1 << 6, 1 << 11
_BIND_AND_CONNECT_TCP = 3
_ABSTRACT_SOCKETS_AND_SIGNALS = 3

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def seal(home: bytes) -> dict[str, int]:
    """Seal this process for good. What was put on, for the daemon: `seccomp` 0 or 1, `landlock` the ABI or 0.

    Needs no_new_privs. A home that cannot be opened is no reason to die: then Landlock allows nothing at all, and the
    job itself says what is wrong with the home. Raises RightsError if a seal is on and does not hold.
    """
    landlock = _landlock(home)  # first: the filter could refuse these one day
    return {"seccomp": int(_seccomp()), "landlock": landlock}


def refused(machine: str) -> dict[str, int]:
    """The table for one architecture: name and number of each call that is refused whatever its arguments."""
    column = _ABIS[machine][0]
    rows = (word.split(":") for line in _REFUSED.splitlines() if not line.startswith("#") for word in line.split())
    return {row[0]: int(row[column]) for row in rows if row[column] != "-"}


def program(machine: str) -> bytes:
    """The seccomp filter for one architecture, as an array of struct sock_filter."""
    _, arch, number = _ABIS[machine]
    steps = [_step(_LOAD, _AT_ARCH), _step(_EQUAL, arch, 1, 0), _step(_RETURN, _KILL_PROCESS), _step(_LOAD, _AT_NR)]
    if machine == "x86_64":
        steps += _when(_AT_LEAST, _X32_BIT, [_step(_RETURN, _KILL_PROCESS)])
    steps += _when(_GREATER, _NEWEST, [_step(_RETURN, _ERRNO | _ENOSYS)])
    # Its flags lie in memory, where a filter cannot look. ENOSYS sends libc to clone, which is refused.
    steps += _when(_EQUAL, _CLONE3, [_step(_RETURN, _ERRNO | _ENOSYS)])
    for call in refused(machine).values():
        steps += _when(_EQUAL, call, [_step(_RETURN, _ERRNO | _EPERM)])
    for name in ("mmap", "mprotect", "pkey_mprotect"):
        steps += _by_argument(number[name], 2, _when(_ANY_BIT, _PROT_EXEC, [_step(_RETURN, _ERRNO | _EPERM)]), _ALLOW)
    # Limits of other processes; its own are 0 and only go down.
    steps += _by_argument(number["prlimit64"], 0, _when(_EQUAL, 0, [_step(_RETURN, _ALLOW)]), _ERRNO | _EPERM)
    lawful = [step for request in _IOCTLS for step in _when(_EQUAL, request, [_step(_RETURN, _ALLOW)])]
    steps += _by_argument(number["ioctl"], 1, lawful, _ERRNO | _EPERM)
    return b"".join([*steps, _step(_RETURN, _ALLOW)])


def _step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("<HBBI", code, if_true, if_false, value)


def _when(code: int, value: int, then: list[bytes]) -> list[bytes]:
    return [_step(code, value, 0, len(then)), *then]


def _by_argument(call: int, argument: int, steps: list[bytes], otherwise: int) -> list[bytes]:
    # The low half is all that the kernel reads of these arguments; both architectures are little-endian.
    return _when(_EQUAL, call, [_step(_LOAD, _AT_ARGS + 8 * argument), *steps, _step(_RETURN, otherwise)])


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


def _seccomp() -> bool:
    machine = os.uname().machine
    if machine not in _ABIS or ctypes.sizeof(ctypes.c_void_p) != 8:
        return False
    code = program(machine)
    asked = _Program(len(code) // 8, code)
    set_mode_filter, all_threads = 1, 1
    if _syscall(_ABIS[machine][2]["seccomp"], set_mode_filter, all_threads, ctypes.byref(asked)) != 0:
        return False
    if _syscall(refused(machine)["socket"], 1, 1, 0) >= 0 or ctypes.get_errno() != _EPERM:
        raise rights.RightsError("cannot seal the worker: seccomp is on, and a socket could be made")
    return True


def landlock_abi() -> int:
    """The kernel's, or 0 where it has none (or a container refuses to say)."""
    version_flag = 1
    return max(0, _syscall(_LANDLOCK_CREATE, None, 0, version_flag))


def _landlock(home: bytes) -> int:
    """The ABI in force, or 0."""
    path_beneath = 1
    if (abi := landlock_abi()) < 1:
        return 0
    handled = (1 << _FS_BITS.get(abi, _FS_BITS_NOW)) - 1
    network, scopes = _BIND_AND_CONNECT_TCP * (abi >= 4), _ABSTRACT_SOCKETS_AND_SIGNALS * (abi >= 6)
    wanted = struct.pack("<QQQ", handled, network, scopes)
    ruleset = _syscall(_LANDLOCK_CREATE, wanted, len(wanted), 0)
    if ruleset < 0:
        return 0
    try:
        allowed = handled & ~(_EXECUTE | _MAKE_CHAR | _MAKE_BLOCK)
        try:
            place = os.open(home, os.O_PATH | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            place = -1
        if place >= 0:
            try:
                rule = struct.pack("<Qi", allowed, place)
                if _syscall(_LANDLOCK_ADD, ruleset, path_beneath, rule, 0) != 0:
                    return 0
            finally:
                os.close(place)
        return abi if _syscall(_LANDLOCK_RESTRICT, ruleset, 0) == 0 else 0
    finally:
        os.close(ruleset)


def _syscall(number: int, *arguments: object) -> int:
    # Through long: ctypes would pass a plain int as 32 bits, and leave the upper half of its register to chance.
    words = [ctypes.c_long(word) if isinstance(word, int) else word for word in arguments]
    result: int = _libc.syscall(ctypes.c_long(number), *words)
    return result
