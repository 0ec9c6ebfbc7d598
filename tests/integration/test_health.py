"""Daemon.health of a real daemon: what anybody hears, what administrators hear, and a home that cannot be written."""

import os
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import AccountOnHost
from tests.fakes.running import RpcError, RunningDaemon

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="workers of two accounts need root")
NOBODY = 65_534
KERNEL = {"kernel.openat2", "kernel.seccomp", "kernel.landlock"}


@pytest.fixture(scope="module")
def daemon() -> Iterator[RunningDaemon]:
    with RunningDaemon() as running:
        yield running


def health(daemon: RunningDaemon, uid: int | None = None, user: str | None = None) -> dict[str, dict[str, str]]:
    with daemon.client(uid) as client:
        answer: dict[str, Any] = client.call("Daemon.health", None if user is None else {"user": user})
    grades = [check["grade"] for check in answer["checks"]]
    assert grades == sorted(grades, key=["error", "warning", "ok"].index)
    assert answer["grade"] == grades[0]
    return {check["id"]: check for check in answer["checks"]}


def test_all_is_well_for_a_user_for_root_and_for_one_who_has_no_files_to_scan(
    daemon: RunningDaemon, accounts: tuple[AccountOnHost, AccountOnHost]
) -> None:
    for uid in (accounts[0].uid, None, NOBODY):
        found = health(daemon, uid)
        assert found.keys() >= {"engine", "signatures", "homes"} | KERNEL
        assert found["homes"]["grade"] == found["engine"]["grade"] == found["kernel.openat2"]["grade"] == "ok"


def test_a_user_may_not_ask_for_another(daemon: RunningDaemon, accounts: tuple[AccountOnHost, AccountOnHost]) -> None:
    a, b = accounts
    with pytest.raises(RpcError) as refused:
        health(daemon, a.uid, b.name)
    assert refused.value.kind == "denied"
    assert health(daemon, None, b.name)["homes"]["grade"] == "ok"


def test_a_home_on_a_read_only_mount_is_found_by_its_user_and_by_root_and_by_nobody_else(
    accounts: tuple[AccountOnHost, AccountOnHost],
) -> None:
    a, b = accounts
    subprocess.run(["mount", "--bind", a.home, a.home], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", a.home], check=True)
        with RunningDaemon() as daemon:
            for uid in (a.uid, None):
                check = health(daemon, uid)["homes"]
                assert check["grade"] == "error"
                assert f"{a.home.parent} (1)" in check["message"]
                assert "clamscannerd(8)" in check["cure"]
            assert health(daemon, b.uid)["homes"]["grade"] == "ok"
    finally:
        subprocess.run(["umount", a.home], check=True)
