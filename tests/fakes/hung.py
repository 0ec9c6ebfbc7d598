"""A file system that never answers, mounted over a directory: who looks into it hangs in the kernel, killed or not.

FUSE, spoken by hand: INIT is answered, every other request is taken and kept. A request that was taken cannot be
given up by who waits for it, not even when that is killed: what a file server that is gone does to its clients. Closing
the device ends the file system, and with it all waits. Root is needed; nobody may look at the directory meanwhile.
"""

import ctypes
import os
import select
import struct
import threading
from pathlib import Path
from typing import Self

_HEAD = struct.Struct("<IIQ")  # of a request: length, opcode, unique
_INIT = 26
_REQUEST_BYTES = 1 << 17
_MNT_DETACH = 2
_libc = ctypes.CDLL(None, use_errno=True)


class Hung:
    """`uid`, `gid`: who may use it, and hangs; others are refused. None: everybody hangs."""

    def __init__(self, directory: str | Path, uid: int | None = None, gid: int = 0) -> None:
        self._directory = os.fsencode(directory)
        self._options = f"rootmode=40700,user_id={uid or 0},group_id={gid}" + ("" if uid else ",allow_other")
        self.taken = 0  # requests

    def __enter__(self) -> Self:
        self._device = os.open("/dev/fuse", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        options = f"fd={self._device},{self._options}".encode()
        if _libc.mount(b"hung", self._directory, b"fuse", 0, options) < 0:
            number = ctypes.get_errno()
            os.close(self._device)
            raise OSError(number, f"mount: {os.strerror(number)}")
        self._end, self._wake = os.pipe2(os.O_CLOEXEC)
        self._thread = threading.Thread(target=self._take)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """Whoever waits need not any more."""
        if not self._thread.is_alive():
            return
        os.write(self._wake, b"x")
        self._thread.join()
        for fd in (self._device, self._end, self._wake):
            os.close(fd)
        assert _libc.umount2(self._directory, _MNT_DETACH) == 0

    def _take(self) -> None:
        poll = select.poll()
        for fd in (self._device, self._end):
            poll.register(fd, select.POLLIN)
        while all(fd != self._end for fd, _ in poll.poll()):
            data = os.read(self._device, _REQUEST_BYTES)
            _, opcode, unique = _HEAD.unpack_from(data)
            if opcode == _INIT:
                # fuse_init_out of protocol 7.31: version, readahead, flags, background, write size, and zeros.
                answer = struct.pack("<4I2H2I36x", 7, 31, 0, 0, 0, 0, 4096, 0)
                os.write(self._device, struct.pack("<IiQ", 16 + len(answer), 0, unique) + answer)
            else:
                self.taken += 1
