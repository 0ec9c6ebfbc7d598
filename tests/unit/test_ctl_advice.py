"""What the command line advises about refusals: by the daemon's own sentences, as long as it says them."""

import ast
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

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
    said = "cannot serve this account: root has no scans of its own, and may name any user"
    assert advice.act_for([said]).startswith("name whose: --user NAME")
    assert advice.act_for(["cannot make this call: it is for administrators"]).startswith("ask an administrator")
    assert advice.act_for(['cannot act for another account: "user" is for administrators']).startswith("leave out")
    assert (advice.command_for(["\x1b"]), advice.act_for([])) == ((), "")


def groups(group: click.Group, *above: str) -> Iterator[tuple[str, ...]]:
    yield above
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from groups(command, *above, name)


@pytest.mark.parametrize("words", list(groups(cli)))
def test_what_each_command_does_is_said_whole_on_a_narrow_terminal(words: tuple[str, ...]) -> None:
    shown = CliRunner().invoke(cli, [*words, "--help"], terminal_width=80).output
    assert "Commands:" in shown
    assert "..." not in shown.partition("Commands:")[2]


SAID_TO_CALLERS: tuple[str, ...] = ("service", "rpc", "spawn.py")
SAID_TO_CALLERS += ("state/store_rows.py", "state/store_restores.py", "state/store_ignores.py")
REFUSALS = {"AccessDenied", "NotFound", "Refused", "SpawnRefused", "TooManyCalls", "TooManyConnections"}
REFUSALS |= {"UnknownAccount", "ShuttingDown", "refused"}  # not InvalidParams, whose advice is the command's --help

THEMSELVES = (
    "name either a type of scan or paths",
    "no path is named",
    "at most",
    "more than",
    "is named twice with different actions",
    "(known: ",
    "the name is empty",
    "a name holds no NUL",
    'name it without ".."',
    "the name is too long",
    "no name that passwd can hold",
    "has a subscription already",
    "the private engine",
    "name what it leads to",
)
"""Sentences that say themselves what is to be done otherwise."""


def refusals() -> Iterator[str]:
    """Every sentence with which a call is refused; what stands in it by then is {}."""
    for place in SAID_TO_CALLERS:
        for path in [PRODUCT / place] if place.endswith(".py") else sorted((PRODUCT / place).glob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in REFUSALS:
                    words = [_words(argument) for argument in node.args]
                    yield from (sentence for sentence in words if " " in sentence)


def _words(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    if not isinstance(node, ast.JoinedStr):
        return ""
    return "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)


PASSED_ON = {
    "cannot scan {}: {}",
    "cannot start the scan: {}",
    "cannot disinfect: {}, and nothing else was asked for",
    "cannot start the disinfection: {}",
    "cannot start the undo: {}",
    "cannot start the restore: {}",
    "cannot disinfect: {}",
    "cannot list infected files: {}",
    "cannot show a scan: {}",
    "cannot disinfect all others: {}",
    "cannot scan it: {}",
    "{}: it is not in the home directory {}",
}


@pytest.mark.fails_with("refusal-without-advice")
@pytest.mark.parametrize("sentence", sorted(set(refusals())))
def test_every_refusal_says_what_to_do_next(sentence: str) -> None:
    """Or has its words from elsewhere, which are tried below."""
    known = advice.command_for([sentence]) or advice.act_for([sentence])
    assert known or sentence in PASSED_ON or any(part in sentence for part in THEMSELVES), sentence


@pytest.mark.parametrize(
    ("sentence", "advised"),
    [
        ("cannot scan /home/a/x: there is no such file or directory", "ls"),
        (
            "cannot scan /home/a/x: it lies within no type of scan that the administrator permits to this account",
            "paths",
        ),
        ("cannot start the undo: 8 of its workers were killed and hang in the kernel", "health"),
        ("cannot disinfect: 1 file that the ignore list covers is left alone; name it to act on it", "infected"),
        ("cannot scan /etc: it is not in the home directory /home/a", "beneath"),
    ],
)
def test_what_is_passed_on_has_its_advice_too(sentence: str, advised: str) -> None:
    assert advised in " ".join([*advice.command_for([sentence]), advice.act_for([sentence])])
