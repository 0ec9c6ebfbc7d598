"""Tries what a hijacked engine could try: other processes, files and directories by path, sockets. Says what it got.

A script of its own: it runs as another user. Its input is a JSON object: `pids`, `directories`, `files`, `sockets` and
`own`, a directory of its own user. First it proves on a child, a file and a socket of its own that it can: "able WHAT
HOW". Then a line for each success, "got WHAT HOW", and "tried NUMBER" at its end.
"""

import ctypes
import json
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable, Iterator

LIBC = ctypes.CDLL(None, use_errno=True)
PIDFD_GETFD, PROCESS_VM_READV = 438, 310
PTRACE_SEIZE, PTRACE_DETACH = 0x4206, 17
FDS = 24
CALLS = ("Daemon.reload", "ClamScanner.get_scan_paths", "ClamScanner.list_infected_files", "Quarantine.list")

Attempt = tuple[str, Callable[[], object]]


def checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), "refused")
    return result


def on_process(pid: int) -> Iterator[Attempt]:
    place = f"/proc/{pid}"
    yield "mem", lambda: os.close(os.open(f"{place}/mem", os.O_RDONLY))
    yield "mem, writing", lambda: os.close(os.open(f"{place}/mem", os.O_RDWR))
    yield "environ", lambda: os.close(os.open(f"{place}/environ", os.O_RDONLY))
    yield "list of fds", lambda: os.listdir(f"{place}/fd")
    yield "files behind fds", lambda: os.close(os.open(f"{place}/fd/0", os.O_RDONLY))
    yield "root", lambda: os.listdir(f"{place}/root/")
    yield "signal", lambda: os.kill(pid, 0)
    yield "ptrace", lambda: trace(pid)
    yield "limits", lambda: resource.prlimit(pid, resource.RLIMIT_NOFILE)
    yield "priority", lambda: os.setpriority(os.PRIO_PROCESS, pid, 19)
    for fd in range(FDS):
        yield "pidfd_getfd", lambda fd=fd: take_fd(pid, fd)  # type: ignore[misc]


def trace(pid: int) -> None:
    checked(LIBC.ptrace(ctypes.c_long(PTRACE_SEIZE), ctypes.c_long(pid), None, None))
    LIBC.ptrace(ctypes.c_long(PTRACE_DETACH), ctypes.c_long(pid), None, None)


def take_fd(pid: int, fd: int) -> None:
    pidfd = os.pidfd_open(pid)
    try:
        os.close(checked(LIBC.syscall(ctypes.c_long(PIDFD_GETFD), pidfd, fd, 0)))
    finally:
        os.close(pidfd)


def on_directory(path: str) -> Iterator[Attempt]:
    new = f"{path}/.intruder"
    yield "listing", lambda: os.listdir(path)
    yield "entering", lambda: os.chdir(path)
    yield "making a file", lambda: os.close(os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    yield "removing a file", lambda: os.unlink(new)
    yield "making a directory", lambda: os.mkdir(new)
    yield "removing a directory", lambda: os.rmdir(new)
    yield "mode", lambda: os.chmod(path, 0o777)  # noqa: S103


def on_file(path: str) -> Iterator[Attempt]:
    yield "reading", lambda: os.close(os.open(path, os.O_RDONLY))
    yield "writing", lambda: os.close(os.open(path, os.O_WRONLY))
    yield "linking", lambda: os.link(path, f"{path}.intruder")
    yield "renaming", lambda: os.rename(path, f"{path}.intruder")
    yield "renaming back", lambda: os.rename(f"{path}.intruder", path)
    yield "mode", lambda: os.chmod(path, 0o666)  # noqa: S103


def on_socket(path: str, user: str) -> Iterator[Attempt]:
    """Whoever can connect may; what counts is whether anything is answered."""
    for method in CALLS:
        for params in ({}, {"user": user}):
            yield method, lambda method=method, params=params: call(path, method, params)  # type: ignore[misc]


def call(path: str, method: str, params: dict[str, str]) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)
        sock.sendall(json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode() + b"\n")
        if "error" in json.loads(sock.makefile("rb").readline()):
            raise PermissionError


def attempt(word: str, what: str, attempts: Iterator[Attempt]) -> int:
    count = 0
    for how, act in attempts:
        count += 1
        try:
            act()
        except OSError:
            continue
        print(word, what, how, sep="\t", flush=True)
    return count


def prove(own: str) -> None:
    """The same attempts on what is its own succeed."""
    child = os.fork()
    if child == 0:
        signal.pause()
    os.makedirs(f"{own}/mine", exist_ok=True)
    with open(f"{own}/file", "w") as stream:
        stream.write("mine")
    attempt("able", "process", on_process(child))
    attempt("able", "directory", on_directory(f"{own}/mine"))
    attempt("able", "file", on_file(f"{own}/file"))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def main() -> None:
    told = json.load(sys.stdin)
    prove(told["own"])
    tried = 0
    for pid in told["pids"]:
        tried += attempt("got", f"process {told['pids'][pid]}", on_process(int(pid)))
    for path in told["directories"]:
        tried += attempt("got", path, on_directory(path))
    for path in told["files"]:
        tried += attempt("got", path, on_file(path))
    for path in told["sockets"]:
        tried += attempt("got", path, on_socket(path, told["user"]))
    print("tried", tried, sep="\t", flush=True)


if __name__ == "__main__":
    main()
