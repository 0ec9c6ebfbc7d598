"""Notifications in a booted system: path unit, service, sandbox, hooks, mail; each finding in one mail."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.machine import Machine
from tests.fakes.realclamd import EICAR
from tests.fakes.running import wait_for
from tests.system.conftest import BUILD_S, CACHE, ROOT, TEST_NAME
from tests.system.test_booted_service import SERVICE

NOTIFY, PATH = "clamscannerd-notify.service", "clamscannerd-notify.path"
OUTBOX, RECORDS = "/var/lib/clamscannerd-outbox", "/var/lib/clamscannerd-notify"
HOOKS = "/etc/clamscannerd/hooks.d"
MAILS = f"{RECORDS}/mails"
SENDMAIL = f'#!/bin/sh\n[ "$*" = "-t -i" ] || exit 64\nmkdir -p {MAILS}\ncat >$(mktemp {MAILS}/XXXXXX)\n'
SETTINGS = '[notify]\ninterval = 0\nkinds = ["findings"]\nhook_timeout_s = 20\n'


@pytest.fixture(scope="module")
def told(machine: Machine) -> Machine:
    machine.write("/etc/clamscannerd/conf.d/notify.toml", SETTINGS)
    machine.write("/usr/sbin/sendmail", SENDMAIL)
    machine.sh(f"chmod 755 /usr/sbin/sendmail; ln -s /usr/lib/clamscannerd/hooks/mail {HOOKS}/10-mail")
    return machine


@pytest.fixture(autouse=True)
def _no_other_hooks(told: Machine) -> Iterator[None]:
    yield
    told.sh(f"find {HOOKS} -type f -delete")


def mails(machine: Machine) -> list[str]:
    return [path.read_text() for path in sorted((machine.tree / MAILS.lstrip("/")).glob("*"))]


def told_all(machine: Machine) -> bool:
    """What has ended was looked at, and the service has nothing left."""
    empty = machine.sh(f"ls {OUTBOX}") == ""
    return empty and machine.show(NOTIFY, "ActiveState") == "inactive"


def scan(machine: Machine, user: str = "alice") -> None:
    assert machine.ctl(user, "scan", "home", "--wait").returncode in (0, 1)


def hook(machine: Machine, name: str, script: str, mode: str = "755") -> None:
    machine.write(f"{HOOKS}/{name}", f"#!/bin/sh\n{script}\n")
    machine.sh(f"chmod {mode} {HOOKS}/{name}")


def test_the_package_watches_an_outbox_that_daemon_and_hooks_share(told: Machine) -> None:
    assert told.run("systemctl", "is-enabled", PATH).stdout.strip() == "enabled"
    assert told.show(PATH, "ActiveState") == "active"
    assert told.show(NOTIFY, "ActiveState") == "inactive"
    status = told.run("stat", "-c", "%a %U %G", OUTBOX).stdout.strip()
    assert status == "2770 clamscannerd clamscannerd-notify"


def test_hooks_test_mails_the_administrator_from_within_the_sandbox(told: Machine) -> None:
    ended = told.ctl("root", "hooks", "test")
    assert (ended.returncode, ended.stdout) == (0, "10-mail: ok, ended with 0\n"), ended.stderr + told.journal(NOTIFY)
    (mail,) = mails(told)
    assert re.search(r"^Subject: test: \S+: 2 infected files of example$", mail, re.MULTILINE)
    assert "\nTo: root\n" in mail
    assert told.ctl("alice", "hooks", "test").returncode == 2


def test_a_scan_with_a_finding_leads_to_one_mail_and_the_second_scan_to_none(told: Machine) -> None:
    told.sh(f"rm -rf {MAILS}")
    told.write("/home/alice/bad.com", EICAR, owner="alice")
    scan(told)
    wait_for(lambda: bool(mails(told)), "the mail")
    wait_for(lambda: told_all(told), "the end of the service")
    (mail,) = mails(told)
    assert re.search(r"^Subject: \S+: 1 infected file of alice$", mail, re.MULTILINE)
    assert "\nTo: alice, root\n" in mail
    scan(told)
    wait_for(lambda: looked_at(told), "the look")
    wait_for(lambda: told_all(told), "the end of the service")
    assert mails(told) == [mail]


def looked_at(machine: Machine) -> bool:
    """By the database, as root."""
    script = """
        import sqlite3
        c = sqlite3.connect("file:/var/lib/clamscannerd/state.db?mode=ro", uri=True)
        latest = dict(c.execute("SELECT account, max(id) FROM scan WHERE ended_at IS NOT NULL GROUP BY account"))
        print(latest == dict(c.execute("SELECT account, scan FROM notified"))
              and not c.execute("SELECT id FROM digest").fetchall())
    """
    lines = "\n".join(line[8:] for line in script.splitlines())
    return machine.run("python3", "-c", lines).stdout.strip() == "True"


def test_a_hook_that_everybody_may_write_is_refused_and_one_that_hangs_is_ended(told: Machine) -> None:
    hook(told, "20-open", f"touch {RECORDS}/ran", mode="777")
    hook(told, "30-hangs", "sleep 1000 & sleep 1000")
    ended = told.ctl("root", "--json", "hooks", "test")
    assert ended.returncode == 2
    found = {one["hook"]: one for one in json.loads(ended.stdout)["hooks"]}
    assert found["10-mail"]["ok"]
    assert found["20-open"]["how"].startswith("refused: others can write to")
    assert not told.exists(f"{RECORDS}/ran")
    assert found["30-hangs"]["how"] == "was killed after 20 s"
    assert "sleep 1000" not in told.run("ps", "-eo", "args").stdout
    assert "refused" in told.journal(NOTIFY)


def test_kill_9_of_the_daemon_and_of_the_hooks_between_loses_and_doubles_no_mail(told: Machine) -> None:
    told.run("systemctl", "stop", PATH)
    told.sh(f"rm -rf {MAILS}")
    told.write("/home/bob/worse.com", EICAR, owner="bob")
    scan(told, "bob")
    told.run("systemctl", "kill", "--signal=KILL", "--kill-whom=main", SERVICE)
    told.wait_for(SERVICE, "SubState", "running")
    wait_for(lambda: looked_at(told), "the digest")
    assert len(told.sh(f"ls {OUTBOX}").split()) == 1
    hook(told, "05-slow", f"mkdir {RECORDS}/began || exit 0; sleep 1000")
    told.run("systemctl", "start", PATH)
    wait_for(lambda: told.exists(f"{RECORDS}/began"), "the hook")
    told.run("systemctl", "kill", "--signal=KILL", NOTIFY)
    told.sh(f"rm {HOOKS}/05-slow")
    told.run("systemctl", "reset-failed", NOTIFY)
    told.run("systemctl", "start", NOTIFY)
    wait_for(lambda: told_all(told), "the end of the service")
    (mail,) = mails(told)
    assert "\nTo: bob, root\n" in mail
    assert "worse.com" in mail
    assert TEST_NAME in mail
    scan(told, "bob")
    wait_for(lambda: looked_at(told), "the look")
    wait_for(lambda: told_all(told), "the end of the service")
    assert mails(told) == [mail]


def test_the_hooks_user_reads_digests_and_nothing_else_of_ours(told: Machine) -> None:
    look = (
        "id -un; ls /home /var/lib/clamscannerd /run/clamscannerd /root 2>&1; cat /etc/shadow 2>&1; cat /proc/1/environ"
    )
    hook(told, "40-look", f"{look}; clamscannerctl paths; exit 1")
    said = json.loads(told.ctl("root", "--json", "hooks", "test").stdout)["hooks"]
    (output,) = [one["output"] for one in said if one["hook"] == "40-look"]
    assert output.startswith("clamscannerd-notify\n")
    assert "alice" not in output
    assert "state.db" not in output
    assert output.count("Permission denied") >= 4, output
    outside = "ls /var/lib/clamscannerd; cat /var/lib/clamscannerd/state.db"
    assert told.run("sh", "-c", outside, user="clamscannerd-notify", check=False).stdout == ""


def test_the_exposure_is_what_the_unit_says(told: Machine) -> None:
    said = re.search(r"systemd-analyze security`: (\d+\.\d+)", (ROOT / "systemd" / NOTIFY).read_text())
    assert said is not None
    report = told.run("systemd-analyze", "security", "--no-pager", NOTIFY).stdout
    assert f": {said[1]} OK" in report, report[-300:]


@pytest.fixture
def served(told: Machine, debian: Path) -> Machine:
    """With Debian's Exim as it comes, for this machine only, in place of our sendmail."""
    made = subprocess.run(
        [ROOT / "tests/system/make-mta", CACHE, debian], check=True, stdout=subprocess.PIPE, timeout=BUILD_S, text=True
    )
    debs = sorted(Path(made.stdout.strip()).glob("*.deb"))
    for deb in debs:
        told.write(f"/root/{deb.name}", deb.read_bytes())
    told.run("rm", "/usr/sbin/sendmail")
    told.run("dpkg", "--install", *(f"/root/{deb.name}" for deb in debs), timeout_s=120.0)
    assert told.show("exim4.service", "ActiveState") == "active"
    return told


