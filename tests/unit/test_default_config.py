"""The configuration file that is shipped says what is true: every key, with its default."""

import re
import tomllib
from pathlib import Path

import msgspec
import pytest

from clamscannerd import config

SHIPPED = Path(__file__).parents[2] / "packaging" / "clamscannerd.toml"


def test_the_shipped_file_changes_nothing(tmp_path: Path) -> None:
    assert config.load(SHIPPED, system=True) == config.load(_none(tmp_path), system=True)


def test_its_commented_values_are_the_defaults(tmp_path: Path) -> None:
    everything = tmp_path / "clamscannerd.toml"
    everything.write_text(_uncommented())
    assert config.load(everything, system=True) == config.load(_none(tmp_path), system=True)


@pytest.mark.parametrize("section", [field.name for field in msgspec.structs.fields(config.Config)])
def test_it_names_every_key(section: str) -> None:
    written = tomllib.loads(_uncommented())[section]
    if section == "scan_types":
        assert written.keys() == config.SCAN_TYPES.keys()
        for kind in written.values():
            assert kind.keys() == set(config.ScanType.__struct_fields__)
    else:
        assert written.keys() == set(getattr(config.Config(), section).__struct_fields__)


def _uncommented() -> str:
    """`#key = value` is a setting, `# words` is prose."""
    return re.sub(r"^#(?=[a-z])", "", SHIPPED.read_text(), flags=re.MULTILINE)


def _none(directory: Path) -> Path:
    empty = directory / "empty.toml"
    empty.write_text("")
    return empty
