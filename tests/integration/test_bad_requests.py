"""Calls that make no sense for the account at hand: `status` 0 or a warning, nothing lost, nothing touched."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.accounts import Person
from tests.fakes.realclamd import EICAR
from tests.fakes.running import PeerClient, RpcError, RunningDaemon, acting_as, wait_for
from tests.integration.people import home, put


@pytest.fixture(scope="module")
def daemon(_people: tuple[Person, Person]) -> Iterator[RunningDaemon]:
    config = f'[scan_types.private]\npaths = ["private"]\nmessage = "Bob"\nusers = ["{_people[1].name}"]\n'
    config += '[scan_types.public_ftp]\nenabled = false\n[scan_types.mail]\nmessage = "Post"\n'
    with RunningDaemon(config=config) as running:
        yield running


@pytest.fixture
def client(daemon: RunningDaemon, alice: Person, bob: Person) -> Iterator[PeerClient]:
    """Alice's. After each test she and Bob are still answered."""
    with daemon.client(alice.uid) as own, daemon.client(bob.uid) as other:
        yield own
        for client in (own, other):
            assert client.uapi("get_scan_status")
    assert "Traceback" not in daemon.log()


@pytest.fixture
def bad(client: PeerClient, alice: Person) -> Path:
    """An infected file that was found."""
    path = put(alice, "bad")
    client.scan()
    return path


@pytest.mark.parametrize(
    "scan_type", ["everything", "", "HOME", "home ", ".", "..", "/etc", "home\0", "\\x", "é" * 9999]
)
def test_an_unknown_scan_type_is_refused(client: PeerClient, scan_type: str) -> None:
    result = client.uapi("start_scan", {"scan_type": scan_type})
    assert result["status"] == 0
    (error,) = result["errors"]
    assert error.startswith("cannot start the scan: there is no scan type")
    assert len(error) < 300


def test_types_are_permitted_by_user_withdrawn_and_renamed(
    daemon: RunningDaemon, client: PeerClient, alice: Person, bob: Person
) -> None:
    for person in (alice, bob):
        for name in ("private", "public_ftp", "Maildir"):
            put(person, f"{name}/file", b"fine")
    assert client.good("get_scan_paths") == [
        {"id": "home", "message": "Scan Entire Home Directory"},
        {"id": "mail", "message": "Post"},
    ]
    with daemon.client(bob.uid) as other:
        assert "private" in [kind["id"] for kind in other.good("get_scan_paths")]
    for scan_type in ("private", "public_ftp"):
        assert "no scan type" in client.uapi("start_scan", {"scan_type": scan_type})["errors"][0]


@pytest.mark.parametrize("kind", ["missing", "file", "link to a directory", "link out of the home", "dangling link"])
def test_a_scan_type_without_its_directory_is_refused(client: PeerClient, alice: Person, kind: str) -> None:
    put(alice, "real/file", b"fine")
    place = home(alice) / "public_html"
    with acting_as(alice.uid):
        if kind == "file":
            place.write_bytes(b"fine")
        elif kind != "missing":
            places = {"link to a directory": "real", "link out of the home": "/etc", "dangling link": "/nowhere"}
            place.symlink_to(places[kind])
    result = client.uapi("start_scan", {"scan_type": "public_html"})
    assert result["errors"] == ["cannot start the scan: there is no directory public_html in the home directory"]


@pytest.mark.parametrize(
    ("kind", "words"),
    [("open", "writ"), ("link", "home"), ("missing", "home"), ("file", "home")],
)
def test_a_home_that_breaks_a_rule_is_refused_with_the_rule(
    client: PeerClient, alice: Person, kind: str, words: str
) -> None:
    place, aside = home(alice), Path(f"{alice.home}.aside")
    if kind == "open":
        place.chmod(0o777)
    else:
        place.rename(aside)
    try:
        if kind == "link":
            place.symlink_to(aside)
        elif kind == "file":
            place.touch()
        refused = wait_for(lambda: refusal(client), "the rule to be told")
        assert words in str(refused)
        assert refused.kind == "unknown_account"
    finally:
        if kind != "open":
            place.unlink(missing_ok=True)
            aside.rename(place)
        place.chmod(0o700)


def refusal(client: PeerClient) -> RpcError | None:
    """A look into the home is remembered for a moment: then the scan itself fails, with the same reason."""
    try:
        client.call("ClamScanner.start_scan", {"scan_type": "home"})
    except RpcError as error:
        return error
    assert client.wait_scan()["state"] == "failed"
    assert any("home" in text for text in client.uapi("get_scan_status")["warnings"])
    return None


def test_before_a_scan_every_call_about_one_says_so(daemon: RunningDaemon, client: PeerClient, bob: Person) -> None:
    """Bob's: nobody scans for him in this file."""
    calls = {"get_scan_status": None, "list_infected_files": None, "disinfect_files": {"actions": {"a": "delete"}}}
    with daemon.client(bob.uid) as other:
        for func, params in calls.items():
            result = other.uapi(func, params)
            assert (result["status"], result["data"]) == (0, None)
            assert "start one first" in result["errors"][0]
        data = other.good("check_disinfection_status")
        assert (data["status"], data["details"]) == ("none", [])
        with pytest.raises(RpcError) as refused:
            other.call("Scan.cancel")
    assert refused.value.kind == "not_found"


