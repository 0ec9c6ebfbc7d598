"""What makes verdicts void, and what does not."""

import msgspec
import pytest

from clamscannerd.cache import basis
from clamscannerd.cache.basis import EARLIER, PRESENT, era_of, standing
from clamscannerd.engine.clamdconf import read
from clamscannerd.engine.health import EngineState
from clamscannerd.model import EngineInfo
from tests.fakes.cached import era

ENGINE = EngineState(
    kind="ready",
    since=1.0,
    steady_since=1.0,
    info=EngineInfo(version="1.4.3", database=27_000, database_time=5.0),
    signatures=True,
    max_file_size=100,
    max_threads=10,
    shared=True,
    address="/s",
    reason="",
    generation="1.4.3/27000/abc/1",
    read_timeout_s=1.0,
    settings="s",
)


def other(**changes: object) -> EngineState:
    return msgspec.structs.replace(ENGINE, **changes)


def basis_of(engine: EngineState) -> bytes:
    found = era_of(engine, 1.0)
    assert found is not None
    return found.basis


@pytest.mark.parametrize(
    "changes",
    [
        {"generation": "1.4.3/27000/def/1"},
        {"generation": "1.4.3/27001/abc/1"},
        {"info": EngineInfo(version="1.4.4", database=27_000, database_time=5.0)},
        {"info": EngineInfo(version="1.4.3", database=27_000, database_time=5.0, blind=("Archives.",))},
        {"settings": "t"},
        {"max_file_size": 101},
    ],
)
@pytest.mark.fails_with("settings-not-in-the-basis", "database-not-in-the-basis")
def test_what_a_verdict_rests_on_voids_it(changes: dict[str, object]) -> None:
    assert basis_of(other(**changes)) != basis_of(ENGINE)


@pytest.mark.fails_with("threads-in-the-basis")
def test_what_it_does_not_rest_on_voids_nothing() -> None:
    engine = other(
        since=9.0, steady_since=9.0, max_threads=1, shared=False, address="/t", read_timeout_s=9.0, cure=("x",)
    )
    assert basis_of(engine) == basis_of(ENGINE)
    later = era_of(ENGINE, 99.0)
    assert later is not None
    assert later.basis == basis_of(ENGINE)


@pytest.mark.fails_with("rules-not-in-the-basis", "upgrade-voids-all")
def test_other_rules_of_ours_void_all_and_another_version_alone_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    before = basis_of(ENGINE)
    monkeypatch.setattr("clamscannerd.__version__", "99")
    assert basis_of(ENGINE) == before
    monkeypatch.setattr(basis, "RULES", basis.RULES + 1)
    assert basis_of(ENGINE) != before


@pytest.mark.parametrize("changes", [{"signatures": False}, {"settings": ""}, {"generation": ""}])
@pytest.mark.fails_with("unknown-settings-kept")
def test_what_cannot_be_told_apart_later_is_not_kept(changes: dict[str, object]) -> None:
    assert era_of(other(**changes), 1.0) is None


def test_an_earlier_database_counts_only_where_it_may_and_as_long_as_it_may() -> None:
    eras = (era(b"p"), era(b"o", at=100.0), era(b"o", b"t", at=100.0))
    assert standing(eras, era(b"p"), 0.0)[:4] == bytes((0, PRESENT, 0, 0))
    assert standing(eras, era(b"p"), now=150.0, recheck_after_s=50.0)[:4] == bytes((0, PRESENT, EARLIER, 0))
    assert standing(eras, era(b"p"), now=151.0, recheck_after_s=50.0)[:4] == bytes((0, PRESENT, 0, 0))


PLAIN = "LocalSocket /s\nMaxFileSize 100M\nScanArchive yes\n"


@pytest.mark.parametrize(
    "text",
    ["MaxFileSize 101M\n", "ScanArchive no\n", "BytecodeSecurity Paranoid\n", "DatabaseDirectory /x\n", "PUA on\n"],
)
def test_a_setting_of_the_engine_that_may_matter_is_another(text: str) -> None:
    assert read(text + PLAIN).settings != read(PLAIN).settings


def test_how_the_engine_runs_is_no_setting() -> None:
    running = "LogVerbose yes\nMaxThreads 4\nReadTimeout 5\nTemporaryDirectory /x\nUser me\n# a comment\n"
    assert read(running + PLAIN).settings == read(PLAIN).settings
    assert read(PLAIN).settings
