"""`clamscannerctl uapi` against a scripted daemon: parameters in, the envelope out, exit codes as cPanel's."""

import io
import json
import os
import pwd
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from clamscannerd.ctl import main
from tests.fakes.answers import DISINFECTED, disinfection, infected
from tests.fakes.daemon import SCHEMA, Failure, FakeDaemon, envelope

Run = tuple[int, str, str]
Ctl = Callable[..., Run]
STARTED = envelope("start_scan", {"scan_id": 3, "queue_position": 0})


@pytest.fixture
def ctl(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Ctl:
    def run(fake: FakeDaemon | str, *words: str, stdin: bytes = b"") -> Run:
        path = fake if isinstance(fake, str) else fake.path
        monkeypatch.setenv("CLAMSCANNERD_SOCKET", path)
        monkeypatch.setattr(sys, "argv", ["clamscannerctl", "uapi", *words])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        code = main.main()
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def daemon(tmp_path: Path, **answers: list[Any]) -> FakeDaemon:
    return FakeDaemon(tmp_path / "s", {f"ClamScanner.{func}": rows for func, rows in answers.items()})


def checked(out: str) -> Any:
    answer = json.loads(out)
    jsonschema.validate(answer, SCHEMA)
    return answer


def test_the_envelope_is_printed_as_it_is_on_one_line_or_on_many(tmp_path: Path, ctl: Ctl) -> None:
    with daemon(tmp_path, start_scan=[STARTED]) as fake:
        short = ctl(fake, "--output=json", "--user=anna", "ClamScanner", "start_scan", "scan_type=home")
        pretty = ctl(fake, "--output=jsonpretty", "--user=anna", "ClamScanner", "start_scan", "scan_type=home")
        plain = ctl(fake, "--user=anna", "ClamScanner", "start_scan", "scan_type=home")
        assert fake.asked("ClamScanner.start_scan") == [{"scan_type": "home", "user": "anna"}] * 3
    assert short[0] == pretty[0] == 0
    assert short[2] == pretty[2] == ""
    assert checked(short[1]) == checked(pretty[1]) == STARTED
    assert (short[1].count("\n"), pretty[1].count("\n") > 10) == (1, True)
    assert plain == pretty


def test_status_0_is_an_answer_too(tmp_path: Path, ctl: Ctl) -> None:
    refusal = envelope("start_scan", errors=["cannot start the scan: one is already running"])
    with daemon(tmp_path, start_scan=[refusal]) as fake:
        code, out, err = ctl(fake, "--output=json", "ClamScanner", "start_scan", "scan_type=home")
    assert (code, checked(out), err) == (0, refusal, "")


@pytest.mark.fails_with("uapi-other-exit-code")
@pytest.mark.parametrize("code", [-32003, -32602, -32601])
def test_trouble_of_the_protocol_takes_the_form_of_the_envelope(tmp_path: Path, ctl: Ctl, code: int) -> None:
    with daemon(tmp_path, start_scan=[Failure(code, "cannot make this call: why", "word")]) as fake:
        exit_code, out, err = ctl(fake, "--output=json", "ClamScanner", "start_scan")
    answer = checked(out)
    assert (exit_code, err) == (0, "")
    assert (answer["func"], answer["result"]["errors"]) == ("start_scan", ["cannot make this call: why"])


def test_where_nobody_answers_both_the_envelope_and_the_exit_code_say_so(tmp_path: Path, ctl: Ctl) -> None:
    code, out, err = ctl(str(tmp_path / "none"), "--output=json", "ClamScanner", "get_scan_status")
    assert (code, err) == (2, "")
    assert "cannot reach clamscannerd" in checked(out)["result"]["errors"][0]


def test_another_module_is_not_served(tmp_path: Path, ctl: Ctl) -> None:
    code, out, _ = ctl(str(tmp_path / "none"), "--output=json", "Email", "list_pops")
    answer = json.loads(out)
    assert (code, answer["module"], answer["result"]["status"]) == (0, "Email", 0)


def test_values_are_uri_encoded(tmp_path: Path, ctl: Ctl) -> None:
    with daemon(tmp_path, start_scan=[STARTED]) as fake:
        for word in ("scan_type=a%20b%2Fc%3D1%2B", "scan_type=a+b%2fc=1%2B", "scan%5Ftype=a b/c=1%2B"):
            ctl(fake, "ClamScanner", "start_scan", word)
        ctl(fake, "ClamScanner", "start_scan", "scan_type=%ff%C3%A4\\\\")
        ctl(fake, "ClamScanner", "start_scan", "scan_type=" + os.fsdecode(b"\xff"))
        asked = fake.asked("ClamScanner.start_scan")
    assert asked[:3] == [{"scan_type": "a b/c=1+"}] * 3
    assert asked[3:] == [{"scan_type": "\\xffä\\\\"}, {"scan_type": "\\xff"}]


def test_a_number_is_one_from_the_command_line_and_from_json(tmp_path: Path, ctl: Ctl) -> None:
    with daemon(tmp_path, check_disinfection_status=[disinfection("none")]) as fake:
        call = ("--output=json", "ClamScanner", "check_disinfection_status")
        ctl(fake, *call, "last_id=7")
        ctl(fake, "--input=json", *call, stdin=b'{"last_id": "7"}')
        ctl(fake, "--input=json", *call, stdin=b'{"last_id": 7}')
        ctl(fake, *call, "last_id=x")
        assert fake.asked("ClamScanner.check_disinfection_status") == [{"last_id": 7}] * 3 + [{"last_id": "x"}]


MAP = {"home/a b": "ignore", "home/virus1": "delete", "home/virus2": "quarantine"}


@pytest.mark.parametrize("given", [MAP, {"actions": MAP}, {"actions": json.dumps(MAP)}])
def test_the_map_of_actions_is_taken_bare_and_under_actions(tmp_path: Path, ctl: Ctl, given: dict[str, Any]) -> None:
    with daemon(tmp_path, disinfect_files=[DISINFECTED]) as fake:
        words = ("--user=anna", "--input=json", "--output=jsonpretty", "ClamScanner", "disinfect_files")
        code, out, _ = ctl(fake, *words, stdin=json.dumps(given).encode())
        assert fake.asked("ClamScanner.disinfect_files") == [{"actions": MAP, "user": "anna"}]
    assert (code, checked(out)) == (0, DISINFECTED)


def test_the_map_of_actions_is_taken_as_pairs(tmp_path: Path, ctl: Ctl) -> None:
    with daemon(tmp_path, disinfect_files=[DISINFECTED]) as fake:
        ctl(fake, "ClamScanner", "disinfect_files", "home%2Fa%20b=delete", "actions=ignore")
        ctl(fake, "ClamScanner", "disinfect_files", "actions={}", "others=quarantine")
        assert fake.asked("ClamScanner.disinfect_files") == [
            {"actions": {"home/a b": "delete", "actions": "ignore"}},
            {"actions": {}, "others": "quarantine"},
        ]


def test_naming_oneself_is_not_naming_another(tmp_path: Path, ctl: Ctl) -> None:
    with daemon(tmp_path, list_infected_files=[infected("/h/a")]) as fake:
        me = pwd.getpwuid(os.getuid()).pw_name
        assert ctl(fake, f"--user={me}", "ClamScanner", "list_infected_files")[0] == 0
        assert fake.asked("ClamScanner.list_infected_files") == [None]


@pytest.mark.parametrize(
    ("words", "stdin", "tells"),
    [
        (("ClamScanner",), b"", "FUNCTION"),
        (("ClamScanner", "start_scan", "home"), b"", "KEY=VALUE"),
        (("ClamScanner", "start_scan", "=home"), b"", "KEY=VALUE"),
        (("ClamScanner", "start_scan", "a=1", "%61=2"), b"", "given twice"),
        (("--input=json", "ClamScanner", "start_scan"), b"{", "not JSON"),
        (("--input=json", "ClamScanner", "start_scan"), b"\xff", "not JSON"),
        (("--input=json", "ClamScanner", "start_scan"), b"[]", "expected a JSON object"),
        (("--output=xml", "ClamScanner", "start_scan"), b"", "jsonpretty"),
    ],
)
def test_misuse_is_one_line_on_stderr_and_nothing_is_asked(
    tmp_path: Path, ctl: Ctl, words: tuple[str, ...], stdin: bytes, tells: str
) -> None:
    code, out, err = ctl(str(tmp_path / "none"), *words, stdin=stdin)
    assert (code, out) == (2, "")
    assert tells in err
    assert err.count("\n") == 1
