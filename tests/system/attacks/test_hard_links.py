"""As root, with fs.protected_hardlinks off: B's and root's files have second names in A's home, and A has every action
done to those. What happens to A's names is A's affair; the files stay, byte for byte, whose and what they were.

All victims can be written to by anybody where their modes say so: nothing but the product keeps them as they are.
"""

import os
import shutil
import stat
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.fakes.accounts import Person, throw_away
from tests.fakes.aftermath import LOG_NAME, leftovers
from tests.fakes.manifest import Entry, manifest
from tests.fakes.realclamd import EICAR, MARKER
from tests.fakes.restoring import afresh, ended, items, put, restore
from tests.fakes.running import RpcError, RunningDaemon, acting_as
from tests.rows import Amount, Figure

PROTECTED = Path("/proc/sys/fs/protected_hardlinks")
MODES = {"open": 0o666, "read": 0o644, "closed": 0o600, "setuid": 0o4755, "none": 0o000}
BOX = (
    b"From a@example.org Mon Jan  1 00:00:00 2024\nSubject: one\n\nhello\n\n"
    b"From c@example.org Mon Jan  1 00:00:00 2024\nSubject: bad\n\n" + (EICAR + b"\n") * 20 + b"\n"
)
CONTENTS = {
    "clean": b"nothing is wrong with this\n",
    "infected": MARKER + b" is in this file\n",
    "large": MARKER + bytes(300 << 10),
    "box": BOX,
}


class Same(NamedTuple):
    """What must not change. The count of names, and with it ctime, does when A gives or takes one."""

    mode: int
    uid: int
    gid: int
    inode: int
    mtime_ns: int
    content: bytes


def kept(entry: Entry) -> Same:
    return Same(entry.mode, entry.uid, entry.gid, entry.inode, entry.mtime_ns, entry.content)


@pytest.fixture(scope="module")
def daemon() -> Iterator[RunningDaemon]:
    with RunningDaemon() as running:
        yield running


@pytest.fixture(scope="module")
def _alice() -> Iterator[Person]:
    with throw_away("links_a") as account:
        yield account


@pytest.fixture
def alice(_alice: Person, daemon: RunningDaemon) -> Person:
    return afresh(_alice, daemon)


@contextmanager
def unprotected() -> Iterator[None]:
    """Anybody may link anybody's files, as on kernels before 3.6 and where it was switched off."""
    before = PROTECTED.read_text()
    PROTECTED.write_text("0")
    try:
        yield
    finally:
        PROTECTED.write_text(before)


@pytest.fixture
def trees(alice: Person) -> Iterator[tuple[Path, Path]]:
    """B's files, and root's: each content with each mode, beside A's home, on its file system."""
    with throw_away("links_b") as bob:
        own = Path(bob.home)
        roots = Path(tempfile.mkdtemp(prefix="csd-links-", dir=own.parent))
        try:
            for tree, uid, gid in ((own, bob.uid, bob.gid), (roots, 0, 0)):
                for content, data in CONTENTS.items():
                    for mode, bits in MODES.items():
                        path = tree / f"{content}-{mode}"
                        path.write_bytes(data)
                        os.utime(path, (1_700_000_000, 1_700_000_000))
                        os.chown(path, uid, gid)
                        path.chmod(bits)
                tree.chmod(0o711)
            yield own, roots
        finally:
            shutil.rmtree(roots)


def victims(trees: tuple[Path, Path]) -> list[Path]:
    return [tree / f"{content}-{mode}" for tree in trees for content in CONTENTS for mode in MODES]


def state_of(trees: tuple[Path, Path]) -> dict[tuple[int, bytes], Same]:
    return {
        (number, name): kept(entry)
        for number, tree in enumerate(trees)
        for name, entry in manifest(tree).items()
        if stat.S_ISREG(entry.mode)
    }


def link_in(alice: Person, sources: list[Path], directory: str, copies: int) -> dict[str, Path]:
    """A gives each of these files names of its own; by name beneath the home."""
    made = {}
    with unprotected(), acting_as(alice.uid):
        Path(alice.home, directory).mkdir(exist_ok=True)
        for copy in range(copies):
            for number, source in enumerate(sources):
                name = f"{directory}/{number:03}-{copy}-{source.name}"
                os.link(source, Path(alice.home, name))
                made[name] = source
    return made


def swap_in(alice: Person, sources: list[Path], names: list[str]) -> None:
    """They take the places of files that A had."""
    with unprotected(), acting_as(alice.uid):
        for source, name in zip(sources, names, strict=True):
            Path(alice.home, name).unlink()
            os.link(source, Path(alice.home, name))


