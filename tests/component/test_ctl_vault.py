"""clamscannerctl quarantine and undo against a scripted daemon."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import click
import pytest

from clamscannerd.ctl import asking, main, vault, waiting
from tests.fakes.daemon import Failure, FakeDaemon

TASK = "00000007/5a9ec8dd4c345d"
DONE = {"type": "done", "id": 9, "status": "done", "state": "success", "message": "1 restored"}
LEFT = {"type": "done", "id": 9, "status": "done", "state": "info", "message": "1 left in the vault"}


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


def item(number: int, file: str = "/home/anna/x") -> dict[str, Any]:
    return {
        "id": number,
        "file": file,
        "state": "quarantined",
        "size": 68,
        "sha256": "ab" * 32,
        "signature": "Eicar-Test",
        "engine": {"version": "1.4.6", "database": 27400},
        "kept_at": 0.0,
        "expires_at": 86_400.0,
        "task_id": TASK,
    }


def task(*details: dict[str, Any], state: str = "done") -> dict[str, Any]:
    return {"task_id": TASK, "kind": "restore", "state": state, "details": [*details]}


def step(number: int, state: str, **more: object) -> dict[str, Any]:
    return {"type": "step", "id": 1, "item": number, "file": "/home/anna/x", "state": state, **more}


def test_all_pages_of_the_list_are_shown(tmp_path: Path, ctl: Ctl, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vault, "PAGE", 1)
    pages = [{"items": [item(1, "/home/anna/a\x1b")], "total": 2}, {"items": [item(12)], "total": 2}]
    with FakeDaemon(tmp_path / "s", {"Quarantine.list": [*pages, *pages]}) as fake:
        plain = ctl("--socket", fake.path, "quarantine", "list", "--state", "quarantined")
        as_json = ctl("--socket", fake.path, "quarantine", "list", "--json")
        assert fake.asked("Quarantine.list")[0] == {"limit": 1, "offset": 0, "state": "quarantined"}
        assert fake.asked("Quarantine.list")[1]["offset"] == 1
    assert plain.code == 0
    assert plain.out.splitlines()[0].startswith(" 1  quarantined  until ")
    assert plain.out.splitlines()[0].endswith("68 B  Eicar-Test  /home/anna/a\\x1b")
    assert [one["id"] for one in json.loads(as_json.out)["items"]] == [1, 12]


def test_an_empty_vault_says_so(tmp_path: Path, ctl: Ctl) -> None:
    with FakeDaemon(tmp_path / "s", {"Quarantine.list": [{"items": [], "total": 0}]}) as fake:
        assert ctl("--socket", fake.path, "quarantine", "list").out == "the vault has nothing of this account\n"


def test_one_item_is_shown_whole(tmp_path: Path, ctl: Ctl) -> None:
    whole = item(3) | {"owner": 1, "group": 2, "mode": "0644", "mtime": 0.0, "xattrs_size": 0, "scan_id": 1}
    with FakeDaemon(tmp_path / "s", {"Quarantine.show": [whole]}) as fake:
        shown = ctl("--socket", fake.path, "quarantine", "show", "3")
    assert shown.out.startswith("item 3: /home/anna/x\n  taken:      ")
    assert "mode 0644, uid 1, gid 2" in shown.out
    assert "\n  found by:   ClamAV 1.4.6, signatures 27400\n" in shown.out


def test_an_item_of_before_engines_were_recorded_says_nothing_of_one(tmp_path: Path, ctl: Ctl) -> None:
    whole = item(3) | {"owner": 1, "group": 2, "mode": "0644", "mtime": 0.0, "xattrs_size": 0, "scan_id": 1}
    with FakeDaemon(tmp_path / "s", {"Quarantine.show": [whole | {"engine": None}]}) as fake:
        shown = ctl("--socket", fake.path, "quarantine", "show", "3")
    assert (shown.code, "found by" in shown.out) == (0, False)


def test_an_unknown_item_is_trouble_and_what_to_do_next(tmp_path: Path, ctl: Ctl) -> None:
    with FakeDaemon(tmp_path / "s", {"Quarantine.show": [Failure(-32005, "cannot find item 3", "not_found")]}) as fake:
        code, out, said = ctl("--socket", fake.path, "quarantine", "show", "3")
    assert (code, out) == (2, "")
    trouble, advice = said.splitlines()
    assert trouble == "clamscannerctl: cannot find item 3"
    assert advice.endswith("quarantine list")


def test_a_restore_is_named_or_waited_for(tmp_path: Path, ctl: Ctl) -> None:
    running = task(state="running")
    answers = {
        "Quarantine.restore": [{"task_id": TASK}],
        "Task.get": [running, task(step(5, "restored"), state="running"), task(DONE)],
    }
    with FakeDaemon(tmp_path / "s", answers) as fake:
        started = ctl("--socket", fake.path, "quarantine", "restore", "5", "--force", "--to", "/home/anna/back")
        waited = ctl("--socket", fake.path, "quarantine", "restore", "5", "--wait")
        assert fake.asked("Quarantine.restore") == [
            {"ids": [5], "force": True, "to": "/home/anna/back"},
            {"ids": [5], "force": False},
        ]
        assert fake.asked("Task.get")[-1] == {"task_id": TASK, "last_id": 1}
    assert (started.code, started.out.splitlines()[0]) == (0, f"task {TASK} is under way")
    assert waited == (0, "restored: /home/anna/x\ndone: success, 1 restored\n", "")


def test_what_is_left_is_trouble_when_nobody_can_be_asked(tmp_path: Path, ctl: Ctl) -> None:
    answers = {"Task.undo": [{"task_id": TASK}], "Task.get": [task(step(5, "no-action", signature="X"), LEFT)]}
    with FakeDaemon(tmp_path / "s", answers) as fake:
        assert ctl("--socket", fake.path, "undo", TASK, "--wait").code == 2
        assert fake.asked("Task.undo") == [{"task_id": TASK, "force": False}]


@pytest.mark.parametrize("yes", [True, False])
def test_on_a_terminal_it_asks_before_forcing(
    tmp_path: Path, ctl: Ctl, monkeypatch: pytest.MonkeyPatch, *, yes: bool
) -> None:
    asked: list[str] = []

    def confirm(question: str, **_: object) -> bool:
        asked.append(question)
        return yes

    monkeypatch.setattr(asking, "on_terminal", lambda: True)
    monkeypatch.setattr(click, "confirm", confirm)
    answers = {
        "Task.undo": [{"task_id": TASK}],
        "Quarantine.restore": [{"task_id": TASK}],
        "Task.get": [task(step(5, "no-action", signature="X"), LEFT), task(step(5, "restored"), DONE)],
    }
    with FakeDaemon(tmp_path / "s", answers) as fake:
        run = ctl("--socket", fake.path, "undo", TASK, "--wait")
        assert fake.asked("Quarantine.restore") == ([{"ids": [5], "force": True}] if yes else [])
    assert run.code == (0 if yes else 2)
    assert asked == ["Restore 1 file that is still detected as infected?"]


@pytest.mark.parametrize("words", [("--yes",), ()])
def test_deleting_asks_on_a_terminal_only(
    tmp_path: Path, ctl: Ctl, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.setattr(asking, "on_terminal", lambda: True)
    monkeypatch.setattr(click, "confirm", lambda *_, **__: False)
    with FakeDaemon(tmp_path / "s", {"Quarantine.delete": [{"deleted": 2}]}) as fake:
        run = ctl("--socket", fake.path, "quarantine", "delete", "5", "6", *words)
        assert fake.asked("Quarantine.delete") == ([{"ids": [5, 6]}] if words else [])
    assert run == ((0, "2 items removed for good\n", "") if words else (2, "", ""))


def test_damage_is_told_and_trouble(tmp_path: Path, ctl: Ctl) -> None:
    whole = {"items": 2, "intact": 2, "damaged": [], "damaged_count": 0, "strays": None, "stray_count": None}
    hurt = {"items": 2, "intact": 1, "damaged": [7], "damaged_count": 1, "strays": ["ab/x.item"], "stray_count": 2}
    with FakeDaemon(tmp_path / "s", {"Quarantine.verify": [whole, hurt]}) as fake:
        assert ctl("--socket", fake.path, "quarantine", "verify") == (0, "2 items, 2 intact\n", "")
        run = ctl("--socket", fake.path, "quarantine", "verify")
    assert run.code == 2
    assert run.out.splitlines()[1:] == ["damaged: item 7", "without an item: ab/x.item", "without an item: 1 more"]


@pytest.mark.parametrize(
    "words", [("restore",), ("restore", "0"), ("show", "x"), ("list", "--state", "lost"), ("burn",)]
)
def test_misuse_is_one_line(ctl: Ctl, words: list[str]) -> None:
    run = ctl("--socket", os.devnull, "quarantine", *words)
    assert (run.code, run.out, run.err.count("\n")) == (2, "", 1)
