"""clamscannerctl disinfect and mailboxes, against a scripted daemon: what is asked of whom, and what is sent."""

import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from clamscannerd.ctl import asking, main
from tests.fakes.answers import DISINFECTED, infected_rows, mailbox
from tests.fakes.daemon import FakeDaemon, envelope

PLAIN = {"file": "/h/a.php", "virus_type": "Eicar"}
MAILDIR = {"file": "/h/Maildir/cur/1", "virus_type": "Eicar", "message_id": "<1@x>", "subject": "s"}
INBOX = mailbox("/h/mail/inbox", 120, 7)
CLEANSED = {"actions": {"/h/mail/inbox": "cleanse_mailbox"}}


def daemon(tmp_path: Path, *rows: dict[str, Any]) -> FakeDaemon:
    answers = {"list_infected_files": [infected_rows(*rows)], "disinfect_files": [DISINFECTED]}
    return FakeDaemon(tmp_path / "s", {f"ClamScanner.{func}": answer for func, answer in answers.items()})


class Ctl:
    """Runs `disinfect` in this process; `answer`: what a person at the terminal says, None: nobody is there."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys
        self.questions: list[str] = []
        monkeypatch.delenv("CLAMSCANNERD_SOCKET", raising=False)

    def __call__(self, fake: FakeDaemon, *words: str, answer: bool | None = None) -> tuple[int, str, str]:
        def sure(_: object, question: str) -> bool:
            self.questions.append(question)
            return bool(answer)

        self._monkeypatch.setattr(asking, "on_terminal", lambda: answer is not None)
        self._monkeypatch.setattr(asking, "sure", sure)
        self._monkeypatch.setattr(sys, "argv", ["clamscannerctl", "--socket", fake.path, "disinfect", *words])
        code = main.main()
        shown = self._capsys.readouterr()
        return code, shown.out, shown.err


@pytest.fixture
def ctl(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Ctl:
    return Ctl(monkeypatch, capsys)


def sent(fake: FakeDaemon) -> list[Any]:
    return fake.asked("ClamScanner.disinfect_files")


@pytest.mark.parametrize("action", ["quarantine", "delete"])
@pytest.mark.parametrize("yes", [(), ("--yes",)])
def test_all_cleanses_mailboxes_and_says_so_in_one_line(
    tmp_path: Path, ctl: Ctl, action: str, yes: tuple[str, ...]
) -> None:
    """--yes answers a question; it changes nothing of what is done."""
    with daemon(tmp_path, PLAIN, INBOX, MAILDIR) as fake:
        code, out, err = ctl(fake, action, "--all", *yes)
        assert sent(fake) == [CLEANSED | {"others": action}]
    assert code == 0
    assert out.startswith("task ")
    assert err == (
        "clamscannerctl: 1 mailbox is cleansed: infected messages are taken out, the others stay"
        f" (to {action} it all, add --whole)\n"
    )
    assert ctl.questions == []


@pytest.mark.parametrize("action", ["ignore", "cleanse_mailbox"])
def test_all_of_another_action_is_just_that(tmp_path: Path, ctl: Ctl, action: str) -> None:
    with daemon(tmp_path, PLAIN, INBOX) as fake:
        assert ctl(fake, action, "--all")[::2] == (0, "")
        assert sent(fake) == [{"actions": {}, "others": action}]
        assert fake.asked("ClamScanner.list_infected_files") == []


@pytest.mark.parametrize("words", [("/h/mail/inbox",), ("--all", "--whole"), ("/h/a.php", "/h/mail/inbox")])
def test_a_mailbox_is_taken_whole_by_nobody_unasked(tmp_path: Path, ctl: Ctl, words: tuple[str, ...]) -> None:
    with daemon(tmp_path, PLAIN, INBOX) as fake:
        code, out, err = ctl(fake, "quarantine", *words)
        assert sent(fake) == []
        assert ctl(fake, "quarantine", *words, answer=False) == (2, "", "")
        assert sent(fake) == []
        assert ctl(fake, "quarantine", *words, answer=True)[::2] == (0, "")
        assert ctl(fake, "quarantine", *words, "--yes")[::2] == (0, "")
        everything = {"actions": {}, "others": "quarantine"}
        expected = everything if "--all" in words else {"actions": dict.fromkeys(words, "quarantine")}
        assert sent(fake) == [expected, expected]
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(
        "clamscannerctl: cannot quarantine /h/mail/inbox with all its 120 messages unasked: say --yes"
    )
    assert ctl.questions == ["Quarantine /h/mail/inbox with all its 120 messages?"] * 2


@pytest.mark.parametrize("row", [PLAIN, MAILDIR, mailbox("/h/one", 1, 1)])
def test_a_file_of_one_message_is_a_plain_file(tmp_path: Path, ctl: Ctl, row: dict[str, Any]) -> None:
    with daemon(tmp_path, row, INBOX) as fake:
        assert ctl(fake, "delete", row["file"])[::2] == (0, "")
        assert sent(fake) == [{"actions": {row["file"]: "delete"}}]
    assert ctl.questions == []


def test_a_mailbox_that_was_not_counted_is_asked_about(tmp_path: Path, ctl: Ctl) -> None:
    with daemon(tmp_path, mailbox("/h/box", None)) as fake:
        assert ctl(fake, "delete", "/h/box", answer=False)[0] == 2
    assert ctl.questions == ["Delete /h/box with all its messages?"]


def test_without_a_scan_nothing_is_asked_and_nothing_sent(tmp_path: Path, ctl: Ctl) -> None:
    refused = envelope("list_infected_files", errors=["cannot list infected files: no scan"])
    with FakeDaemon(tmp_path / "s", {"ClamScanner.list_infected_files": [refused]}) as fake:
        run = ctl(fake, "delete", "--all")
        assert sent(fake) == []
    assert run == (2, "", "clamscannerctl: cannot list infected files: no scan\n")


@pytest.mark.parametrize(("typed", "code"), [(b"y\n", 0), (b"\n", 2), (b"n\n", 2)])
def test_on_a_real_terminal_the_question_is_on_stderr_and_no_is_the_default(
    tmp_path: Path, typed: bytes, code: int
) -> None:
    program = "import sys; from clamscannerd.ctl.main import main; sys.exit(main())"
    ours, theirs = pty.openpty()
    with daemon(tmp_path, INBOX) as fake:
        words = ["--socket", fake.path, "disinfect", "quarantine", "/h/mail/inbox"]
        child = subprocess.Popen(
            [sys.executable, "-c", program, *words], stdin=theirs, stderr=theirs, stdout=subprocess.PIPE
        )
        os.close(theirs)
        shown = b""
        while b"[y/N]" not in shown:
            shown += os.read(ours, 1000)
        os.write(ours, typed)
        out, _ = child.communicate(timeout=60)
        assert len(sent(fake)) == (code == 0)
    os.close(ours)
    assert b"Quarantine /h/mail/inbox with all its 120 messages? [y/N]" in shown
    assert (child.returncode, b"?" in out) == (code, False)


def test_all_leaves_an_ignored_mailbox_alone(tmp_path: Path, ctl: Ctl) -> None:
    with daemon(tmp_path, PLAIN, {**INBOX, "ignored": {"id": 1, "kind": "path", "note": ""}}) as fake:
        assert ctl(fake, "quarantine", "--all")[0] == 0
        assert sent(fake) == [{"actions": {}, "others": "quarantine"}]
    assert ctl.questions == []
