"""What Daemon.metrics says: every number of every part, in Prometheus' own words, and nobody's name."""

from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from clamscannerd import __version__
from clamscannerd.engine.sessions import EnginesStatistics
from clamscannerd.model import EngineInfo, Frozen
from clamscannerd.rpc import server
from clamscannerd.service.metrics import ROWS, STATES, render
from clamscannerd.spawn import SpawnStatistics
from clamscannerd.state.runner import RunnerStatistics
from clamscannerd.state.store_values import Statistics as StoreStatistics
from clamscannerd.state.vault import VaultStatistics

PARTS: Mapping[str, type[msgspec.Struct]] = {
    "server": server.Statistics,
    "runner": RunnerStatistics,
    "engines": EnginesStatistics,
    "store": StoreStatistics,
    "vault": VaultStatistics,
    "processes": SpawnStatistics,
}


class Engine(Frozen, frozen=True, kw_only=True):
    kind: str = "ready"
    since: float = 0.0
    steady_since: float = 0.0
    reason: str = "/home/anna is no engine"
    max_file_size: int = 0
    signatures: bool = True
    info: EngineInfo = EngineInfo(version='1.4.6 "x\\\n', database=27400, database_time=1.7e9)


def counted() -> tuple[dict[str, msgspec.Struct], dict[str, float]]:
    """Parts of which every number is another one; the same by part and field."""
    parts: dict[str, msgspec.Struct] = {}
    numbers: dict[str, float] = {}
    for part, kind in PARTS.items():
        made = {field: 100 * place + len(parts) for place, field in enumerate(kind.__struct_fields__, 1)}
        parts[part] = kind(**made)
        numbers |= {f"{part}.{field}": float(number) for field, number in made.items()}
    return parts, numbers


def samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    found = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation
        assert family.type in ("gauge", "counter")
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in found
            assert sample.timestamp is None, "the textfile collector refuses them"
            found[key] = sample.value
    return found


@pytest.mark.parametrize("part", PARTS)
def test_every_number_of_every_part_has_a_metric_and_no_other(part: str) -> None:
    assert ROWS.keys() == PARTS.keys()
    assert ROWS[part].keys() == set(PARTS[part].__struct_fields__)


def test_each_metric_has_its_number() -> None:
    parts, numbers = counted()
    found = samples(render(parts, Engine()))
    for part, rows in ROWS.items():
        for field, row in rows.items():
            name = f"clamscannerd_{row.name}" + ("_total" if row.kind == "counter" else "")
            assert found[name, tuple(sorted(row.labels.items()))] == numbers[f"{part}.{field}"]


@pytest.mark.parametrize("kind", STATES)
def test_the_engine_is_in_one_state(kind: str) -> None:
    found = samples(render(counted()[0], Engine(kind=kind)))
    states = {labels: value for (name, labels), value in found.items() if name == "clamscannerd_engine_state"}
    assert states == {(("state", other),): float(other == kind) for other in STATES}


def test_labels_are_versions_and_fixed_words() -> None:
    labels: dict[str, Any] = {}
    for _, pairs in samples(render(counted()[0], Engine())):
        for name, value in pairs:
            labels.setdefault(name, set()).add(value)
    assert labels == {
        "kind": {"scan", "task"},
        "state": set(STATES),
        "version": {__version__, '1.4.6 "x\\\n'},
        "database": {"27400"},
    }


def test_every_name_begins_with_ours() -> None:
    assert all(name.startswith("clamscannerd_") for name, _ in samples(render(counted()[0], Engine())))
