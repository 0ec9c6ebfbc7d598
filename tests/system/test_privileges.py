"""As root: the limits of the real monitor's workers, what they cannot do once sealed, and what they still can.

What they are: attacks/test_workers_dropped.py. What nobody can do to them: attacks/test_inspected_workers.py.

The test is in the daemon's place (tests/fakes/monitored.py); what the kernel says about a worker is read as root.
"""

import os
import pty
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from clamscannerd.spawn import explain
from clamscannerd.worker import seal
from tests.fakes.accounts import Person, throw_away
from tests.fakes.monitored import (
    fds_of,
    probing,
    proc,
    running_monitor,
    spawning,
    start_by_hand,
)

THREE = 1 << 5 | 1 << 6 | 1 << 7
RACES = 80


@pytest.fixture(scope="module")
def alice() -> Iterator[Person]:
    with throw_away("alice", "one", "two") as account:
        yield account


@pytest.fixture(scope="module")
def bob() -> Iterator[Person]:
    with throw_away("bob") as account:
        yield account


# --- what a worker is --------------------------------------------------------------------------------------------


async def test_a_workers_limits_are_set(alice: Person) -> None:
    async with spawning() as (spawner, _), probing(spawner, alice) as probe:
        limits = proc(probe.worker.pid, "limits")
        assert re.search(r"Max core file size +0 +0 ", limits)
        assert re.search(r"Max open files +256 +256 ", limits)
        assert re.search(rf"Max address space +{1 << 30} +{1 << 30} ", limits)
        assert re.search(r"Max cpu time +77 +82 ", limits)


async def test_the_worker_says_which_seals_are_on(alice: Person) -> None:
    async with spawning() as (spawner, _), probing(spawner, alice) as probe:
        abi = seal._syscall(444, None, 0, 1)
        assert probe.hello["seals"] == {"seccomp": 1, "landlock": max(abi, 0)}
        assert probe.hello["home"] == alice.home
        assert probe.hello["uid"] == alice.uid


def test_a_terminal_is_not_handed_to_a_users_process(alice: Person) -> None:
    ours, theirs = pty.openpty()
    with running_monitor(stderr=theirs) as monitor:
        os.close(theirs)
        end, pid = start_by_hand(monitor, alice)
        assert fds_of(pid)[2] == "/dev/null"
        assert "pts" in fds_of(monitor.process.pid)[2]
        end.close()
    os.close(ours)


# --- what a sealed worker cannot do, and what it still can -------------------------------------------------------

FORBIDDEN = [
    "os.execv('/bin/true', ['true'])",
    "os.fork()",
    "os.posix_spawn('/bin/true', ['true'], {})",
    "start_thread()",
    "socket.socket(socket.AF_UNIX)",
    "socket.socket(socket.AF_INET)",
    "socket.socketpair()",
    "socket.socket(fileno=os.dup(3)).accept()",
    "socket.socket(fileno=os.dup(3)).bind(b'\\0name')",
    "socket.socket(fileno=os.dup(3)).connect('/run/x')",
    "os.kill(os.getppid(), 0)",
    "os.kill(-1, 0)",
    "os.pidfd_open(os.getpid())",
    "call(101, 0, 0, 0, 0)",  # ptrace TRACEME
    "call(310, os.getpid(), 0, 0, 0, 0, 0)",  # process_vm_readv
    "call(438, 0, 0, 0)",  # pidfd_getfd
    "call(165, 0, 0, 0, 0, 0)",  # mount
    "call(272, 0x10000000)",  # unshare user namespace
    "call(56, 0x10000000 | 17, 0, 0, 0, 0)",  # clone with a user namespace
    "call(250, 0, -3, 1)",  # keyctl
    "call(321, 0, 0, 0)",  # bpf
    "call(323, 1)",  # userfaultfd
    "call(425, 1, 0)",  # io_uring_setup
    "call(298, 0, 0, -1, -1, 0)",  # perf_event_open
    "call(157, 4, 1, 0, 0, 0)",  # prctl PR_SET_DUMPABLE
    "call(135, 0x0400000)",  # personality READ_IMPLIES_EXEC
    "call(304, 3, 0, 0)",  # open_by_handle_at
    "os.chroot('/')",
    "os.setuid(0)",
    "os.setgroups([0])",
    "os.mknod(home + '/device')",
    "os.mkfifo(home + '/fifo')",
    "fcntl.ioctl(3, 0x5412, b'x')",  # TIOCSTI
    "mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC)",
    "resource.prlimit(os.getppid(), resource.RLIMIT_NOFILE)",
    "os.setpriority(os.PRIO_USER, os.getuid(), 19)",
    "os.open('/etc/passwd', os.O_RDONLY)",
    "os.open('/proc/self/status', os.O_RDONLY)",
    "os.open('/tmp/csd-test-escape', os.O_CREAT | os.O_WRONLY)",
    "os.open('/dev/shm', os.O_RDONLY)",
    "os.mkdir('/tmp/csd-test-escape')",
    "os.listdir('/')",
    "os.rename(home + '/inside', '/tmp/csd-test-escape')",
    "os.link(home + '/inside', '/tmp/csd-test-escape')",
    "os.truncate('/tmp/csd-test-outside', 0)",
]

