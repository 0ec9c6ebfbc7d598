"""clamscannerctl against a scripted daemon: what it asks, prints and exits with."""

import json
import os
import pwd
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from clamscannerd.ctl import calls, commands, main, waiting
from tests.fakes.answers import (
    DISINFECTED,
    LOG,
    NOT_SCANNED,
    RUNNING,
    STATUS,
    disinfection,
    done,
    infected,
    status,
    step,
)
from tests.fakes.daemon import Failure, FakeDaemon, envelope


class Run(NamedTuple):
    code: int
    out: str
    err: str


Ctl = Callable[..., Run]


@pytest.fixture
def ctl(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Ctl:
    """Runs a command line in this process; polling does not pause."""
    monkeypatch.setattr(waiting, "FIRST_PAUSE_S", 0.0)
    monkeypatch.delenv("CLAMSCANNERD_SOCKET", raising=False)

    def run(*words: str) -> Run:
        monkeypatch.setattr(sys, "argv", ["clamscannerctl", *words])
        code = main.main()
        captured = capsys.readouterr()
        return Run(code, captured.out, captured.err)

    return run


def daemon(tmp_path: Path, **answers: list[Any]) -> FakeDaemon:
    return FakeDaemon(tmp_path / "s", {f"ClamScanner.{func}": rows for func, rows in answers.items()})


def test_paths_are_listed(tmp_path: Path, ctl: Ctl) -> None:
    answer = envelope("get_scan_paths", [{"id": "home", "message": "Scan Entire Home Directory"}])
    with daemon(tmp_path, get_scan_paths=[answer]) as fake:
        assert ctl("--socket", fake.path, "paths") == (0, "home  Scan Entire Home Directory\n", "")
        as_json = ctl("paths", "--json", "--socket", fake.path)
    assert json.loads(as_json.out) == answer
    assert as_json.code == 0


def test_a_scan_is_started_and_named(tmp_path: Path, ctl: Ctl) -> None:
    answers = [envelope("start_scan", {"scan_id": 3, "queue_position": position}) for position in (0, 2)]
    with daemon(tmp_path, start_scan=answers) as fake:
        started = ctl("--socket", fake.path, "--user", "anna", "scan", "home")
        queued = ctl("--socket", fake.path, "scan", "home")
        assert fake.asked("ClamScanner.start_scan") == [{"scan_type": "home", "user": "anna"}, {"scan_type": "home"}]
    again = f"clamscannerctl --socket {fake.path}"
    assert started == (0, f"scan 3 (home) has been started\nsee how it goes: {again} --user anna status\n", "")
    assert queued.out.splitlines()[0] == "scan 3 (home) is number 2 in the queue"


def test_a_refused_scan_is_one_line_and_trouble(tmp_path: Path, ctl: Ctl) -> None:
    refusal = envelope("start_scan", errors=["cannot start the scan: one is already running", "also\x1bthis"])
    with daemon(tmp_path, start_scan=[refusal]) as fake:
        plain = ctl("--socket", fake.path, "scan", "home", "--wait")
        as_json = ctl("--socket", fake.path, "scan", "home", "--json")
    err = "clamscannerctl: cannot start the scan: one is already running\nclamscannerctl: also\\x1bthis\n"
    assert plain == (2, "", err)
    assert (as_json.code, json.loads(as_json.out)) == (2, refusal)


@pytest.mark.parametrize(
    ("end", "code"), [({}, 0), ({"infected_file_count": 1}, 1), ({"state": "failed"}, 2), ({"scan_id": 4}, 2)]
)
def test_a_scan_that_is_waited_for_exits_as_clamscan(
    tmp_path: Path, ctl: Ctl, end: Mapping[str, object], code: int
) -> None:
    start = envelope("start_scan", {"scan_id": 3, "queue_position": 0})
    polls = [status(**RUNNING), status(**RUNNING, total_file_count=25), status(**end)]
    with daemon(tmp_path, start_scan=[start], get_scan_status=polls, list_infected_files=[infected("/h/x")]) as fake:
        run = ctl("--socket", fake.path, "scan", "home", "--wait")
    assert run.code == code
    assert ("/h/x: Eicar FOUND\n" in run.out) == (code == 1)
    if code == 0:
        assert NOT_SCANNED in run.out
    told = "clamscannerctl: cannot say how scan 3 ended: another has been started since; see: clamscannerctl --socket"
    assert (told in run.err) == ("scan_id" in end)
    assert bool(run.err) == ("scan_id" in end)


def test_warnings_go_to_stderr_once_however_often_they_are_polled(tmp_path: Path, ctl: Ctl) -> None:
    start = envelope("start_scan", {"scan_id": 3, "queue_position": 0})
    polls = [envelope("get_scan_status", {**STATUS, **change}, warnings=["no signatures"]) for change in (RUNNING, {})]
    with daemon(tmp_path, start_scan=[start], get_scan_status=polls) as fake:
        run = ctl("--socket", fake.path, "scan", "home", "--wait", "--json")
    assert run.err == "clamscannerctl: warning: no signatures\n"
    assert json.loads(run.out) == polls[1]


def test_a_daemon_that_restarts_under_a_wait_is_waited_for(tmp_path: Path, ctl: Ctl) -> None:
    start = envelope("start_scan", {"scan_id": 3, "queue_position": 0})
    polls = [status(**RUNNING), None, Failure(-32009, "shutting down", "shutting_down"), status()]
    with daemon(tmp_path, start_scan=[start], get_scan_status=polls) as fake:
        run = ctl("--socket", fake.path, "scan", "home", "--wait")
    assert run.code == 0
    assert run.err.count("waiting for it to come back") == 1


def test_a_daemon_that_stays_away_is_trouble(tmp_path: Path, ctl: Ctl, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "AWAY_S", 0.0)
    start = envelope("start_scan", {"scan_id": 3, "queue_position": 0})
    with daemon(tmp_path, start_scan=[start], get_scan_status=[None]) as fake:
        run = ctl("--socket", fake.path, "scan", "home", "--wait")
    assert run.code == 2
    assert "it closed the connection" in run.err


def test_an_error_under_a_wait_that_is_no_restart_ends_it(tmp_path: Path, ctl: Ctl) -> None:
    start = envelope("start_scan", {"scan_id": 3, "queue_position": 0})
    with daemon(tmp_path, start_scan=[start], get_scan_status=[Failure(-32003, "denied", "denied")]) as fake:
        assert ctl("--socket", fake.path, "scan", "home", "--wait") == (2, "", "clamscannerctl: denied\n")


def test_status_shows_the_scan_and_the_disinfection(tmp_path: Path, ctl: Ctl) -> None:
    answers = {"get_scan_status": [status()], "check_disinfection_status": [disinfection("running")]}
    with daemon(tmp_path, **answers) as fake:
        run = ctl("--socket", fake.path, "status")
        assert fake.asked("ClamScanner.check_disinfection_status") == [{"last_id": main.NO_RECORDS}]
    assert (run.code, run.err) == (0, "")
    assert run.out.splitlines()[0] == "scan 3 (home): done"
    assert run.out.splitlines()[-1] == f"disinfection: running, its log is {LOG}"
    assert NOT_SCANNED in run.out


def test_status_of_nothing_is_trouble(tmp_path: Path, ctl: Ctl) -> None:
    with daemon(tmp_path, get_scan_status=[envelope("get_scan_status", errors=["no scan yet"])]) as fake:
        assert ctl("--socket", fake.path, "status") == (2, "", "clamscannerctl: no scan yet\n")


def test_status_waits_for_scan_and_disinfection(tmp_path: Path, ctl: Ctl) -> None:
    answers = {
        "get_scan_status": [status(**RUNNING), status()],
        "check_disinfection_status": [disinfection("running"), disinfection("done")],
    }
    with daemon(tmp_path, **answers) as fake:
        run = ctl("--socket", fake.path, "status", "--wait")
    assert (run.code, run.out.splitlines()[-1]) == (0, f"disinfection: done, its log is {LOG}")


def test_cancel_says_what_became_of_the_scan(tmp_path: Path, ctl: Ctl) -> None:
    answers = {"Scan.cancel": [{"scan_id": 3, "state": "cancelled"}, Failure(-32005, "no scan", "not_found")]}
    with FakeDaemon(tmp_path / "s", answers) as fake:
        assert ctl("--socket", fake.path, "cancel") == (0, "scan 3: cancelled\n", "")
        as_json = ctl("--socket", fake.path, "cancel", "--json")
    assert (as_json.code, as_json.err) == (2, "clamscannerctl: no scan\n")
    assert json.loads(as_json.out) == {"error": {"code": -32005, "message": "no scan", "data": {"kind": "not_found"}}}


def test_infected_files_are_listed_with_exit_code_1(tmp_path: Path, ctl: Ctl) -> None:
    with daemon(tmp_path, list_infected_files=[infected("/h/a", "/h/\\xff\u202eb\n")]) as fake:
        run = ctl("--socket", fake.path, "infected")
    assert run == (1, "/h/a: Eicar FOUND\n/h/\\xff\\xe2\\x80\\xaeb\\x0a: Eicar FOUND\n", "")


def test_an_empty_list_says_what_was_not_scanned(tmp_path: Path, ctl: Ctl) -> None:
    with daemon(tmp_path, list_infected_files=[infected()], get_scan_status=[status()]) as fake:
        run = ctl("--socket", fake.path, "infected")
    assert run == (0, f"scan 3 (home), done: {NOT_SCANNED}\n", "")


def test_a_list_that_was_worked_off_says_so(tmp_path: Path, ctl: Ctl) -> None:
    answers = {"list_infected_files": [infected()], "get_scan_status": [status(infected_file_count=2)]}
    with daemon(tmp_path, **answers) as fake:
        run = ctl("--socket", fake.path, "infected")
    assert run.code == 0
    assert run.out.startswith("no infected file stands any more; scan 3 (home), done: 2 infected, 10 scanned")


def test_disinfect_sends_names_of_any_bytes_absolute_and_in_the_wire_form(
    tmp_path: Path, ctl: Ctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    monkeypatch.chdir(tmp_path)
    names = ["a b", "\udcff\n", "./d/../back\\slash", "/abs/./x", "link/y", "--", "-dash"]
    answers = {"list_infected_files": [infected()], "disinfect_files": [DISINFECTED]}
    with daemon(tmp_path, **answers) as fake:
        run = ctl("--socket", fake.path, "disinfect", "delete", *names)
        sent = fake.asked("ClamScanner.disinfect_files")
    here = str(tmp_path)
    expected = [f"{here}/a b", f"{here}/\\xff\n", f"{here}/back\\\\slash", "/abs/x", f"{here}/link/y", f"{here}/-dash"]
    assert sent == [{"actions": dict.fromkeys(expected, "delete")}]
    assert run.code == 0
    assert run.out.startswith(f"task 00000000/5a9ec8dd4c345d is under way, its log is {LOG}\n")


def test_a_relative_name_is_spelled_by_way_of_the_home_that_passwd_names(tmp_path: Path) -> None:
    (tmp_path / "real" / "anna" / "sub").mkdir(parents=True)
    (tmp_path / "home").symlink_to("real")
    before = Path.cwd()
    os.chdir(tmp_path / "real" / "anna" / "sub")
    try:
        home = os.fsencode(tmp_path / "home" / "anna")
        assert calls.absolute(b"x", home) == home + b"/sub/x"
        assert calls.absolute(b"../x", home) == home + b"/x"
        assert calls.absolute(b"x", b"/nonexistent") == os.fsencode(tmp_path) + b"/real/anna/sub/x"
        assert calls.absolute(b"x", b"/") == os.fsencode(tmp_path) + b"/real/anna/sub/x"
        assert calls.absolute(b"/y", home) == b"/y"
    finally:
        os.chdir(before)


def test_disinfect_all_uses_others(tmp_path: Path, ctl: Ctl) -> None:
    with daemon(tmp_path, list_infected_files=[infected("/h/a")], disinfect_files=[DISINFECTED]) as fake:
        ctl("--socket", fake.path, "disinfect", "quarantine", "--all")
        assert fake.asked("ClamScanner.disinfect_files") == [{"actions": {}, "others": "quarantine"}]


@pytest.mark.parametrize(("state", "code"), [("success", 0), ("info", 0), ("error", 2)])
def test_a_disinfection_that_is_waited_for_prints_its_records(tmp_path: Path, ctl: Ctl, state: str, code: int) -> None:
    polls = [
        disinfection("queued"),
        disinfection("running", step(1, "/h/a")),
        disinfection("running"),
        disinfection("running", step(2, "/h/b", "error")),
        disinfection("done", done(3, state)),
    ]
    answers = {"list_infected_files": [infected()], "disinfect_files": [DISINFECTED]}
    with daemon(tmp_path, **answers, check_disinfection_status=polls) as fake:
        run = ctl("--socket", fake.path, "disinfect", "quarantine", "--all", "--wait")
        asked = fake.asked("ClamScanner.check_disinfection_status")
    assert asked == [None, None, {"last_id": 1}, {"last_id": 1}, {"last_id": 2}]
    assert run == (code, f"quarantined: /h/a\nerror: /h/b\ndone: {state}\nlog: {LOG}\n", "")


def test_the_json_of_a_disinfection_has_all_its_records(tmp_path: Path, ctl: Ctl) -> None:
    polls = [disinfection("running", step(1, "/h/a")), disinfection("done", done(2))]
    answers = {"list_infected_files": [infected()], "disinfect_files": [DISINFECTED]}
    with daemon(tmp_path, **answers, check_disinfection_status=polls) as fake:
        run = ctl("--json", "--socket", fake.path, "disinfect", "quarantine", "/h/a", "--wait")
    assert json.loads(run.out)["result"]["data"]["details"] == [step(1, "/h/a"), done(2)]


def test_any_call_can_be_made(tmp_path: Path, ctl: Ctl) -> None:
    answers = {
        "Daemon.version": [{"version": "\u202e"}],
        "ClamScanner.start_scan": [envelope("start_scan", errors=["no"])],
    }
    with FakeDaemon(tmp_path / "s", answers) as fake:
        assert (
            ctl("--socket", fake.path, "call", "Daemon.version", '{"a": 1}', "--json").out == '{"version": "\\u202e"}\n'
        )
        assert ctl("--socket", fake.path, "--user", "u", "call", "Daemon.version").out.startswith('{\n  "version"')
        assert ctl("--socket", fake.path, "call", "ClamScanner.start_scan", "[]").code == 2
        assert fake.asked("Daemon.version") == [{"a": 1}, {"user": "u"}]


@pytest.mark.parametrize(
    "words",
    [
        ("nonsense",),
        ("scan",),
        ("scan", "home", "mail"),
        ("disinfect", "burn", "x"),
        ("disinfect", "delete"),
        ("disinfect", "delete", "x", "--all"),
        ("call", "X", "{"),
        ("call", "X", "7"),
        ("call", "X", "[" * 100_000),
        ("--user", "u", "call", "X", "[1]"),
        ("--socket",),
        ("status", "--nonsense"),
    ],
)
def test_wrong_usage_is_one_line_and_trouble(ctl: Ctl, words: tuple[str, ...]) -> None:
    run = ctl(*words)
    assert (run.code, run.out) == (2, "")
    assert run.err.startswith("clamscannerctl: ")
    assert run.err.count("\n") == 1


def test_a_daemon_that_is_not_there_is_one_line_and_trouble(tmp_path: Path, ctl: Ctl) -> None:
    run = ctl("--socket", f"{tmp_path}/none", "status")
    cause = "no such file or directory; is it running? (systemctl status clamscannerd)"
    assert run == (2, "", f"clamscannerctl: cannot reach clamscannerd at {tmp_path}/none: {cause}\n")


def test_a_socket_of_something_else_is_trouble_and_its_cure_is_told(tmp_path: Path, ctl: Ctl) -> None:
    with FakeDaemon(tmp_path / "s", {"ClamScanner.get_scan_status": [b"220 mail ESMTP\n", 7, {"result": {}}]}) as fake:
        for cause in ("cannot use what", "not of UAPI's form", "not of UAPI's form"):
            run = ctl("--socket", fake.path, "status")
            assert run.code == 2
            said, advised = run.err.splitlines()
            assert cause in said
            assert "leave out --socket" in advised


def test_help_and_version_are_no_trouble(ctl: Ctl) -> None:
    assert ctl("--version").code == 0
    assert "Usage: clamscannerctl disinfect" in ctl("disinfect", "--help").out
    nothing = ctl()
    assert (nothing.code, "Usage" in nothing.err) == (2, True)


def test_names_are_taken_against_the_named_users_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir("/")
    options = calls.Options()
    options.user = pwd.getpwuid(os.getuid()).pw_name
    assert commands.wire_names(options, ["x"]) == ["/x"]
    options.user = "no-such-user-here"
    assert commands.wire_names(options, ["x"]) == ["/x"]
