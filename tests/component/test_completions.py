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
