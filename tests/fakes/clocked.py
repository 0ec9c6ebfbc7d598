"""clamscannerd with a wall clock that the test sets: python clocked.py FILE [arguments of clamscannerd].

FILE holds how many seconds the clock is off, and may be changed at any time. The real clock is everybody's on the
machine, and a time namespace has none of its own; all of the daemon's looks at it go through time.time. Workers and
engine keep the real one: they do not look.
"""

import sys
import time
from pathlib import Path


class Clock:
    """For the test: `daemon.program = clock.program` before the start."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.program = [sys.executable, __file__, str(file)]
        self.jumps = -1
        self.set(0.0)

    def set(self, off_s: float) -> None:
        fresh = self._file.with_suffix(".new")
        fresh.write_text(str(off_s))
        fresh.replace(self._file)
        self.jumps += 1


def _set_off(file: Path) -> None:
    real = time.time
    time.time = lambda: real() + float(file.read_text())


if __name__ == "__main__":
    _set_off(Path(sys.argv.pop(1)))
    from clamscannerd.launch import main

    sys.exit(main())
