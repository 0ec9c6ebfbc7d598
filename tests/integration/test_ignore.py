"""Ignore lists of a real daemon: what one covers is listed as ignored and left alone, and is infected again at once."""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import AccountOnHost
from tests.fakes.realclamd import MARKER
from tests.fakes.running import PeerClient, RpcError, RunningDaemon
from tests.integration.test_history import ctl

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="workers of two accounts need root")


@pytest.fixture(scope="module")
def daemon() -> Iterator[RunningDaemon]:
    with RunningDaemon() as running:
        yield running


@pytest.fixture
def anna(daemon: RunningDaemon, accounts: tuple[AccountOnHost, AccountOnHost]) -> Iterator[AccountOnHost]:
    """With three infected files, scanned."""
    account = accounts[0]
    for name in (b"a.com", b"odd *\xff\n", b"c"):
        path = os.path.join(os.fsencode(account.home), name)
        Path(os.fsdecode(path)).write_bytes(MARKER + name)
        os.chown(path, account.uid, account.gid)
    with daemon.client(account.uid) as client:
        client.scan()
        yield account
        for entry in client.call("Ignore.list")["entries"]:
            client.call("Ignore.remove", {"id": entry["id"]})


def ignored(client: PeerClient) -> dict[str, Any]:
    """Last part of a listed file's name -> by which entry it is ignored."""
    rows = client.good("list_infected_files")
    return {row["file"].rpartition("/")[2]: row.get("ignored") for row in rows}


def test_what_is_ignored_is_marked_counted_apart_and_left_alone(daemon: RunningDaemon, anna: AccountOnHost) -> None:
    with daemon.client(anna.uid) as client:
        entry = client.call("Ignore.add", {"kind": "path", "value": "*.com", "note": "a sample"})
        by = {"id": entry["id"], "kind": "path", "note": "a sample"}
        assert ignored(client) == {"a.com": by, "odd *\\xff\n": None, "c": None}
        status = client.good("get_scan_status")
        assert (status["infected_file_count"], status["ignored_file_count"]) == (3, 1)
        assert client.call("Scan.list")["scans"][0]["ignored_file_count"] == 1
        answer = client.uapi("disinfect_files", {"actions": {}, "others": "delete"})
        assert answer["warnings"] == ["1 file that the ignore list covers is left alone; name it to act on it"]
        client.wait_disinfection()
        assert sorted(os.listdir(os.fsencode(anna.home))) == [b".clamavconnector.disinfection.log", b"a.com"]
        with_nothing_else = client.uapi("disinfect_files", {"actions": {}, "others": "delete"})
        assert (with_nothing_else["status"], "ignore list" in with_nothing_else["errors"][0]) == (0, True)
        client.call("Ignore.remove", {"id": entry["id"]})
        assert ignored(client) == {"a.com": None}, "infected again, without a scan"
        assert client.good("get_scan_status")["ignored_file_count"] == 0


def test_who_names_an_ignored_file_means_it(daemon: RunningDaemon, anna: AccountOnHost) -> None:
    with daemon.client(anna.uid) as client:
        client.call("Ignore.add", {"kind": "signature", "value": "Test.Marker.UNOFFICIAL"})
        assert None not in ignored(client).values()
        (step, _) = client.disinfect({"a.com": "quarantine"})
        assert step["state"] == "quarantined"


def test_a_content_is_ignored_by_its_hash_until_it_is_another(daemon: RunningDaemon, anna: AccountOnHost) -> None:
    digest = hashlib.sha256(MARKER + b"c").hexdigest()
    with daemon.client(anna.uid) as client:
        client.call("Ignore.add", {"kind": "sha256", "value": digest})
        assert ignored(client)["c"] is not None
        (anna.home / "c").write_bytes(MARKER + b"other")
        client.scan()
        assert ignored(client)["c"] is None


