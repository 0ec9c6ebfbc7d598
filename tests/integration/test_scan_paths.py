"""Scans of files and directories that somebody names, on real daemons: what they look at, what they leave as it was."""

import os
import pwd
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clamscannerd.rpc.names import to_wire
from tests.fakes.accounts import Person
from tests.fakes.flipper import Flipper
from tests.fakes.realclamd import EICAR
from tests.fakes.running import PeerClient, RpcError, RunningDaemon, acting_as
from tests.integration.people import balanced, engine_later, fill, home, put, rows, wait_state, worker_of

CTL = str(Path(sys.executable).with_name("clamscannerctl"))


@pytest.fixture(scope="module")
def daemon(_people: object) -> Iterator[RunningDaemon]:
    with RunningDaemon() as running:
        yield running


def scan(client: PeerClient, *paths: str) -> dict[str, Any]:
    started = client.call("Scan.start", {"paths": list(paths)})
    status = client.wait_scan()
    assert (status["scan_id"], status["scan_type"], balanced(status)) == (started["scan_id"], "", True)
    return status


def listed(client: PeerClient) -> list[str]:
    return [found["file"] for found in client.good("list_infected_files")]


def refusal(client: PeerClient, *paths: str) -> str:
    with pytest.raises(RpcError) as error:
        client.call("Scan.start", {"paths": list(paths)})
    assert error.value.kind == "refused"
    return str(error.value)


def test_a_file_or_a_directory_is_scanned_and_nothing_else(daemon: RunningDaemon, alice: Person) -> None:
    bad, other = put(alice, "web/deep/bad"), put(alice, "web/other")
    put(alice, "elsewhere")
    with daemon.client(alice.uid) as client:
        status = scan(client, str(bad))
        assert (status["total_file_count"], status["infected_files"], status["paths"]) == (1, [str(bad)], [str(bad)])
        status = scan(client, "web")
        assert (status["total_file_count"], status["infected_file_count"]) == (2, 2)
        assert status["paths"] == [f"{alice.home}/web"]
        assert sorted(listed(client)) == sorted([str(bad), str(other)])
        status = scan(client, "web", "web/other", "web/deep", f"{alice.home}/elsewhere")
        assert (status["total_file_count"], status["infected_file_count"]) == (3, 3), "nothing is met twice"
        whole = client.call("Scan.get", {"scan_id": status["scan_id"]})
        assert whole["paths"] == [f"{alice.home}/{name}" for name in ("web", "web/other", "web/deep", "elsewhere")]
        assert scan(client, alice.home)["total_file_count"] == 3


def test_what_was_found_elsewhere_stands_and_what_was_looked_at_again_does_not(
    daemon: RunningDaemon, alice: Person
) -> None:
    mended, _, gone = put(alice, "web/mended"), put(alice, "mail/bad"), put(alice, "web/gone")
    with daemon.client(alice.uid) as client:
        assert client.scan()["infected_file_count"] == 3
        put(alice, "web/mended", b"clean")
        with acting_as(alice.uid):
            gone.unlink()
        assert scan(client, str(mended))["infected_file_count"] == 0
        result = client.uapi("list_infected_files")
        assert result["data"] == []
        assert result["warnings"] == ["2 infected files of earlier scans still stand; this scan did not look at them"]
        scan(client, "web")
        (warning,) = client.uapi("list_infected_files")["warnings"]
        assert warning.startswith("1 infected files of earlier scans still stand")
        assert client.scan()["infected_files"] == [f"{alice.home}/mail/bad"]


