"""L1: what one user asks of the daemon, however much, the others hardly feel.

Others are real users, fifty of them, who ask at a steady pace and are timed, first with nothing else going on and then
under the load. They call from a process of their own (tests/fakes/callers.py), and so does who loads.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.fakes.accounts import Person, throw_away
from tests.fakes.callers import Callers, Result
from tests.fakes.crowd import connections, crowd, open_files, room_for
from tests.fakes.realclamd import EICAR
from tests.fakes.restoring import put
from tests.fakes.running import RunningDaemon, wait_for
from tests.rows import Amount, Figure

USERS = 50
ACTIVE_EACH = 4
ENOUGH_MS = 20.0
ABUSER_CONNECTIONS = 32
ABUSER_CALLS_S = 1_000
INFECTED = 50
TRIES = 3


def line(method: str, params: str = "{}") -> bytes:
    return b'{"jsonrpc":"2.0","id":NUMBER,"method":"%s","params":%s}' % (method.encode(), params.encode())


STATUS = line("ClamScanner.get_scan_status")
POLLS = [STATUS, STATUS, line("ClamScanner.check_disinfection_status"), line("ClamScanner.list_infected_files")]
EVERYTHING = [
    *[*POLLS, line("Quarantine.list"), line("Task.list"), line("ClamScanner.get_scan_paths")] * 5,
    line("ClamScanner.start_scan", '{"scan_type":"home"}'),
    line("ClamScanner.disinfect_files", '{"actions":{"none":"delete"}}'),
]


@pytest.fixture(scope="module")
def users() -> Iterator[list[int]]:
    with crowd(USERS) as uids:
        yield uids


@pytest.fixture(scope="module")
def loader() -> Iterator[Person]:
    with throw_away("loader") as person:
        for number in range(INFECTED):
            put(person, f"bad{number}", EICAR)
        yield person


def honest(
    daemon: RunningDaemon, uids: list[int], each: int, stack: ExitStack, per_s: float, seconds: float
) -> Callers:
    """All of these users, with so many connections each."""
    socks = [sock for uid in uids for sock in stack.enter_context(connections(daemon.socket_path, uid, each))]
    return Callers(socks, POLLS, per_s=per_s, seconds=seconds)


def compare(measure: Callable[[], tuple[Result, Result]]) -> str:
    """The claim; for the report. Other work on the same cores only ever makes it worse: the first of three that holds
    is what the daemon can do."""
    words: list[str] = []
    for _ in range(TRIES):
        calm, loaded = measure()
        before, under = calm.percentile(0.95), loaded.percentile(0.95)
        assert (calm.refused, loaded.refused) == (0, 0)
        words.append(f"p95 of {len(loaded.milliseconds):,} calls {under:.1f} ms, {before:.1f} ms before")
        if under <= max(2 * before, ENOUGH_MS):
            return words[-1]
    raise AssertionError("; ".join(words))


@pytest.mark.row("L1")
@pytest.mark.fails_with("a-timer-for-each-connection")
def test_idle_connections_by_the_thousand_delay_no_call(
    users: list[int], loader: Person, amount: Amount, figure: Figure
) -> None:
    idle, seconds = amount(quick=3_000, long=10_000), amount(quick=4, long=60)
    config = f'[server]\nadmins = ["root", "{loader.name}"]\n'

    def measure() -> tuple[Result, Result]:
        with RunningDaemon(config=config, timed=False) as daemon:  # it looks for garbage among all that they take up
            before = open_files(daemon.pid)
            with ExitStack() as stack, honest(daemon, users, ACTIVE_EACH, stack, 1.0, seconds) as calm:
                pass
            with ExitStack() as stack:
                stack.enter_context(connections(daemon.socket_path, loader.uid, idle))
                wait_for(lambda: open_files(daemon.pid) >= before + idle, "the daemon to have them all")
                with honest(daemon, users, ACTIVE_EACH, stack, 1.0, seconds) as loaded:
                    pass
                assert open_files(daemon.pid) >= before + idle, "they did not stay"
        return calm.result, loaded.result

    with room_for(idle):
        figure(f"{idle:,} idle, {USERS * ACTIVE_EACH} active: {compare(measure)}")


@pytest.mark.row("L1")
@pytest.mark.fails_with("accounts-looked-up-each-time", "one-list-at-a-time")
def test_a_thousand_calls_a_second_of_one_delay_no_call_of_others(
    users: list[int], loader: Person, amount: Amount, figure: Figure
) -> None:
    seconds = amount(quick=5, long=60)
    pace = ABUSER_CALLS_S / ABUSER_CONNECTIONS
    rates: list[float] = []

    def measure() -> tuple[Result, Result]:
        with ExitStack() as stack:
            with honest(daemon, users, 1, stack, 4.0, seconds) as calm:
                pass
            abused = stack.enter_context(connections(daemon.socket_path, loader.uid, ABUSER_CONNECTIONS))
            with (
                Callers(abused, EVERYTHING, per_s=pace, seconds=seconds, at_once=16) as abuse,
                honest(daemon, users, 1, stack, 4.0, seconds) as loaded,
            ):
                pass
        calls = len(abuse.result.milliseconds)
        assert calls >= 0.9 * ABUSER_CALLS_S * seconds, "the load was none"
        rates.append(calls / abuse.result.seconds)
        return calm.result, loaded.result

    with RunningDaemon() as daemon:
        with daemon.client(loader.uid) as client:
            assert client.scan()["infected_file_count"] == INFECTED
        words = compare(measure)
    figure(f"{rates[-1]:,.0f} calls/s of one, {USERS} others: {words}")
