"""The package in a booted system, from the first installation to the purge; with Debian's own clamav-daemon."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from clamscannerd import __version__
from clamscannerd.worker.causes import READ_ONLY
from tests.fakes.machine import Machine
from tests.fakes.realclamd import EICAR
from tests.system.conftest import ROOT
from tests.system.test_booted_service import CALLS, SERVICE, six_calls

NEWER = "99.0"
ELSEWHERE = "/srv/web"
"""A place of homes outside of /home."""

LEFT = re.compile(
    r"""
    /etc/(passwd|group|shadow|gshadow|subuid|subgid)-?              # the two users stay, locked
    |/etc/\.pwd\.lock
    |/var/(lib|cache|log|backups)/(dpkg|apt|man|systemd|clamav|journal|private)(/.*)?
    |/var/lib/systemd/(deb-systemd-helper-enabled|timers)(/.*)?     # empty directories of deb-systemd-helper
    |/(var/)?log/.*|/var/log/.*
    |/home/.*|/srv/.*|/data(/.*)?|/opt/calls\.py|/root/.*|/tmp/.*|/var/tmp/.*
    |/etc/systemd/system/clamav-daemon\.s(ocket|ervice)\.d(/.*)?    # this test's own
    |/etc/apparmor\.d(/local)?                                      # of dpkg: kept while others may use them
    """,
    re.VERBOSE,
)
"""What a purge may leave, as clamscannerd(8) says, and what it has nothing to do with."""


def files(machine: Machine) -> set[str]:
    return set(machine.sh("find / -xdev '(' -path /proc -o -path /sys -o -path /dev ')' -prune -o -print").splitlines())


@pytest.fixture(scope="module")
def before(bare: Machine) -> set[str]:
    """What there is without the package; with a user whose home is elsewhere, and the system's clamd at work."""
    bare.sh(f"mkdir {ELSEWHERE}; useradd -m -b {ELSEWHERE} carl; chmod 700 {ELSEWHERE}/carl")
    for unit in ("clamav-daemon.socket", "clamav-daemon.service"):
        # The tests' signatures have other names than the official ones that Debian's units wait for.
        bare.write(f"/etc/systemd/system/{unit}.d/tests.conf", "[Unit]\nConditionPathExistsGlob=\n")
    bare.sh("systemctl daemon-reload; systemctl enable -q clamav-daemon; systemctl restart clamav-daemon.socket")
    bare.sh("systemctl restart clamav-daemon")
    return files(bare)


@pytest.fixture(scope="module")
def installed(bare: Machine, before: set[str], deb: Path) -> Machine:
    assert before
    bare.install(deb)
    return bare


