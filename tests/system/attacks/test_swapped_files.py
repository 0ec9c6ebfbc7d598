"""A2, as root: an account that exchanges the files themselves with links, FIFOs, sockets and directories.

Each file that is to be acted on, or the name that one is to be restored to, changes places with something else as fast
as the kernel does it. What the links lead to would let itself be changed, and is infected too.
"""

import os
import shutil
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.fakes.accounts import Person, throw_away
from tests.fakes.aftermath import children, vault
from tests.fakes.flipper import Flipper
from tests.fakes.manifest import manifest
from tests.fakes.restoring import afresh, items, restore
from tests.fakes.running import RunningDaemon
from tests.fakes.strace import CallTimes
from tests.fakes.swapping import (
    DONE,
    PLACES,
    WITHIN,
    Content,
    Swapper,
    Tally,
    TimedClient,
    first_letter,
    infected,
    is_cleansed,
    letter_of,
    link,
    mail,
    mailbox,
    put,
    states_of,
)
from tests.rows import Amount, Figure

KINDS = (*PLACES, "fifo", "socket", "directory")
LONGEST_S = 1.0
Names = list[tuple[str, int]]


@pytest.fixture(scope="module")
def daemon() -> Iterator[RunningDaemon]:
    with RunningDaemon() as running:
        yield running


@pytest.fixture(scope="module")
def people() -> Iterator[tuple[Person, Person]]:
    with throw_away("swap_a") as alice, throw_away("swap_b") as bob:
        yield alice, bob


@pytest.fixture
def swapper(daemon: RunningDaemon, people: tuple[Person, Person]) -> Swapper:
    alice, bob = people
    return Swapper(daemon, afresh(alice, daemon), afresh(bob, daemon))


@pytest.fixture
def flips(amount: Amount) -> int:
    """For each way of acting; there are five."""
    return amount(quick=3_000, long=250_000)


@pytest.fixture
def names(amount: Amount) -> Names:
    """Kinds and numbers of the files of a round."""
    numbers = range(amount(quick=3, long=0), amount(quick=6, long=48))
    return [(kind, number) for kind in KINDS for number in numbers]


class Directory:
    """`d` of the account: its files, and what each changes places with."""

    def __init__(self, swapper: Swapper, names: Names, targets: dict[str, Path]) -> None:
        self.swapper = swapper
        self.names = names
        self.path = swapper.home / "d"
        self._targets = targets
        self.pairs = [(name(*one).encode(), f"other_{name(*one)}".encode()) for one in names]

    def make(self, content: Content) -> None:
        """Afresh, with files that hold this."""
        shutil.rmtree(self.path, ignore_errors=True)
        for one in self.names:
            put(self.swapper.account, self.path / name(*one), content(*one))

    def make_others(self) -> None:
        account = self.swapper.account
        for kind, number in self.names:
            other = self.path / f"other_{name(kind, number)}"
            if kind == "fifo":
                os.mkfifo(other)
            elif kind == "socket":
                with socket.socket(socket.AF_UNIX) as bound:
                    os.chdir(other.parent)  # a socket's path is short
                    bound.bind(other.name)
                    os.chdir("/")
            elif kind == "directory":
                put(account, other / "inner", infected("inner", number))
            else:
                link(self._targets[kind] / f"f{number:03}", other)
            os.chown(other, account.uid, account.gid, follow_symlinks=False)

    def others(self) -> Counter[object]:
        """What is not a file of ours, whatever its name is now."""
        found = Counter[object]()
        for path in self.path.iterdir():
            if path.is_symlink():
                found[os.readlink(path)] += 1
            elif path.is_dir():
                found[tuple(sorted((below.name, below.read_bytes()) for below in path.iterdir()))] += 1
            elif not path.is_file():
                found["fifo" if path.is_fifo() else "socket" if path.is_socket() else "?"] += 1
        return found

    def files(self) -> Counter[bytes]:
        """Contents of our files, whatever their names are now."""
        return Counter(path.read_bytes() for path in self.path.iterdir() if path.is_file() and not path.is_symlink())

    def flipping(self, log: str = "") -> Flipper:
        account = self.swapper.account
        return Flipper(account.uid, account.gid, str(self.path), self.pairs, log)