@pytest.mark.row("A4")
@pytest.mark.fails_with("shreds")
@pytest.mark.parametrize("action", ["ignore", "delete", "quarantine"])
def test_files_with_second_names_keep_all_that_they_are(
    daemon: RunningDaemon, alice: Person, trees: tuple[Path, Path], action: str, amount: Amount, figure: Figure
) -> None:
    """Found under A's names; put in the places of found ones; and where what was taken away is to stand again."""
    before = state_of(trees)
    found = link_in(alice, victims(trees), "found", amount(quick=1, long=20))
    swapped = [f"swapped/{number:03}" for number in range(len(victims(trees)))]
    for name in swapped:
        put(alice, name, MARKER + name.encode())
    with daemon.client(alice.uid) as client:
        client.scan()
        listed = {entry["file"] for entry in client.good("list_infected_files")}
        readable = {f"{alice.home}/{name}" for name in found if "clean" not in name and is_readable(name)}
        assert listed == readable | {f"{alice.home}/{name}" for name in swapped}
        swap_in(alice, victims(trees), swapped)
        *steps, _ = client.disinfect({}, action)
        assert state_of(trees) == before
        states = Counter(step["state"] for step in steps)
        done = {"ignore": "no-action", "delete": "deleted", "quarantine": "quarantined"}[action]
        assert states[done] >= len(readable), states
        figure(f"{len(steps)} names: {action}")
        if action == "ignore":
            return
        kept_items = items(client)
        assert len(kept_items) == states[done]
        taken = [Path(item["file"]).relative_to(alice.home) for item in kept_items]
        half = taken[: len(taken) // 2]
        with unprotected(), acting_as(alice.uid):  # their places are taken by other victims' names
            for place, source in zip(half, victims(trees) * len(taken), strict=False):
                os.link(source, Path(alice.home, place))
        *back, _ = restore(client, [item["id"] for item in kept_items], force=True)
        assert state_of(trees) == before
        assert Counter(record["state"] for record in back) == {"error": len(half), "restored": len(taken) - len(half)}
        for place in taken[len(half) :]:
            status = os.stat(Path(alice.home, place))
            assert (status.st_uid, status.st_nlink, status.st_mode & 0o7000) == (alice.uid, 1, 0)
    assert leftovers(alice.home) == []


def is_readable(name: str) -> bool:
    """By A, who is neither the owner nor of the group."""
    return name.endswith(("-open", "-read", "-setuid"))


@pytest.mark.row("A4")
@pytest.mark.fails_with("two-names")
def test_a_mailbox_with_a_second_name_is_not_written_to(
    daemon: RunningDaemon, alice: Person, trees: tuple[Path, Path], amount: Amount, figure: Figure
) -> None:
    before = state_of(trees)
    boxes = [path for path in victims(trees) if path.name.startswith("box")]
    found = link_in(alice, boxes, "found", amount(quick=1, long=20))
    own = [f"swapped/{number:03}" for number in range(len(boxes))]
    for name in own:
        put(alice, name, BOX + name.encode() + b"\n")
    with daemon.client(alice.uid) as client:
        client.scan()
        swap_in(alice, boxes, own)
        wanted = dict.fromkeys((*own, *(name for name in found if is_readable(name))), "cleanse_mailbox")
        *steps, _ = client.disinfect(wanted)
        assert state_of(trees) == before
        assert len(steps) == len(wanted)
        assert {step["state"] for step in steps} == {"error"}
        assert any("it has a second name (hard link)" in step["message"] for step in steps)
        assert items(client) == []
    assert leftovers(alice.home) == []
    figure(f"{len(steps)} names: cleanse")


@pytest.mark.row("A4")
@pytest.mark.fails_with("log-in-place")
def test_the_log_and_what_goes_back_replace_no_file_with_a_second_name(
    daemon: RunningDaemon, alice: Person, trees: tuple[Path, Path]
) -> None:
    """The log's two names, and the directory that an undo puts a message back into, are links to victims."""
    before = state_of(trees)
    victim = next(path for path in victims(trees) if path.name == "clean-open")
    box = put(alice, "box", BOX)
    put(alice, "bad", MARKER)
    with daemon.client(alice.uid) as client:
        client.scan()
        link_at(alice, victim, LOG_NAME)
        link_at(alice, victim, f"{LOG_NAME}.new")
        client.disinfect({"box": "cleanse_mailbox"}, "quarantine")
        assert state_of(trees) == before
        task_id = client.call("Task.list", {"limit": 1})["tasks"][0]["task_id"]
        assert os.stat(box).st_uid == alice.uid
        box.unlink()
        link_at(alice, next(path for path in victims(trees) if path.name == "box-open"), "box")
        link_at(alice, victim, "bad")
        undo = client.call("Task.undo", {"task_id": task_id, "force": True})["task_id"]
        *steps, _ = ended(client, undo)["details"]
        assert {step["state"] for step in steps} == {"error"}
        assert state_of(trees) == before
        with pytest.raises(RpcError, match="not in the home"):
            client.call("Quarantine.restore", {"ids": [items(client)[0]["id"]], "to": str(trees[1])})
    assert leftovers(alice.home) == []


def link_at(alice: Person, source: Path, name: str) -> None:
    place = Path(alice.home, name)
    with unprotected(), acting_as(alice.uid):
        place.unlink(missing_ok=True)
        os.link(source, place)
