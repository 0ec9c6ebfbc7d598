"""What a newcomer does with the demonstration account, key by key on a real terminal; undo brings all of it back."""

import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import AccountOnHost
from tests.fakes.demonstration import furnish
from tests.fakes.manifest import manifest, names
from tests.fakes.running import RunningDaemon
from tests.fakes.terminal import Terminal, ctl

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="workers of another account need root")

MOST_KEYS = 12
"""Beside the two commands: a choice for each of three findings, two answers; nobody needs a minute for that."""
LOG = b".clamavconnector.disinfection.log"


@pytest.fixture(scope="module")
def daemon() -> Iterator[RunningDaemon]:
    with RunningDaemon() as running:
        yield running


def as_they_stand(home: Path) -> dict[bytes, tuple[int, int, int, int, bytes]]:
    """Mode, owner, group, time and content of each file; of directories all but the time, as names came and went."""
    return {
        name: (one.mode, one.uid, one.gid, 0 if stat.S_ISDIR(one.mode) else one.mtime_ns, one.content)
        for name, one in manifest(home).items()
        if name != LOG
    }


def test_the_demonstration_is_disinfected_with_few_keys_and_undone(
    daemon: RunningDaemon, accounts: tuple[AccountOnHost, AccountOnHost]
) -> None:
    anna, _ = accounts
    furnish(anna.home, anna.uid, anna.gid)
    for number, name in enumerate(("public_html/up load.php", "public_html/cache/x.php", "mail/inbox")):
        (anna.home / name).chmod((0o600, 0o664, 0o640)[number])
        os.utime(anna.home / name, ns=(0, 1_600_000_000_123_456_789 + number))
    before, stood = names(anna.home), as_they_stand(anna.home)
    keys = ""
    with daemon.client(anna.uid) as client:
        assert client.scan()["infected_file_count"] == 3
        with Terminal(ctl(daemon.socket_path, "disinfect"), user=anna.uid) as terminal:
            for _ in range(3):
                terminal.until("? help")
                shown = terminal.shown.decode().rsplit(" of 3: ", 1)[1]
                assert f", of {anna.name}, written 20" in shown
                key = "c" if "mail/inbox" in shown else "q"
                if key == "c":
                    assert "From:       Accounts <eve@example.org>" in shown
                    assert "Subject:    Your invoice" in shown
                terminal.type(key)
                keys += key
            terminal.until("b back\r\n")
            assert names(anna.home) == before, "nothing happens before the last question"
            terminal.type("y")
            keys += "y"
            assert terminal.end() == 0
        assert client.good("list_infected_files") == []
        after = names(anna.home)
        assert after.keys() - {LOG} == before.keys() - {b"public_html/up load.php", b"public_html/cache/x.php"}
        assert after[b"mail/inbox"] != before[b"mail/inbox"]
        with Terminal(ctl(daemon.socket_path, "undo"), user=anna.uid) as terminal:
            terminal.until("[y/N]: ")
            terminal.type("y\n")
            keys += "y\n"
            assert terminal.end() == 0, terminal.shown
        restored = names(anna.home)
        assert {name: content for name, content in restored.items() if name != LOG} == before
        assert as_they_stand(anna.home) == stood
    assert len(keys) <= MOST_KEYS


def test_a_pipe_gets_a_line_for_each_change_and_json_an_object_a_line(
    daemon: RunningDaemon, accounts: tuple[AccountOnHost, AccountOnHost]
) -> None:
    anna, _ = accounts
    furnish(anna.home, anna.uid, anna.gid)
    with daemon.client(anna.uid) as client:
        scan = client.scan()["scan_id"]
        for words, wanted in (
            ((), f"scan {scan} (home): done: 3 infected, 64 scanned, 1 not scanned (1 encrypted)"),
            (("--json",), '"method": "Scan.done"'),
        ):
            command = ctl(daemon.socket_path, "status", "--watch", *words)
            with subprocess.Popen(
                command, stdout=subprocess.PIPE, text=True, user=anna.uid, group=anna.gid, extra_groups=[], cwd="/"
            ) as child:
                assert child.stdout is not None
                lines: list[str] = []
                while not any(wanted in line for line in lines):
                    lines.append(child.stdout.readline())
                    assert lines[-1], lines
                child.terminate()
            assert all(line.endswith("\n") for line in lines)
