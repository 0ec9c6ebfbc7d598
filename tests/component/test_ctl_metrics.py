"""`clamscannerctl metrics` against a scripted daemon: what it prints; a file is replaced whole or not at all."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from clamscannerd.ctl import main
from tests.fakes.daemon import Failure, FakeDaemon

TEXT = '# HELP a b\n# TYPE a gauge\na{kind="scan"} 1.0\n'
ANSWER = {"content_type": "text/plain", "text": TEXT}
Ctl = Callable[..., tuple[int, str, str]]


@pytest.fixture
def ctl(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Ctl:
    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["clamscannerctl", *words])
        code = main.main()
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_the_text_is_printed_as_it_is(tmp_path: Path, ctl: Ctl) -> None:
    with FakeDaemon(tmp_path / "s", {"Daemon.metrics": [ANSWER]}) as fake:
        assert ctl("--socket", fake.path, "metrics") == (0, TEXT, "")


def test_without_an_answer_the_old_file_stays(tmp_path: Path, ctl: Ctl) -> None:
    target = tmp_path / "x.prom"
    target.write_text("old")
    with FakeDaemon(
        tmp_path / "s", {"Daemon.metrics": [Failure(-32003, "cannot: for administrators", "denied")]}
    ) as fake:
        code, out, err = ctl("--socket", fake.path, "metrics", "--textfile", str(target))
    assert (code, out, err) == (2, "", "clamscannerctl: cannot: for administrators\n")
    assert target.read_text() == "old"


def test_a_directory_that_is_not_there_is_one_line(tmp_path: Path, ctl: Ctl) -> None:
    with FakeDaemon(tmp_path / "s", {"Daemon.metrics": [ANSWER]}) as fake:
        code, _, err = ctl("--socket", fake.path, "metrics", "--textfile", str(tmp_path / "none" / "x.prom"))
    assert code == 2
    assert err.endswith("x.prom: no such file or directory\n")


def test_what_cannot_be_replaced_leaves_nothing_behind(tmp_path: Path, ctl: Ctl) -> None:
    there = tmp_path / "place"
    (there / "x.prom").mkdir(parents=True)
    with FakeDaemon(tmp_path / "s", {"Daemon.metrics": [ANSWER]}) as fake:
        code, _, err = ctl("--socket", fake.path, "metrics", "--textfile", str(there / "x.prom"))
    assert (code, [path.name for path in there.iterdir()]) == (2, ["x.prom"])
    assert "cannot write" in err


def test_a_name_that_no_collector_reads_is_refused(tmp_path: Path, ctl: Ctl) -> None:
    code, _, err = ctl("--socket", str(tmp_path / "none"), "metrics", "--textfile", "x.txt")
    assert code == 2
    assert ".prom" in err
