"""As root: accounts whose homes, or whose uids, are not what those of a person are. Each gets an error, and nothing is
read where its entry points to: not a name, not a byte.

What workers open is seen by strace on the monitor. Every place has an infected file of the same name as one that the
account had found in its own home before: it is on the list, and could be acted on.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.fakes.accounts import Person, entry_changed, throw_away
from tests.fakes.aftermath import children
from tests.fakes.manifest import manifest
from tests.fakes.opens import Opens
from tests.fakes.own_calls import OWN_CALLS
from tests.fakes.realclamd import MARKER
from tests.fakes.restoring import afresh, put
from tests.fakes.running import PeerClient, RpcError, RunningDaemon
from tests.rows import Figure

LOOK = ("ClamScanner.get_scan_paths", "ClamScanner.start_scan")
"""Calls that look into the home before they answer."""

ROOTS = Path("/root")


@pytest.fixture(scope="module")
def daemon() -> Iterator[RunningDaemon]:
    with RunningDaemon() as running:
        yield running


@pytest.fixture(scope="module")
def _people() -> Iterator[tuple[Person, Person]]:
    with throw_away("odd_a") as first, throw_away("odd_b") as second:
        yield first, second


@pytest.fixture
def bob(_people: tuple[Person, Person], daemon: RunningDaemon) -> Person:
    bob = afresh(_people[1], daemon)
    put(bob, "bad", MARKER)
    return bob


@pytest.fixture
def alice(_people: tuple[Person, Person], bob: Person, daemon: RunningDaemon) -> Person:
    """Has an infected file on her list."""
    alice = afresh(_people[0], daemon)
    put(alice, "bad", MARKER)
    with daemon.client(alice.uid) as client:
        client.scan()
        assert len(client.good("list_infected_files")) == 1
    return alice


@pytest.fixture
def beside(alice: Person) -> Iterator[Path]:
    """A directory of root's, where homes are."""
    place = Path(tempfile.mkdtemp(prefix="csd-odd-", dir=Path(alice.home).parent))
    place.chmod(0o755)
    yield place
    shutil.rmtree(place)


def monitor(daemon: RunningDaemon) -> int:
    (pid,) = children(daemon.pid)
    return pid


def laid(place: Path, uid: int, mode: int) -> Path:
    """A directory with an infected file."""
    place.mkdir()
    (place / "bad").write_bytes(MARKER)
    (place / "bad").chmod(0o666)
    os.chown(place, uid, uid)
    os.chown(place / "bad", uid, uid)
    place.chmod(mode)
    return place


def kind_of(client: PeerClient, method: str, params: dict[str, object]) -> str:
    """Of the error; "refused" for the six calls' own way to say it; "" when it went well."""
    try:
        answer = client.call(method, params)
    except RpcError as error:
        return error.kind
    return "refused" if method.startswith("ClamScanner.") and not answer["result"]["status"] else ""


# Both spellings of root's, of another's; what can be refused by the entry alone.
REFUSED: dict[str, Callable[[Person, Person], str]] = {
    "the root directory": lambda _, __: "/",
    "the root directory, twice": lambda _, __: "//",
    "no home": lambda _, __: "",
    "root's": lambda _, __: "/root",
    "root's, with a slash": lambda _, __: "/root/",
    "root's, with two": lambda _, __: "//root",
    "relative": lambda alice, _: alice.home[1:],
    "shared": lambda _, bob: bob.home,
    "shared, with slashes": lambda _, bob: bob.home.replace("/", "//") + "//",
    "by way of the parent": lambda alice, bob: f"{alice.home}/../{Path(bob.home).name}",
    "with a dot": lambda _, bob: f"{bob.home}/.",
}


@pytest.mark.row("A17")
@pytest.mark.fails_with("homes-unjudged")
def test_what_the_entry_says_is_enough_to_refuse_it_without_a_worker(
    daemon: RunningDaemon, alice: Person, bob: Person, figure: Figure
) -> None:
    before = {home: manifest(home) for home in (alice.home, bob.home)}
    with Opens(monitor(daemon)) as opens:
        for place in REFUSED.values():
            with entry_changed(alice, home=place(alice, bob)), daemon.client(alice.uid) as client:
                kinds = {method: kind_of(client, method, params) for method, params in OWN_CALLS.items()}
                assert kinds == dict.fromkeys(OWN_CALLS, "unknown_account"), place(alice, bob)
                with daemon.client() as root:
                    for method in LOOK:
                        named = {**OWN_CALLS[method], "user": alice.name}
                        assert kind_of(root, method, named) == "unknown_account"
        with entry_changed(alice, home=bob.home), daemon.client(bob.uid) as client:
            for method in LOOK:
                assert kind_of(client, method, OWN_CALLS[method]) == "unknown_account", "whose it was before"
    assert opens.started() == 0
    assert {home: manifest(home) for home in before} == before
    figure(f"{len(REFUSED)} entries")


