"""What rpc.discover says of starting scans and ending them. Data; [daemon]. As described.py, which has the rest."""

from collections.abc import Mapping

from clamscannerd.rpc import answers
from clamscannerd.rpc.describing import Described, Example

SCANS: Mapping[str, Described] = {
    "Scan.start": Described(
        summary="Starts, or queues, a scan of one type, or of any files and directories, and answers at once.",
        answer=answers.ScanBegun,
        params={
            "scan_type": "One of those that get_scan_paths lists; null: `paths` are named.",
            "paths": "Absolute, or relative to the home, within what may be scanned; 100 at most. Links are refused.",
            "recent_s": "Only files that changed (ctime) within so many seconds before now; null: all.",
            "scheduled": "A timer asks: scans that somebody waits for go first, and get more of the engine.",
            "depth": "full: unchanged files that were clean under the present signatures are; rapid, where it is"
            " permitted: also under earlier ones for a time; nocache: every file goes to the engine.",
        },
        errors=("refused",),
        examples=(
            Example(
                name="what changed in one directory in the last two days",
                params={"paths": ["public_html"], "recent_s": 172800},
                answer={"scan_id": 13, "queue_position": 0, "warnings": []},
            ),
        ),
    ),
    "Scan.cancel": Described(
        summary="Stops the scan and answers when it has ended; what it has found stays listed.",
        answer=answers.ScanCancelled,
        errors=("not_found",),
        examples=(
            Example(name="stop it", answer={"scan_id": 12, "state": "cancelled"}, needs="a scan queued or under way"),
        ),
    ),
    "Scan.pause": Described(
        summary="Holds the scan until it is resumed, over restarts of the daemon too; what it has found stays listed.",
        answer=answers.ScanPaused,
        errors=("not_found", "refused"),
        examples=(
            Example(name="hold it", answer={"scan_id": 12, "state": "paused"}, needs="a scan queued or under way"),
        ),
    ),
    "Scan.resume": Described(
        summary="Lets a paused scan go on; one that had begun starts over under its id, what it had found first.",
        answer=answers.ScanResumed,
        errors=("not_found",),
        examples=(
            Example(
                name="go on",
                answer={"scan_id": 12, "state": "queued", "queue_position": 1},
                needs="a scan that is paused",
            ),
        ),
    ),
}
