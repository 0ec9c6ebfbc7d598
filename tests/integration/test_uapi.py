"""A script that was written for cPanel's `uapi` runs unchanged with `clamscannerctl` put before it."""

import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.fakes.accounts import Person
from tests.fakes.running import RunningDaemon
from tests.integration.people import home, put

SCRIPT = r"""
set -euo pipefail
user=$1
data() { python3 -c 'import json, sys; a = json.load(sys.stdin)["result"]
if a["status"] != 1: sys.exit("; ".join(a["errors"]))
d = a["data"]
print(eval(sys.argv[1]))' "$1"; }

uapi --output=json --user="$user" ClamScanner get_scan_paths | data '"paths: " + " ".join(p["id"] for p in d)'
uapi --output=json --user="$user" ClamScanner start_scan scan_type=home >/dev/null
until [ "$(uapi --output=json --user="$user" ClamScanner get_scan_status | data 'd["scan_complete"]')" = 1 ]; do
	sleep 0.1
done
uapi --output=json --user="$user" ClamScanner list_infected_files | data '"infected: %d" % len(d)'
printf '{"home/unsure":"ignore","%s/public_html/a b.com":"delete"}' "${2#/}" |
	uapi --user="$user" --input=json --output=jsonpretty ClamScanner disinfect_files | data '"log: " + d["log"]'
until [ "$(uapi --output=json --user="$user" ClamScanner check_disinfection_status | data 'd["status"]')" = done ]; do
	sleep 0.1
done
uapi --output=json --user="$user" ClamScanner check_disinfection_status last_id=1 | data 'd["details"][-1]["state"]'
out=$(uapi --output=json --user="$user" ClamScanner start_scan scan_type=no%20such) || { echo "exit code $?"; exit 1; }
data d <<<"$out" || echo "refused"
"""

CTL = "import sys; from clamscannerd.ctl.main import main; sys.exit(main())"
FUNCTION = 'clamscannerctl() { "$PYTHON" -c "$CTL" "$@"; }\n'


@pytest.fixture(scope="module")
def daemon(_people: object) -> Iterator[RunningDaemon]:
    with RunningDaemon() as daemon:
        yield daemon


def run(daemon: RunningDaemon, *words: str) -> "subprocess.CompletedProcess[str]":
    """SCRIPT with clamscannerctl put before each `uapi`, and nothing else changed."""
    environment = {"PATH": "/usr/bin:/bin", "HOME": "/", "PYTHON": sys.executable, "CTL": CTL}
    return subprocess.run(
        ["bash", "-c", FUNCTION + SCRIPT.replace("uapi --", "clamscannerctl uapi --"), "script", *words],
        env={**environment, "CLAMSCANNERD_SOCKET": daemon.socket_path},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_a_script_for_cpanels_uapi_runs_unchanged_behind_clamscannerctl(daemon: RunningDaemon, alice: Person) -> None:
    put(alice, "public_html/a b.com")
    put(alice, "public_html/c.com")
    ended = run(daemon, alice.name, alice.home)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines() == [
        "paths: home public_html",
        "infected: 2",
        f"log: {alice.home}/.clamavconnector.disinfection.log",
        "success",
        "refused",
    ]
    assert "there is no scan type 'no such'" in ended.stderr
    assert not (home(alice) / "public_html/a b.com").exists()
    assert (home(alice) / "public_html/c.com").exists()