@pytest.mark.row("A17")
@pytest.mark.fails_with("root-is-served")
def test_uid_0_is_no_account_under_any_name(daemon: RunningDaemon, alice: Person) -> None:
    before = manifest(alice.home)
    with Opens(monitor(daemon)) as opens, daemon.client() as root:
        for method, params in OWN_CALLS.items():
            for user in ({"user": "root"}, {}):
                if method != "Quarantine.verify" or user:  # without a name it is about the whole vault
                    assert kind_of(root, method, {**params, **user}) == "unknown_account"
        with entry_changed(alice, uid=0):
            for method, params in OWN_CALLS.items():
                assert kind_of(root, method, {**params, "user": alice.name}) == "unknown_account"
    assert opens.started() == 0
    assert manifest(alice.home) == before


def a_link(alice: Person, bob: Person, beside: Path) -> list[Path]:
    (beside / "home").symlink_to(bob.home)
    return [Path(bob.home)]


def a_link_to_root(alice: Person, _bob: Person, beside: Path) -> list[Path]:
    (beside / "home").symlink_to(ROOTS)
    return [ROOTS]


def a_link_to_its_own(alice: Person, _bob: Person, beside: Path) -> list[Path]:
    (beside / "home").symlink_to(alice.home)
    return [Path(alice.home)]


def anothers(_alice: Person, bob: Person, beside: Path) -> list[Path]:
    return [laid(beside / "home", bob.uid, 0o755)]


def everybodys(alice: Person, _bob: Person, beside: Path) -> list[Path]:
    return [laid(beside / "home", alice.uid, 0o777)]


def roots_and_closed(_alice: Person, _bob: Person, beside: Path) -> list[Path]:
    return [laid(beside / "home", 0, 0o700)]


def a_file(alice: Person, _bob: Person, beside: Path) -> list[Path]:
    (beside / "home").write_bytes(MARKER)
    os.chown(beside / "home", alice.uid, alice.gid)
    return [beside / "home"]


def missing(_alice: Person, _bob: Person, beside: Path) -> list[Path]:
    return [beside]


def behind_a_closed_door(alice: Person, _bob: Person, beside: Path) -> list[Path]:
    place = laid(beside / "home", alice.uid, 0o755)
    beside.chmod(0o700)
    return [place]


@pytest.mark.row("A17")
@pytest.mark.fails_with("homes-unseen")
@pytest.mark.parametrize(
    "make",
    [
        *(a_link, a_link_to_root, a_link_to_its_own, anothers, everybodys),
        *(roots_and_closed, a_file, missing, behind_a_closed_door),
    ],
)
def test_a_home_that_is_not_the_accounts_own_directory_is_not_looked_into(
    daemon: RunningDaemon,
    alice: Person,
    bob: Person,
    beside: Path,
    make: Callable[[Person, Person, Path], list[Path]],
    figure: Figure,
) -> None:
    """The account is known: its list is there, and what it asks for on it ends in errors."""
    places = [*make(alice, bob, beside), beside]
    before = {place: manifest(place) for place in places if place != ROOTS}
    with ExitStack() as stack:
        opens = stack.enter_context(Opens(monitor(daemon)))
        stack.enter_context(entry_changed(alice, home=str(beside / "home")))
        client = stack.enter_context(daemon.client(alice.uid))
        for method in LOOK:
            assert kind_of(client, method, OWN_CALLS[method]) == "unknown_account"
        (step, done) = client.disinfect({}, "delete")
        assert (step["state"], done["state"]) == ("error", "error")
        assert "cannot act on it: cannot " in step["message"]
    assert opens.started() >= 2, "a worker looked, for the calls and for the task"
    for place in places:
        assert opens.of(place) == []
    assert {place: manifest(place) for place in before} == before
    figure(make.__name__.replace("_", " "))


@pytest.mark.row("A17")
@pytest.mark.fails_with("home-not-opened")
def test_a_home_that_is_in_order_is_seen_to_be_read(daemon: RunningDaemon, bob: Person) -> None:
    """So that what is said above to have seen nothing is known to see."""
    with Opens(monitor(daemon)) as opens, daemon.client(bob.uid) as client:
        client.scan()
        assert len(client.good("list_infected_files")) == 1
    seen = opens.of(bob.home)
    assert any("bad" in call for call in seen)
    assert any(call.startswith("getdents64") for call in seen)
    assert opens.started() >= 1
