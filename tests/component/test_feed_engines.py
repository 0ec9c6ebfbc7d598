"""Where a file goes when there are several engines: where it went before, and never behind what is stuck."""

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from clamscannerd.engine.clamproto import FIRST_ID
from clamscannerd.worker.feed import Feed, Flight
from clamscannerd.worker.linewire import Terms

WINDOW = 8


class Engines:
    """A feed with sessions of engines that this test plays; none answers by itself."""

    def __init__(self, directory: Path, numbers: tuple[int, ...], threads: int = 1, *, in_turn: bool = False) -> None:
        self._directory = directory
        self.given_up: list[tuple[bytes, str]] = []
        self.feed = Feed(30.0, self._give_up)
        self.far: dict[int, socket.socket] = {}
        self._answers = dict.fromkeys(numbers, 0)
        for number in numbers:
            ours, self.far[number] = socket.socketpair()
            terms = Terms(engine=number, max_file_size=1 << 20, clean_allowed=True, threads=threads, in_turn=in_turn)
            self.feed.adopt(ours.detach(), terms)

    def _give_up(self, flight: Flight, why: str) -> None:
        self.given_up.append((flight.path, why))
        flight.close()

    def flight(self, number: int) -> Flight:
        path = self._directory / f"f{number}"
        path.touch()
        fd = os.open(path, os.O_RDONLY)
        return Flight(path.name.encode(), fd, os.fstat(fd), recheck=False)

    def goes_to(self, number: int) -> int:
        """Send one file, have it answered; the engine that it went to."""
        flight = self.flight(number)
        assert self.feed.send(flight)
        return self.answer(flight)

    def answer(self, flight: Flight) -> int:
        """Of an engine that has answered all else."""
        engine = flight.engine
        assert engine is not None
        self.far[engine].sendall(b"%d: fd[9]: OK\0" % (FIRST_ID + self._answers[engine]))
        self._answers[engine] += 1
        ((answered, _),) = self.feed.receive()
        assert answered is flight
        flight.close()
        return engine

    def close(self) -> None:
        self.feed.close()
        for sock in self.far.values():
            sock.close()


@pytest.fixture
def made() -> Iterator[list[Engines]]:
    opened: list[Engines] = []
    yield opened
    for engines in opened:
        engines.close()


def engines(made: list[Engines], directory: Path, *numbers: int, threads: int = 1, in_turn: bool = False) -> Engines:
    one = Engines(directory, numbers, threads, in_turn=in_turn)
    made.append(one)
    return one


def test_a_file_goes_to_the_engine_that_had_it_in_the_scan_before(made: list[Engines], tmp_path: Path) -> None:
    before, now = engines(made, tmp_path, 0, 1, 2), engines(made, tmp_path, 2, 0, 1)
    went = [before.goes_to(number) for number in range(60)]
    assert [now.goes_to(number) for number in range(60)] == went
    assert set(went) == {0, 1, 2}


def test_when_an_engine_is_away_only_its_own_files_go_elsewhere(made: list[Engines], tmp_path: Path) -> None:
    before, now = engines(made, tmp_path, 0, 1, 2), engines(made, tmp_path, 0, 2)
    went = [before.goes_to(number) for number in range(60)]
    then = [now.goes_to(number) for number in range(60)]
    assert [new for new, old in zip(then, went, strict=True) if old != 1] == [old for old in went if old != 1]


def test_nothing_idles_behind_a_file_that_takes_long(made: list[Engines], tmp_path: Path) -> None:
    """One engine has it, and nothing of what came after it is answered there."""
    both = engines(made, tmp_path, 0, 1)
    huge = both.flight(0)
    assert both.feed.send(huge)
    stuck = huge.engine
    waiting = []
    for number in range(1, 41):
        flight = both.flight(number)
        assert both.feed.send(flight)
        if flight.engine == stuck:
            waiting.append(number)
            continue
        both.answer(flight)
    assert len(waiting) <= 1
    assert both.feed.in_flight == 1 + len(waiting)


def test_an_engine_with_more_threads_has_more_at_once(made: list[Engines], tmp_path: Path) -> None:
    both = engines(made, tmp_path, 0, 1, threads=3)
    went = []
    for number in range(WINDOW):
        assert both.feed.room(WINDOW)
        flight = both.flight(number)
        assert both.feed.send(flight)
        went.append(flight.engine)
    assert not both.feed.room(WINDOW)
    assert abs(went.count(0) - went.count(1)) <= 4


@pytest.mark.parametrize("window", [2, 3, 4, 8])
def test_however_small_the_window_an_engine_that_answers_is_given_files(
    made: list[Engines], tmp_path: Path, window: int
) -> None:
    """One engine answers nothing at all: it gets its part of the window, and the other one goes on with its own."""
    both = engines(made, tmp_path, 0, 1, threads=4)
    stuck, answered = 0, 0
    for number in range(60):
        assert both.feed.room(window), "the other engine idles"
        flight = both.flight(number)
        assert both.feed.send(flight)
        if flight.engine == 0:
            stuck += 1
        else:
            both.answer(flight)
            answered += 1
    assert 1 <= stuck <= -(-window // 2)
    assert answered == 60 - stuck


def test_what_waits_its_turn_is_not_late(made: list[Engines], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine of one thread: three files that take almost as long as may be, one after the other."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    one = engines(made, tmp_path, 0, in_turn=True)
    flights = [one.flight(number) for number in range(3)]
    for flight in flights:
        assert one.feed.send(flight)
    for flight in flights:
        now[0] += 29.0
        one.feed.check_deadlines()
        one.answer(flight)
    assert one.given_up == []


def test_of_what_waits_its_turn_only_the_first_is_late(
    made: list[Engines], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    one = engines(made, tmp_path, 0, in_turn=True)
    flights = [one.flight(number) for number in range(3)]
    for flight in flights:
        assert one.feed.send(flight)
    now[0] += 31.0
    one.feed.check_deadlines()
    assert one.given_up == [(flights[0].path, "deadline")]
    assert one.feed.waiting == 2
