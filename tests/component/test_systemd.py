"""systemd.py with sockets and variables of the test's own: what is said, what is taken, and nothing without systemd."""

import json
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from clamscannerd import events, systemd
from clamscannerd.model import Outcome
from tests.fakes.manager import Manager

TAKE = """
import json, socket, sys
from clamscannerd import systemd
from clamscannerd.errors import ClamscannerdError
names = systemd.listens()
try:
    socks = systemd.listeners()
    found = [sock.fileno() for sock in socks]
except ClamscannerdError as error:
    found = str(error)
import os
json.dump([names, found, systemd.listens(), os.get_inheritable(3), sorted(map(int, os.listdir("/proc/self/fd")))],
          sys.stdout)
"""


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Manager]:
    with Manager(tmp_path / "s", activated=False) as running:
        for name, value in running.environment.items():
            monkeypatch.setenv(name, value)
        yield running


# What is said


def test_what_is_said_arrives_as_lines(manager: Manager) -> None:
    systemd.notify(READY="1", STATUS="idle")
    systemd.reloading()
    assert int(manager.wait("MONOTONIC_USEC")) > 0
    assert manager.said[:3] == [("READY", "1"), ("STATUS", "idle"), ("RELOADING", "1")]


def test_no_text_can_begin_another_assignment(manager: Manager) -> None:
    systemd.notify(STATUS="a\nMAINPID=1\0\x1b[31mé")
    assert manager.wait("STATUS") == "a?MAINPID=1??[31mé"
    assert manager.values("MAINPID") == []


def test_a_manager_that_is_gone_is_said_and_ends_nothing(manager: Manager, caplog: pytest.LogCaptureFixture) -> None:
    place = Path(manager.environment["NOTIFY_SOCKET"])
    moved = place.rename(place.with_name("away"))
    systemd.notify(READY="1")
    moved.rename(place)
    assert "cannot tell systemd ['READY=1']: No such file or directory" in caplog.text
    caplog.clear()


