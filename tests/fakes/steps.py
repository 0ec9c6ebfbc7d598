"""clamscannerd that notes each step of its loop that held the others up: python steps.py FILE [arguments of
clamscannerd].

A step is what a task does between two awaits that give way. FILE gets a line for each that took more than LIMIT_NS:
of the processor, or asleep in the kernel. A step's wall time says little on a busy machine; so taken off are

    what the thread waited for a processor: the kernel counts it (schedstat), and the step cannot help it;
    what a virtual machine had its processors taken away: a thread that never let go of its own did not sleep, and
    what was stolen meanwhile (to a tick, as the kernel counts it) another thread may have lost with Python's lock;
    what other threads of the process computed, or waited for a processor, meanwhile: the step may have waited for
    Python's lock, as the loop does beside a thread that computes. So a call that blocks just then goes unseen, until
    it does with the other threads idle;
    Python's look for cyclic garbage, which begins in whatever step comes to it (daemon_upkeep.py says how long that
    takes). It is no doing of the step; one that takes longer than LIMIT_NS is noted as one.

It begins with READY: before, nobody is served. The program itself knows nothing of it: here the instrument
comes in when the monitor is already forked, so that the monitor is what it always is, and no fd is held open.
"""

import ctypes
import gc
import os
import resource
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import trio

LIMIT_NS: Final = 10_000_000
_TICK_NS: Final = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
_LOOK_NS: Final = 8_000_000
"""How old a look at the threads may be at the begin of a step: so much may be taken off too much."""


class Steps:
    """An instrument of trio: its methods are what trio.abc.Instrument says of them."""

    def __init__(self, note: Callable[[str], None]) -> None:
        self._note = note
        self._libc = ctypes.PyDLL(None)  # which keeps Python's lock: letting go of it is a wait for who has it then
        self._own = threading.get_native_id()
        self._begun = self._garbage = 0
        self._threads, self._stolen, self._looked = self._look(), self._stolen_now(), time.monotonic_ns()
        self._wall, self._cpu, self._sleeps = time.monotonic_ns(), time.thread_time_ns(), _sleeps()
        gc.callbacks.append(self._collecting)

    def after_run(self) -> None:
        gc.callbacks.remove(self._collecting)

    def before_task_step(self, _task: "trio.lowlevel.Task") -> None:
        self._garbage = 0
        self._wall = time.monotonic_ns()
        if self._wall - self._looked > _LOOK_NS:
            self._threads, self._stolen, self._looked = self._look(), self._stolen_now(), self._wall
            self._wall = time.monotonic_ns()
        self._sleeps = _sleeps()
        self._cpu = time.thread_time_ns()

    def after_task_step(self, task: "trio.lowlevel.Task") -> None:
        wall = time.monotonic_ns() - self._wall
        if wall <= LIMIT_NS:
            return
        cpu = time.thread_time_ns() - self._cpu
        now = self._look()
        waited = now[self._own][1] - self._threads[self._own][1]
        others = sum(sum(times) - sum(self._threads.get(tid, (0, 0))) for tid, times in now.items() if tid != self._own)
        stolen = self._stolen_now() - self._stolen if others else 0
        asleep = wall - cpu - waited - others - stolen if _sleeps() > self._sleeps else 0
        if cpu - self._garbage > LIMIT_NS or asleep > LIMIT_NS:
            self._note(
                f"{task.name}: {(cpu - self._garbage) / 1e6:.1f} ms of the processor, {max(asleep, 0) / 1e6:.1f} ms"
                f" asleep, until {_place(task)}"
            )

    def _look(self) -> dict[int, tuple[int, int]]:
        """By thread: how long it ran and how long it waited for a processor; ns."""
        threads = [thread.native_id for thread in threading.enumerate()]
        return {tid: self._times(tid) for tid in threads if tid is not None}

    def _times(self, tid: int) -> tuple[int, int]:
        ran, waited, _ = self._words(b"/proc/self/task/%d/schedstat" % tid) or (b"0", b"0", b"")  # else it ended
        return int(ran), int(waited)

    def _stolen_now(self) -> int:
        """From all processors of this machine, until now, ns: others had them."""
        return int(self._words(b"/proc/stat")[8]) * _TICK_NS

    def _words(self, path: bytes) -> list[bytes]:
        """At the begin of a file; none where it is gone."""
        fd = self._libc.open(path, os.O_RDONLY | os.O_CLOEXEC)
        if fd < 0:
            return []
        room = ctypes.create_string_buffer(200)
        size = self._libc.read(fd, room, 200)
        self._libc.close(fd)
        return room.raw[: max(size, 0)].split()

    def _collecting(self, phase: str, _info: dict[str, int]) -> None:
        if threading.get_native_id() != self._own:
            return
        now = time.thread_time_ns()
        if phase == "start":
            self._begun = now
            return
        self._garbage += now - self._begun
        if now - self._begun > LIMIT_NS:
            self._note(f"a look for garbage: {(now - self._begun) / 1e6:.1f} ms of the processor")


def _sleeps() -> int:
    """Of this thread, until now."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw


def _place(task: "trio.lowlevel.Task") -> str:
    """Where the task stands after the step, from the inmost frame that is ours."""
    frames = []
    coroutine: Any = task.coro
    while (frame := getattr(coroutine, "cr_frame", None)) is not None:
        frames.append(f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}")
        coroutine = coroutine.cr_await
    return " < ".join(reversed(frames)) or "its end"


def _instrument(file: Path) -> None:
    import trio

    from clamscannerd import systemd

    def note(line: str) -> None:
        with file.open("a") as stream:
            stream.write(line + "\n")

    notify = systemd.notify

    def ready(**words: str) -> None:
        if "READY" in words:
            systemd.notify = notify
            trio.lowlevel.add_instrument(Steps(note))  # type: ignore[arg-type]
        notify(**words)

    systemd.notify = ready


if __name__ == "__main__":
    sys.path.pop(0)  # the other files here are no modules of the program's
    os.register_at_fork(after_in_parent=partial(_instrument, Path(sys.argv.pop(1))))
    from clamscannerd.launch import main

    sys.exit(main())