NOT_LISTED = [
    "../bad", "../../etc/passwd", "/etc/passwd", "./bad", "bad/", "//bad", "bad/.", "x/../bad", "BAD", " bad", "bad ",
    "ba\0d", "bad\0", "", ".", "/", "~/bad", "*", "ba?", "\\x62ad", "\\x", "bad\\", "bad\n", "file:///bad",
    "\u0062ad\u200b", "x" * 5000,
]  # fmt: skip


def test_a_path_that_is_not_on_the_list_is_ignored(client: PeerClient, alice: Person, bad: Path) -> None:
    for path in NOT_LISTED:
        result = client.uapi("disinfect_files", {"actions": {path: "delete"}})
        assert (result["status"], result["data"]) == (0, None), path
        assert "nothing that was named" in result["errors"][0]
    assert bad.read_bytes() == EICAR


def test_those_ignored_are_named_beside_what_goes_through(client: PeerClient, alice: Person, bad: Path) -> None:
    actions = dict.fromkeys(NOT_LISTED, "delete") | {f"none{number}": "ignore" for number in range(200)}
    result = client.uapi("disinfect_files", {"actions": {**actions, "bad": "quarantine"}})
    assert result["status"] == 1
    warnings = result["warnings"]
    assert len(warnings) == 101
    assert warnings[0].endswith("../bad")
    assert warnings[-1].endswith(f"{len(actions) - 100} more")
    records = client.wait_disinfection()
    assert [(record["type"], record.get("file")) for record in records] == [("step", str(bad)), ("done", None)]


def test_an_unknown_action_does_nothing_at_all(client: PeerClient, alice: Person, bad: Path) -> None:
    before = client.good("check_disinfection_status")
    for action in ("", "burn", "DELETE", "delete ", "cleanse", "delete\0", "\\", "é" * 9999):
        for params in (
            {"actions": {"bad": "delete", "zzz": action}},
            {"actions": {"bad": "delete"}, "others": action},
        ):
            result = client.uapi("disinfect_files", params)
            assert result["status"] == 0, action
            assert "unknown action" in result["errors"][0]
            assert len(result["errors"][0]) < 400
    assert bad.exists()
    assert client.good("check_disinfection_status") == before


def test_nothing_selected_is_refused(client: PeerClient, alice: Person, bad: Path) -> None:
    for actions in ({}, {"other": "ignore"}):
        assert client.uapi("disinfect_files", {"actions": actions})["status"] == 0


def test_a_file_that_was_dealt_with_is_on_no_list_any_more(client: PeerClient, alice: Person, bad: Path) -> None:
    """A client with a stale list: the same selection a second time."""
    client.disinfect({"bad": "quarantine"})
    result = client.uapi("disinfect_files", {"actions": {"bad": "quarantine"}})
    assert result["status"] == 0
    assert client.uapi("disinfect_files", {"actions": {}, "others": "delete"})["status"] == 0


def test_records_are_those_of_the_latest_task_and_only_the_accounts_own(
    daemon: RunningDaemon, client: PeerClient, alice: Person, bob: Person, bad: Path
) -> None:
    put(alice, "bad2")
    client.scan()
    assert len(client.disinfect({"bad": "delete", "bad2": "ignore"})) == 3
    for last_id, ids in ((1, [2, 3]), (3, []), (2**62, [])):
        data = client.good("check_disinfection_status", {"last_id": last_id})
        assert [record["id"] for record in data["details"]] == ids
        assert data["status"] == "done"
    assert [record["id"] for record in client.disinfect({}, "ignore")] == [1, 2], "a new task starts afresh"
    with daemon.client(bob.uid) as other:
        assert other.good("check_disinfection_status")["status"] == "none"
        assert other.uapi("get_scan_status")["status"] == 0
        assert other.uapi("disinfect_files", {"actions": {str(bad): "delete"}})["status"] == 0


@pytest.mark.parametrize("user", ["", "root", "daemon", "nobody", "csd_test_nobody", "a\0b", "\\x", "x" * 99_999, "0"])
def test_an_administrator_who_names_no_account_is_told(daemon: RunningDaemon, client: PeerClient, user: str) -> None:
    with daemon.client(0) as root, pytest.raises(RpcError) as refused:
        root.call("ClamScanner.get_scan_status", {"user": user})
    assert refused.value.kind == "unknown_account"


def test_one_who_is_no_administrator_learns_nothing_from_naming_users(client: PeerClient, alice: Person) -> None:
    said = set()
    for user in (alice.name, "root", "csd_test_nobody", "", "\0"):
        with pytest.raises(RpcError) as refused:
            client.call("ClamScanner.get_scan_status", {"user": user})
        said.add((refused.value.kind, str(refused.value)))
    assert len(said) == 1
