"""clamscannerctl as a process of its own: pipes, signals, terminals, what it imports."""

import io
import os
import pty
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.answers import (
    DISINFECTED,
    NOT_SCANNED,
    RUNNING,
    disinfection,
    infected,
    status,
)
from tests.fakes.daemon import FakeDaemon, envelope


def daemon(tmp_path: Path, **answers: list[Any]) -> FakeDaemon:
    return FakeDaemon(tmp_path / "s", {f"ClamScanner.{func}": rows for func, rows in answers.items()})


def test_a_reader_that_leaves_is_no_traceback(tmp_path: Path) -> None:
    many = infected(*(f"/h/{number:0100}" for number in range(5_000)))
    with daemon(tmp_path, list_infected_files=[many]) as fake:
        child = subprocess.Popen(_command(fake.path, "infected"), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        with child:
            assert child.stdout
            assert child.stderr
            child.stdout.close()
            assert child.stderr.read() == b""
    assert child.returncode == 2


def _command(path: str, *words: str) -> list[str]:
    program = "import sys; from clamscannerd.ctl.main import main; sys.exit(main())"
    return [sys.executable, "-c", program, "--socket", path, *words]


def test_ctrl_c_before_the_answer_says_where_to_look(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with socket.create_server(path, family=socket.AF_UNIX) as listener:
        child = subprocess.Popen(
            _command(path, "scan", "home"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        with child, listener.accept()[0] as asked:
            assert asked.recv(65536)
            child.send_signal(signal.SIGINT)
            _, said = child.communicate(timeout=30)
    assert child.returncode == 130
    assert said.split("\n")[:1] == [
        f"clamscannerctl: there was no answer yet: see whether it has begun: clamscannerctl --socket {path} status"
    ]


def test_one_shot_commands_import_neither_trio_nor_rich(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom clamscannerd.ctl.main import main\ncode = main()\n"
        "heavy = {'trio', 'rich', 'asyncio', 'pyclamd', 'sqlite3'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else code)"
    )
    start = envelope("start_scan", {"scan_id": 3, "queue_position": 0})
    answers = {
        "start_scan": [start],
        "get_scan_status": [status()],
        "check_disinfection_status": [disinfection("none")],
    }
    with daemon(tmp_path, **answers) as fake:
        for words in (["status"], ["scan", "home"], ["scan", "home", "--wait"], ["--help"]):
            run = subprocess.run(
                [sys.executable, "-c", program, "--socket", fake.path, *words],
                capture_output=True,
                text=True,
                check=False,
            )
            assert (run.returncode, run.stderr) == (0, "")


@pytest.mark.parametrize(
    ("words", "method", "tells"),
    [
        (("scan", "home", "--wait"), "get_scan_status", "the scan goes on; come back with: clamscannerctl --socket"),
        (("scan", "/h/x", "--recent", "1d", "--wait"), "get_scan_status", "the scan goes on; come back with:"),
        (("status", "--wait"), "get_scan_status", "the scan goes on"),
        (("disinfect", "delete", "--all", "--wait"), "check_disinfection_status", "the disinfection goes on"),
    ],
)
def test_ctrl_c_leaves_the_job_and_says_how_to_come_back(
    tmp_path: Path, words: tuple[str, ...], method: str, tells: str
) -> None:
    answers = {
        "start_scan": [envelope("start_scan", {"scan_id": 3, "queue_position": 0})],
        "get_scan_status": [status(**RUNNING)],
        "list_infected_files": [infected("/h/a")],
        "disinfect_files": [DISINFECTED],
        "check_disinfection_status": [disinfection("running")],
    }
    polled = threading.Event()

    class Noticing(FakeDaemon):
        def _answer(self, request: dict[str, Any]) -> bytes | None:
            # The second poll: the first answer has been taken, so the wait is under way.
            if len(self.asked(f"ClamScanner.{method}")) >= 1:
                polled.set()
            return super()._answer(request)

    rows: dict[str, list[Any]] = {f"ClamScanner.{func}": rows for func, rows in answers.items()}
    rows["Scan.start"] = [{"scan_id": 3, "queue_position": 0, "warnings": []}]
    with Noticing(tmp_path / "s", rows) as fake:
        child = subprocess.Popen(_command(fake.path, *words), stderr=subprocess.PIPE, text=True)
        assert polled.wait(30)
        child.send_signal(signal.SIGINT)
        _, err = child.communicate(timeout=30)
        assert "Scan.cancel" not in dict(fake.calls)
    assert child.returncode == 130
    assert tells in err
    assert "Traceback" not in err


def test_a_terminal_sees_a_bar_and_never_what_a_file_name_holds(tmp_path: Path) -> None:
    start = envelope("start_scan", {"scan_id": 3, "queue_position": 0})
    evil = "/home/x/[bold]\x1b]0;owned\x07{0}"
    polls = [status(**RUNNING, current_file=evil), status(**RUNNING, current_file=evil), status()]
    ours, theirs = pty.openpty()
    with daemon(tmp_path, start_scan=[start], get_scan_status=polls) as fake:
        environment = {**os.environ, "TERM": "xterm", "COLUMNS": "200"}
        command = _command(fake.path, "scan", "home", "--wait")
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, text=True, env=environment)
        os.close(theirs)
        out, _ = child.communicate(timeout=60)
    shown = _drain(ours)
    assert child.returncode == 0
    assert NOT_SCANNED in out
    assert b"running, 0 infected" in shown
    assert b"[bold]\\x1b]0;owned\\x07{0}" in shown
    assert b"\x1b]0;owned" not in shown


def _drain(fd: int) -> bytes:
    with io.FileIO(fd) as stream:
        data = b""
        try:
            while chunk := stream.read(65_536):
                data += chunk
        except OSError:
            pass  # how a pty says that its other end is closed
    return data