def inbox(machine: Machine, name: str) -> str:
    """Debian's Exim delivers what is for root to `mail`, unless it is told who root is."""
    file = machine.tree / "var/mail" / name
    return file.read_text() if file.exists() else ""


def test_a_real_mail_server_delivers_to_the_account_and_to_root_by_smtp_and_by_its_sendmail(served: Machine) -> None:
    served.write("/home/alice/by smtp.com", EICAR, owner="alice")
    scan(served)
    for name in ("alice", "mail"):
        wait_for(lambda: "/home/alice/by smtp.com" in inbox(served, name), f"the mail to {name}")  # noqa: B023
    mail = inbox(served, "alice")
    assert "\nTo: alice@localhost, root@localhost\n" in mail
    assert re.search(r"^Subject: \S+: 1 infected file of alice$", mail, re.MULTILINE)
    wait_for(lambda: told_all(served), "the end of the service")
    drop_in = "/usr/share/clamscannerd/drop-ins/notify-sendmail.conf"
    served.sh(f"install -D -m 644 {drop_in} -t /etc/systemd/system/{NOTIFY}.d; systemctl daemon-reload")
    # It delivers in a process that it leaves behind, which may well outlive the service: here it does.
    slowly = "slowly:\\n  driver = redirect\\n  data = ${run{/bin/sleep 3}{}{}}"
    served.sh(f"sed -i 's|^begin routers|&\\n\\n{slowly}|' /etc/exim4/exim4.conf.template; update-exim4.conf")
    served.write("/home/alice/by sendmail.com", EICAR, owner="alice")
    scan(served)
    for name in ("alice", "mail"):
        wait_for(lambda: "/home/alice/by sendmail.com" in inbox(served, name), f"the mail to {name}")  # noqa: B023
    assert "from clamscannerd-notify by" in inbox(served, "alice"), "not by SMTP"
    wait_for(lambda: not served.run("exim4", "-bp").stdout, "the end of its queue")
