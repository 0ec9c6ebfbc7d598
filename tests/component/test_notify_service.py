"""The service that takes digests to hooks: each hook once for each digest, tried again, given up. Real hooks."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from clamscannerd.ctl import hooks as command
from clamscannerd.ctl.calls import Caller, Options
from clamscannerd.notify import records
from clamscannerd.notify.records import Entry, Record, Records, delay_s, wait_s
from clamscannerd.notify.service import Service, Setup
from tests.fakes.running import wait_for

ONE, TWO = "1" * 32, "2" * 32


class Bench:
    def __init__(self, directory: Path, *, tries: int = 3, timeout_s: float = 20.0) -> None:
        self.outbox, self.records, self.hooks = (directory / name for name in ("outbox", "records", "hooks"))
        for place in (self.outbox, self.records, self.hooks):
            place.mkdir()
        self.ran = directory / "ran"
        self.slept: list[float] = []
        owners = frozenset({0, os.geteuid()})
        self.setup = Setup(str(self.outbox), str(self.records), str(self.hooks), timeout_s, tries, owners)
        self.service = Service(self.setup, self.slept.append)

    def put(self, digest_id: str, **fields: object) -> Path:
        path = self.outbox / f"{digest_id}.json"
        path.write_text(json.dumps({"id": digest_id, "kind": "findings", **fields}))
        return path

    def hook(self, name: str, script: str = "true") -> Path:
        """It notes that it ran, and on what."""
        path = self.hooks / name
        path.write_text(f"#!/bin/sh\necho {name} $(cat) >>{self.ran}\n{script}\n")
        path.chmod(0o755)
        return path

    def runs(self) -> list[str]:
        """hook and the beginning of the id, in order."""
        lines = self.ran.read_text().splitlines() if self.ran.exists() else []
        return [f"{line.split()[0]} {json.loads(line.split(' ', 1)[1])['id'][0]}" for line in lines]

    def round(self) -> float:
        return self.service.round(sorted(path.name for path in self.outbox.iterdir()))

    def later(self, digest_id: str, name: str) -> None:
        """The pause before the next try is over."""
        record = Records(str(self.records)).load(digest_id)
        record.hooks[name].next_at = 0.0
        Records(str(self.records)).save(record)

    def record(self, digest_id: str) -> Record:
        found = records.read(str(self.records), digest_id)
        assert found is not None
        return found


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_every_hook_gets_every_digest_once_and_then_it_is_removed(bench: Bench) -> None:
    bench.put(ONE), bench.put(TWO)
    bench.hook("10-a"), bench.hook("20-b")
    bench.service.run()
    assert sorted(bench.runs()) == ["10-a 1", "10-a 2", "20-b 1", "20-b 2"]
    assert list(bench.outbox.iterdir()) == []
    assert bench.slept == []


def test_a_digest_stays_until_every_hook_has_succeeded_and_one_that_has_is_not_run_again(bench: Bench) -> None:
    file = bench.put(ONE)
    bench.hook("10-good")
    bad = bench.hook("20-bad", "echo why; exit 1")
    assert 50 < bench.round() <= 60
    assert bench.round() > 0  # it is not due
    assert bench.runs() == ["10-good 1", "20-bad 1"]
    entry = bench.record(ONE).hooks["20-bad"]
    assert (entry.state, entry.tries, entry.how, entry.output) == ("waiting", 1, "ended with 1", "why")
    bench.later(ONE, "20-bad")
    Service(bench.setup).round([file.name])  # another process
    assert bench.runs() == ["10-good 1", "20-bad 1", "20-bad 1"]
    assert file.exists()
    bad.write_text("#!/bin/sh\ntrue\n")
    bench.later(ONE, "20-bad")
    bench.round()
    assert not file.exists()


def test_a_hook_is_given_up_after_its_tries_and_that_is_said(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    file = bench.put(ONE)
    bench.hook("bad", "echo because; exit 3")
    for number in range(3):
        assert file.exists()
        bench.round()
        if number < 2:
            bench.later(ONE, "bad")
    assert not file.exists()
    assert bench.record(ONE).hooks["bad"].state == "given-up"
    (said,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert f"hook bad is given up for digest {ONE}, tries: 3; ended with 3: 'because'" in said.getMessage()


def test_a_digest_that_is_written_once_more_is_not_handed_out_again(bench: Bench) -> None:
    bench.hook("a")
    bench.put(ONE)
    bench.service.run()
    bench.put(ONE)
    bench.service.run()
    assert bench.runs() == ["a 1"]
    assert list(bench.outbox.iterdir()) == []


def test_one_that_hangs_costs_its_time_once_a_round(tmp_path: Path) -> None:
    bench = Bench(tmp_path, timeout_s=1.0)
    for digit in "1234":
        bench.put(digit * 32)
    bench.hook("a-hangs", "sleep 1000")
    bench.hook("b-good")
    began = time.monotonic()
    bench.round()
    assert time.monotonic() - began < 15
    assert [run for run in bench.runs() if run.startswith("b")] == ["b-good 1", "b-good 2", "b-good 3", "b-good 4"]
    assert len([run for run in bench.runs() if run.startswith("a")]) == 1
    assert bench.record(ONE).hooks["a-hangs"].how == "was killed after 1 s"


def test_a_hook_that_is_refused_holds_the_digest_until_it_is_put_right(bench: Bench) -> None:
    file = bench.put(ONE)
    hook = bench.hook("a")
    hook.chmod(0o777)
    bench.round()
    assert bench.runs() == []
    assert "others can write" in bench.record(ONE).hooks["a"].how
    hook.chmod(0o755)
    bench.later(ONE, "a")
    bench.round()
    assert bench.runs() == ["a 1"]
    assert not file.exists()


def test_without_a_hook_digests_are_let_go(bench: Bench) -> None:
    bench.put(ONE)
    bench.service.run()
    assert list(bench.outbox.iterdir()) == []


def test_what_is_no_digest_is_removed_and_never_followed(bench: Bench, tmp_path: Path) -> None:
    bench.hook("a")
    victim = tmp_path / "victim"
    victim.write_text(json.dumps({"id": ONE}))
    (bench.outbox / f"{ONE}.json").symlink_to(victim)
    os.mkfifo(bench.outbox / f"{TWO}.json")
    (bench.outbox / ("3" * 32 + ".json")).write_text("{")
    (bench.outbox / ("4" * 32 + ".json")).write_text(json.dumps({"id": ONE}))
    (bench.outbox / ("5" * 32 + ".json")).write_text("[" * 100_000)
    (bench.outbox / "junk").write_text("")
    (bench.outbox / "directory").mkdir()
    with (bench.outbox / ("6" * 32 + ".json")).open("wb") as stream:
        stream.truncate(1 << 40)
    (bench.outbox / ".7.new").write_text("the daemon is at it")
    bench.service.run()
    assert bench.runs() == []
    assert [path.name for path in bench.outbox.iterdir()] == [".7.new"]
    assert victim.exists()


def test_without_a_place_for_records_nothing_is_run(bench: Bench) -> None:
    """It would be run again and again."""
    file = bench.put(ONE)
    bench.hook("a")
    bench.records.rmdir()
    assert bench.round() > 0
    assert bench.runs() == []
    assert file.exists()


def test_a_try_counts_before_it_begins(bench: Bench) -> None:
    """So that a hook which takes the service down with it is not run for ever."""
    bench.put(ONE)
    copy = bench.outbox.parent / "copy"
    bench.hook("a", f"cp {bench.records}/{ONE}.json {copy}")
    bench.round()
    assert json.loads(copy.read_text())["hooks"]["a"]["tries"] == 1


def test_pauses_grow_are_bounded_and_survive_a_clock_that_is_set_back() -> None:
    assert [delay_s(tries) for tries in (1, 2, 3, 10, 1_000)] == [60.0, 180.0, 540.0, 28_800.0, 28_800.0]
    assert wait_s(Entry(tries=1, next_at=1e12), 0.0) == 60.0
    assert wait_s(Entry(tries=1, next_at=5.0), 10.0) == 0.0


def test_old_records_go_and_those_of_digests_that_wait_stay(bench: Bench) -> None:
    for digest_id in (ONE, TWO):
        Records(str(bench.records)).save(Record(id=digest_id, hooks={}))
        os.utime(bench.records / f"{digest_id}.json", (0, 0))
    Records(str(bench.records)).prune({TWO})
    assert [path.name for path in bench.records.iterdir()] == [f"{TWO}.json"]


def test_a_record_of_somebody_elses_making_is_not_followed(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "x").write_text(json.dumps({"id": ONE, "hooks": {}}))
    (bench.records / f"{ONE}.json").symlink_to(tmp_path / "x")
    with pytest.raises(OSError, match="symbolic links"):
        records.read(str(bench.records), ONE)
    os.mkfifo(bench.records / f"{TWO}.json")
    assert records.read(str(bench.records), TWO) is None


def program(bench: Bench) -> list[str]:
    words = [sys.executable, "-I", "-m", "clamscannerd.notify", "--config", os.devnull, "--owner", str(os.geteuid())]
    return [*words, "--outbox", bench.setup.outbox, "--records", bench.setup.records, "--hooks", bench.setup.hooks]


def test_the_program_ends_with_an_empty_outbox(bench: Bench) -> None:
    bench.put(ONE)
    bench.hook("a")
    ended = subprocess.run(program(bench), capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, bench.runs()) == (0, ["a 1"])
    assert f"hook a took digest {ONE}" in ended.stderr


def test_the_program_fails_without_an_outbox(bench: Bench) -> None:
    bench.outbox.rmdir()
    ended = subprocess.run(program(bench), capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert str(bench.outbox) in ended.stderr


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_killed_under_a_hook_the_next_run_takes_the_digest_again(bench: Bench, number: signal.Signals) -> None:
    file = bench.put(ONE)
    bench.hook("10-before")
    left = bench.outbox.parent / "pid"
    hook = bench.hook("20-slow", f"echo $$ >{left}; sleep 1000")
    process = subprocess.Popen(program(bench), stderr=subprocess.DEVNULL)
    wait_for(lambda: left.exists() and left.read_text(), "the hook to run")
    process.send_signal(number)
    process.wait(30)
    assert file.exists()
    hook.write_text(f"#!/bin/sh\necho again $(cat) >>{bench.ran}\n")
    bench.later(ONE, "20-slow")
    bench.service.run()
    assert bench.runs() == ["10-before 1", "20-slow 1", "again 1"]
    with suppress(ProcessLookupError):  # without a unit nobody ends what a kill of the service left
        os.killpg(int(left.read_text()), signal.SIGKILL)


def tried(bench: Bench, *, json_wanted: bool = False) -> int:
    options = Options()
    options.json = json_wanted
    started = []

    def start() -> None:
        started.append(subprocess.Popen(program(bench), stderr=subprocess.DEVNULL))

    try:
        return command.tried(Caller(options), bench.setup, start)
    finally:
        for process in started:
            process.wait(30)


def test_hooks_test_says_of_each_how_it_went(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    bench.hook("good")
    assert tried(bench) == 0
    assert capsys.readouterr().out == "good: ok, ended with 0\n"
    bench.hook("bad", "printf 'no \\033[31m\\nway'; exit 1")
    bench.hook("open").chmod(0o777)
    assert tried(bench) == 2
    lines = capsys.readouterr().out.splitlines()
    assert lines[:4] == ["bad: failed, ended with 1", "  no \\x1b[31m", "  way", "good: ok, ended with 0"]
    assert lines[4].startswith("open: failed, refused: others can write to")
    assert list(bench.outbox.iterdir()) == []
    assert tried(bench, json_wanted=True) == 2
    assert [one["ok"] for one in json.loads(capsys.readouterr().out)["hooks"]] == [False, True, False]


def test_hooks_test_without_a_hook_says_how_to_have_one(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    assert tried(bench) == 2
    assert "ln -s /usr/lib/clamscannerd/hooks/mail" in capsys.readouterr().err
