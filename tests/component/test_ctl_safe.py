"""No view lets a name, a signature or a mail's words act on a terminal: in a pipe and on a pty, every command.

The commands are those of the program: a new one has to be entered here, or the first test fails.
"""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from clamscannerd.ctl.commands import cli
from clamscannerd.ctl.main import main as _registers  # noqa: F401  the commands
from tests.fakes.answers import DISINFECTED, disinfection, done, infected_rows, status
from tests.fakes.daemon import FakeDaemon, envelope
from tests.fakes.terminal import Terminal, ctl

EVIL = "/home/x/a\nb\x1b]0;owned\x07\x1b[31m\u202egpj.exe\u2066\u200f\x9b1m\\xff\x7f\r"
WORDS = EVIL.removeprefix("/home/x/")
TASK = "00000007/5a9ec8dd4c345d"

BIDI = "\u202e\u2066\u200f\x9b"
OURS = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")
"""What click, rich and the terminal driver write themselves: colours and moves; never what sets a title."""

MESSAGE = {
    "number": 1,
    "start": 0,
    "end": 1,
    "message_id": WORDS,
    "subject": WORDS,
    "from": WORDS,
    "date": WORDS,
    "virus_type": WORDS,
}
FOUND: dict[str, Any] = {"file": EVIL, "virus_type": WORDS, "size": 1, "mtime": 0.0, "owner": 0, "found_at": 0.0}
ENGINE = {"version": WORDS, "database": 1, "database_time": 0.0, "blind": [WORDS]}
STATUS = status(infected_files=[EVIL], infected_file_count=2, scan_type=WORDS, engine=ENGINE, not_scanned={WORDS: 3})
SCAN: dict[str, Any] = {
    **STATUS["result"]["data"],
    "time_ended": 1.0,
    "findings": {WORDS: 1},
    "warnings": [WORDS],
    "files": [{**FOUND, "state": WORDS}],
    "not_scanned_files": [{"file": EVIL, "reason": WORDS}],
}
STEP = {"type": "step", "id": 1, "file": EVIL, "state": "error", "message": WORDS, "item": 1}
ISSUE = {"type": "issue", "id": 2, "state": "warning", "message": WORDS}
ITEM = {
    "id": 1,
    "file": EVIL,
    "state": "quarantined",
    "size": 1,
    "sha256": WORDS,
    "signature": WORDS,
    "engine": ENGINE,
    "kept_at": 0.0,
    "expires_at": 0.0,
    "task_id": WORDS,
    "owner": 0,
    "group": 0,
    "mode": WORDS,
    "mtime": 0.0,
}
ACCOUNT = {**SCAN, "user": WORDS, "standing": 1}
WHOLE = {
    "task_id": TASK,
    "kind": "disinfect",
    "state": "done",
    "undoes": WORDS,
    "asked_at": 0.0,
    "ended_at": 1.0,
    "steps": 1,
    "steps_ended": 1,
    "details": [STEP, ISSUE, done(3)],
}
ENTRY: dict[str, Any] = {
    "id": 1,
    "kind": WORDS,
    "value": WORDS,
    "note": WORDS,
    "added_at": 0.0,
    "added_by": 0,
    "expires_at": 1.0,
    "state": WORDS,
}
IGNORED = {**FOUND, "file": f"{EVIL}3", "ignored": {"id": 1, "kind": "path", "note": WORDS}}
EXPLAINED = {
    "file": EVIL,
    "in_home": True,
    "scan_types": [{"id": WORDS, "message": WORDS}],
    "excluded": {"pattern": WORDS, "file": f"{EVIL}2"},
    "ignored": {**ENTRY, "file": EVIL},
    "finding": {**FOUND, "state": WORDS},
    "max_file_size": 1,
    "last_scan": {**SCAN, "outcome": WORDS, "not_scanned": {"file": EVIL, "reason": WORDS}},
}
CHECK = {"id": WORDS, "grade": WORDS, "message": WORDS, "cure": WORDS}
RUNS: dict[str, Any] = {"scan_complete": 0, "state": "running", "current_file": EVIL}
EVENTS: list[tuple[str, dict[str, Any]]] = [
    ("Engine.changed", {"state": WORDS, "reason": WORDS, "signatures": 1, "engine": ENGINE}),
    ("Scan.progress", {**SCAN, **RUNS}),
    ("Scan.finding", {"scan_id": 3, **FOUND}),
    ("Scan.done", SCAN),
    ("Task.step", {"task_id": TASK, "kind": WORDS, "record": STEP}),
    ("Task.step", {"task_id": TASK, "kind": WORDS, "record": ISSUE}),
    ("Task.done", {"task_id": TASK, "kind": WORDS}),
]
TOLD: list[dict[str, Any]] = [
    {"id": 1, "result": {"user": WORDS, "kinds": []}},
    *({"method": method, "params": {"user": WORDS, **params}} for method, params in EVENTS),
    {"id": None, "error": {"code": -32003, "message": WORDS, "data": {"kind": WORDS}}},
]
ANSWERS: dict[str, list[Any]] = {
    "Events.subscribe": [b"".join(json.dumps({"jsonrpc": "2.0", **line}).encode() + b"\n" for line in TOLD)],
    "ClamScanner.get_scan_paths": [envelope("get_scan_paths", [{"id": WORDS, "message": WORDS}], warnings=[WORDS])],
    "ClamScanner.start_scan": [envelope("start_scan", {"scan_id": 3, "queue_position": 0}, warnings=[WORDS])],
    "ClamScanner.get_scan_status": [status(**{**STATUS["result"]["data"], **RUNS}), STATUS],
    "ClamScanner.list_infected_files": [
        infected_rows(FOUND, {**FOUND, "file": f"{EVIL}2", "message_count": 4, "messages": [MESSAGE]}, IGNORED)
    ],
    "ClamScanner.disinfect_files": [DISINFECTED],
    "ClamScanner.check_disinfection_status": [disinfection("done", {**STEP, "state": "error"}, ISSUE, done(3))],
    "Scan.cancel": [{"scan_id": WORDS, "state": WORDS}],
    "Scan.pause": [{"scan_id": WORDS, "state": "paused"}],
    "Scan.resume": [{"scan_id": WORDS, "state": WORDS, "queue_position": 1}],
    "Scan.explain": [EXPLAINED],
    "Scan.start": [{"scan_id": 3, "queue_position": 0, "warnings": [WORDS]}],
    "Scan.list": [{"scans": [SCAN]}],
    "Scan.get": [SCAN],
    "Account.list": [{"accounts": [ACCOUNT]}],
    "Task.list": [{"tasks": [WHOLE]}],
    "Task.get": [WHOLE],
    "Task.undo": [{"task_id": TASK}],
    "Quarantine.list": [{"items": [ITEM], "total": 1}],
    "Quarantine.show": [ITEM],
    "Quarantine.restore": [{"task_id": TASK}],
    "Quarantine.delete": [{"deleted": 1}],
    "Quarantine.verify": [
        {"items": 1, "intact": 0, "damaged": [1], "damaged_count": 1, "strays": [WORDS], "stray_count": 1}
    ],
    "Ignore.add": [{**ENTRY, "covers": 1}],
    "Ignore.list": [{"entries": [ENTRY], "allowed": [WORDS], "total": 1}],
    "Ignore.remove": [{"removed": 1}],
    "Daemon.health": [{"grade": "warning", "checks": [CHECK]}],
    "Daemon.self_test": [CHECK],
    "Daemon.verify": [CHECK],
}

