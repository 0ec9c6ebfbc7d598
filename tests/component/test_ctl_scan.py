"""`clamscannerctl scan`: what its words mean, what is asked and what is said. Against a scripted daemon."""

import json
import os
import pwd
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from clamscannerd.ctl import main, scan_all, text, waiting
from tests.fakes.answers import RUNNING, status
from tests.fakes.daemon import Failure, FakeDaemon, envelope


class Run(NamedTuple):
    code: int
    out: str
    err: str


Ctl = Callable[..., Run]
TYPES = envelope("get_scan_paths", [{"id": "home", "message": "All"}, {"id": "mail", "message": "Mail"}])
STARTED = envelope("start_scan", {"scan_id": 3, "queue_position": 0})
BEGUN: dict[str, Any] = {"scan_id": 3, "queue_position": 0, "warnings": []}


@pytest.fixture
def ctl(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Ctl:
    """Runs a command line in this process, in a directory of its own."""
    monkeypatch.setattr(waiting, "FIRST_PAUSE_S", 0.0)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def run(*words: str) -> Run:
        monkeypatch.setattr(sys, "argv", ["clamscannerctl", *words])
        code = main.main()
        captured = capsys.readouterr()
        return Run(code, captured.out, captured.err)

    return run


@pytest.fixture
def here(ctl: Ctl) -> Path:
    _ = ctl
    return Path.cwd()


def daemon(tmp_path: Path, **more: list[Any]) -> FakeDaemon:
    rows = {"ClamScanner.get_scan_paths": [TYPES] * 9, "ClamScanner.start_scan": [STARTED] * 9}
    return FakeDaemon(tmp_path / "s", {**rows, "Scan.start": [BEGUN] * 9, **more})


def test_words_are_types_or_paths_as_the_manual_says(tmp_path: Path, ctl: Ctl, here: Path) -> None:
    (here / "mail").mkdir()
    (here / "up load.php").touch()
    with daemon(tmp_path) as fake:
        for words in (["home"], ["nothing"], ["mail"]):
            assert ctl("--socket", fake.path, "scan", *words).code == 0
        assert fake.asked("ClamScanner.start_scan") == [{"scan_type": word} for word in ("home", "nothing", "mail")]
        for words in (["./mail"], ["up load.php"], ["."], ["home", "mail"], ["../x/./y"], ["/etc/passwd"]):
            assert ctl("--socket", fake.path, "scan", *words).code == 0
        paths = [[f"{here}/mail"], [f"{here}/up load.php"], [f"{here}"], [f"{here}/home", f"{here}/mail"]]
        paths += [[f"{here.parent}/x/y"], ["/etc/passwd"]]
        assert fake.asked("Scan.start") == [{"paths": names} for names in paths]


def test_names_of_any_bytes_are_asked_for_in_wire_form_and_shown_safely(tmp_path: Path, ctl: Ctl, here: Path) -> None:
    with daemon(tmp_path) as fake:
        run = ctl("--socket", fake.path, "scan", os.fsdecode(b"./\xff\x1b]0;x\x07\n\xe2\x80\xae"), "--json")
        plain = ctl("--socket", fake.path, "scan", os.fsdecode(b"./\xff\x1b]0;x\x07\n\xe2\x80\xae"), "./b", "./c")
        assert fake.asked("Scan.start")[0] == {"paths": [f"{here}/\\xff\x1b]0;x\x07\n\u202e"]}
    assert json.loads(run.out) == BEGUN
    shown = f"{here}/\\xff\\x1b]0;x\\x07\\x0a\\xe2\\x80\\xae"
    assert plain.out.splitlines()[0] == f"scan 3 ({shown} and 2 more) has been started"


def test_an_empty_word_is_no_name_for_the_directory_where_one_is(tmp_path: Path, ctl: Ctl) -> None:
    with daemon(tmp_path) as fake:
        for words in ([""], ["a", ""]):
            run = ctl("--socket", fake.path, "scan", *words)
            assert (run.code, run.out) == (2, "")
            assert "cannot scan '': the name is empty" in run.err
        assert fake.asked("Scan.start") == fake.asked("ClamScanner.start_scan") == []


def test_a_working_directory_that_is_gone_is_one_line(tmp_path: Path, ctl: Ctl, here: Path) -> None:
    here.rmdir()
    with daemon(tmp_path) as fake:
        run = ctl("--socket", fake.path, "scan", "./x")
    assert (run.code, run.out) == (2, "")
    assert "cannot name a path from here: No such file or directory" in run.err


def test_a_path_that_is_refused_is_one_line_and_trouble(tmp_path: Path, ctl: Ctl) -> None:
    refusal = Failure(-32011, "cannot scan /etc: it is not in the home directory /home/anna", "refused")
    with daemon(tmp_path, **{"Scan.start": [refusal]}) as fake:
        run = ctl("--socket", fake.path, "scan", "/etc", "--wait")
    said, advised = run.err.splitlines()
    assert run[:2] == (2, "")
    assert said == "clamscannerctl: cannot scan /etc: it is not in the home directory /home/anna"
    assert advised == "clamscannerctl: next: name files and directories beneath that home"


def test_a_scan_of_paths_is_waited_for_and_shown_by_its_paths(tmp_path: Path, ctl: Ctl) -> None:
    of_paths = {"scan_type": "", "paths": ["/home/anna/a\x1b", "/home/anna/b"]}
    polls = [status(**of_paths, **RUNNING), status(**of_paths)]
    warned = {**BEGUN, "warnings": ["the scan waits for the engine: loading"]}
    rows = {"Scan.start": [warned], "ClamScanner.get_scan_status": polls}
    with daemon(tmp_path, **rows) as fake:
        run = ctl("--socket", fake.path, "scan", "/home/anna/a", "--wait")
    assert run.code == 0
    assert run.out.splitlines()[0] == "scan 3 (/home/anna/a\\x1b and 1 more): done"
    assert run.err == "clamscannerctl: warning: the scan waits for the engine: loading\n"


def test_a_recent_scan_is_asked_for_in_seconds(tmp_path: Path, ctl: Ctl) -> None:
    with daemon(tmp_path) as fake:
        plain = ctl("--socket", fake.path, "scan", "home", "--recent", "2d")
        ctl("--socket", fake.path, "scan", "./a", "--recent=90m")
        asked = [{"scan_type": "home", "recent_s": 172_800.0}, {"paths": [f"{Path.cwd()}/a"], "recent_s": 5_400.0}]
        assert fake.asked("Scan.start") == asked
        assert fake.asked("ClamScanner.start_scan") == []
    assert plain.out.splitlines()[0] == "scan 3 (home) has been started"


@pytest.mark.parametrize("given", ["2", "0d", "-1d", "", "soon\x1b", "1e400d"])
def test_a_time_that_is_none_is_one_line_and_asks_nothing(tmp_path: Path, ctl: Ctl, given: str) -> None:
    with daemon(tmp_path) as fake:
        run = ctl("--socket", fake.path, "scan", "home", f"--recent={given}")
        assert fake.asked("ClamScanner.start_scan") == fake.asked("Scan.start") == []
    assert (run.code, run.out, run.err.count("\n")) == (2, "", 1)
    assert 'expected a time like "2d" or "12h"' in run.err
    assert "\x1b" not in run.err


def test_what_a_recent_scan_left_out_is_no_trouble_and_is_said(tmp_path: Path, ctl: Ctl) -> None:
    """It neither hides what was not scanned, nor is it called scanned or clean."""
    counts = {"too_big": 2, "unchanged": 12}
    end = status(since=1_700_000_000.5, scanned_file_count=10, not_scanned=counts)
    with daemon(tmp_path, **{"Scan.start": [BEGUN], "ClamScanner.get_scan_status": [end]}) as fake:
        run = ctl("--socket", fake.path, "scan", "home", "--recent", "1w", "--wait")
    left_out = f"12 left out (unchanged since {text.moment(1_700_000_000.5)})"
    assert f"0 infected, 10 scanned, 2 not scanned (2 over the size limit), {left_out}\n" in run.out
    assert "progress:   24 of 24 files" in run.out
    assert run.code == 0


def test_a_wait_over_a_pause_says_so_once_and_goes_on(tmp_path: Path, ctl: Ctl) -> None:
    paused = status(**{**RUNNING, "state": "paused"})
    polls = [status(**RUNNING), paused, paused, paused, status(**RUNNING), status()]
    with daemon(tmp_path, **{"ClamScanner.get_scan_status": polls}) as fake:
        run = ctl("--socket", fake.path, "scan", "home", "--wait")
    assert run.code == 0
    assert run.err == f"clamscannerctl: the scan is paused; go on with: clamscannerctl --socket {fake.path} resume\n"


def test_a_wait_that_is_ended_during_a_pause_does_not_say_that_the_scan_goes_on(
    tmp_path: Path, ctl: Ctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(waiting.Poller, "pause", interrupted)
    with daemon(tmp_path, **{"ClamScanner.get_scan_status": [status(**{**RUNNING, "state": "paused"})]}) as fake:
        run = ctl("--socket", fake.path, "status", "--wait")
    assert run.code == 130
    assert "the scan is paused; come back with: " in run.err
    assert "goes on" not in run.err


def test_every_account_is_scanned_although_one_has_paused_its_scan(
    tmp_path: Path, ctl: Ctl, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _ = ctl
    paused = status(**{**RUNNING, "state": "paused"})
    with daemon(tmp_path, **{"ClamScanner.get_scan_status": [paused, status()]}) as fake:
        monkeypatch.setenv("CLAMSCANNERD_SOCKET", fake.path)
        monkeypatch.setattr(scan_all, "names", lambda: ["anna", "bert"])
        assert scan_all.main() == 2
        asked = {"scan_type": "home", "scheduled": True}
        assert fake.asked("Scan.start") == [{**asked, "user": "anna"}, {**asked, "user": "bert"}]
    said = capsys.readouterr().out.splitlines()
    assert [line.split(": ")[:2] for line in said] == [["anna", "paused"], ["bert", "done"]]


def test_a_timer_says_that_it_is_one(tmp_path: Path, ctl: Ctl) -> None:
    with daemon(tmp_path) as fake:
        ctl("--socket", fake.path, "scan", "home", "--scheduled")
        assert fake.asked("Scan.start") == [{"scan_type": "home", "scheduled": True}]


def test_where_home_is_a_link_a_relative_path_is_spelled_as_passwd_has_it(
    tmp_path: Path, ctl: Ctl, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "alias").symlink_to(here)
    entry = pwd.getpwuid(os.getuid())
    fields = list(entry)
    fields[5] = str(tmp_path / "alias")
    monkeypatch.setattr(pwd, "getpwuid", lambda _: pwd.struct_passwd(fields))
    with daemon(tmp_path) as fake:
        ctl("--socket", fake.path, "scan", "./x")
        assert fake.asked("Scan.start") == [{"paths": [f"{tmp_path}/alias/x"]}]