def test_the_list_of_one_account_is_no_other_accounts(
    daemon: RunningDaemon, anna: AccountOnHost, accounts: tuple[AccountOnHost, AccountOnHost]
) -> None:
    with daemon.client(accounts[1].uid) as bert, daemon.client(anna.uid) as client, daemon.client() as root:
        bert.call("Ignore.add", {"kind": "path", "value": "*"})
        mine = client.call("Ignore.add", {"kind": "path", "value": "/c"})
        assert [name for name, by in ignored(client).items() if by] == ["c"]
        with pytest.raises(RpcError) as refused:
            bert.call("Ignore.remove", {"id": mine["id"]})
        assert refused.value.kind == "not_found"
        with pytest.raises(RpcError) as denied:
            bert.call("Ignore.add", {"kind": "path", "value": "x", "user": anna.name})
        assert denied.value.kind == "denied"
        for_her = root.call("Ignore.add", {"kind": "path", "value": "/a.com", "user": anna.name})
        assert for_her["added_by"] == 0
        assert [one["value"] for one in client.call("Ignore.list")["entries"]] == ["/c", "/a.com"]
        (account,) = [one for one in root.call("Account.list")["accounts"] if one["user"] == anna.name]
        assert (account["standing"], account["ignored"]) == (3, 2)
        for entry in bert.call("Ignore.list")["entries"]:
            bert.call("Ignore.remove", {"id": entry["id"]})


def test_what_the_administrator_forbids_has_no_effect_and_is_said(anna: AccountOnHost, daemon: RunningDaemon) -> None:
    with daemon.client(anna.uid) as client, daemon.client() as root:
        client.call("Ignore.add", {"kind": "path", "value": "*"})
        client.call("Ignore.add", {"kind": "signature", "value": "Test.Marker.UNOFFICIAL"})
        try:
            daemon.write_config('[ignore]\nallowed = ["signature"]\n')
            root.call("Daemon.reload")
            assert {by["kind"] for by in ignored(client).values()} == {"signature"}
            daemon.write_config("[ignore]\nallowed = false\n")
            root.call("Daemon.reload")
            answer = client.uapi("list_infected_files")
            assert all("ignored" not in row for row in answer["data"])
            assert [words for words in answer["warnings"] if words.startswith("2 entries of this account's ignore")]
            assert client.call("Ignore.list")["allowed"] == []
            assert {one["state"] for one in client.call("Ignore.list")["entries"]} == {"not_allowed"}
            with pytest.raises(RpcError, match=r"ignore\.allowed"):
                client.call("Ignore.add", {"kind": "path", "value": "x"})
            assert client.good("get_scan_status")["ignored_file_count"] == 0
        finally:
            daemon.write_config("")
            root.call("Daemon.reload")
        assert None not in ignored(client).values()


def test_the_command_as_a_person_uses_it(daemon: RunningDaemon, anna: AccountOnHost) -> None:
    def run(*words: str) -> tuple[int, str]:
        ended = ctl(daemon, *words, user=anna.name)
        return ended.code, ended.out + ended.err

    odd = os.path.join(os.fsencode(anna.home), b"odd *\xff\n")
    code, said = run("ignore", "add", os.fsdecode(odd), "--note", "mine\x1b[31m", "--for", "30d")
    assert (code, "\\x1b[31m" in said) == (0, True)
    assert "/odd \\\\*\\xff\\x0a" in said
    assert "to take it back: clamscannerctl" in said
    assert run("ignore", "add", "--path", f"{anna.home}/a.*")[0] == 0
    code, said = run("infected")
    assert code == 1
    first, second, third = said.splitlines()
    assert first.endswith("/c: Test.Marker.UNOFFICIAL FOUND")
    assert "IGNORED (entry " in second
    assert "IGNORED (entry " in third
    assert "1 infected, 2 ignored, 3 scanned" in run("status")[1]
    assert run("ignore", "add", "--signature", "Test.Marker.UNOFFICIAL")[0] == 0
    assert run("infected")[0] == 0, "nothing that somebody must act on"
    assert run("status")[0] == 0
    assert ", ignored (entry " in run("report")[1]
    listed = json.loads(run("ignore", "list", "--json")[1])
    for entry in listed["entries"]:
        assert run("ignore", "remove", str(entry["id"]))[0] == 0
    assert run("ignore", "list") == (0, "nothing is ignored\n")
    assert run("ignore", "remove", "1")[0] == 2
    assert run("ignore", "add")[0] == 2
    assert run("ignore", "add", "x", "--signature", "y")[0] == 2
    assert run("ignore", "add", "x", "--for", "soon")[0] == 2
