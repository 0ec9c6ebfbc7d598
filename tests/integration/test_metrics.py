"""Daemon.metrics of a real daemon: true numbers, for administrators, and nobody is named in them."""

import os
import pwd
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.fakes.accounts import Person
from tests.fakes.running import RpcError, RunningDaemon
from tests.integration.people import put

CTL = [sys.executable, "-c", "import sys; from clamscannerd.ctl.main import main; sys.exit(main())", "--socket"]
RSS_MOST_KB = 3 * 1024


@pytest.fixture(scope="module")
def daemon(_people: object) -> Iterator[RunningDaemon]:
    with RunningDaemon() as daemon:
        yield daemon


def values(text: str) -> dict[str, float]:
    """Name, with the values of its labels -> number."""
    return {
        " ".join((sample.name, *sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def memory_kb(daemon: RunningDaemon) -> int:
    text = Path(f"/proc/{daemon.daemon_pid()}/status").read_text()
    return int(text.partition("\nRssAnon:")[2].split()[0])


def test_numbers_are_true_and_nobody_is_named(daemon: RunningDaemon, alice: Person) -> None:
    put(alice, "found.com")
    with daemon.client(alice.uid) as user, daemon.client() as admin:
        before = memory_kb(daemon)
        first = values(admin.call("Daemon.metrics")["text"])
        assert memory_kb(daemon) - before < RSS_MOST_KB
        user.scan()
        assert user.disinfect({"found.com": "quarantine"})[-1]["state"] == "success"
        answer = admin.call("Daemon.metrics")
        last = values(answer["text"])
    assert answer["content_type"].startswith("text/plain; version=0.0.4")
    assert last["clamscannerd_vault_kept_total"] - first["clamscannerd_vault_kept_total"] == 1
    assert last["clamscannerd_processes_started_total"] - first["clamscannerd_processes_started_total"] >= 2
    assert last["clamscannerd_calls_total"] > first["clamscannerd_calls_total"]
    assert (last["clamscannerd_jobs_running scan"], last["clamscannerd_connections_open"]) == (0, 2)
    assert (last["clamscannerd_engine_state ready"], last["clamscannerd_signatures_loaded"]) == (1, 1)
    assert last["clamscannerd_process_resident_memory_bytes"] > 0
    for word in (alice.name, str(alice.uid), alice.home, pwd.getpwuid(os.getuid()).pw_name):
        assert word not in answer["text"]


def test_only_administrators_are_told(daemon: RunningDaemon, alice: Person) -> None:
    with daemon.client(alice.uid) as user, pytest.raises(RpcError) as refused:
        user.call("Daemon.metrics")
    assert refused.value.kind == "denied"


def test_the_command_replaces_the_collectors_file(daemon: RunningDaemon, tmp_path: Path) -> None:
    target = tmp_path / "clamscannerd.prom"
    target.write_text("old")
    run = subprocess.run(
        [*CTL, daemon.socket_path, "metrics", "--textfile", str(target)], capture_output=True, text=True, check=False
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
    assert values(target.read_text())["clamscannerd_engine_state ready"] == 1
    assert target.stat().st_mode & 0o777 == 0o644
    assert list(tmp_path.iterdir()) == [target]