def test_without_a_manager_nothing_is_said(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not systemd.is_told()
    systemd.notify(READY="1")
    systemd.reloading()
    assert caplog.text == ""


# The watchdog


async def test_the_watchdog_is_told_twice_a_period_while_all_answer(
    manager: Manager, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    asked = []

    async def answers() -> None:
        asked.append(trio.current_time())

    with trio.move_on_after(100):
        await systemd.watchdog({"one": answers, "other": answers})
    assert manager.values("WATCHDOG") == ["1"] * 7  # at once, and every 15 s
    assert len(asked) == 14


async def test_the_watchdog_is_told_nothing_while_one_does_not_answer_and_the_log_says_which(
    manager: Manager,
    monkeypatch: pytest.MonkeyPatch,
    autojump_clock: trio.testing.MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")

    async def fine() -> None:
        await trio.lowlevel.checkpoint()

    late = trio.Event()
    with trio.move_on_after(200):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(systemd.watchdog, {"database": fine, "monitor": late.wait})
            await trio.sleep(100)
            assert manager.values("WATCHDOG") == []
            late.set()
            await trio.sleep(50)
            assert len(manager.values("WATCHDOG")) == 5, "at once, and from then on in its time"
            nursery.cancel_scope.cancel()
    (complaint,) = [record.getMessage() for record in caplog.records]
    assert complaint == "no answer from the monitor for 15 s: the watchdog hears nothing until there is one"
    caplog.clear()


@pytest.mark.parametrize("variables", [{}, {"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "x"}])
async def test_without_a_watchdog_of_ours_nothing_is_asked(
    manager: Manager, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with trio.fail_after(5):
        await systemd.watchdog({"never": trio.sleep_forever})
    assert manager.values("WATCHDOG") == []


# Sockets that are handed over


class Handed:
    """The answers of TAKE in a process that got these sockets as fds 3 and on."""

    def __init__(self, variables: str, *socks: socket.socket) -> None:
        high = [os.dup2(sock.fileno(), 50 + number, inheritable=True) for number, sock in enumerate(socks)]
        moves = " ".join(f"{3 + number}<&{fd} {fd}<&-" for number, fd in enumerate(high))
        script = f'exec {moves}; LISTEN_PID=$$ {variables} exec "$@"'
        words = ["bash", "-c", script, "bash", sys.executable, "-c", TAKE]
        try:
            done = subprocess.run(words, pass_fds=high, capture_output=True, text=True, timeout=30, check=True)
        finally:
            for fd in high:
                os.close(fd)
        self.err = done.stderr
        self.given, self.found, self.again, self.inheritable, self.fds = json.loads(done.stdout)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind("\0csd-handed-" + os.urandom(8).hex())
        sock.listen()
        yield sock


@pytest.mark.parametrize("names", ["", "LISTEN_FDNAMES=clamscannerd.socket", "LISTEN_FDNAMES=unknown"])
def test_a_socket_is_taken_with_its_own_name_or_without_any(listener: socket.socket, names: str) -> None:
    handed = Handed(f"LISTEN_FDS=1 {names}", listener)
    assert handed.given is True
    assert handed.found == [3]
    assert handed.inheritable is False
    assert handed.again is False, "what a child could read is gone"


def test_a_socket_of_another_name_is_closed_and_said(listener: socket.socket) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        handed = Handed("LISTEN_FDS=2 LISTEN_FDNAMES=clamscannerd.socket:metrics", listener, other)
    assert handed.found == [3]
    assert 4 not in handed.fds[:-1]
    assert "'metrics'" in handed.err


def test_sockets_for_another_process_are_none_of_ours(listener: socket.socket) -> None:
    handed = Handed("LISTEN_FDS=1 LISTEN_PID=1", listener)
    assert (handed.given, handed.found) == (False, [])


@pytest.mark.parametrize("kind", ["datagram", "not listening", "inet"])
def test_a_socket_that_cannot_say_who_asks_is_refused(kind: str) -> None:
    family = socket.AF_INET if kind == "inet" else socket.AF_UNIX
    with socket.socket(family, socket.SOCK_DGRAM if kind == "datagram" else socket.SOCK_STREAM) as sock:
        if kind == "inet":
            sock.bind(("127.0.0.1", 0))
            sock.listen()
        handed = Handed("LISTEN_FDS=1", sock)
    assert handed.found == (
        "cannot serve fd 3 ('unknown'), which systemd handed over: expected a listening Unix stream socket"
    )


# The journal


class Journal:
    """Instead of journal.send."""

    def __init__(self) -> None:
        self.entries: list[dict[str, Any]] = []
        handler = systemd.journal_handler(self.send)
        assert handler is not None
        self.logger = logging.Logger("test")
        self.logger.addHandler(handler)

    def send(self, message: str, **fields: Any) -> None:
        self.entries.append({"MESSAGE": message, **fields})


def test_fields_reach_the_journal_and_nothing_else_does() -> None:
    journal = Journal()
    extra = events.action(1001, task="00000001/ab", path="/home/a/x\ny", signature="Eicar", outcome=Outcome.DELETED)
    journal.logger.info("task %s: %r", "00000001/ab", "secret", extra={**extra, "colour": "blue"})
    (entry,) = journal.entries
    where = {key for key in entry if key.startswith("CODE_")}
    assert where == {"CODE_FILE", "CODE_LINE", "CODE_FUNC"}
    assert {key: value for key, value in entry.items() if key not in where} == {
        "MESSAGE": "task 00000001/ab: 'secret'",
        "MESSAGE_ID": events.ACTION_TAKEN,
        "PRIORITY": "6",
        "LOGGER": "test",
        "SYSLOG_IDENTIFIER": "clamscannerd",
        "CLAMSCANNERD_UID": "1001",
        "CLAMSCANNERD_TASK_ID": "00000001/ab",
        "CLAMSCANNERD_PATH": "/home/a/x\ny",
        "CLAMSCANNERD_SIGNATURE": "Eicar",
        "CLAMSCANNERD_OUTCOME": "deleted",
    }


def test_a_traceback_reaches_the_journal() -> None:
    journal = Journal()
    try:
        raise KeyError("x")
    except KeyError:
        journal.logger.exception("fault")
    assert "KeyError: 'x'" in journal.entries[0]["EXCEPTION_TEXT"]
    assert journal.entries[0]["PRIORITY"] == "3"


@pytest.mark.parametrize("stream", [None, "1:2"])
def test_where_stderr_is_no_journal_there_is_no_handler(monkeypatch: pytest.MonkeyPatch, stream: str | None) -> None:
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    if stream:
        monkeypatch.setenv("JOURNAL_STREAM", stream)
    assert systemd.journal_handler() is None


def test_where_stderr_is_the_journal_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = os.fstat(2)
    monkeypatch.setenv("JOURNAL_STREAM", f"{facts.st_dev}:{facts.st_ino}")
    assert systemd.journal_handler() is not None