def test_names_of_any_bytes_can_be_scanned(daemon: RunningDaemon, alice: Person) -> None:
    names = [b"new\nline", b"back\\slash", b"\xff\xfe", b"n" * 255, b"-rf", b" ", b"\x1b]0;x\x07", b"\xe2\x80\xae"]
    place = os.fsencode(alice.home)
    with acting_as(alice.uid):
        for name in names:
            os.mkdir(place + b"/" + name)
            with open(place + b"/" + name + b"/" + name, "wb") as stream:
                stream.write(EICAR)
    with daemon.client(alice.uid) as client:
        for name in names:
            path = to_wire(place + b"/" + name + b"/" + name)
            assert scan(client, path)["infected_files"] == [path]
            assert scan(client, to_wire(name))["infected_files"] == [path]


def test_what_cannot_be_scanned_is_said_and_starts_nothing(daemon: RunningDaemon, alice: Person, bob: Person) -> None:
    put(alice, "file")
    put(bob, "file")
    with acting_as(alice.uid):
        (home(alice) / "link").symlink_to("file")
        (home(alice) / "out").symlink_to(bob.home)
        (home(alice) / "shut").mkdir(mode=0o700)
        (home(alice) / "shut" / "inside").touch()
        (home(alice) / "shut").chmod(0)
        os.mkfifo(home(alice) / "fifo")
    before = rows(daemon, "SELECT count(*) FROM scan")
    with daemon.client(alice.uid) as client:
        for name, why in {
            "gone": "there is no such file or directory",
            "file/below": "there is no such file or directory",
            "link": "it is a symbolic link; name what it leads to",
            "out": "it is a symbolic link; name what it leads to",
            "out/file": "a directory on the way is a symbolic link; name it without links",
            "out/gone": "a directory on the way is a symbolic link; name it without links",
            "shut/inside": "it cannot be read",
            "fifo": "it is neither a file nor a directory",
        }.items():
            assert refusal(client, name) == f"cannot scan {alice.home}/{name}: {why}"
        for path in (bob.home, f"{bob.home}/file", f"{bob.home}/gone", "/", "/etc/passwd"):
            assert refusal(client, path) == f"cannot scan {path}: it is not in the home directory {alice.home}"
        assert refusal(client, f"../{os.path.basename(bob.home)}/file").endswith('name it without ".."')
        both = refusal(client, "file", "gone", "link")
        assert both.count("cannot scan") == 2, "none is scanned when one cannot be"
        assert "at most 100" in refusal(client, *map(str, range(101)))
        assert "no path is named" in refusal(client)
        assert "16384 bytes" in refusal(client, *(f"{number}" + "/d" * 1_900 for number in range(40)))
        for params in ({}, {"scan_type": "home", "paths": ["file"]}):
            with pytest.raises(RpcError, match="either a type of scan or paths"):
                client.call("Scan.start", params)
        with pytest.raises(RpcError, match="there is no scan type 'nothing' for this account"):
            client.call("Scan.start", {"scan_type": "nothing"})
    assert rows(daemon, "SELECT count(*) FROM scan") == before


def test_paths_lie_within_what_the_administrator_permits(alice: Person, bob: Person) -> None:
    for person in (alice, bob):
        put(person, "mail/bad")
        put(person, "web/bad")
    withdrawn = "".join(f'[scan_types.{name}]\nusers = ["{alice.name}"]\n' for name in ("home", "public_html"))
    with RunningDaemon(config=withdrawn) as daemon:
        with daemon.client(alice.uid) as client:
            assert scan(client, "web")["infected_file_count"] == 1
        with daemon.client(bob.uid) as client:
            assert scan(client, "mail/bad")["infected_file_count"] == 1
            for path in ("web", ".", "mailbox"):
                assert "lies within no type of scan that the administrator permits" in refusal(client, path)


