"""SIGHUP to the real daemon: what it takes over, what it says it cannot, and what leaves it as it was."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.accounts import Person
from tests.fakes.realclamd import EICAR
from tests.fakes.running import RpcError, RunningDaemon, wait_for
from tests.integration.people import no_engine, put

READ = "configuration read again"
KEPT = "keeping the old configuration"


def reload(daemon: RunningDaemon, config: str | None = None, expected: str = READ) -> str:
    """What the daemon logged about it."""
    if config is not None:
        (daemon.config_path.parent / "conf.d" / "test.toml").write_text(config)
    before = len(daemon.log())
    os.kill(daemon.pid, signal.SIGHUP)
    wait_for(lambda: expected in daemon.log()[before:], f"{expected!r} in the log")
    return daemon.log()[before:]


@pytest.fixture(scope="module")
def daemon(_people: object) -> Iterator[RunningDaemon]:
    with no_engine() as running:
        yield running


@pytest.fixture(params=["the directory", "conf.d"])
def shut(request: pytest.FixtureRequest, _people: object) -> Iterator[tuple[RunningDaemon, Path]]:
    """A daemon with its configuration in a place of its own, and what is to be shut there."""
    running = RunningDaemon()
    place = running.directory / "etc"
    place.mkdir()
    for file in (running.config_path, running.directory / "conf.d"):
        file.rename(place / file.name)
    running.config_path = place / running.config_path.name
    (place / "conf.d" / "test.toml").write_text("[server]\nmax_batch = 2\n")
    try:
        running.start(engine=False)
        yield running, place if request.param == "the directory" else place / "conf.d"
    finally:
        running.close()


def batch_limit(daemon: RunningDaemon) -> str:
    with daemon.client(0) as client:
        answer = client.raw(b'[{"jsonrpc":"2.0","id":1,"method":"Daemon.version"},{},{}]')
    return str(answer["error"]["message"]) if isinstance(answer, dict) else "none"


def test_a_place_that_the_service_may_not_read_changes_nothing(shut: tuple[RunningDaemon, Path]) -> None:
    daemon, place = shut
    limit = batch_limit(daemon)
    assert limit != "none"
    place.chmod(0o700)
    said = reload(daemon, expected=KEPT)
    assert "Permission denied" in said
    assert f"cannot read {place}" in said
    assert batch_limit(daemon) == limit
    place.chmod(0o755)
    reload(daemon, "[server]\nmax_batch = 3\n")
    assert batch_limit(daemon) == "none"


def test_what_needs_a_new_start_is_named(daemon: RunningDaemon) -> None:
    daemon.write_config("[engine]\nmax_threads = 3\n[scans]\nnice = 3\n[accounts]\nmin_uid = 900\n")
    text = daemon.config_path.read_text()
    daemon.config_path.write_text(text.replace("/s.sock", "/other.sock"))
    for _ in range(2):  # it stays true
        said = reload(daemon)
        late = [line for line in said.splitlines() if "takes effect at the next start" in line]
        names = sorted(line.split("a change of ")[1].split()[0] for line in late)
        assert names == ["accounts.min_uid", "engine.max_threads", "engine.sockets", "scans.nice", "server.socket"]
    daemon.write_config("[engine]\nwait_s = 5\n[scans]\nin_flight = 3\n[vault]\nkeep_deleted = 0\n", engine(daemon))
    assert "next start" not in reload(daemon)


def engine(daemon: RunningDaemon) -> str:
    return f'["{daemon.directory}/clamd.ctl"]'


def test_an_administrator_is_made_and_unmade(daemon: RunningDaemon, alice: Person, bob: Person) -> None:
    daemon.write_config(f'[server]\nadmins = ["{alice.name}", "nobody-of-this-name"]\n', engine(daemon))
    assert "there is no user 'nobody-of-this-name'" in reload(daemon)
    with daemon.client(alice.uid) as client:
        client.good("get_scan_paths", {"user": bob.name})
        reload(daemon, "")
        with pytest.raises(RpcError) as refused:
            client.call("ClamScanner.get_scan_paths", {"user": bob.name})
        assert refused.value.kind == "denied"


def test_a_vault_that_is_to_keep_no_copies_keeps_none_from_then_on(alice: Person) -> None:
    with RunningDaemon() as daemon, daemon.client(alice.uid) as client:
        for config, message in (("", "a copy is kept until"), ("[vault]\nkeep_deleted = 0\n", "no copy was kept")):
            reload(daemon, config)
            bad = put(alice, "bad", EICAR)
            client.scan()
            (step, _) = client.disinfect({str(bad): "delete"})
            assert message in step["message"]