LINES: dict[str, list[list[str]]] = {
    "paths": [["paths"]],
    "scan": [["scan", "home", "--wait"], ["scan", WORDS], ["scan", EVIL, "--recent", "2d"]],
    "status": [["status"], ["status", "--wait"], ["status", "--watch"]],
    "pause": [["pause"]],
    "resume": [["resume"]],
    "cancel": [["cancel"]],
    "infected": [["infected"]],
    "disinfect": [["disinfect", "delete", EVIL], ["disinfect", "quarantine", "--all", "--wait"], ["disinfect", WORDS]],
    "task": [["task"], ["task", "--follow"], ["task", WORDS]],
    "undo": [["undo", "--wait"], ["undo", WORDS]],
    "ignore add": [["ignore", "add", EVIL], ["ignore", "add", "--path", WORDS, "--note", WORDS]],
    "ignore list": [["ignore", "list"]],
    "ignore remove": [["ignore", "remove", "1"]],
    "quarantine list": [["quarantine", "list"]],
    "quarantine show": [["quarantine", "show", "1"], ["quarantine", "show", WORDS]],
    "quarantine restore": [["quarantine", "restore", "1", "--wait"]],
    "quarantine delete": [["quarantine", "delete", "1", "--yes"]],
    "quarantine verify": [["quarantine", "verify"]],
    "history": [["history"]],
    "report": [["report", "3", "--details"], ["report", "3", "--format", "clamscan", "--details"], ["report", "3"]],
    "health": [["health"]],
    "doctor": [["doctor"]],
    "explain": [["explain", EVIL], ["explain", WORDS]],
    "uapi": [["uapi", WORDS, WORDS, "a=b"], ["uapi", "ClamScanner", "list_infected_files"]],
    "call": [["call", "Task.get"], ["call", WORDS, WORDS]],
}
EXEMPT = {
    "metrics": "the daemon's numbers, in a format with lines of its own, which has no name in it",
    "hooks test": "its words are the records of root's own service: tests/component/test_hooks.py",
}
"""Command -> why not."""