def test_a_directory_exchanged_for_a_link_as_the_scan_starts_leads_nowhere_else(
    daemon: RunningDaemon, alice: Person, bob: Person
) -> None:
    """Each end is one of three: refused, the directory as it is, or not scanned. The other tree is readable to all."""
    put(alice, "real/mine", b"clean")
    bad = put(bob, "tree/mine")
    for path in (home(bob), bad.parent):
        path.chmod(0o755)
    with acting_as(alice.uid):
        (home(alice) / "link").symlink_to(bad.parent)
    ends = {"refused": 0, "scanned": 0, "not scanned": 0}
    pairs = [(b"real", b"link")]
    with daemon.client(alice.uid) as client, Flipper(alice.uid, alice.gid, alice.home, pairs) as flipper:
        for turn in range(60):
            refused = ""
            try:
                client.call("Scan.start", {"paths": ["real", "real/mine"][turn % 2 :][:1]})
            except RpcError as error:
                refused = str(error)
            if refused:
                assert "symbolic link" in refused
                ends["refused"] += 1
                continue
            status = client.wait_scan()
            assert status["state"] == "done"
            assert (status["infected_file_count"], listed(client)) == (0, [])
            assert status["total_file_count"] == 1, "something was named, and something is said of it"
            ends["scanned" if status["scanned_file_count"] else "not scanned"] += 1
    assert flipper.flips > 1_000
    assert ends["refused"], ends
    assert ends["scanned"] + ends["not scanned"], ends


def test_a_scan_of_paths_starts_over_with_the_same_paths_after_kill_9(alice: Person) -> None:
    fill(alice, 3_000, infected=(7, 2_999))
    put(alice, "elsewhere")
    with RunningDaemon() as daemon:
        with daemon.client(alice.uid) as client:
            scan_id = client.call("Scan.start", {"paths": ["d000000", "d002900"]})["scan_id"]
            worker_of(daemon, alice)
            daemon.kill()
        daemon.start(engine=False)
        with daemon.client(alice.uid) as client:
            status = client.wait_scan()
            assert (status["scan_id"], status["state"], balanced(status)) == (scan_id, "done", True)
            assert status["paths"] == [f"{alice.home}/d000000", f"{alice.home}/d002900"]
            assert (status["total_file_count"], status["infected_file_count"]) == (200, 2)


def test_what_went_between_asking_and_scanning_is_said_and_what_became_a_link_is_not_followed(alice: Person) -> None:
    gone, swapped = put(alice, "gone"), put(alice, "swapped")
    with engine_later() as (daemon, clamd), daemon.client(alice.uid) as client:
        client.call("Scan.start", {"paths": ["gone", "swapped"]})
        assert wait_state(client, "queued")["paths"] == [str(gone), str(swapped)]
        put(alice, "elsewhere")
        with acting_as(alice.uid):
            gone.unlink()
            swapped.unlink()
            swapped.symlink_to("elsewhere")
        clamd.start()
        status = client.wait_scan()
        assert (status["state"], status["infected_file_count"]) == ("done", 0)
        assert status["not_scanned"] == {"vanished": 1, "not_regular": 1}


def test_the_command_takes_a_path_from_where_one_is(daemon: RunningDaemon, alice: Person) -> None:
    bad = put(alice, "web/bad")
    entry = pwd.getpwuid(alice.uid)

    def ctl(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [CTL, "--socket", daemon.socket_path, *words],
            cwd=cwd,
            user=entry.pw_uid,
            group=entry.pw_gid,
            extra_groups=[],
            env={"PATH": "/usr/bin:/bin", "HOME": entry.pw_dir, "LC_ALL": "C.UTF-8"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    found = ctl("scan", "bad", "--wait", cwd=bad.parent)
    assert found.returncode == 1, found.stderr
    assert found.stdout.startswith(f"{bad}: ")
    assert f"({bad}): done" in found.stdout
    outside = ctl("scan", "/etc/passwd", "--wait", cwd=bad.parent)
    assert (outside.returncode, outside.stdout) == (2, "")
    assert outside.stderr == (
        f"clamscannerctl: cannot scan /etc/passwd: it is not in the home directory {alice.home}\n"
        "clamscannerctl: next: name files and directories beneath that home\n"
    )
    assert ctl("history", cwd=bad.parent).stdout.splitlines()[0].split()[1] == str(bad)
