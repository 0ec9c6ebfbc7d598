"""Why a path is scanned or not, and what scans leave out, of a real daemon and the real command."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import AccountOnHost
from tests.fakes.realclamd import MARKER
from tests.fakes.running import RpcError, RunningDaemon
from tests.integration.test_history import ctl

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="workers of two accounts need root")

CONFIG = '[scans]\nexclude = ["*.iso", "/cache/", "!important.iso"]\n[engine]\nmax_file_size = "1M"\n'
FILES = (b"film.iso", b"important.iso", b"cache/x", b"bad.com", b"sample.com", b"good", b"odd\x1b[31m\xff")


@pytest.fixture(scope="module")
def daemon() -> Iterator[RunningDaemon]:
    with RunningDaemon(config=CONFIG) as running:
        yield running


@pytest.fixture
def anna(daemon: RunningDaemon, accounts: tuple[AccountOnHost, AccountOnHost]) -> Iterator[AccountOnHost]:
    account = accounts[0]
    for name in FILES:
        path = os.path.join(os.fsencode(account.home), name)
        Path(os.fsdecode(path)).parent.mkdir(exist_ok=True)
        Path(os.fsdecode(path)).write_bytes(MARKER if name.endswith(b".com") else b"text" + name)
        os.chown(path, account.uid, account.gid)
    os.chown(account.home / "cache", account.uid, account.gid)
    os.truncate(account.home / "good", 2 << 20)
    (account.home / "link").symlink_to("good")
    with daemon.client(account.uid) as client:
        status = client.scan()
        assert status["excludes"] == ["*.iso", "/cache/", "!important.iso"]
        assert status["not_scanned"] == {"excluded": 2, "too_big": 1, "not_regular": 1}
        entry = client.call("Ignore.add", {"kind": "path", "value": "/sample.com"})
        yield account
        client.call("Ignore.remove", {"id": entry["id"]})


def test_the_daemon_says_what_is_known_of_a_path(daemon: RunningDaemon, anna: AccountOnHost) -> None:
    with daemon.client(anna.uid) as client:

        def told(path: str, **more: object) -> dict[str, Any]:
            answer: dict[str, Any] = client.call("Scan.explain", {"path": path, **more})
            return answer

        film = told("film.iso")
        assert film["excluded"] == {"pattern": "*.iso", "file": f"{anna.home}/film.iso"}
        assert film["last_scan"]["not_scanned"]["reason"] == "excluded"
        assert told("cache/x")["excluded"] == {"pattern": "/cache/", "file": f"{anna.home}/cache"}
        assert (told("cache")["excluded"], told("cache", directory=True)["excluded"] is None) == (None, False)
        kept = told("important.iso")
        assert (kept["excluded"], kept["last_scan"]["outcome"], kept["finding"]) == (None, "nothing_found", None)
        bad = told(f"{anna.home}/bad.com")
        assert (bad["finding"]["state"], bad["ignored"], bad["last_scan"]["outcome"]) == ("standing", None, "infected")
        assert told("sample.com")["ignored"]["kind"] == "path"
        assert told("good")["last_scan"]["not_scanned"]["reason"] == "too_big"
        assert [kind["id"] for kind in told("public_html/x")["scan_types"]] == ["home", "public_html"]
        assert told(".")["in_home"]
        elsewhere = told("/etc/passwd")
        assert (elsewhere["in_home"], elsewhere["scan_types"], elsewhere["last_scan"]) == (False, [], None)
        for wrong in ("../x", "a//b", "a\0b", "\\q"):
            with pytest.raises(RpcError) as refused:
                told(wrong)
            assert refused.value.kind == "invalid_params"


def test_nothing_of_another_account_is_told(
    daemon: RunningDaemon, anna: AccountOnHost, accounts: tuple[AccountOnHost, AccountOnHost]
) -> None:
    with daemon.client(accounts[1].uid) as bert:
        there, none = (
            bert.call("Scan.explain", {"path": f"{anna.home}/{name}"}) for name in ("bad.com", "nothing.here")
        )
        assert {**there, "file": ""} == {**none, "file": ""}
        own = bert.call("Scan.explain", {"path": "bad.com"})
        assert (own["finding"], own["last_scan"], own["ignored"]) == (None, None, None)


def test_the_command_looks_as_the_user(daemon: RunningDaemon, anna: AccountOnHost) -> None:
    def said(name: str) -> str:
        return ctl(daemon, "explain", f"{anna.home}/{name}", user=anna.name).out

    assert "film.iso: is not scanned: the configuration leaves it out" in said("film.iso")
    assert "left out:   /cache/ fits" in said("cache/x")
    assert "link: is not scanned: a link: links are not followed" in said("link")
    assert "is not scanned: over " in said("good")
    assert "nothing found" in said("important.iso")
    assert "is not scanned: not to be seen: No such file" in said("none")
    assert "outside of the home" in said("../../etc/passwd")
    odd = said("odd\x1b[31m\udcff")
    assert "odd\\x1b[31m\\xff: is scanned" in odd
    assert "\x1b" not in odd
    bad = ctl(daemon, "explain", f"{anna.home}/bad.com", user=anna.name)
    assert (bad.code, "infected" in bad.out) == (1, True)
    sample = ctl(daemon, "explain", f"{anna.home}/sample.com", user=anna.name)
    assert (sample.code, "ignored:    what is found in it, by entry" in sample.out) == (0, True)
    root = ctl(daemon, "--user", anna.name, "explain", f"{anna.home}/good", "--json")
    assert json.loads(root.out)["look"] is None
    assert "left out:   *.iso, /cache/, !important.iso" in ctl(daemon, "status", user=anna.name).out


def test_a_change_of_what_is_left_out_holds_for_the_next_scan(daemon: RunningDaemon, anna: AccountOnHost) -> None:
    with daemon.client(anna.uid) as client, daemon.client() as root:
        try:
            daemon.write_config(CONFIG.replace('"*.iso"', '"bad.com"'))
            root.call("Daemon.reload")
            assert client.good("get_scan_status")["excludes"][0] == "*.iso"
            status = client.scan()
            assert (status["excludes"][0], status["infected_file_count"]) == ("bad.com", 1)
            answer = client.uapi("list_infected_files")
            assert [words for words in answer["warnings"] if "earlier scans still stand" in words], "nobody looked"
            daemon.write_config('[scans]\nexclude = ["["]\n')
            with pytest.raises(RpcError) as broken:
                root.call("Daemon.reload")
            assert broken.value.kind == "misconfigured"
        finally:
            daemon.write_config(CONFIG)
            root.call("Daemon.reload")
