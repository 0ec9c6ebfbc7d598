"""How many jobs run at once. [daemon] Pure.

Scans of timers take no place of one that somebody waits for: people's scans have all the places, whatever else runs,
and a timer's starts while fewer than that run in all. So there are twice as many at the most; what the engine gets is
the same (pipeline/shares.py). Rejected: sending a timer's scan back to the queue for another (it would start over), and
one place kept free (the second who asks would wait for somebody's whole home).
"""

from collections.abc import Iterable

from clamscannerd.model import Frozen
from clamscannerd.state.store_values import Job


class Slots(Frozen, frozen=True, kw_only=True):
    """Of each kind; of scans as many again, if the first ones are a timer's."""

    scans: int
    tasks: int

    def free_for(self, job: Job, running: Iterable[Job]) -> bool:
        """Whether there is room beside those that run."""
        alike = [other for other in running if other.kind == job.kind]
        if job.kind == "task":
            return len(alike) < self.tasks
        before = alike if job.scheduled else [other for other in alike if not other.scheduled]
        return len(before) < self.scans
