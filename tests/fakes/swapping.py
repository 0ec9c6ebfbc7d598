"""An account that swaps names under work that it asked for, and the trees of others that it would have that work reach.

Each victim's tree would let itself be changed by anybody, and one of them is the account's own: nothing but the product
keeps them as they are. `Swapper` is the account A with its daemon; its checks are what every row of swaps asks for.
"""

import os
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.fakes.accounts import Person
from tests.fakes.aftermath import LOG_NAME, Item, check_log, leftovers, rows, vault
from tests.fakes.mailboxes import Letter, Mailbox, Variant, render
from tests.fakes.realclamd import MARKER
from tests.fakes.running import END_TIMEOUT_S, PeerClient, RunningDaemon, wait_for

PLACES = ("to_b", "to_etc", "to_own")
DONE = {"quarantine": "quarantined", "delete": "deleted", "cleanse_mailbox": "mailbox-cleansed"}
WITHIN = "exchanged within"
LARGE_BYTES = 65 << 10
Content = Callable[[str, int], bytes]
"""(place, number) -> what is in the file."""


def infected(place: str, number: int) -> bytes:
    """A file that is infected as a whole. Of eight three are too large to be taken away together with others."""
    return MARKER + f" {place} {number}".encode() + b"." * (LARGE_BYTES if number % 8 >= 5 else 0)


def mailbox(place: str, number: int) -> Mailbox:
    """Three letters, the second infected."""
    made = []
    for letter in range(3):
        body = [b"line %d of letter %d in %s" % (line, letter, place.encode()) for line in range(12)]
        if letter == 1:
            body.insert(3, MARKER)
        made.append(Letter(headers=(b"From: a@example.org", b"Subject: %d" % number), body=tuple(body)))
    return render(made, Variant.MBOXRD)


def mail(place: str, number: int) -> bytes:
    return mailbox(place, number).data


def letter_of(box: Mailbox) -> bytes:
    """The infected one."""
    start, end = box.spans[1]
    return box.data[start:end]


def first_letter(content: bytes) -> bytes:
    """What tells one mailbox from another, cleansed or not."""
    return content[: content.index(b"\nFrom ")]


def is_cleansed(now: bytes, box: Mailbox) -> bool:
    """False when it is as it was; AssertionError when it is neither."""
    start, end = box.spans[1]
    if now == box.data:
        return False
    assert (now[:start], now[end:]) == (box.data[:start], box.data[end:])
    assert len(now) == len(box.data)
    assert MARKER not in now
    return True


def put(account: Person, path: Path, content: bytes) -> None:
    if not path.parent.is_dir():
        path.parent.mkdir()
        os.chown(path.parent, account.uid, account.gid)
    path.write_bytes(content)
    os.utime(path, (1_700_000_000, 1_700_000_000))  # alike but for inode and content
    os.chown(path, account.uid, account.gid)


def link(tree: Path, place: Path) -> None:
    """Relative: one that is absolute is refused for that alone, wherever it leads."""
    place.symlink_to(os.path.relpath(tree, place.parent))


class TimedClient(PeerClient):
    """Knows how long the slowest answer took within `timed()`."""

    slowest_s = 0.0
    _is_timed = False

    @contextmanager
    def timed(self) -> Iterator[None]:
        self._is_timed = True
        yield
        self._is_timed = False

    def raw(self, line: bytes) -> Any:
        began = time.monotonic()
        answer = super().raw(line)
        if self._is_timed:
            self.slowest_s = max(self.slowest_s, time.monotonic() - began)
        return answer


class Tally:
    """What came of the rounds of a test: `flips` at least, and each of these `ends` of a step at least once."""

    MOST_ROUNDS = 20

    def __init__(self, flips: int, *ends: str) -> None:
        self._wanted = flips
        self._ends = ends
        self.flips = 0
        self.rounds = 0
        self.states = Counter[str]()

    def wants_more(self) -> bool:
        missing = [end for end in self._ends if not self.states[end]]
        if self.flips >= self._wanted and self.rounds >= self.MOST_ROUNDS:
            assert not missing, f"the swaps came too late or too early: {self.states}"
        return self.flips < self._wanted or bool(missing)

    def add(self, flips: int, states: Counter[str]) -> None:
        self.rounds += 1
        self.flips += flips
        self.states += states

    def __str__(self) -> str:
        ends = ", ".join(f"{number:,} {state}" for state, number in sorted(self.states.items()))
        return f"{self.flips:,} flips, {ends}"


