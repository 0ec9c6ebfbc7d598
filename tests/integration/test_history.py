"""History and reports of a real daemon: what was found, what became of it, and who may know. With the real command."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import AccountOnHost
from tests.fakes.realclamd import MARKER
from tests.fakes.running import RpcError, RunningDaemon
from tests.integration.command import Ended

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="workers of two accounts need root")

CTL = str(Path(sys.executable).with_name("clamscannerctl"))
ODD = "bad \x1b[31m\u202egnp.com"


@pytest.fixture(scope="module")
def daemon() -> Iterator[RunningDaemon]:
    with RunningDaemon() as running:
        yield running


@pytest.fixture
def anna(daemon: RunningDaemon, accounts: tuple[AccountOnHost, AccountOnHost]) -> AccountOnHost:
    """With two infected files, of which one was quarantined, one clean, and a FIFO; scanned twice."""
    account = accounts[0]
    for name, content in (("a", MARKER), (ODD, MARKER + b"2"), ("c", b"clean")):
        (account.home / name).write_bytes(content)
        os.chown(account.home / name, account.uid, account.gid)
    os.mkfifo(account.home / "fifo")
    with daemon.client(account.uid) as client:
        client.scan()
        client.disinfect({"a": "quarantine"})
        client.scan()
    return account


def ctl(daemon: RunningDaemon, *words: str, user: str | None = None) -> Ended:
    ended = subprocess.run(
        [CTL, "--socket", daemon.socket_path, *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        user=user,
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
        cwd="/",
    )
    return Ended(ended.returncode, ended.stdout, ended.stderr)


def test_what_became_of_what_a_scan_found_is_told(daemon: RunningDaemon, anna: AccountOnHost) -> None:
    with daemon.client(anna.uid) as client:
        newest, older = client.call("Scan.list", {"limit": 2})["scans"]
        assert client.call("Scan.list", {"limit": 1, "offset": 1})["scans"] == [older]
        assert older["findings"] == {"quarantined": 1, "cleared": 1}  # the other stands in the newer scan's list
        assert newest["findings"] == {"standing": 1}
        assert (newest["state"], newest["infected_file_count"], newest["asked_by"]) == ("done", 1, anna.uid)
        whole: dict[str, Any] = client.call("Scan.get", {"scan_id": older["scan_id"]})
    states = {one["file"].rpartition("/")[2][:4]: one["state"] for one in whole["files"]}
    assert states == {"a": "quarantined", "bad ": "cleared"}
    assert whole["not_scanned_files"] == [{"file": f"{anna.home}/fifo", "reason": "not_regular"}]


def test_a_scan_of_another_is_not_found_and_accounts_are_for_administrators(
    daemon: RunningDaemon, anna: AccountOnHost, accounts: tuple[AccountOnHost, AccountOnHost]
) -> None:
    bert = accounts[1]
    with daemon.client(anna.uid) as client, daemon.client(bert.uid) as other, daemon.client() as root:
        scan = client.call("Scan.list")["scans"][0]["scan_id"]
        messages = set()
        for number in (scan, 1 << 40):
            with pytest.raises(RpcError) as refused:
                other.call("Scan.get", {"scan_id": number})
            messages.add(str(refused.value))
        assert len(messages) == 1
        with pytest.raises(RpcError) as denied:
            other.call("Account.list")
        assert denied.value.kind == "denied"
        (one,) = [one for one in root.call("Account.list")["accounts"] if one["user"] == anna.name]
    assert (one["standing"], one["infected_file_count"], one["not_scanned"]["not_regular"]) == (1, 1, 1)
    assert str(anna.home) not in json.dumps(one)


def test_history_and_reports_as_a_person_reads_them(daemon: RunningDaemon, anna: AccountOnHost) -> None:
    listed = ctl(daemon, "history", user=anna.name)
    assert listed.code == 0
    newest, older = listed.out.splitlines()[:2]
    assert "done: 1 infected, 3 scanned" in newest
    assert "of those found: 1 looked at again since, 1 quarantined" in older
    said = ctl(daemon, "report", "--details", user=anna.name)
    assert said.code == 1
    assert "1 infected, 3 scanned" in said.out
    assert "\\x1b[31m\\xe2\\x80\\xaegnp.com: Test.Marker" in said.out
    assert f"{anna.home}/fifo: not scanned: not regular" in said.out
    assert "\x1b" not in said.out
    assert "\u202e" not in said.out


def test_reports_for_programs(daemon: RunningDaemon, anna: AccountOnHost) -> None:
    whole = json.loads(ctl(daemon, "report", "--format", "json", user=anna.name).out)
    assert [one["virus_type"] for one in whole["files"]] == ["Test.Marker.UNOFFICIAL"]
    lines = ctl(daemon, "report", "--format", "clamscan", user=anna.name).out.splitlines()
    assert lines[0].endswith(": Test.Marker.UNOFFICIAL FOUND")
    assert "Infected files: 1" in lines
    assert any(line.startswith("Not scanned: 1 (1 not regular)") for line in lines)


def test_roots_report_has_counts_and_names_files_only_when_asked(daemon: RunningDaemon, anna: AccountOnHost) -> None:
    counts = ctl(daemon, "report")
    assert counts.code == 1
    (line,) = [line for line in counts.out.splitlines() if line.startswith(anna.name)]
    assert "1 infected stand" in line
    assert str(anna.home) not in counts.out
    assert re.search(
        r", took \d+ s: 3 scanned, 1 not scanned \(1 not regular\); of those found: 1 standing; clamd ", line
    )
    assert counts.out.splitlines()[-1].startswith("1 account: 1 infected stand in 1 account; their latest scans: ")
    details = ctl(daemon, "report", "--details").out
    assert f"{anna.name}: {anna.home}/bad" in details
    assert f"{anna.name}: {anna.home}/fifo: not scanned: not regular" in details


def test_roots_report_for_programs_has_all_accounts_with_a_total(daemon: RunningDaemon, anna: AccountOnHost) -> None:
    whole = json.loads(ctl(daemon, "report", "--details", "--format", "json").out)
    (one,) = whole["accounts"]
    assert one["findings"] == whole["total"]["findings"] == {"standing": 1}
    assert [left["reason"] for left in one["not_scanned_files"]] == ["not_regular"]
    assert (whole["total"]["standing"], whole["total"]["not_scanned"]) == (1, {"not_regular": 1})
    lines = ctl(daemon, "report", "--format", "clamscan").out.splitlines()
    assert {"Infected files: 1", "Scanned files: 3"} <= set(lines)
    assert not any(line.startswith("/") for line in lines)


def test_all_accounts_are_for_administrators(daemon: RunningDaemon, anna: AccountOnHost) -> None:
    assert "for administrators" in ctl(daemon, "report", "--all", user=anna.name).err
    assert ctl(daemon, "report", "--all", "3").code == 2
