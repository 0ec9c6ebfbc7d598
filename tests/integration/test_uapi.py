"""A script that was written for cPanel's `uapi` runs unchanged with `clamscannerctl` put before it."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.accounts import Person
from tests.fakes.running import RunningDaemon, check_answer
from tests.integration.people import home, put

SCRIPT = r"""
set -euo pipefail
user=$1 home=$2
call() { uapi --output=json --user="$user" ClamScanner "$@" | tee -a "$ANSWERS"; }
data() { jq -er 'if .result.status == 1 then .result.data else error(.result.errors | join("; ")) end | '"$1"; }

call get_scan_paths | data '"paths: " + ([.[].id] | join(" "))'
call start_scan scan_type=home | data '"started"'
until status=$(call get_scan_status) && [ "$(data .scan_complete <<<"$status")" = 1 ]; do sleep 0.1; done
data '"\(.infected_files | length) of \(.total_file_count) files"' <<<"$status"
call list_infected_files | data 'sort_by(.file)[] | .file + " " + .virus_type'
printf '{"%s/unsure":"ignore","%s/public_html/a b.com":"delete"}' "${home#/}" "${home#/}" |
	uapi --user="$user" --input=json --output=jsonpretty ClamScanner disinfect_files | data '"log: " + .log'
followed() {
	local last=0
	until [ "${status:-}" = done ]; do
		answer=$(call check_disinfection_status last_id=$last)
		status=$(data .status <<<"$answer")
		data '.details[] | "\(.id) \(.type) \(.state)"' <<<"$answer" || { sleep 0.1; continue; }
		last=$(data '.details[-1].id' <<<"$answer")
	done
	status=
}
followed
jq -nc --arg file "${home#/}/public_html/c.com" '{actions: {($file): "quarantine"}}' |
	uapi --input=json --output=json --user="$user" ClamScanner disinfect_files | data '"queued"'
followed
call disinfect_files "${home#/}%2Fpublic_html%2Fd.com=delete" | data '"queued"'
followed
call list_infected_files | data '"left: \(length)"'
out=$(call start_scan scan_type=no%20such) || { echo "exit code $?"; exit 1; }
data . <<<"$out" || echo "refused"
"""
SHIPPED = Path(sys.executable).parent


@pytest.fixture(scope="module")
def daemon(_people: object) -> Iterator[RunningDaemon]:
    with RunningDaemon() as daemon:
        yield daemon


def run(
    daemon: RunningDaemon, script: str, *words: str, user: Person | None, answers: Path = Path("/dev/null")
) -> "subprocess.CompletedProcess[str]":
    """With the shipped command put before each `uapi` and nothing else changed; as this user, or as root."""
    environment = {"PATH": f"{SHIPPED}:/usr/bin:/bin", "HOME": "/", "ANSWERS": str(answers)}
    return subprocess.run(
        ["bash", "-c", script.replace("uapi --", "clamscannerctl uapi --"), "script", *words],
        env={**environment, "CLAMSCANNERD_SOCKET": daemon.socket_path},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        cwd="/",
        user=None if user is None else user.uid,
        group=None if user is None else user.gid,
        extra_groups=None if user is None else [],
    )


@pytest.mark.parametrize("by", ["the user", "root"])
def test_a_script_for_cpanels_uapi_runs_unchanged_behind_clamscannerctl(
    daemon: RunningDaemon, alice: Person, by: str
) -> None:
    for name in ("a b.com", "c.com", "d.com"):
        put(alice, f"public_html/{name}")
    answers = put(alice, ".answers", b"")
    user = alice if by == "the user" else None
    ended = run(daemon, SCRIPT, alice.name, alice.home, user=user, answers=answers)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines() == [
        "paths: home public_html",
        "started",
        "3 of 4 files",
        *(f"{alice.home}/public_html/{name} Eicar-Test.UNOFFICIAL" for name in ("a b.com", "c.com", "d.com")),
        f"log: {alice.home}/.clamavconnector.disinfection.log",
        *("1 step deleted", "2 done success"),
        *("queued", "1 step quarantined", "2 done success"),
        *("queued", "1 step deleted", "2 done success"),
        "left: 0",
        "refused",
    ]
    assert "there is no scan type 'no such'" in ended.stderr
    assert [path.name for path in (home(alice) / "public_html").iterdir()] == []
    heard = [json.loads(line) for line in answers.read_text().splitlines()]
    for answer in heard:
        check_answer(answer["func"], answer)
    assert {answer["func"] for answer in heard} == {
        *("get_scan_paths", "start_scan", "get_scan_status", "list_infected_files"),
        *("disinfect_files", "check_disinfection_status"),
    }


def test_another_users_name_is_refused_in_the_envelope(daemon: RunningDaemon, alice: Person, bob: Person) -> None:
    with daemon.client(alice.uid) as client:
        before = client.uapi("get_scan_status")
    for words in ("list_infected_files", "start_scan scan_type=home", "disinfect_files home/x=delete"):
        ended = run(daemon, f"uapi --output=json --user={alice.name} ClamScanner {words}", user=bob)
        answer = json.loads(ended.stdout)
        check_answer(words.split()[0], answer)
        assert (ended.returncode, ended.stderr, answer["result"]["status"]) == (0, "", 0)
        assert alice.home not in ended.stdout
    with daemon.client(alice.uid) as client:
        assert client.uapi("get_scan_status") == before, "nothing was started for her"
