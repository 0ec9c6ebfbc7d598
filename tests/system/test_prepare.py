"""clamscannerd-prepare.service's program, with a systemctl that writes down what it is told."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from clamscannerd import launch_prepare
from clamscannerd.engine.fitting import Room, fit
from tests.fakes.launched import configure

SYSTEMCTL = """#!/bin/sh
echo "$*" >>{place}/told
[ "$1" != show ] || cat {place}/active
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    directory = tmp_path
    program = directory / "systemctl"
    program.write_text(SYSTEMCTL.format(place=directory))
    program.chmod(0o755)
    (directory / "active").write_text("ActiveState=inactive\n")
    monkeypatch.setattr(launch_prepare, "_SYSTEMCTL", str(program))
    monkeypatch.setattr(launch_prepare, "_BOOTED", str(directory))
    umask = os.umask(0o022)
    yield directory
    os.umask(umask)


def prepare(place: Path, more: str) -> list[str]:
    """What systemctl was told."""
    configure(place, more)
    told = place / "told"
    told.unlink(missing_ok=True)
    assert launch_prepare.main([str(place / "c.toml")]) == 0
    return told.read_text().splitlines()


def confs(place: Path) -> list[str]:
    return sorted(path.name for path in place.glob("run-engine/*.conf"))


def test_from_one_engine_to_several_and_back_by_the_configuration_alone(place: Path) -> None:
    engine = "clamscannerd-engine@"
    _, stopped, *_ = prepare(place, "private_engines = 1\n")
    assert stopped == f"--no-block stop {engine}[2-8].socket {engine}[2-8].service"
    assert confs(place) == ["1.conf", "builtin.conf"]
    assert "MaxThreads 10\n" in (place / "run-engine/1.conf").read_text()

    _, stopped, started, restarted = prepare(place, "private_engines = 3\n")
    assert stopped == f"--no-block stop {engine}[4-8].socket {engine}[4-8].service"
    assert started == f"start {engine}2.socket {engine}3.socket"
    assert restarted == f"--no-block try-restart {engine}1.service {engine}2.service {engine}3.service"
    assert confs(place) == ["1.conf", "2.conf", "3.conf", "builtin.conf"]
    assert "MaxThreads 1\n" in (place / "run-engine/1.conf").read_text()

    assert prepare(place, "private_engines = 3\n")[1:] == [stopped, started], "nothing is another: no restart"

    _, stopped, restarted = prepare(place, "private_engines = 1\n")
    assert stopped == f"--no-block stop {engine}[2-8].socket {engine}[2-8].service"
    assert restarted == f"--no-block try-restart {engine}1.service"
    assert confs(place) == ["1.conf", "builtin.conf"]


def test_each_has_the_socket_that_systemd_listens_on_and_a_log_of_its_own(place: Path) -> None:
    prepare(place, "private_engines = 2\n")
    for name in ("1", "2", "builtin"):
        conf = (place / f"run-engine/{name}.conf").read_text()
        assert f"LocalSocket {place}/run-engine/{name}.sock\n" in conf
        assert f"LogFile {place}/run-engine/log/{name}/clamd.log\n" in conf


def test_engines_that_run_have_taken_their_memory_already(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Room] = []

    def look(wanted: str | int, room: Room, *, max_threads: int) -> object:
        seen.append(room)
        return fit(wanted, room, max_threads=max_threads)

    monkeypatch.setattr("clamscannerd.engine.fitting.fit", look)
    (place / "active").write_text("ActiveState=active\n\nActiveState=inactive\n\nActiveState=active\n")
    prepare(place, "")
    assert [room.running for room in seen] == [2]


def test_where_others_engines_are_used_no_further_ones_are_left(place: Path) -> None:
    prepare(place, "private_engines = 2\n")
    configure(place)
    (place / "c.toml").write_text((place / "c.toml").read_text().replace('"private"', '["/run/clamav/clamd.ctl"]'))
    (place / "told").unlink()
    assert launch_prepare.main([str(place / "c.toml")]) == 0
    _, stopped = (place / "told").read_text().splitlines()
    assert stopped.startswith("--no-block stop clamscannerd-engine@[2-8].socket")
    assert not (place / "run-engine/2.conf").exists()