def states_of(details: list[dict[str, Any]]) -> Counter[str]:
    """Of the steps. WITHIN: those of them within which the file was exchanged, between two looks at it."""
    states = Counter(step["state"] for step in details[:-1])
    within = sum("another file took its name meanwhile" in step.get("message", "") for step in details[:-1])
    return states + Counter({WITHIN: within})


class Swapper:
    """A's side of a test."""

    def __init__(self, daemon: RunningDaemon, account: Person, bob: Person) -> None:
        self.daemon = daemon
        self.account = account
        self.bob = bob
        self.home = Path(account.home)
        self.log = f"{account.home}/{LOG_NAME}"

    def client(self) -> TimedClient:
        return TimedClient(self.daemon.socket_path, self.account.uid)

    @contextmanager
    def victims(self, content: Content, names: str, files: int) -> Iterator[dict[str, Path]]:
        """Where links lead: B's tree, a copy of /etc, another place of the home; infected files `names`NNN in each."""
        copy = Path(f"/var/tmp/csd-etc-{os.getpid()}")
        try:
            subprocess.run(["cp", "-a", "/etc", str(copy)], check=False, capture_output=True)  # a lock may be gone
            assert (copy / "passwd").stat().st_size
            # All of it is opened below: so without what is not everybody's (shadow, keys).
            subprocess.run(["find", str(copy), "-type", "f", "!", "-perm", "-o=r", "-delete"], check=True)
            Path(self.bob.home).chmod(0o711)
            trees = {"to_b": Path(self.bob.home, "tree"), "to_etc": copy, "to_own": self.home / "elsewhere"}
            for place, tree in trees.items():
                owner = self.account if place == "to_own" else self.bob
                for number in range(files):
                    put(owner, tree / f"{names}{number:03}", content(f"of {place}", number))
                if place != "to_own":
                    subprocess.run(["chmod", "-R", "a+rwX", str(tree)], check=True)
            yield trees
        finally:
            shutil.rmtree(copy, ignore_errors=True)

    def disinfect(self, client: PeerClient, actions: Mapping[str, str]) -> list[dict[str, Any]]:
        """Until its end, without asking for all details each time: that would cost more than the task."""
        client.good("disinfect_files", {"actions": dict(actions)})
        nothing = {"last_id": 2 * len(actions)}
        wait_for(
            lambda: client.good("check_disinfection_status", nothing)["status"] == "done", "the end", 2 * END_TIMEOUT_S
        )
        return client.wait_disinfection()

    def taken(self) -> list[Item]:
        """What the vault has of the latest task."""
        return vault(self.daemon, after=rows(self.daemon, "SELECT max(id) FROM task")[0][0] - 1)

    def check_taken(self, details: list[dict[str, Any]], bad: set[bytes]) -> Counter[str]:
        """Each step that took something away took one of `bad`, and has it in the vault; no other has."""
        check_log(self.home, details)
        *steps, _ = details
        taken = {item.seq: item for item in self.taken()}
        assert taken.keys() == {step["id"] for step in steps if step["state"] in DONE.values()}
        for item in taken.values():
            assert item.content in bad
            assert f"{self.home}/{os.fsdecode(item.path)}" == steps[item.seq - 1]["file"]
        assert leftovers(self.home) == []
        return states_of(details)

    def check_cleansed(self, details: list[dict[str, Any]], boxes: Mapping[str, Mailbox], files: Counter[bytes]) -> int:
        """Each mailbox is among the files, whole: cleansed if that was answered, and then its letter is in the vault;
        else as it was, unless the answer says that letters are in the vault. How many are cleansed."""
        check_log(self.home, details)
        by_first = {first_letter(box.data): name for name, box in boxes.items()}
        assert len(by_first) == len(boxes)
        standing, cleansed = Counter[str](), set[str]()
        for content in files.elements():
            name = by_first[first_letter(content)]
            standing[name] += 1
            if is_cleansed(content, boxes[name]):
                cleansed.add(name)
        assert standing == dict.fromkeys(boxes, 1)
        kept = Counter(item.content for item in self.taken())
        for step in details[:-1]:
            name = os.path.relpath(step["file"], self.home)
            if step["state"] == "mailbox-cleansed":
                assert name in cleansed, step
            elif "in the vault" not in step.get("message", ""):
                assert name not in cleansed, step
        assert kept >= Counter(letter_of(boxes[name]) for name in cleansed)
        self.check_no_trace()
        return len(cleansed)

    def check_no_trace(self) -> None:
        """No name in the home that only this program gives, and no lock of a mailbox."""
        assert leftovers(self.home) == []
        assert list(self.home.rglob("*.lock")) == []
