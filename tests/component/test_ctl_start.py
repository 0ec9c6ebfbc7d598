"""The short way of `status --json`: the same words and exit codes as the long one, and next to nothing imported."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from clamscannerd.ctl import main, start
from tests.fakes.answers import status
from tests.fakes.daemon import Failure, FakeDaemon, envelope

PROGRAM = (
    "import sys\nfrom clamscannerd.ctl.start import main\ncode = main()\n"
    "heavy = {'click', 'msgspec', 'rich', 'trio', 'asyncio', 'typing_extensions'} & set(sys.modules)\n"
    "sys.exit(f'imported {heavy}' if heavy else code)"
)
GOOD = status()
WARNED = envelope("get_scan_status", GOOD["result"]["data"], warnings=["no\x1b signatures", "no\x1b signatures"])
ANSWERS: dict[str, list[Any]] = {
    "good": [GOOD],
    "found": [status(infected_file_count=1, infected_files=["/h/\u202ex"])],
    "warned": [WARNED],
    "refused": [envelope("get_scan_status", errors=["no scan yet"])],
    "failure": [Failure(-32003, "denied", "denied")],
    "no answer": [None],
    "no JSON": [b"220 mail ESMTP\n"],
    "no envelope": [{"result": {}}],
    "a number": [7],
}


@pytest.mark.parametrize("name", ANSWERS)
@pytest.mark.parametrize("user", [(), ("--user", "anna")])
def test_both_ways_say_the_same(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    user: tuple[str, ...],
) -> None:
    said = []
    with FakeDaemon(tmp_path / "s", {"ClamScanner.get_scan_status": ANSWERS[name]}) as fake:
        for way in (main.main, start.main):
            monkeypatch.setattr(sys, "argv", ["clamscannerctl", "--socket", fake.path, *user, "status", "--json"])
            said.append((way(), *capsys.readouterr()))
        asked = fake.asked("ClamScanner.get_scan_status")
    assert said[0] == said[1]
    assert {str(one) for one in asked} == {str({"user": "anna"} if user else None)}


@pytest.mark.parametrize(
    "words",
    [
        ("status",),
        ("status", "--json", "--strict"),
        ("status", "--json", "--json"),
        ("--json", "status", "--wait"),
        ("status", "--json", "--user"),
        ("status", "--json", "--user", "a", "--user", "b"),
        ("status", "--json", "--socket="),
        (),
    ],
)
def test_all_else_is_left_to_the_long_way(words: tuple[str, ...]) -> None:
    assert start._wanted([*words]) is None


def test_nobody_there_is_said_by_the_long_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["clamscannerctl", "--socket", f"{tmp_path}/none", "status", "--json"])
    assert start.main() == 2
    assert "cannot reach clamscannerd" in capsys.readouterr().err


def test_the_short_way_imports_next_to_nothing(tmp_path: Path) -> None:
    with FakeDaemon(tmp_path / "s", {"ClamScanner.get_scan_status": [GOOD]}) as fake:
        command = [sys.executable, "-I", "-c", PROGRAM, "--socket", fake.path, "status", "--json"]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (0, "")


def test_ctrl_c_while_it_is_loaded_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "argv", ["clamscannerctl", "scan", "home"])
    monkeypatch.setattr(main, "main", interrupted)
    assert start.main() == 130
