"""`clamscannerctl disinfect` alone, on a real terminal: one key a file, and nothing before the last question."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.answers import DISINFECTED, RUNNING, disinfection, done, infected_rows, status, step
from tests.fakes.daemon import FakeDaemon
from tests.fakes.terminal import Terminal, ctl

MENU = "? help"
LAST = "b back\r\n"
FACTS = {"size": 68, "mtime": 1_769_850_000.0, "owner": 0, "found_at": 1_769_860_803.0}


def plain(name: str, signature: str = "Eicar") -> dict[str, Any]:
    return {"file": f"/home/anna/{name}", "virus_type": signature, **FACTS}


def letter(number: int) -> dict[str, Any]:
    return {
        "number": number,
        "start": 0,
        "end": 1,
        "message_id": f"<{number}@x>",
        "subject": f"Invoice \u202e{number}",
        "from": f"Eve <e{number}@example.org>",
        "date": "Sat, 31 Jan 2026 10:00:00 +0000",
        "virus_type": "Eicar",
    }


BOX = {**plain("mail/inbox"), "message_count": 120, "messages": [letter(number) for number in (2, 5, 6, 9)]}
ONE = {
    **plain("Maildir/cur/1"),
    "message_id": "<1@x>",
    "subject": "Hello",
    "from": "Eve <e@example.org>",
    "date": "",
}


def daemon(tmp_path: Path, *rows: dict[str, Any], **change: object) -> FakeDaemon:
    answers = {
        "get_scan_status": [status(infected_file_count=len(rows), **change)],
        "list_infected_files": [infected_rows(*rows)],
        "disinfect_files": [DISINFECTED],
        "check_disinfection_status": [disinfection("done", step(1, "/home/anna/a"), done(2))],
    }
    return FakeDaemon(tmp_path / "s", {f"ClamScanner.{func}": given for func, given in answers.items()})


def actions(fake: FakeDaemon) -> list[Any]:
    return [params["actions"] for params in fake.asked("ClamScanner.disinfect_files")]


def press(terminal: Terminal, keys: str) -> str:
    """Each key at a menu of its own; what was shown."""
    shown = ""
    for key in keys:
        shown += terminal.until(MENU)
        terminal.type(key)
    return shown


@pytest.mark.fails_with("walk-unasked")
def test_two_keys_quarantine_the_only_file_and_say_how_to_undo(tmp_path: Path) -> None:
    with daemon(tmp_path, plain("up load.php")) as fake, Terminal(ctl(fake.path, "disinfect")) as terminal:
        shown = press(terminal, "q")
        assert "1 of 1: /home/anna/up load.php" in shown
        assert "signature:  Eicar" in shown
        assert "68 B, of root, written 2026-01-31 09:00:00" in shown
        assert "14 not scanned (9 over the size limit, 5 encrypted)" in shown
        shown = terminal.until(LAST)
        assert "quarantine 1 file: into the vault, from where it can be taken back" in shown
        assert "Nothing has been changed yet" in shown
        assert actions(fake) == []
        terminal.type("y")
        assert terminal.end() == 0
        assert actions(fake) == [{"/home/anna/up load.php": "quarantine"}]
    assert b"quarantined: /home/anna/a" in terminal.shown
    assert f"take it all back with: clamscannerctl --socket {fake.path} undo" in terminal.shown.decode()


def test_each_file_gets_its_own_action_and_one_can_go_back(tmp_path: Path) -> None:
    rows = [plain(name, name) for name in "abcd"]
    with daemon(tmp_path, *rows) as fake, Terminal(ctl(fake.path, "disinfect")) as terminal:
        press(terminal, "qdb")  # and at b again
        assert "chosen:     delete" in press(terminal, "i")
        press(terminal, "zQ")  # keys of no meaning here: there is no other of this signature
        press(terminal, "sd")
        summary = terminal.until(LAST)
        for words in ("quarantine 1 file", "delete 1 file", "ignore 1 file", "skip 1 file"):
            assert words in summary
        terminal.type("b")
        press(terminal, "s")
        terminal.until(LAST)
        terminal.type("y")
        assert terminal.end() == 0
        assert actions(fake) == [{"/home/anna/a": "quarantine", "/home/anna/b": "ignore"}]


def test_a_capital_letter_decides_for_all_later_ones_of_the_signature_and_kind(tmp_path: Path) -> None:
    rows = [*(plain(f"a{number}") for number in range(30)), BOX, plain("b", "Other")]
    with daemon(tmp_path, *rows) as fake, Terminal(ctl(fake.path, "disinfect")) as terminal:
        terminal.until(MENU)
        terminal.type("D")
        shown = press(terminal, "c")
        assert "the same for 29 more files of this signature" in shown
        assert "31 of 32: /home/anna/mail/inbox" in shown
        press(terminal, "q")
        summary = terminal.until(LAST)
        assert "delete 30 files" in summary
        assert "and 22 more" in summary
        terminal.type("y")
        assert terminal.end() == 0
        (chosen,) = actions(fake)
        assert list(chosen.values()) == [*["delete"] * 30, "cleanse_mailbox", "quarantine"]


def test_a_mail_is_shown_with_its_sender_and_subject_and_nothing_raw(tmp_path: Path) -> None:
    with daemon(tmp_path, BOX, ONE) as fake, Terminal(ctl(fake.path, "disinfect")) as terminal:
        shown = press(terminal, "q")
        assert "4 infected messages of 120" in shown
        assert shown.count("From:") == 3
        assert "From:       Eve <e2@example.org>" in shown
        assert "Subject:    Invoice \\xe2\\x80\\xae2 (Sat, 31 Jan 2026 10:00:00 +0000)" in shown
        assert "and 1 more" in shown
        assert "c cleanse" in shown
        shown = press(terminal, "q")
        assert "Subject:    Hello" in shown
        assert "c cleanse" not in shown
        assert "(the whole mailbox, with all its 120 messages)" in terminal.until(LAST)
        terminal.type("n")
        assert terminal.end() == 2
        assert actions(fake) == []
    assert "\u202e".encode() not in terminal.shown


@pytest.mark.parametrize("keys", ["x", "\x1b", "\x04", "qx", "q\x03"], ids=["x", "escape", "end", "later", "ctrl-c"])
def test_who_leaves_has_changed_nothing(tmp_path: Path, keys: str) -> None:
    with daemon(tmp_path, plain("a"), plain("b")) as fake, Terminal(ctl(fake.path, "disinfect")) as terminal:
        press(terminal, keys)
        code = terminal.end()
        assert code == (130 if "\x03" in keys else 2)
        assert actions(fake) == []
    assert b"nothing has been changed" in terminal.shown
    assert b"Traceback" not in terminal.shown


@pytest.mark.fails_with("pasted-keys-decide")
@pytest.mark.parametrize("pasted", ["qy", "\x1b[A", "qqqq\r", "d\n"])
def test_several_characters_at_once_decide_nothing(tmp_path: Path, pasted: str) -> None:
    with daemon(tmp_path, plain("a")) as fake, Terminal(ctl(fake.path, "disinfect")) as terminal:
        terminal.until(MENU)
        terminal.type(pasted)
        shown = press(terminal, "?")
        assert "chosen" not in shown
        assert "quarantine: into the vault" in press(terminal, "s")
        assert terminal.end() == 0
        assert actions(fake) == []
    assert b"nothing to do: every file was skipped" in terminal.shown


def test_what_is_on_the_ignore_list_is_not_asked_about(tmp_path: Path) -> None:
    rows = [{**plain("a"), "ignored": {"id": 3, "kind": "path", "note": ""}}, plain("b")]
    with daemon(tmp_path, *rows) as fake, Terminal(ctl(fake.path, "disinfect")) as terminal:
        assert "1 of 1: /home/anna/b" in press(terminal, "x")
        terminal.end()


def test_nothing_infected_says_what_was_not_scanned(tmp_path: Path) -> None:
    with daemon(tmp_path) as fake, Terminal(ctl(fake.path, "disinfect")) as terminal:
        assert terminal.end() == 0
    assert b"0 infected, 10 scanned, 14 not scanned (9 over the size limit, 5 encrypted)" in terminal.shown


def test_a_scan_under_way_is_said_before_anybody_chooses(tmp_path: Path) -> None:
    with daemon(tmp_path, plain("a"), **RUNNING) as fake, Terminal(ctl(fake.path, "disinfect")) as terminal:
        assert terminal.end() == 2
        assert fake.asked("ClamScanner.list_infected_files") == []
    assert b"cannot disinfect: scan 3 (home) is running; wait for its end: clamscannerctl --socket" in terminal.shown


@pytest.mark.parametrize("words", [(), ("--all",), ("--json",), ("--yes", "--all")])
def test_off_a_terminal_or_with_options_an_action_must_be_named(tmp_path: Path, words: tuple[str, ...]) -> None:
    with daemon(tmp_path, plain("a")) as fake:
        run = subprocess.run(
            ctl(fake.path, "disinfect", *words), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        assert fake.calls == []
    assert (run.returncode, run.stdout) == (2, "")
    assert "name an action (quarantine, delete, ignore, cleanse_mailbox), and the files or --all" in run.stderr


@pytest.mark.fails_with("colour-in-spite")
@pytest.mark.parametrize("environment", [{}, {"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_colours_are_for_terminals_that_want_them(tmp_path: Path, environment: dict[str, str]) -> None:
    command_line = ctl(str(tmp_path / "s"), "disinfect")
    with daemon(tmp_path, plain("a")), Terminal(command_line, environment=environment) as terminal:
        press(terminal, "x")
        terminal.end()
    assert (b"\x1b[1m" in terminal.shown) == (not environment)
