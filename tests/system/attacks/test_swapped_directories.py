"""A1, as root: an account that exchanges directories with links to other trees while its files are acted on.

Real directory and link change places as fast as the kernel does it, before and within every step. All of the trees that
the links lead to would let themselves be changed, and have what the steps look for: infected files under the same
names, for a restore free names.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.accounts import Person, throw_away
from tests.fakes.aftermath import vault
from tests.fakes.flipper import Flipper
from tests.fakes.manifest import contents, manifest
from tests.fakes.restoring import afresh, items, restore
from tests.fakes.running import RunningDaemon
from tests.fakes.swapping import (
    DONE,
    PLACES,
    Swapper,
    Tally,
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

PAIRS = [(f"d_{place}".encode(), f"link_{place}".encode()) for place in PLACES]
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
    return amount(quick=8_000, long=250_000)


@pytest.fixture
def names(amount: Amount) -> Names:
    """Places and numbers of the files of a round."""
    return [(place, number) for place in PLACES for number in range(amount(quick=8, long=48))]


def path_of(place: str, number: int) -> str:
    return f"d_{place}/f{number:03}"


def flipping(swapper: Swapper, log: str = "") -> Flipper:
    return Flipper(swapper.account.uid, swapper.account.gid, str(swapper.home), PAIRS, log)


def put_all(swapper: Swapper, names: Names, targets: dict[str, Path], *, mails: bool = False) -> None:
    for place, number in names:
        content = mail(place, number) if mails else infected(place, number)
        put(swapper.account, swapper.home / path_of(place, number), content)
    for place, tree in targets.items():
        if not (swapper.home / f"link_{place}").is_symlink():
            link(tree, swapper.home / f"link_{place}")


def standing_files(swapper: Swapper) -> Counter[bytes]:
    return sum((contents(swapper.home / f"d_{place}") for place in PLACES), Counter[bytes]())


@pytest.mark.row("A1")
@pytest.mark.fails_with("links-in-paths")
@pytest.mark.parametrize("action", ["quarantine", "delete"])
def test_a_directory_swapped_for_a_link_leads_no_action_away(
    swapper: Swapper, names: Names, flips: int, figure: Figure, action: str
) -> None:
    mine = {infected(place, number) for place, number in names}
    tally = Tally(flips, DONE[action], "error")
    with swapper.victims(infected, "f", len(names) // 3) as targets, swapper.client() as client:
        before = {place: manifest(tree) for place, tree in targets.items()}
        while tally.wants_more():
            put_all(swapper, names, targets)
            client.scan()
            with flipping(swapper) as flipper:
                details = swapper.disinfect(client, {path_of(*name): action for name in names})
            assert {place: manifest(tree) for place, tree in targets.items()} == before
            now = swapper.check_taken(details, mine)
            left = standing_files(swapper)
            assert left + Counter(item.content for item in swapper.taken()) == Counter(mine)
            assert left.total() + now[DONE[action]] == len(mine)
            tally.add(flipper.flips, now)
    figure(f"{action}: {tally}")


@pytest.mark.row("A1")
@pytest.mark.fails_with("links-in-paths")
def test_a_directory_swapped_for_a_link_leads_no_cleanse_away(
    swapper: Swapper, names: Names, flips: int, figure: Figure
) -> None:
    """In the other trees stand the very same mailboxes."""
    boxes = {path_of(place, number): mailbox(place, number) for place, number in names}
    tally = Tally(flips, "mailbox-cleansed", "error")
    with swapper.victims(lambda of, number: mail(of.removeprefix("of "), number), "f", len(names) // 3) as targets:
        before = {place: manifest(tree) for place, tree in targets.items()}
        with swapper.client() as client:
            while tally.wants_more():
                put_all(swapper, names, targets, mails=True)
                client.scan()
                with flipping(swapper) as flipper:
                    details = swapper.disinfect(client, dict.fromkeys(boxes, "cleanse_mailbox"))
                assert {place: manifest(tree) for place, tree in targets.items()} == before
                swapper.check_cleansed(details, boxes, standing_files(swapper))
                tally.add(flipper.flips, states_of(details))
    figure(f"cleanse: {tally}")


@pytest.mark.row("A1")
@pytest.mark.fails_with("links-in-paths")
def test_a_directory_swapped_for_a_link_leads_no_restore_away(
    swapper: Swapper, names: Names, flips: int, figure: Figure
) -> None:
    """The names are free in the other trees. What is not restored stays in the vault."""
    mine = Counter(infected(place, number) for place, number in names)
    tally = Tally(flips, "restored", "error")
    with swapper.victims(infected, "other", len(names) // 3) as targets, swapper.client() as client:
        before = {place: manifest(tree) for place, tree in targets.items()}
        put_all(swapper, names, targets)
        ours = {path_of(*name): "quarantine" for name in names}
        while tally.wants_more():
            client.scan()
            swapper.disinfect(client, ours)
            with flipping(swapper) as flipper:
                details = restore(client, [item["id"] for item in items(client)], force=True)
            assert {place: manifest(tree) for place, tree in targets.items()} == before
            now = states_of(details)
            standing = standing_files(swapper)
            assert standing.total() == now["restored"]
            assert standing + Counter(item.content for item in vault(swapper.daemon) if item.content in mine) == mine
            swapper.check_no_trace()
            tally.add(flipper.flips, now)
    figure(f"restore: {tally}")


@pytest.mark.row("A1")
@pytest.mark.fails_with("links-in-paths")
def test_a_directory_swapped_for_a_link_leads_no_message_away(
    swapper: Swapper, names: Names, flips: int, figure: Figure
) -> None:
    """Messages that are put back into mailboxes; the other trees have infected ones under the names of these."""
    boxes = {first_letter(mail(*name)): mailbox(*name) for name in names}
    tally = Tally(flips, "restored", "error")
    with swapper.victims(lambda of, number: mail(of.removeprefix("of "), number), "f", len(names) // 3) as targets:
        before = {place: manifest(tree) for place, tree in targets.items()}
        put_all(swapper, names, targets, mails=True)
        with swapper.client() as client:
            while tally.wants_more():
                client.scan()
                swapper.disinfect(client, {path_of(*name): "cleanse_mailbox" for name in names})
                with flipping(swapper) as flipper:
                    details = restore(client, [item["id"] for item in items(client)], force=True)
                assert {place: manifest(tree) for place, tree in targets.items()} == before
                now = states_of(details)
                standing = standing_files(swapper)
                assert standing.total() == len(boxes)
                left = {one for one in standing if is_cleansed(one, boxes[first_letter(one)])}
                assert len(left) == len(boxes) - now["restored"]
                kept = Counter(item.content for item in vault(swapper.daemon))
                assert kept >= Counter(letter_of(boxes[first_letter(one)]) for one in left)
                swapper.check_no_trace()
                tally.add(flipper.flips, now)
    figure(f"message: {tally}")
