"""worker/seal.py's filter, run here by a small machine for classic BPF: what it says to each call and argument."""

import operator
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clamscannerd.worker import seal

ALLOW, EPERM, ENOSYS, KILL = 0x7FFF0000, 0x00050001, 0x00050026, 0x80000000
TESTS = {0x15: operator.eq, 0x25: operator.gt, 0x35: operator.ge, 0x45: operator.and_}
ARCHES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
I386, ARM = 0x40000003, 0x40000028
MACHINES = sorted(ARCHES)
PLAIN = {  # calls that the job needs, whatever their arguments
    "x86_64": {
        "read": 0,
        "close": 3,
        "poll": 7,
        "brk": 12,
        "pread64": 17,
        "sendmsg": 46,
        "recvmsg": 47,
        "getdents64": 217,
    }
    | {"unlinkat": 263, "linkat": 265, "utimensat": 280, "renameat2": 316, "memfd_create": 319, "statx": 332}
    | {"openat": 257, "openat2": 437, "ftruncate": 77, "fsync": 74, "fchmod": 91, "fsetxattr": 190, "getrandom": 318},
    "aarch64": {"read": 63, "close": 57, "ppoll": 73, "brk": 214, "pread64": 67, "sendmsg": 211, "recvmsg": 212}
    | {"unlinkat": 35, "linkat": 37, "utimensat": 88, "renameat2": 276, "memfd_create": 279, "statx": 291, "openat": 56}
    | {"openat2": 437, "ftruncate": 46, "fsync": 82, "fchmod": 52, "fsetxattr": 7, "getrandom": 278, "getdents64": 61},
}


def verdict(machine: str, call: int, *arguments: int, arch: int | None = None) -> int:
    """What the kernel would do with `call`: the filter's return value."""
    words = [*arguments, *[0] * (6 - len(arguments))]
    data = struct.pack("<IIQ6Q", call, ARCHES[machine] if arch is None else arch, 0, *words)
    program = list(struct.iter_unpack("<HBBI", seal.program(machine)))
    accumulator = at = 0
    while True:
        code, if_true, if_false, value = program[at]
        at += 1
        if code == 0x06:
            return int(value)
        if code == 0x20:
            (accumulator,) = struct.unpack_from("<I", data, value)
        else:
            at += if_true if TESTS[code](accumulator, value) else if_false


@pytest.mark.parametrize("machine", MACHINES)
def test_every_call_of_the_table_is_refused(machine: str) -> None:
    for name, number in seal.refused(machine).items():
        assert verdict(machine, number) == EPERM, name


@pytest.mark.parametrize("machine", MACHINES)
def test_what_the_job_needs_is_allowed(machine: str) -> None:
    for name, number in PLAIN[machine].items():
        assert verdict(machine, number) == ALLOW, name


@given(st.sampled_from(MACHINES), st.integers(0, 2**32 - 1), st.lists(st.integers(0, 2**64 - 1), max_size=6))
def test_each_call_has_one_answer(machine: str, call: int, arguments: list[int]) -> None:
    assert verdict(machine, call, *arguments) in {ALLOW, EPERM, ENOSYS, KILL}


@pytest.mark.parametrize("machine", MACHINES)
def test_calls_of_another_abi_kill(machine: str) -> None:
    for arch in (I386, ARM, 0, *(set(ARCHES.values()) - {ARCHES[machine]})):
        assert verdict(machine, PLAIN[machine]["read"], arch=arch) == KILL


def test_x32_kills() -> None:
    assert verdict("x86_64", 0x40000000) == KILL
    assert verdict("x86_64", 0x40000000 + 59) == KILL
    assert verdict("x86_64", 0xFFFFFFFF) == KILL


@pytest.mark.parametrize("machine", MACHINES)
def test_calls_newer_than_the_table_do_not_exist(machine: str) -> None:
    assert verdict(machine, 463) == ENOSYS
    assert verdict(machine, 462) == ALLOW


@pytest.mark.parametrize("machine", MACHINES)
def test_clone3_does_not_exist_so_that_libc_asks_for_clone(machine: str) -> None:
    assert verdict(machine, 435) == ENOSYS
    assert verdict(machine, seal.refused(machine)["clone"]) == EPERM


@pytest.mark.parametrize(("machine", "calls"), [("x86_64", (9, 10, 329)), ("aarch64", (222, 226, 288))])
def test_memory_is_never_executable(machine: str, calls: tuple[int, ...]) -> None:
    for call in calls:
        for protection in range(8):
            assert verdict(machine, call, 0, 4096, protection) == (EPERM if protection & 4 else ALLOW)
        assert verdict(machine, call, 4, 4, 3, 4, 4, 4) == ALLOW


@pytest.mark.parametrize(("machine", "call"), [("x86_64", 302), ("aarch64", 261)])
def test_limits_of_other_processes_are_out_of_reach(machine: str, call: int) -> None:
    assert verdict(machine, call, 0, 7) == ALLOW
    assert verdict(machine, call, 1, 7) == EPERM


@pytest.mark.parametrize(("machine", "call"), [("x86_64", 16), ("aarch64", 29)])
def test_only_harmless_ioctls_are_left(machine: str, call: int) -> None:
    tcgets, tiocsti, tioclinux, dirty_high_half = 0x5401, 0x5412, 0x541C, 1 << 32 | 0x5412
    assert verdict(machine, call, 0, tcgets) == ALLOW
    for request in (tiocsti, tioclinux, dirty_high_half):
        assert verdict(machine, call, 0, request) == EPERM
