"""The manual says what is true: every option, command, method and key is in its page, and nothing else is."""

import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import click
import msgspec
import pytest

from clamscannerd import config, launch
from clamscannerd.ctl import main as _registers  # noqa: F401  its commands
from clamscannerd.ctl.commands import cli
from clamscannerd.rpc.methods import build
from clamscannerd.rpc.table import USER
from clamscannerd.service.context import Context

ROOT = Path(__file__).parents[2]
MAN = ROOT / "packaging/man"
UNITS = sorted(path.name for path in (ROOT / "systemd").iterdir() if path.suffix in (".service", ".socket", ".timer"))


def page(name: str) -> str:
    """Its text, roff's escapes taken out of words."""
    return (MAN / name).read_text().replace("\\-", "-").replace("\\(dq", '"').replace("\\(aq", "'")


def between(text: str, start: str, end: str) -> str:
    return text.split(f"\n{start}\n", 1)[1].split(f"\n{end}", 1)[0]


def keys_of(section: str) -> dict[str, str]:
    """Key -> default as the page of the configuration has them."""
    text = between(page("clamscannerd.toml.5"), f".SS [{section}]", ".S")
    return dict(re.findall(r'^\.BR (\w+) " = (.*)"$', text, re.MULTILINE))


def defaults(section: str) -> dict[str, str]:
    """The same of the file that is shipped, which other tests compare with the program."""
    text = (ROOT / "packaging/clamscannerd.toml").read_text()
    text = text.split(f"\n[{section}]\n", 1)[1].split("\n[", 1)[0]
    return dict(re.findall(r"^#(\w+) = (.*)$", text, re.MULTILINE))


@pytest.mark.parametrize(
    "section", [field.name for field in msgspec.structs.fields(config.Config) if field.name != "scan_types"]
)
def test_every_key_is_in_the_page_with_its_default_and_no_other(section: str) -> None:
    assert keys_of(section) == defaults(section)
    assert keys_of(section).keys() == set(getattr(config.Config(), section).__struct_fields__)


def test_the_keys_of_scan_types_are_in_the_page() -> None:
    assert keys_of("scan_types.NAME") == defaults("scan_types.home")
    for name in config.SCAN_TYPES:
        assert f" {name} " in page("clamscannerd.toml.5").replace("\n", " ").replace('"', " ")


def rows() -> dict[str, list[str]]:
    """Method -> its parameters in the order by position."""
    methods = build(cast("Context", SimpleNamespace()))
    return {name: list(row.params.__struct_encode_fields__) for name, row in methods.items()}


def test_every_method_is_in_the_page_with_its_parameters_and_no_other() -> None:
    found: dict[str, list[str]] = {}
    for name, parameters in re.findall(
        r"^\.BR ((?:\w+)\.(?:\w+)) ?\((.*)\)$", page("clamscannerd-rpc.7"), re.MULTILINE
    ):
        found[name] = re.findall(r"\w+", parameters)
    assert found == rows()
    assert f'"{USER}"' in page("clamscannerd-rpc.7")


def commands(group: click.Group, above: str = "") -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, f"{above}{name} ")
        else:
            yield f"{above}{name}", command


COMMANDS = dict(commands(cli))


def synopses() -> dict[str, str]:
    """Command -> its line in the page."""
    text = between(page("clamscannerctl.1"), ".SH COMMANDS", ".SH")
    lines = re.findall(r'^\.TP\n\.(?:B|BR) (?:"([^"]+)"|(\S+(?: verify)?))(.*)$', text, re.MULTILINE)
    return {quoted or plain: rest for quoted, plain, rest in lines}


def test_every_command_is_in_the_page_and_no_other() -> None:
    assert synopses().keys() == COMMANDS.keys()


@pytest.mark.parametrize("name", COMMANDS)
def test_a_commands_options_are_in_its_line_and_no_other(name: str) -> None:
    everywhere = {"--json", "--user", "--socket", "--help", "-h"}
    options = {
        opt for parameter in COMMANDS[name].params if isinstance(parameter, click.Option) for opt in parameter.opts
    }
    assert set(re.findall(r"--[a-z0-9]+", synopses()[name])) == options - everywhere
    for option in options & everywhere:
        assert option in page("clamscannerctl.1")


def test_the_options_of_the_daemon_are_in_its_page(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        launch.main(["--help"])
    said = set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
    assert set(re.findall(r"--[a-z-]+", between(page("clamscannerd.8"), ".SH OPTIONS", ".SH"))) == said


@pytest.mark.parametrize("unit", UNITS)
def test_every_unit_is_in_the_page_of_the_daemon(unit: str) -> None:
    text = page("clamscannerd.8").replace("@1.", "@.").replace("@USER.", "@.")
    timer = unit.replace(".service", ".timer")
    assert unit in text or (timer in UNITS and timer in text)
