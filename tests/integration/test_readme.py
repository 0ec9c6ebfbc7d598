"""The examples of the README for Python and for the shell (nc and jq) do what is said of them, as they stand there."""

import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.accounts import Person
from tests.fakes.running import RunningDaemon
from tests.integration.people import put

README = Path(__file__).parents[2] / "README.md"
SOCKET = "S=/run/clamscannerd/clamscannerd.sock"
PATIENCE_S = 60.0


def blocks() -> list[str]:
    """Code of the README: what is indented by four blanks, with the blank lines within."""
    found = re.findall(r"(?:^ {4}.*\n(?:\n(?= {4}))?)+", README.read_text(), re.MULTILINE)
    return [re.sub(r"^ {4}", "", block, flags=re.MULTILINE) for block in found]


PYTHON = [block for block in blocks() if "from clamscannerd." in block]
SHELL = [
    line.removeprefix("$ ") for block in blocks() for line in block.splitlines() if re.match(r"\$ .*(\bjq\b|S)", line)
]
START = [line for line in SHELL if line.startswith(("S=", "ask()"))]
ASKING = [line for line in SHELL if line.startswith("ask ")]
WATCHING = [line for line in SHELL if "Events.subscribe" in line]


@pytest.fixture(scope="module")
def daemon(_people: object) -> Iterator[RunningDaemon]:
    with RunningDaemon() as running:
        yield running


def environment(daemon: RunningDaemon) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "CLAMSCANNERD_SOCKET": daemon.socket_path}


def shell(daemon: RunningDaemon, line: str) -> list[str]:
    """The command line that runs one of the examples on this daemon's socket."""
    text = "\n".join(["set -o pipefail", *START, line])
    assert text.count(SOCKET) == 1
    return ["bash", "-c", text.replace(SOCKET, f"S={daemon.socket_path}")]


def test_the_readme_has_the_examples_that_are_tried_here() -> None:
    assert len(PYTHON) == 2
    assert len(START) == 2
    assert len(ASKING) == 6
    assert len(WATCHING) == 1


@pytest.mark.parametrize("number", range(len(PYTHON)), ids=["plain", "trio"])
def test_the_examples_in_python_see_a_scan_to_its_end(daemon: RunningDaemon, alice: Person, number: int) -> None:
    put(alice, "bad.com")
    if "start_scan" not in PYTHON[number]:
        with daemon.client(alice.uid) as client:
            client.scan()
    ended = subprocess.run(
        [sys.executable, "-c", PYTHON[number]],
        env=environment(daemon),
        user=alice.uid,
        group=alice.gid,
        extra_groups=[],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
        cwd="/",
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert (f"Scan.finding {alice.home}/bad.com" if number == 0 else "1 of 1") in ended.stdout


def test_the_examples_with_nc_and_jq_lead_from_a_scan_to_a_disinfection(daemon: RunningDaemon, alice: Person) -> None:
    put(alice, "public_html/up load.php")
    said = []
    for line in ASKING:
        done = subprocess.run(
            shell(daemon, line),
            env=environment(daemon),
            user=alice.uid,
            group=alice.gid,
            extra_groups=[],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, ""), line
        assert done.stdout.strip() not in ("", "null"), line
        said.append(done.stdout)
        with daemon.client(alice.uid) as client:
            if "start_scan" in line:
                client.wait_scan()
            if "disinfect_files" in line:
                client.wait_disinfection()
    assert any(f"{alice.home}/public_html/up load.php: Eicar-Test" in words for words in said)
    assert '"quarantined"' in said[-1]


def test_the_example_that_watches_tells_of_the_latest_scan(daemon: RunningDaemon, alice: Person) -> None:
    with daemon.client(alice.uid) as client:
        client.scan()
    ours, theirs = os.openpty()  # jq writes each line at once where it thinks that somebody reads
    with subprocess.Popen(
        shell(daemon, WATCHING[0]),
        env=environment(daemon),
        user=alice.uid,
        group=alice.gid,
        extra_groups=[],
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        start_new_session=True,
    ) as process:
        os.close(theirs)
        try:
            with open(ours, "rb", buffering=0) as stream:
                seen = b""
                while b'"Scan.done"' not in seen:  # in colours
                    assert select.select([stream], [], [], PATIENCE_S)[0], seen
                    seen += stream.read(4096)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