def name(kind: str, number: int) -> str:
    return f"{kind}_{number:03}"


def said(what: str, tally: Tally, client: TimedClient) -> str:
    return f"{what}: {tally}, slowest answer {client.slowest_s * 1000:.0f} ms"


@pytest.mark.row("A2")
@pytest.mark.fails_with("captured-unchecked")
@pytest.mark.parametrize("action", ["quarantine", "delete"])
def test_no_action_hits_what_a_file_is_swapped_for(
    swapper: Swapper, names: Names, flips: int, figure: Figure, action: str
) -> None:
    mine = Counter(infected(*one) for one in names)
    tally = Tally(flips, DONE[action], "error", WITHIN)
    with swapper.victims(infected, "f", names[-1][1] + 1) as targets, swapper.client() as client:
        before = {place: manifest(tree) for place, tree in targets.items()}
        directory = Directory(swapper, names, targets)
        while tally.wants_more():
            directory.make(infected)
            directory.make_others()
            others = directory.others()
            client.scan()
            with directory.flipping(swapper.log) as flipper, client.timed():
                details = swapper.disinfect(client, {f"d/{name(*one)}": action for one in names})
            assert {place: manifest(tree) for place, tree in targets.items()} == before
            assert directory.others() == others
            now = swapper.check_taken(details, set(mine))
            left = directory.files()
            assert left + Counter(item.content for item in swapper.taken()) == mine
            assert left.total() + now[DONE[action]] == len(names)
            tally.add(flipper.flips, now)
        assert client.slowest_s < LONGEST_S
    figure(said(action, tally, client))


def the_very_mail(of: str, number: int) -> bytes:
    """What a mailbox of A's own holds, byte by byte: the victims' would be cleansed just as well."""
    return mail(of.removeprefix("of "), number)


@pytest.mark.row("A2")
@pytest.mark.fails_with("mailbox-link-followed")
def test_no_cleanse_hits_what_a_mailbox_is_swapped_for(
    swapper: Swapper, names: Names, flips: int, figure: Figure
) -> None:
    """The links lead to the very same mailboxes."""
    boxes = {f"d/{name(*one)}": mailbox(*one) for one in names}
    tally = Tally(flips, "mailbox-cleansed", "error", WITHIN)
    with ExitStack() as stack:
        targets = stack.enter_context(swapper.victims(the_very_mail, "f", names[-1][1] + 1))
        client = stack.enter_context(swapper.client())
        before = {place: manifest(tree) for place, tree in targets.items()}
        directory = Directory(swapper, names, targets)
        while tally.wants_more():
            directory.make(mail)
            directory.make_others()
            others = directory.others()
            client.scan()
            with directory.flipping(swapper.log) as flipper, client.timed():
                details = swapper.disinfect(client, dict.fromkeys(boxes, "cleanse_mailbox"))
            assert {place: manifest(tree) for place, tree in targets.items()} == before
            assert directory.others() == others
            swapper.check_cleansed(details, boxes, directory.files())
            tally.add(flipper.flips, states_of(details))
        assert client.slowest_s < LONGEST_S
    figure(said("cleanse", tally, client))


