"""The claims that SECURITY.md makes, row by row, and the figures of the latest long run of each.

    tests/run --long [ROW...]            the long form of these rows; what passed goes into tests/figures.json
    python -m tests.claims               write the table of SECURITY.md afresh from both

A test says which row it belongs to with `@pytest.mark.row("A1")`, and which deliberately broken build it was seen to
fail with by `@pytest.mark.fails_with("NAME")` (tests/mutations/). It takes its amounts from the fixture `amount` and
reports what it counted or measured to the fixture `figure`. tests/conftest.py has the fixtures and the options.
"""

import json
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
FIGURES = ROOT / "tests/figures.json"
DOCUMENT = ROOT / "SECURITY.md"
START, END = "<!-- claims: written by python -m tests.claims -->\n", "<!-- end of claims -->\n"


class Claim(NamedTuple):
    """One row. `holds`: what must be seen for it to pass."""

    id: str
    claim: str
    tried: str
    holds: str


CLAIMS = (
    Claim(
        "A1",
        "swapping a directory with a link never redirects an action",
        "real directory and link to another's tree, to a copy of /etc, exchanged during delete, quarantine, cleanse and"
        " restore; 50,000 flips or more",
        "the other trees are as they were",
    ),
    Claim(
        "A2",
        "swapping the file (link, directory, FIFO, socket) neither",
        "the same on the last component",
        "the same; no call takes over 1 s",
    ),
    Claim(
        "A3",
        "an innocent file is never deleted by a race",
        "infected and clean exchanged in one directory, 20,000 actions",
        "no clean content lost; every answer true",
    ),
    Claim(
        "A4",
        "hard links are harmless",
        "fs.protected_hardlinks off, B's and root's files linked into A's home, every action",
        "their bytes, mode and owner are as they were",
    ),
    Claim(
        "A5",
        "the path of the log cannot be abused",
        "link, FIFO, directory, hard link, root's file, 9 MB, quota exceeded",
        "the task ends, at most 2 s slower, the victim as it was",
    ),
    Claim(
        "A6",
        "no access to another account, and no oracle",
        "B's paths, absolute, with `..`, through links and /proc/self/root, NUL; numbers of B's scans, tasks, items",
        "the same answer whether it exists or not; medians within 5 % or 50 us",
    ),
    Claim(
        "A7",
        "special files never stall a scan",
        "1,000 each of FIFO, socket, leased file",
        "ends within 60 s, each counted with its reason",
    ),
    Claim(
        "A8",
        "tree bombs are bounded",
        "20,000 levels; 1,000,000 files; names of 255 bytes",
        "ends or says which limit; daemon < 150 MB, worker < 200 MB and < 64 fds",
    ),
    Claim(
        "A9",
        "never clean without a whole scan",
        "over the limit, encrypted, big member of a zip, zip bomb, 1 TiB sparse, changed while scanned; private engine,"
        " and a shared one with Debian's clamd.conf",
        "not scanned, with the reason; or the engine is said to be blind to it",
    ),
    Claim(
        "A10",
        "the socket survives fuzzing",
        "1,000,000 inputs, made up and recordings changed",
        "no crash, one answer for each request with an id, < 200 MB",
    ),
    Claim(
        "A11",
        "slow and silent clients are bounded",
        "1 byte/s, no newline, a line too long, half closed; 10,000 idle ones of an admin, A's own up to the limit",
        "closed in time; others' p99 < 250 ms",
    ),
    Claim("A12", "open files sent at the socket leak nothing", "253 fds x 1,000 messages", "the fd count is as it was"),
    Claim(
        "A13",
        "identity is the kernel's at connect",
        "root of a user namespace, setuid after connect, a connector that died, subuid, 65534",
        "A stays A; who is unknown is refused",
    ),
    Claim(
        "A14",
        "workers have dropped everything",
        "/proc/PID/status of all, under load",
        "4 uids, exact groups, four capability sets empty, bounding set the unit's three at most, NoNewPrivs, seccomp,"
        " the named fds",
    ),
    Claim(
        "A15",
        "a worker cannot be inspected by its user",
        "mem, ptrace, pidfd_getfd, raced from its start, 200 workers",
        "0 of 200",
    ),
    Claim(
        "A16",
        "names cannot forge anything",
        r"`\n`, `: X FOUND`, `fd[10]: OK`, JSON and journal syntax",
        "the right file, nothing forged",
    ),
    Claim(
        "A17",
        "odd accounts are refused",
        "home /, /root, relative, a link, not owned, shared, missing; uid 0",
        "an error; nothing is read",
    ),
    Claim(
        "A18",
        "no call by path on users' paths in privileged code or in the worker",
        "reading the syntax tree, with a list of exceptions and their reasons",
        "none",
    ),
    Claim(
        "A19",
        "the engine cannot reach us",
        "a process under its uid tries the daemon's memory, state, vault, sockets, and homes by path",
        "refused",
    ),
    Claim(
        "A20",
        "what was said of one account is not said of another",
        "uid reused by a new name; home replaced; account removed during a job",
        "old rows for admins alone; nothing acts",
    ),
    Claim(
        "R1",
        "kill -9 loses nothing",
        "1,000 random kills in 10,000 queued actions",
        "each acknowledged action ends once; nothing lost or doubled",
    ),
    Claim(
        "R2",
        "no crash point loses anything",
        "SIGKILL before each call that changes something, of every action, restore and cleanse; 200 points or more",
        "the same, at each",
    ),
    Claim(
        "R3",
        "no errno loses anything",
        "EIO, ENOSPC, EDQUOT, EMFILE, ENOMEM at each such point; a failed fsync is not taken for one that worked",
        "reported or retried; the same",
    ),
    Claim(
        "R4",
        "trouble with the engine is never a verdict",
        "clamd killed, stopped for 60 s, reloaded, its socket gone; replies empty, garbage, late, partial, doubled,"
        " of foreign ids",
        "never clean or infected from it; goes on within 60 s of recovery",
    ),
    Claim(
        "R5",
        "a full disk is refused, not discovered",
        "state on a small tmpfs",
        "refused when asked; recovers by itself",
    ),
    Claim(
        "R6",
        "the database survives",
        "torn WAL, cut file, wrong version, read-only",
        "a clear refusal, or recovery with the backup kept; never loss in silence",
    ),
    Claim(
        "R7",
        "clock and restarts do no harm",
        "jumps of a day either way, SIGTERM under load, upgrade from the version before",
        "gone within 10 s; nothing lost; no storms",
    ),
    Claim(
        "R8",
        "nobody outlives whom it should not",
        "daemon, monitor, worker, engine each killed and stopped at work; two daemons on one state",
        "all end that must; no job acts twice",
    ),
    Claim(
        "L1",
        "one account's load is not another's",
        "10,000 idle connections of an admin, 200 active; 1,000 calls/s of one against 50 others",
        "others' p95 <= 2 times the baseline, or 20 ms",
    ),
    Claim(
        "L2",
        "it can run for ever",
        "40 min of mixed work",
        "memory grows by less than 1 MB/h; fds and processes stay as many",
    ),
)


def table() -> str:
    """The rows as Markdown, with the figures of the latest long run."""
    figures = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
    lines = ["| | claim | tried by | passes when | latest long run |", "|---|---|---|---|---|"]
    for row in CLAIMS:
        latest = figures.get(row.id)
        said = f"{latest['date']}: {'; '.join(latest['figures'])} ({latest['seconds']:.0f} s)" if latest else "not yet"
        lines.append(f"| {row.id} | {row.claim} | {row.tried} | {row.holds} | {said} |")
    return "\n".join(lines) + "\n"


def document() -> str:
    """SECURITY.md with the table as it should be."""
    before, rest = DOCUMENT.read_text().split(START)
    return before + START + "\n" + table() + "\n" + END + rest.split(END)[1]


if __name__ == "__main__":
    DOCUMENT.write_text(document())
