"""The completions that are shipped are those that the command makes of itself, and they complete."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.fakes.terminal import ctl

PLACES = {"bash": "clamscannerctl", "zsh": "_clamscannerctl", "fish": "clamscannerctl.fish"}
SHIPPED = Path(__file__).parents[2] / "packaging/completions"


def complete(shell: str, **more: str) -> str:
    environment = {**os.environ, "_CLAMSCANNERCTL_COMPLETE": shell, **more}
    command = ctl("unused")[:3]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment).stdout


@pytest.mark.parametrize("shell", PLACES)
def test_what_is_shipped_is_what_the_command_makes(shell: str) -> None:
    assert (SHIPPED / PLACES[shell]).read_text().rstrip("\n") == complete(f"{shell}_source").rstrip("\n")


def test_commands_options_and_choices_are_completed() -> None:
    words = complete("bash_complete", COMP_WORDS="clamscannerctl quar", COMP_CWORD="1")
    assert words == "plain,quarantine\n"
    words = complete("bash_complete", COMP_WORDS="clamscannerctl status --w", COMP_CWORD="2")
    assert words.split() == ["plain,--wait", "plain,--watch"]
    words = complete("bash_complete", COMP_WORDS="clamscannerctl disinfect d", COMP_CWORD="2")
    assert words == "plain,delete\n"


def test_files_are_completed_by_the_shell_and_scan_types_before_them() -> None:
    def words(line: str) -> list[str]:
        return complete("bash_complete", COMP_WORDS=line, COMP_CWORD=str(line.count(" "))).splitlines()

    assert words("clamscannerctl scan pub") == ["file,pub", "plain,public_html", "plain,public_ftp"]
    assert words("clamscannerctl scan ")[:2] == ["file,./", "plain,home"]
    assert words("clamscannerctl scan ./a") == ["file,./a"]
    assert words("clamscannerctl explain a") == ["file,a"]
    assert words("clamscannerctl disinfect quarantine a") == ["file,a"]
    assert words("clamscannerctl ignore add a") == ["file,a"]
    assert words("clamscannerctl quarantine restore 7 --to a") == ["dir,a"]