@pytest.mark.row("A2")
@pytest.mark.fails_with("restore-replaces")
def test_no_restore_hits_what_takes_the_name(swapper: Swapper, names: Names, flips: int, figure: Figure) -> None:
    """The name is taken and free by turns. What is not restored stays in the vault."""
    mine = Counter(infected(*one) for one in names)
    tally = Tally(flips, "restored", "error")
    with swapper.victims(infected, "f", names[-1][1] + 1) as targets, swapper.client() as client:
        before = {place: manifest(tree) for place, tree in targets.items()}
        directory = Directory(swapper, names, targets)
        while tally.wants_more():
            directory.make(infected)
            client.scan()
            swapper.disinfect(client, {f"d/{name(*one)}": "quarantine" for one in names})
            directory.make_others()
            others = directory.others()
            ours = [item["id"] for item in items(client)]
            with directory.flipping() as flipper, client.timed():
                details = restore(client, ours, force=True)
            assert {place: manifest(tree) for place, tree in targets.items()} == before
            assert directory.others() == others
            now = states_of(details)
            standing = directory.files()
            assert standing.total() == now["restored"]
            left = [item["id"] for item in items(client)]
            assert standing + Counter(item.content for item in vault(swapper.daemon) if item.content in mine) == mine
            swapper.check_no_trace()
            client.call("Quarantine.delete", {"ids": left})
            tally.add(flipper.flips, now)
        assert client.slowest_s < LONGEST_S
    figure(said("restore", tally, client))


@pytest.mark.row("A2")
@pytest.mark.fails_with("mailbox-link-followed")
def test_no_message_goes_into_what_a_mailbox_is_swapped_for(
    swapper: Swapper, names: Names, flips: int, figure: Figure
) -> None:
    """An error may come when the message stands in its place already: then it is in the vault too."""
    boxes = {first_letter(mail(*one)): mailbox(*one) for one in names}
    tally = Tally(flips, "restored", "error")
    with ExitStack() as stack:
        targets = stack.enter_context(swapper.victims(mail, "f", names[-1][1] + 1))
        client = stack.enter_context(swapper.client())
        before = {place: manifest(tree) for place, tree in targets.items()}
        directory = Directory(swapper, names, targets)
        while tally.wants_more():
            directory.make(mail)
            client.scan()
            swapper.disinfect(client, {f"d/{name(*one)}": "cleanse_mailbox" for one in names})
            directory.make_others()
            others = directory.others()
            with directory.flipping() as flipper, client.timed():
                details = restore(client, [item["id"] for item in items(client)], force=True)
            assert {place: manifest(tree) for place, tree in targets.items()} == before
            assert directory.others() == others
            now = states_of(details)
            standing = directory.files()
            assert Counter(map(first_letter, standing.elements())) == dict.fromkeys(boxes, 1)
            cleansed = {one for one in standing if is_cleansed(one, boxes[first_letter(one)])}
            assert len(cleansed) <= now["error"]
            kept = Counter(item.content for item in vault(swapper.daemon))
            assert kept >= Counter(letter_of(boxes[first_letter(one)]) for one in cleansed)
            swapper.check_no_trace()
            if left := [item["id"] for item in items(client)]:
                client.call("Quarantine.delete", {"ids": left})
            tally.add(flipper.flips, now)
        assert client.slowest_s < LONGEST_S
    figure(said("message", tally, client))


@pytest.mark.row("A2")
@pytest.mark.fails_with("fifo-waited-for")
def test_no_call_waits_for_what_a_file_is_swapped_for(
    swapper: Swapper, daemon: RunningDaemon, names: Names, figure: Figure
) -> None:
    """Every call on files of the workers is timed, in all of that once more."""
    with ExitStack() as stack:
        targets = stack.enter_context(swapper.victims(mail, "f", names[-1][1] + 1))
        client = stack.enter_context(swapper.client())
        directory = Directory(swapper, names, targets)
        directory.make(mail)
        client.scan()
        directory.make_others()
        (monitor, *_) = children(daemon.daemon_pid())
        with CallTimes(monitor) as times, directory.flipping():
            for action in ("cleanse_mailbox", "quarantine"):
                swapper.disinfect(client, {f"d/{name(*one)}": action for one in names})
            restore(client, [item["id"] for item in items(client)], force=True)
    assert len(times.calls) > 20 * len(names)
    slowest_s, slowest = max(times.calls)
    assert slowest_s < LONGEST_S, slowest
    figure(f"slowest of {len(times.calls):,} calls on files {slowest_s * 1000:.0f} ms")
