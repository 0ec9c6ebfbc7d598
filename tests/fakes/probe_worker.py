"""A worker that does what it is told, to find out what a sealed worker can do. Runs in [worker] in place of main.

The real monitor starts it, and the real drop.py seals it. Each packet is a Python expression; the answer is JSON:
{"value": repr}, or {"errno": number, "error": text}. Fds that come along are put into `fds`.
"""

import ctypes
import errno
import fcntl
import json
import mmap
import os
import resource
import socket
import struct
import sys
import threading
import time

PRELOAD = ("select",)

libc = ctypes.CDLL(None, use_errno=True)


def call(number: int, *arguments: int) -> int:
    """A raw system call; raises OSError."""
    result: int = libc.syscall(ctypes.c_long(number), *map(ctypes.c_long, arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def rename_no_replace(old: str, new: str) -> None:
    if libc.renameat2(-100, old.encode(), -100, new.encode(), 1) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def link_unnamed(directory: str, name: str) -> str:
    """A file without a name becomes one: what restoring does."""
    here = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    fd = os.open(".", os.O_TMPFILE | os.O_RDWR, 0o600, dir_fd=here)
    os.write(fd, b"content")
    os.fsync(fd)
    os.link(f"/proc/self/fd/{fd}", name, dst_dir_fd=here, follow_symlinks=True)
    with open(f"{directory}/{name}") as stream:
        return stream.read()


def start_thread() -> None:
    thread = threading.Thread(target=time.time)
    try:
        thread.start()
    except RuntimeError as error:  # Python's word for EPERM and EAGAIN of clone
        raise OSError(errno.EPERM, str(error)) from None
    thread.join()


def serve(channel_fd: int, home: bytes, uid: int, seals: dict[str, int]) -> int:
    channel = socket.socket(fileno=channel_fd)
    channel.send(json.dumps({"home": home.decode(), "uid": uid, "seals": seals, "argv": sys.argv}).encode())
    fds: list[int] = []
    names = {"fds": fds, "home": home.decode(), "fcntl": fcntl, "mmap": mmap, "resource": resource, "struct": struct}
    while True:
        packet, control, _, _ = channel.recvmsg(65536, socket.CMSG_SPACE(64), socket.MSG_CMSG_CLOEXEC)
        if not packet:
            return 0
        fds += [fd for _, _, data in control for (fd,) in struct.iter_unpack("i", data)]
        try:
            answer: dict[str, object] = {"value": repr(eval(packet, globals() | names))}  # noqa: S307  that is its job
        except OSError as error:
            answer = {"errno": error.errno, "error": str(error)}
        channel.send(json.dumps(answer).encode())
