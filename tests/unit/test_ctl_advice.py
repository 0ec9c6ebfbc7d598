"""What the command line advises about refusals: by the daemon's own sentences, as long as it says them."""

from pathlib import Path

import pytest

from clamscannerd.ctl import advice
from clamscannerd.ctl import main as _registers  # noqa: F401  the commands
from clamscannerd.ctl.commands import cli

PRODUCT = Path(advice.__file__).parents[1]
SOURCE = "\n".join(
    path.read_text() for path in sorted(PRODUCT.rglob("*.py")) if path.name != Path(advice.__file__).name
)


@pytest.mark.parametrize("part", [part for part, _ in (*advice._COMMANDS, *advice._ACTS)])
def test_each_sentence_is_one_that_the_program_says(part: str) -> None:
    assert part in SOURCE, "nobody says this any more: the advice would never be given"


@pytest.mark.parametrize("words", [words for _, words in advice._COMMANDS])
def test_each_advised_command_is_one_of_ours(words: tuple[str, ...]) -> None:
    assert words[0] in cli.commands
    options = {opt for parameter in cli.commands[words[0]].params for opt in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= options


def test_what_is_known_is_advised_and_nothing_else() -> None:
    assert advice.command_for(["cannot show a scan: no scan of this account is known: start one"]) == ("scan", "home")
    assert advice.act_for(["cannot make this call: it is for administrators"]).startswith("leave out --user")
    assert (advice.command_for(["\x1b"]), advice.act_for([])) == ((), "")