@pytest.fixture(scope="module")
def newer(deb: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The same package as the next version: its number, and the one that program and workers tell each other."""
    directory = tmp_path_factory.mktemp("newer")
    tree = directory / "tree"
    subprocess.run(["dpkg-deb", "--raw-extract", deb, tree], check=True, timeout=60)
    control = tree / "DEBIAN/control"
    control.write_text(control.read_text().replace(f"Version: {__version__}\n", f"Version: {NEWER}\n"))
    (module,) = tree.glob("usr/lib/clamscannerd/lib/*/site-packages/clamscannerd/__init__.py")
    module.write_text(module.read_text().replace(f'"{__version__}"', f'"{NEWER}"'))
    made = directory / f"clamscannerd_{NEWER}.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "-Znone", "--build", tree, made], check=True, timeout=60)
    yield made
    shutil.rmtree(directory)


def test_the_installation_opens_the_socket_and_starts_nothing_else(installed: Machine) -> None:
    assert installed.show("clamscannerd.socket", "SubState") == "listening"
    assert installed.show(SERVICE, "ActiveState") == "inactive"
    enabled = installed.run("systemctl", "is-enabled", "clamscannerd.socket", SERVICE).stdout.split()
    assert enabled == ["enabled", "enabled"]
    assert installed.run("dpkg", "--audit").stdout == ""


@pytest.mark.parametrize("user", ["alice", "bob"])
def test_the_six_calls_with_the_systems_clamd(installed: Machine, user: str) -> None:
    six_calls(installed, user)
    assert installed.show("clamscannerd-engine@1.service", "ActiveState") == "inactive"
    assert installed.show("clamav-daemon.service", "ActiveState") == "active"


def test_homes_elsewhere_are_writable_without_being_asked_for(installed: Machine) -> None:
    drop_in = "/etc/systemd/system/clamscannerd.service.d/homes.conf"
    assert f'ReadWritePaths="-{ELSEWHERE}"' in installed.run("cat", drop_in).stdout
    installed.write(f"{ELSEWHERE}/carl/bad.com", EICAR, owner="carl")
    assert installed.ctl("carl", "scan", "home", "--wait").returncode == 1
    done = installed.ctl("carl", "disinfect", "quarantine", "--all", "--wait")
    assert done.returncode == 0, done.stdout + done.stderr
    assert not installed.exists(f"{ELSEWHERE}/carl/bad.com")


def test_a_home_that_the_sandbox_does_not_know_is_named_and_can_be_opened(installed: Machine) -> None:
    installed.sh("mkdir /data; useradd -m -b /data dave; chmod 700 /data/dave")
    installed.write("/data/dave/bad.com", EICAR, owner="dave")
    assert "/data (1)" in installed.ctl("root", "health").stdout  # before anybody meets it
    assert installed.ctl("dave", "health").returncode == 2
    assert installed.ctl("alice", "health").returncode == 0
    assert installed.ctl("dave", "scan", "home", "--wait").returncode == 1
    refused = installed.ctl("dave", "disinfect", "quarantine", "--all", "--wait")
    assert refused.returncode == 2
    assert READ_ONLY in refused.stdout
    assert installed.exists("/data/dave/bad.com")
    installed.sh(
        "/usr/lib/clamscannerd/bin/python -I -m clamscannerd.launch_homes;"
        " systemctl daemon-reload; systemctl restart clamscannerd"
    )
    done = installed.ctl("dave", "disinfect", "quarantine", "--all", "--wait")
    assert done.returncode == 0, done.stdout + done.stderr
    assert not installed.exists("/data/dave/bad.com")
    assert "/data" not in installed.ctl("root", "health").stdout
    assert installed.ctl("carl", "scan", "home", "--wait").returncode == 0  # the other place is still there


def test_the_manual_is_there(installed: Machine) -> None:
    listed = installed.run("dpkg", "--listfiles", "clamscannerd").stdout.splitlines()
    pages = ("man8/clamscannerd.8", "man1/clamscannerctl.1", "man5/clamscannerd.toml.5", "man7/clamscannerd-rpc.7")
    for name in pages:
        assert f"/usr/share/man/{name}.gz" in listed


def test_quickstart_refuses_beside_the_package(installed: Machine) -> None:
    shutil.copytree(ROOT / "packaging", installed.tree / "root/tree/packaging")
    for words in ([], ["--remove"]):
        ended = installed.run("/root/tree/packaging/quickstart", *words, check=False)
        assert ended.returncode == 2
        assert "package clamscannerd is installed" in ended.stderr
    assert installed.exists("/usr/bin/clamscannerctl")


def test_an_upgrade_keeps_vault_and_history_and_refuses_no_client(installed: Machine, newer: Path) -> None:
    items = installed.ask("alice", "Quarantine.list")
    scan = installed.ask("alice", "ClamScanner.get_scan_status")["scan_id"]
    assert items["total"] == 1
    installed.sh("echo '# mine' >>/etc/clamscannerd/clamscannerd.toml")
    installed.write("/opt/calls.py", CALLS)
    callers = installed.start("python3", "/opt/calls.py", user="bob")
    installed.install(newer)
    installed.sh("touch /tmp/enough")
    said = json.loads(installed.finish(callers).stdout)
    assert said["bad"] == []
    assert installed.ask("alice", "Daemon.version") == {"version": NEWER}
    assert installed.ask("alice", "Quarantine.list") == items
    assert installed.ask("alice", "ClamScanner.get_scan_status")["scan_id"] == scan
    assert "# mine" in installed.run("cat", "/etc/clamscannerd/clamscannerd.toml").stdout
    restored = installed.ctl("alice", "quarantine", "restore", str(items["items"][0]["id"]), "--force", "--wait")
    assert restored.returncode == 0, restored.stdout + restored.stderr
    assert installed.exists("/home/alice/bad.com")


def test_removing_stops_everything_and_keeps_state_and_configuration(installed: Machine) -> None:
    installed.ctl("alice", "paths")
    installed.run("systemctl", "enable", "--now", "clamscannerd-scan@alice.timer")
    installed.run("dpkg", "--remove", "clamscannerd", timeout_s=120)
    running = installed.run("ps", "-eo", "user:32,args", "--no-headers").stdout.splitlines()
    assert [line for line in running if line.startswith("clamscannerd")] == []
    assert installed.run("systemctl", "list-units", "--no-legend", "clamscannerd*").stdout.split("\n")[0] == ""
    for place in ("/var/lib/clamscannerd", "/etc/clamscannerd/clamscannerd.toml"):
        assert installed.exists(place)
    for place in ("/run/clamscannerd", "/usr/lib/clamscannerd", "/usr/bin/clamscannerctl"):
        assert not installed.exists(place)


def test_purging_leaves_nothing_but_what_it_says(installed: Machine, before: set[str]) -> None:
    installed.run("dpkg", "--purge", "clamscannerd", timeout_s=120)
    left = {path for path in files(installed) - before if not LEFT.fullmatch(path)}
    assert left == set()
    assert not installed.exists("/var/lib/clamscannerd")
    assert installed.run("id", "clamscannerd").returncode == 0
