"""The six calls, end to end, for two accounts of one system daemon, as root."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import AccountOnHost
from tests.fakes.realclamd import EICAR, EICAR_NAME
from tests.fakes.running import RpcError, RunningDaemon

Accounts = tuple[AccountOnHost, AccountOnHost]


@pytest.fixture(scope="module")
def daemon() -> Iterator[RunningDaemon]:
    with RunningDaemon() as running:
        yield running


def put(account: AccountOnHost, name: bytes | str, content: bytes = EICAR) -> Path:
    """A file of the account, by root."""
    path = os.path.join(os.fsencode(account.home), os.fsencode(name))
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as stream:
        stream.write(content)
    here = path
    while here != os.fsencode(account.home):
        os.chown(here, account.uid, account.gid)
        here = os.path.dirname(here)
    return Path(os.fsdecode(path))


def test_the_six_steps_run_in_order(daemon: RunningDaemon, accounts: Accounts) -> None:
    alice, _ = accounts
    bad_file = put(alice, "public_html/bad.php")
    put(alice, "fine.txt", b"fine")
    with daemon.client(alice.uid) as client:
        assert {kind["id"] for kind in client.good("get_scan_paths")} == {"home", "public_html"}
        status = client.scan()
        assert (status["state"], status["infected_file_count"], status["not_scanned"]) == ("done", 1, {})
        assert (status["scanned_file_count"], status["total_file_count"]) == (2, 2)
        bad = f"{alice.home}/public_html/bad.php"
        (found,) = client.good("list_infected_files")
        there = bad_file.stat()
        assert (found["file"], found["virus_type"]) == (bad, EICAR_NAME)
        assert (found["size"], found["owner"]) == (there.st_size, alice.uid)
        assert found["mtime"] == pytest.approx(there.st_mtime)
        assert found["found_at"] >= found["mtime"]
        records = client.disinfect({bad: "quarantine"})
        assert [(r["type"], r["state"]) for r in records] == [("step", "quarantined"), ("done", "success")]
        assert client.good("list_infected_files") == []
    assert not Path(bad).exists()
    log = alice.home / ".clamavconnector.disinfection.log"
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    assert log.stat().st_uid == alice.uid
    assert '"type":"done"' in log.read_text().splitlines()[-1]


def test_each_sees_and_acts_on_its_own_files_only(daemon: RunningDaemon, accounts: Accounts) -> None:
    alice, bob = accounts
    bad = put(alice, "bad")
    with daemon.client(alice.uid) as client:
        client.scan()
    with daemon.client(bob.uid) as client:
        assert client.scan()["infected_file_count"] == 0
        result = client.uapi("disinfect_files", {"actions": {str(bad): "delete"}})
        assert result["status"] == 0
        with pytest.raises(RpcError, match="administrators") as refused:
            client.call("ClamScanner.list_infected_files", {"user": alice.name})
        assert refused.value.kind == "denied"
    assert bad.exists()
    with daemon.client() as root:
        listed = root.good("list_infected_files", {"user": alice.name})
        assert [file["file"] for file in listed] == [str(bad)]


def test_any_name_is_scanned_listed_and_quarantined(daemon: RunningDaemon, accounts: Accounts) -> None:
    alice, _ = accounts
    names = [
        b"new\nline",
        b"q'uo\"te",
        b"back\\slash",
        b"\xff\xfe\x80",
        b"n" * 255,
        b"-rf",
        b" ",
        b"x: OK",
        b"\xe2\x80\xae",
    ]
    for name in names:
        put(alice, name)
    with daemon.client(alice.uid) as client:
        assert client.scan()["infected_file_count"] == len(names)
        listed = [file["file"] for file in client.good("list_infected_files")]
        records = client.disinfect(dict.fromkeys(listed, "quarantine"))
    assert [r["file"] for r in records[:-1]] == listed
    assert {r["state"] for r in records[:-1]} == {"quarantined"}
    assert os.listdir(os.fsencode(alice.home)) == [b".clamavconnector.disinfection.log"]


def test_others_takes_all_that_is_not_named(daemon: RunningDaemon, accounts: Accounts) -> None:
    alice, _ = accounts
    for name in ("a", "b", "c"):
        put(alice, name)
    with daemon.client(alice.uid) as client:
        client.scan()
        records = client.disinfect({"a": "ignore", str(alice.home / "b").lstrip("/"): "delete"}, "quarantine")
    states = {Path(r["file"]).name: r["state"] for r in records[:-1]}
    assert states == {"a": "no-action", "b": "deleted", "c": "quarantined"}


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"actions": {"bad": "burn"}}, "unknown action"),
        ({"actions": {}}, "nothing that was named"),
        ({"actions": {"../bad": "delete"}}, "nothing that was named"),
        ({"actions": {"/etc/passwd": "delete", "ba\u0000d": "delete", "": "delete"}}, "nothing that was named"),
        ({"actions": {"bad\\q": "delete"}}, "nothing that was named"),
        ({"actions": {"bad": "delete", "./bad": "ignore"}, "others": ""}, "unknown action"),
    ],
)
def test_what_cannot_be_done_is_refused_and_nothing_is_touched(
    daemon: RunningDaemon, accounts: Accounts, params: dict[str, object], words: str
) -> None:
    alice, _ = accounts
    bad = put(alice, "bad")
    with daemon.client(alice.uid) as client:
        client.scan()
        result = client.uapi("disinfect_files", params)
    assert result["status"] == 0
    assert words in result["errors"][0]
    assert bad.read_bytes() == EICAR


def test_one_file_twice_with_different_actions_is_refused(daemon: RunningDaemon, accounts: Accounts) -> None:
    alice, _ = accounts
    bad = put(alice, "bad")
    with daemon.client(alice.uid) as client:
        client.scan()
        result = client.uapi("disinfect_files", {"actions": {"bad": "delete", str(bad): "ignore"}})
    assert "different actions" in result["errors"][0]


def test_a_mailbox_is_left_untouched_by_cleanse_for_now(daemon: RunningDaemon, accounts: Accounts) -> None:
    alice, _ = accounts
    bad = put(alice, "mail/inbox")
    with daemon.client(alice.uid) as client:
        client.scan("mail")
        records = client.disinfect({"mail/inbox": "cleanse_mailbox"})
    assert [r["state"] for r in records] == ["error", "error"]
    assert bad.read_bytes() == EICAR


def test_unknown_types_and_missing_directories_are_refused(daemon: RunningDaemon, accounts: Accounts) -> None:
    alice, _ = accounts
    with daemon.client(alice.uid) as client:
        assert "no scan type" in client.uapi("start_scan", {"scan_type": "everything"})["errors"][0]
        assert "no directory" in client.uapi("start_scan", {"scan_type": "public_ftp"})["errors"][0]


def test_before_any_scan_there_is_none_to_show(daemon: RunningDaemon, accounts: Accounts) -> None:
    """Root's own uid is no account."""
    with daemon.client(0) as client, pytest.raises(RpcError) as refused:
        client.call("ClamScanner.get_scan_status")
    assert refused.value.kind == "unknown_account"


def test_a_vault_item_is_neutralised_and_private(daemon: RunningDaemon, accounts: Accounts) -> None:
    alice, _ = accounts
    put(alice, "bad")
    with daemon.client(alice.uid) as client:
        client.scan()
        client.disinfect({"bad": "quarantine"})
    items = list((daemon.state / "vault").rglob("*.item"))
    assert items
    assert all(EICAR not in item.read_bytes() for item in items)
    assert {stat.S_IMODE(item.stat().st_mode) for item in items} == {0o400}
    assert stat.S_IMODE(daemon.state.stat().st_mode) == 0o700
