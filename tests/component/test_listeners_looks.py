"""service/looks.py: many who look at the same moment cost one look, and nobody sees what is older than their own."""

import trio
import trio.testing

from clamscannerd.service.looks import KEPT, Looks

AGE_S = 0.2


class Place:
    """What is looked at: a look takes until it is let go, and says how many there were."""

    def __init__(self) -> None:
        self.looks = 0
        self.open = trio.Event()
        self.open.set()

    async def look(self) -> int:
        self.looks += 1
        said = self.looks
        await self.open.wait()
        return said


async def test_those_who_come_meanwhile_get_what_the_first_one_finds(nursery: trio.Nursery) -> None:
    looks, place, moment = Looks(), Place(), object()
    place.open = trio.Event()
    found: list[int] = []

    async def one() -> None:
        found.append(await looks.once("a", (moment,), place.look, AGE_S))

    for _ in range(10):
        nursery.start_soon(one)
    await trio.testing.wait_all_tasks_blocked()
    assert (place.looks, found) == (1, [])
    place.open.set()
    await trio.testing.wait_all_tasks_blocked()
    assert (place.looks, found) == (1, [1] * 10)


async def test_another_moment_is_another_look_and_so_is_another_number_beside_it(autojump_clock: object) -> None:
    looks, place, moment = Looks(), Place(), object()
    for basis, said in (((moment, 1), 1), ((moment, 1), 1), ((moment, 2), 2), ((object(), 2), 3), ((moment, 2), 4)):
        assert await looks.once("a", basis, place.look, AGE_S) == said
    assert await looks.once("b", (moment, 2), place.look, AGE_S) == 5
    await trio.sleep(AGE_S * 2)
    assert await looks.once("b", (moment, 2), place.look, AGE_S) == 6


async def test_one_who_gives_up_leaves_the_look_to_the_next(nursery: trio.Nursery) -> None:
    looks, place, moment = Looks(), Place(), object()
    place.open = trio.Event()
    with trio.CancelScope() as scope:
        scope.cancel()
        await looks.once("a", (moment,), place.look, AGE_S)
    place.open.set()
    assert await looks.once("a", (moment,), place.look, AGE_S) == place.looks


async def test_what_is_kept_is_bounded() -> None:
    looks, place, moment = Looks(), Place(), object()
    for number in range(2 * KEPT):
        await looks.once(number, (moment,), place.look, AGE_S)
    assert len(looks._looks) <= KEPT
