"""Digests of a real daemon: once each, through kill -9; a scan never waits for them; and hooks that take them."""

import json
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.accounts import Person
from tests.fakes.running import RunningDaemon, wait_for
from tests.integration.people import put, rows


class Bench:
    def __init__(self, daemon: RunningDaemon) -> None:
        self.daemon = daemon
        self.outbox = daemon.directory / "outbox"
        self.outbox.mkdir()
        self.outbox.chmod(0o777)
        self.configure()

    def configure(self, more: str = "") -> None:
        text = f'[notify]\noutbox = "{self.outbox}"\ninterval = 0\nkinds = ["findings"]\n{more}'
        self.daemon.write_config(text)

    def digests(self) -> list[Any]:
        return [json.loads(path.read_bytes()) for path in self.outbox.iterdir() if path.suffix == ".json"]

    def files(self) -> list[str]:
        return sorted(one["file"] for digest in self.digests() for one in digest["findings"])

    def looked_at(self, person: Person) -> bool:
        """What has ended was looked at, and is on disk."""
        latest = "SELECT max(s.id) FROM scan s JOIN account a ON a.id = s.account WHERE a.uid = ?"
        seen = "SELECT n.scan FROM notified n JOIN account a ON a.id = n.account WHERE a.uid = ?"
        done = rows(self.daemon, latest, person.uid) == rows(self.daemon, seen, person.uid)
        return done and rows(self.daemon, "SELECT id FROM digest") == []


@pytest.fixture
def bench() -> Iterator[Bench]:
    daemon = RunningDaemon()
    try:
        made = Bench(daemon)
        daemon.start()
        yield made
    finally:
        daemon.close()


def test_a_scan_with_a_finding_is_told_once_through_a_second_scan_and_a_kill(bench: Bench, alice: Person) -> None:
    bad = put(alice, "public_html/bad.php")
    with bench.daemon.client(alice.uid) as client:
        client.scan()
    wait_for(lambda: bench.looked_at(alice), "the digest")
    (digest,) = bench.digests()
    assert (digest["account"]["user"], bench.files()) == (alice.name, [str(bad)])
    bench.daemon.kill()
    bench.daemon.start()
    with bench.daemon.client(alice.uid) as client:
        client.scan()
    wait_for(lambda: bench.looked_at(alice), "the look")
    assert bench.digests() == [digest]


def test_a_kill_between_the_scans_end_and_its_digest_loses_nothing(bench: Bench, alice: Person) -> None:
    bad = put(alice, "bad.com")
    bench.outbox.rename(bench.outbox.with_name("away"))  # the digest cannot be made
    with bench.daemon.client(alice.uid) as client:
        assert client.scan()["state"] == "done"
    bench.daemon.kill()
    bench.outbox.with_name("away").rename(bench.outbox)
    bench.daemon.start()
    wait_for(lambda: bench.looked_at(alice), "the digest")
    assert bench.files() == [str(bad)]


def test_a_kill_at_any_moment_tells_each_finding_under_one_id(bench: Bench, alice: Person) -> None:
    """Killed as soon as anything is seen: the row, the file, or both may be there."""
    told: dict[str, str] = {}
    for number in range(4):
        bad = put(alice, f"bad{number}.com")
        with bench.daemon.client(alice.uid) as client:
            client.scan()
        wait_for(partial(marks, bench, bad.name), "a mark")
        bench.daemon.kill()
        bench.daemon.start()
        wait_for(lambda: bench.looked_at(alice), "the digest")
        for digest in bench.digests():
            for one in digest["findings"]:
                assert told.setdefault(one["file"], digest["id"]) == digest["id"]
        assert len(told) == number + 1


def marks(bench: Bench, name: str) -> list[tuple[object, ...]]:
    return rows(bench.daemon, "SELECT path FROM reported WHERE path = ?", name.encode())


def test_nobody_who_takes_digests_holds_up_no_scan(bench: Bench, alice: Person, bob: Person) -> None:
    bench.configure("max_waiting = 1\n")
    with bench.daemon.client(0) as root:
        root.call("Daemon.reload")
    for person in (alice, bob):
        put(person, "bad.com")
        with bench.daemon.client(person.uid) as client:
            assert client.scan()["state"] == "done"
    wait_for(lambda: "is full" in bench.daemon.log(), "the outbox to be full")
    assert len(bench.digests()) == 1
    with bench.daemon.client(alice.uid) as client:
        assert client.scan()["state"] == "done"


def test_a_hook_of_roots_gets_the_digest_and_the_outbox_is_empty_then(bench: Bench, alice: Person) -> None:
    bad = put(alice, "b\u202ead\n\x1b[31m.com")
    with bench.daemon.client(alice.uid) as client:
        client.scan()
    wait_for(lambda: bench.looked_at(alice), "the digest")
    hooks, records, got = (bench.daemon.directory / name for name in ("hooks", "records", "got"))
    hooks.mkdir()
    records.mkdir()
    hook = hooks / "keep"
    hook.write_text(f"#!/bin/sh\ncat >{got}\n")
    hook.chmod(0o755)
    words = [sys.executable, "-I", "-m", "clamscannerd.notify", "--config", str(bench.daemon.config_path)]
    words += ["--hooks", str(hooks), "--records", str(records)]
    subprocess.run(words, check=True, timeout=60)
    assert [one["file"] for one in json.loads(got.read_bytes())["findings"]] == [str(bad)]
    assert list(bench.outbox.iterdir()) == []


def test_without_a_kind_there_is_no_digest(bench: Bench, alice: Person) -> None:
    bench.daemon.write_config(f'[notify]\noutbox = "{bench.outbox}"\nkinds = []\n')
    with bench.daemon.client(0) as root:
        root.call("Daemon.reload")
    put(alice, "bad.com")
    with bench.daemon.client(alice.uid) as client:
        client.scan()
        assert Path(bench.outbox).exists()
    assert bench.digests() == []