def commands(group: click.Group, above: str = "") -> Iterator[str]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, f"{above}{name} ")
        else:
            yield f"{above}{name}"


def test_every_command_is_tried_here() -> None:
    missing = set(commands(cli)) - LINES.keys() - EXEMPT.keys()
    assert not missing, "enter them in LINES, with a line for each of their views"


def assert_safe(shown: bytes) -> None:
    """Nothing of EVIL is left that a terminal would act on, and no name was broken in two."""
    text = OURS.sub(b"", shown)
    for control in (0x1B, 0x07, 0x7F, 0x08):
        assert control not in text, text
    decoded = text.decode()  # no byte that is not UTF-8
    assert not set(BIDI) & set(decoded), text
    assert "\nb" not in decoded.replace("\r", ""), text


VIEWS = [words for lines in LINES.values() for words in lines]
VIEWS += [[*words, "--json"] for command, (words, *_) in LINES.items() if command not in ("uapi", "call")]
VIEWS += [["status", "--watch", "--json"], ["report", "3", "--format", "json"], ["report"]]
MARK = "=== view "
PROGRAM = f"""
import json, sys
from clamscannerd.ctl.main import main
for number, words in enumerate(json.loads(sys.argv[2])):
    print({MARK!r} + str(number), flush=True)
    print({MARK!r} + str(number), file=sys.stderr, flush=True)
    sys.argv[3:] = []
    given, sys.argv = sys.argv, ["clamscannerctl", "--socket", sys.argv[1], *words]
    main()
    sys.argv = given
"""
"""All views in one process: what is looked at is what they write, and starting one takes longer than that."""


def command(path: str) -> list[str]:
    return [sys.executable, "-c", PROGRAM, path, json.dumps(VIEWS)]


def assert_views_safe(shown: bytes) -> None:
    for number, part in enumerate(shown.split(MARK.encode())[1:]):
        assert_safe(part)
        assert b"Traceback" not in part, VIEWS[number // (1 if shown.count(MARK.encode()) == len(VIEWS) else 2)]
    assert shown.count(MARK.encode()) in (len(VIEWS), 2 * len(VIEWS))


def test_no_view_shows_anything_raw_in_a_pipe(tmp_path: Path) -> None:
    with FakeDaemon(tmp_path / "s", ANSWERS) as fake:
        run = subprocess.run(command(fake.path), stdin=subprocess.DEVNULL, capture_output=True, check=False)
    assert run.returncode == 0, run.stderr
    assert {method for method, _ in fake.calls} == ANSWERS.keys(), "none was asked in vain, and each was asked"
    assert_views_safe(run.stdout)
    assert_views_safe(run.stderr)
    assert b"gpj.exe" in run.stdout, "the names are there"
    assert b"usage" not in run.stderr.lower()


def test_no_view_shows_anything_raw_on_a_terminal(tmp_path: Path) -> None:
    with FakeDaemon(tmp_path / "s", ANSWERS) as fake, Terminal(command(fake.path)) as terminal:
        assert terminal.end() == 0, terminal.shown
    assert_views_safe(terminal.shown)


def test_the_walk_shows_nothing_raw(tmp_path: Path) -> None:
    answers = {**ANSWERS, "ClamScanner.get_scan_status": [STATUS]}
    with FakeDaemon(tmp_path / "s", answers) as fake, Terminal(ctl(fake.path, "disinfect")) as terminal:
        for _ in range(2):
            terminal.until("? help")
            terminal.type("q")
        terminal.until("b back\r\n")
        terminal.type("y")
        terminal.end()
    assert_safe(terminal.shown)
    assert b"Subject" in terminal.shown
