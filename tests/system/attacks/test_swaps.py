"""A3, as root: an account that exchanges infected files with clean ones while the infected ones are acted on.

Deciding by name and then unlinking by name loses clean files here, by the hundred.
"""

from collections import Counter
from collections.abc import Iterator

import pytest

from tests.fakes.accounts import throw_away
from tests.fakes.flipper import Flipper
from tests.fakes.manifest import contents, names
from tests.fakes.realclamd import MARKER
from tests.fakes.restoring import afresh
from tests.fakes.running import RunningDaemon
from tests.fakes.swapping import DONE, WITHIN, Swapper, Tally, put
from tests.rows import Amount, Figure

ENDS = ("deleted", "quarantined", "no-action", "error", WITHIN)
LARGE_BYTES = 65 << 10  # not taken away together with others


@pytest.fixture
def swapper() -> Iterator[Swapper]:
    with RunningDaemon() as daemon, throw_away("swap_a") as alice, throw_away("swap_b") as bob:
        yield Swapper(daemon, afresh(alice, daemon), bob)


def content(kind: bytes, number: int) -> bytes:
    """Clean and infected ones of a number have the same size; every sixteenth is large."""
    return kind + b"%06d" % number + b"." * (LARGE_BYTES if number % 16 == 15 else 0)


@pytest.mark.row("A3")
@pytest.mark.fails_with("captured-unchecked", "unlinked-by-name", "put-back-replaces")
def test_no_clean_file_is_lost_when_clean_and_infected_change_places(
    swapper: Swapper, amount: Amount, figure: Figure
) -> None:
    wanted, per_task = amount(quick=200, long=20_000), amount(quick=100, long=250)
    directory = swapper.home / "d"
    clean = {content(b"c" * len(MARKER), number) for number in range(per_task)}
    for number, one in enumerate(sorted(clean)):
        put(swapper.account, directory / f"c{number:03}", one)
    made, actions, tally = 0, 0, Tally(4 * wanted, *ENDS)
    with swapper.client() as client:
        while actions < wanted or tally.wants_more():
            for _ in range(per_task - sum(one not in clean for one in names(directory).values())):
                made += 1
                put(swapper.account, directory / f"i{made:06}", content(MARKER, made))
            standing = names(directory)
            bad = [name for name, one in standing.items() if one not in clean]
            good = [name for name, one in standing.items() if one in clean]
            before = Counter(standing.values())
            client.scan()
            action = ("delete", "quarantine")[actions // per_task % 2]
            pairs = list(zip(bad, good, strict=True))
            account = swapper.account
            with Flipper(account.uid, account.gid, str(directory), pairs, swapper.log) as flipper:
                details = swapper.disinfect(client, {f"d/{name.decode()}": action for name in bad})
            now = swapper.check_taken(details, before.keys() - clean)
            after = contents(directory)
            assert {one: number for one, number in after.items() if one in clean} == dict.fromkeys(clean, 1)
            assert after + Counter(item.content for item in swapper.taken()) == before
            assert after.total() + now[DONE[action]] == before.total()
            actions += len(details) - 1
            tally.add(flipper.flips, now)
    figure(f"{actions:,} actions, {len(clean)} clean files there after each task, {tally}")