ALLOWED = [
    ("os.read(os.open(home + '/inside', os.O_RDONLY), 99)", "b'inside'"),
    ("os.listdir(home)", "['inside']"),
    ("os.read(fds[0], 4)", "b'root'"),  # an fd from above, of a file that it could not open
    ("fcntl.fcntl(4, fcntl.F_GETFD)", "0"),
    ("link_unnamed(home, 'linked')", "'content'"),
    ("rename_no_replace(home + '/linked', home + '/moved')", "None"),
    ("os.utime(home + '/moved', ns=(1, 2))", "None"),
    ("os.chmod(home + '/moved', 0o640)", "None"),
    ("os.truncate(home + '/moved', 3)", "None"),
    ("os.mkdir(home + '/d')", "None"),
    ("os.rename(home + '/moved', home + '/d/moved')", "None"),  # LANDLOCK_ACCESS_FS_REFER
    ("os.unlink(home + '/d/moved')", "None"),
    ("os.rmdir(home + '/d')", "None"),
    ("os.write(os.memfd_create('mail'), b'x' * 9)", "9"),
    ("len(os.getrandom(16))", "16"),
    ("len(mmap.mmap(-1, 1 << 20))", "1048576"),
    ("time.sleep(0)", "None"),
    ("os.isatty(1)", "False"),
    ("resource.getrlimit(resource.RLIMIT_NOFILE)[0]", "256"),
    ("os.stat('/etc/passwd').st_uid", "0"),
]  # fmt: skip


@pytest.fixture
def inside(alice: Person) -> Iterator[Path]:
    path = Path(alice.home, "inside")
    for extra in Path(alice.home).iterdir():
        extra.unlink()
    path.write_text("inside")
    os.chown(path, alice.uid, alice.gid)
    outside = Path("/tmp/csd-test-outside")
    outside.write_text("outside")
    outside.chmod(0o666)
    yield path
    assert outside.read_text() == "outside"
    outside.unlink()
    assert not Path("/tmp/csd-test-escape").exists()
    path.unlink()


@pytest.fixture
def outside_fd() -> Iterator[int]:
    """A file that the account itself cannot open, as fds from the daemon are."""
    with open("/etc/shadow", "rb") as stream:
        yield stream.fileno()


@pytest.mark.usefixtures("inside")
async def test_a_sealed_worker_is_refused_what_no_job_needs(alice: Person) -> None:
    async with spawning() as (spawner, _), probing(spawner, alice) as probe:
        for expression in FORBIDDEN:
            answer = await probe.ask(expression)
            # EXDEV is Landlock's word for a link or rename that would change what may be done to the file.
            assert answer.get("errno") in (1, 13, 18), (expression, answer)


@pytest.mark.usefixtures("inside")
async def test_a_sealed_worker_can_still_do_its_job(alice: Person, outside_fd: int) -> None:
    async with spawning() as (spawner, _), probing(spawner, alice) as probe:
        await probe.ask("None", outside_fd)
        for expression, value in ALLOWED:
            assert await probe.ask(expression) == {"value": value}, expression


async def test_the_home_of_another_is_out_of_reach(alice: Person, bob: Person) -> None:
    os.chmod(bob.home, 0o777)  # noqa: S103  so that nothing but the seal is in the way
    try:
        async with spawning() as (spawner, _), probing(spawner, alice) as probe:
            for expression in (f"os.listdir({bob.home!r})", f"os.mkdir({bob.home + '/d'!r})"):
                assert (await probe.ask(expression)).get("errno") == 13
    finally:
        os.chmod(bob.home, 0o700)


async def test_a_home_that_cannot_be_opened_leaves_a_worker_that_can_say_so(bob: Person) -> None:
    os.rename(bob.home, bob.home + ".away")
    try:
        async with spawning() as (spawner, _), probing(spawner, bob) as probe:
            assert probe.hello["home"] == bob.home
            assert (await probe.ask(f"os.listdir({bob.home!r})")).get("errno") == 2
            assert (await probe.ask("os.listdir('/tmp')")).get("errno") == 13
    finally:
        os.rename(bob.home + ".away", bob.home)


def test_the_table_names_the_calls_of_this_kernel() -> None:
    """The numbers of the filter are the kernel's, for every call that its headers know."""
    for machine, header, flags in (
        ("x86_64", "asm/unistd_64.h", []),
        (
            "aarch64",
            "asm-generic/unistd.h",
            ["-D__BITS_PER_LONG=64", "-D__ARCH_WANT_SYS_CLONE3", "-D__ARCH_WANT_MEMFD_SECRET"],
        ),
    ):
        if machine == "x86_64" and os.uname().machine != "x86_64":
            continue
        words = ["gcc", "-E", "-dM", *flags, "-include", header, "-x", "c", "/dev/null"]
        text = subprocess.run(words, check=True, capture_output=True, text=True).stdout
        numbers = dict(re.findall(r"#define __NR_(\w+) (\d+)", text))
        known_here = {name: str(number) for name, number in seal.refused(machine).items() if name in numbers}
        assert len(known_here) > 90
        assert known_here == {name: numbers[name] for name in known_here}


# --- what its user can do to it ----------------------------------------------------------------------------------


async def test_the_user_can_kill_a_worker_and_the_daemon_learns_of_it(alice: Person) -> None:
    async with spawning() as (spawner, _), probing(spawner, alice) as probe:
        kill = ["setpriv", f"--reuid={alice.uid}", "--clear-groups", "/bin/kill", "-KILL", str(probe.worker.pid)]
        await trio.run_process(kill)
        with trio.fail_after(10):
            assert explain(await probe.worker.wait()) == "signal 9"
